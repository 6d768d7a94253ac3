"""ER-MIR: the card's oracles in double precision, whole steps by hand, and what may be replayed."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cls_jax.core.augment import Augment
from cls_jax.core.errors import InputError
from cls_jax.core.memory import reservoir
from cls_jax.core.types import Variables
from cls_jax.methods.replay.er_mir import er_mir, losses_around
from cls_jax.nets.base import Net
from cls_jax.nets.mlp import mlp
from cls_jax.nets.virtual_step import VirtualStep
from tests.support.drive import CLASSES, Drive, batch, label_of, made_batch
from tests.support.nets import normed_net, shown
from tests.support.numpy_mlp import ce, descended, forward, inputs
from tests.support.oracle_weights import oracle_vars
from tests.support.problems import flat_augment, own_problem, telling_problem

AS_IT_IS = Augment(lambda key, x: x, lambda x: x)
LONG_FULL = 2**30
"""So many examples were offered: the next few will hardly be stored."""


@pytest.fixture
def x64():
    with jax.enable_x64(True):
        yield


def with_memory(state, vars, x, y, **more):
    """The state with these weights and these examples of task 0, in a memory that stays so."""
    slots = {**state.memory.slots, "x": jnp.asarray(x), "y": jnp.asarray(y, jnp.int32), **more}
    if "task" in slots:
        slots["task"] = jnp.zeros(len(y), jnp.int32)
    memory = state.memory.replace(slots=slots, seen=jnp.int32(LONG_FULL))
    return state.replace(model=state.model.replace(vars=vars), memory=memory)


# --- O1: a linear model, four candidates ----------------------------------------------------------

X, Y = np.array([[1.0, 2], [0, 1]]), [2, 2]
HELD, HELD_Y = np.array([[1.0, 0], [0, 1], [1, 1], [-1, 1]]), [0, 1, 0, 2]
BATCH_LOSS = 1.9795253392
BEFORE = np.array([0.5514447139, 0.5514447139, 0.8619948041, 1.4076059644])
AFTER = np.array([0.6000233745, 0.9687018421, 1.0256999943, 0.9235827285])
NEW = [[1.0832381827, -0.0839147139], [-0.2718899385, 0.5237413802], [0.1886517558, 0.5601733337]]


def of_third(logits):
    """The mean cross-entropy where all labels are 2."""
    return -jax.nn.log_softmax(logits)[:, 2].mean()


def linear_net():
    """Without a bias; its weights start as the card's [3, 2]."""
    weights = Variables(params=jnp.array([[1.0, 0], [0, 1], [0, 0]]), stats={})
    return Net(lambda key, x: weights, lambda vars, x, **kind: (x @ vars.params.T, {}))


def linear_step(key=7, best=None, **changes):
    """(state, metrics) after the card's step, compiled."""
    problem = own_problem(linear_net(), augment=AS_IT_IS, num_classes=3)
    sizes = {"memory_size": 4, "replay_size": 2, "candidates": 4}
    method = er_mir(problem, learning_rate=0.5, **{**sizes, **changes})
    examples = made_batch(X, Y, task=1)
    state = method.init(jax.random.key(0), examples)
    more = {} if best is None else {"best": jnp.asarray(best, jnp.float32)}
    state = with_memory(state, state.model.vars, HELD, HELD_Y, **more)
    step = jax.jit(method.step)
    if isinstance(key, int):
        return step(jax.random.key(key), state, examples)
    return jax.vmap(step, in_axes=(0, None, None))(key, state, examples)


def test_oracle_1_losses_before_and_after_the_virtual_step(x64):
    net = linear_net()
    vars, learned = net.init(None, None), jnp.asarray(X)
    given = jnp.asarray(HELD), jnp.array(HELD_Y), jnp.ones(4, bool)

    def loss(weights):
        return of_third(learned @ weights.T)

    value, gradient = jax.value_and_grad(loss)(vars.params)
    step = VirtualStep(learned, of_third, gradient, jnp.asarray(0.5))
    before, after = losses_around(net, vars, step, *given)
    np.testing.assert_allclose(value, BATCH_LOSS, atol=1e-10)
    np.testing.assert_allclose(before, BEFORE, atol=1e-10)
    np.testing.assert_allclose(after, AFTER, atol=1e-10)
    scores = [0.0485786606, 0.4172571281, 0.1637051902, -0.4840232360]
    np.testing.assert_allclose(after - before, scores, atol=1e-10)
    still, moved = losses_around(net, vars, step._replace(learning_rate=jnp.asarray(0.0)), *given)
    np.testing.assert_array_equal(moved - still, 0)  # O4


def test_oracle_1_the_step(x64):
    """To first order candidate 0 would lose more than 2; the finite step says the other way."""
    state, metrics = linear_step()
    np.testing.assert_allclose(metrics["loss"], BATCH_LOSS + 0.7067197590, atol=1e-9)
    np.testing.assert_allclose(state.model.vars.params, NEW, atol=1e-9)


@pytest.mark.parametrize(
    ("score", "chosen"), [("interference", [1, 2]), ("loss", [3, 2]), ("least", [3, 0])]
)
def test_a_score_chooses_what_has_most_of_it(x64, score, chosen):
    _, metrics = linear_step(retrieval=score)
    np.testing.assert_allclose(metrics["loss"], BATCH_LOSS + BEFORE[chosen].mean(), atol=1e-9)


def test_chance_chooses_all_alike(x64):
    _, metrics = linear_step(jax.random.split(jax.random.key(0), 400), retrieval="random")
    often = np.asarray(metrics["loss"]) - BATCH_LOSS
    assert abs(often.mean() - BEFORE.mean()) < 0.03  # standard error 0.01
    pairs = {round(BEFORE[[i, j]].mean(), 6) for i in range(4) for j in range(i)}
    assert {*np.round(often, 6)} == pairs


def test_the_lowest_loss_counts_and_is_kept(x64):
    """First what the code's zero logits give, ln 3: only the last score changes, to -.1750."""
    state, metrics = linear_step(best_loss=True, best=4 * [np.log(3)])
    kept = state.memory.slots["best"]
    np.testing.assert_allclose(kept, np.minimum(BEFORE, np.log(3)), rtol=1e-6)
    np.testing.assert_allclose((AFTER - kept)[3], -0.1750295602, atol=1e-6)
    np.testing.assert_allclose(metrics["loss"], BATCH_LOSS + 0.7067197590, atol=1e-9)
    state, metrics = linear_step(best_loss=True, best=[np.inf, 0.1, np.inf, 0.2])
    np.testing.assert_allclose(metrics["loss"], BATCH_LOSS + BEFORE[[1, 3]].mean(), atol=1e-9)
    np.testing.assert_allclose(state.memory.slots["best"], [*BEFORE[[0]], 0.1, BEFORE[2], 0.2])


# --- O2: a perceptron, two steps ------------------------------------------------------------------


def test_oracle_2_two_whole_steps(x64):
    """The card's scores, choices, losses and sums of all parameters; the memory stays as it is."""
    net = mlp(3, (5,), "float64")
    problem = own_problem(net, augment=AS_IT_IS, num_classes=3)
    sizes = {"memory_size": 6, "replay_size": 2, "candidates": 6}
    method = er_mir(problem, **sizes).at({"learning_rate": 0.1})
    held, held_y = np.sin(0.1 * np.arange(24.0) ** 2).reshape(6, 4), [0, 1, 0, 1, 0, 1]
    expected = [
        ([0.2058914617, -0.2249722355, 0.3242547262, -0.1363508208, 0.2051115584, 0.0865465720],
         3.2534372433, 0.6706881870, 6.9648220265),
        ([0.1640618536, -0.2175251849, 0.3211525311, -0.0586629835, 0.2355405837, 0.0925987175],
         2.2470088057, 0.7475743041, 6.7497761782),
    ]  # fmt: skip
    state = method.init(jax.random.key(0), made_batch(np.zeros((2, 4)), [2, 2]))
    vars = oracle_vars(jax.eval_shape(net.init, jax.random.key(0), jnp.zeros((1, 4))))
    step = jax.jit(method.step)
    given = jnp.asarray(held), jnp.array(held_y), jnp.ones(6, bool)

    def loss(params, x):
        return of_third(net.apply(Variables(params, {}), x, train=True)[0])

    for t, (scores, value, replayed, total) in enumerate(expected):
        x = np.sin(0.1 * np.arange(8.0) ** 2 + 1 + t).reshape(2, 4)
        gradient = jax.grad(loss)(vars.params, jnp.asarray(x))
        virtual = VirtualStep(jnp.asarray(x), of_third, gradient, jnp.asarray(0.1))
        before, after = losses_around(net, vars, virtual, *given)
        np.testing.assert_allclose(after - before, scores, atol=1e-10)
        state, metrics = step(
            jax.random.key(t), with_memory(state, vars, held, held_y), made_batch(x, [2, 2], task=1)
        )
        np.testing.assert_allclose(metrics["loss"], value + replayed, atol=1e-9)
        vars = state.model.vars
        sums = sum(leaf.sum() for leaf in jax.tree.leaves(vars.params))
        np.testing.assert_allclose(sums, total, atol=1e-9)


def test_oracle_5_the_same_example_twice_has_the_same_score(x64):
    net = mlp(3, (5,), "float64")
    vars = oracle_vars(jax.eval_shape(net.init, jax.random.key(0), jnp.zeros((1, 4))))
    x = jnp.tile(jnp.sin(jnp.arange(8.0)).reshape(2, 4), (2, 1))
    given = x, jnp.array([0, 1, 0, 1]), jnp.ones(4, bool)
    step = VirtualStep(x, of_third, vars.params, jnp.asarray(0.1))
    before, after = losses_around(net, vars, step, *given)
    rise = np.asarray(after - before)
    np.testing.assert_allclose(rise[:2], rise[2:], rtol=1e-12)
    assert abs(rise[0] - rise[1]) > 1e-3


# --- whole steps, again in NumPy ------------------------------------------------------------------

RATE = 0.1
SIZES = {"memory_size": 8, "replay_size": 3, "candidates": 8}
STREAM = [
    ([0, 21, 5, 30], 4, 0),
    ([1, 22, 6, 31], 3, 0),
    ([41, 62, 42, 63], 4, 1),
    ([43, 64, 44, 65], 2, 1),
    ([81, 102, 82, 103], 4, 2),
]
"""Names, how many are valid, and the task; two classes a task."""


def drive(tells=True, **changes):
    arguments = {"learning_rate": RATE, **SIZES, **changes}
    return Drive(er_mir(telling_problem(tells=tells), **arguments))


def losses(params, names):
    """float64[n]."""
    logits = forward(params, inputs(names))
    return np.log(np.exp(logits).sum(1)) - logits[np.arange(len(names)), label_of(names)]


@pytest.mark.parametrize("exclude_current", [True, False])
def test_steps_are_those_of_the_paper(exclude_current):
    """And the forwards of candidates leave no trace: the network was shown batch and replay."""
    learner = drive(exclude_current=exclude_current)
    params, task_by_name, sizes = learner.params, {}, []
    assert learner.method.needs.told_task == exclude_current
    for number, (names, num_valid, task) in enumerate(STREAM):
        filled = min(8, int(learner.state.memory.seen))
        held = learner.held()[:filled]
        metrics = learner.step(names, num_valid, task=task)
        stream, replayed = shown(learner, 2)
        assert sorted(stream) == sorted(names[:num_valid])
        value, gradient = ce(params, stream)
        if exclude_current:
            held = [name for name in held if task_by_name[name] != task]
        terms = [(1, gradient)]
        sizes.append(len(replayed))
        if len(held):
            virtual = descended(params, RATE, *terms)
            rise = dict(zip(held, losses(virtual, held) - losses(params, held), strict=True))
            best = sorted(rise, key=rise.get, reverse=True)[:3]
            assert sorted(replayed) == sorted(best), number
            more, gradient = ce(params, replayed)
            value, terms = value + more, [*terms, (1, gradient)]
        params = descended(params, RATE, *terms)
        np.testing.assert_allclose(metrics["loss"], value, rtol=1e-4)
        chex.assert_trees_all_close(learner.params, params, rtol=1e-3, atol=1e-5)
        task_by_name |= dict.fromkeys(names[:num_valid], task)
    assert sizes == ([0, 0, 3, 3, 3] if exclude_current else [0, 3, 3, 3, 3])
    assert learner.program("step", "train")._cache_size() == 1
    np.testing.assert_array_equal(learner.slots("y"), label_of(learner.held()))
    if exclude_current:
        np.testing.assert_array_equal(
            learner.slots("task"), [task_by_name[n] for n in learner.held()]
        )


def test_fewer_candidates_are_the_best_of_a_draw():
    """The draw is the memory's own; at a rate of 0 (O4) all tie, and its first ones are taken."""
    for rate in (RATE, 0.0):
        learner = drive(candidates=5, learning_rate=rate)
        for names, num_valid, task in STREAM[:2]:
            learner.step(names, num_valid, task=task)
        params, memory, names = learner.params, learner.state.memory, STREAM[2][0]
        key_draw, _, _ = jax.random.split(jax.random.key(learner.clock + 1), 3)
        every = jnp.ones(8, bool)
        drawn = reservoir(8).sample(key_draw, memory, 5, where=every).items["x"][:, 0, 0, 0]
        drawn = np.asarray(drawn)
        learner.step(names, task=1)
        virtual = descended(params, rate, (1, ce(params, names)[1]))
        rise = losses(virtual, drawn) - losses(params, drawn)
        chosen = drawn[np.argsort(-rise, kind="stable")[:3]]
        assert sorted(shown(learner, 1)[0]) == sorted(chosen)


def test_oracle_3_as_many_candidates_as_replayed_is_a_random_draw():
    chosen, chance = drive(candidates=3), drive(candidates=3, retrieval="random")
    for names, num_valid, task in STREAM:
        chosen.step(names, num_valid, task=task), chance.step(names, num_valid, task=task)
        np.testing.assert_array_equal(shown(chosen, 1)[0], shown(chance, 1)[0])
    chex.assert_trees_all_close(chosen.params, chance.params, rtol=1e-5, atol=1e-6)


def test_a_network_without_statistics_takes_the_same_steps():
    telling, silent = drive(), drive(tells=False)
    for names, num_valid, task in STREAM:
        telling.step(names, num_valid, task=task), silent.step(names, num_valid, task=task)
    chex.assert_trees_all_close(telling.params, silent.params, rtol=1e-5, atol=1e-6)


def test_candidates_move_no_batch_statistics():
    """They are normalised by their own; the running ones see the stream, then the replay."""
    net, augment = normed_net(CLASSES), flat_augment()
    problem = own_problem(net, augment=augment, num_classes=CLASSES)
    sizes = {"memory_size": 4, "replay_size": 4, "candidates": 4}
    method = er_mir(problem, learning_rate=RATE, **sizes)
    first, second = batch([0, 20, 1, 21], task=0), batch([40, 60, 41, 61], 3, task=1)
    step = jax.jit(method.step)
    state, _ = step(jax.random.key(1), method.init(jax.random.key(0), first), first)
    after, _ = step(jax.random.key(2), state, second)
    vars = state.model.vars
    _, stats = net.apply(vars, augment.test(second.x), train=True, valid=second.valid)
    _, stats = net.apply(vars.replace(stats=stats), augment.test(first.x), train=True)
    chex.assert_trees_all_close(after.model.vars.stats, stats, rtol=1e-4, atol=1e-6)


def test_the_lowest_loss_begins_anew_with_each_example():
    learner = drive(best_loss=True, exclude_current=False)
    learner.step(*STREAM[0][:2])
    assert np.isinf(learner.slots("best")[:4]).all()
    before, names = learner.params, learner.held()[:4].copy()
    learner.step(*STREAM[1][:2])
    kept = learner.slots("best")
    np.testing.assert_allclose(kept[:4], losses(before, names), rtol=1e-4)
    assert np.isinf(kept[4:7]).all()
    learner.step(*STREAM[2][:2])  # the memory is full: some of these take old places
    new = np.isin(learner.held(), STREAM[2][0])
    assert new.sum() > 1
    np.testing.assert_array_equal(np.isinf(learner.slots("best")), new)
    assert (learner.slots("best")[:4] <= kept[:4])[~new[:4]].all()


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"candidates": 2}, "candidates=2 must be at least replay_size=3"),
        ({"replay_size": 9}, "replay_size=9 must be between 1 and the memory's 8"),
        (
            {"retrieval": "most"},
            "retrieval is 'most'; use one of interference, loss, ran",
        ),
        (
            {"retrieval": "loss", "best_loss": True},
            "best_loss is True, but retrieval 'loss'",
        ),
    ],
)
def test_what_cannot_be_is_refused(changes, sentence):
    with pytest.raises(InputError, match=sentence):
        drive(**changes)
