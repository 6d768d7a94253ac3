"""CLS-ER and Mean-ER against the method card's oracles and against what their averages must be."""

from functools import cache

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cls_jax.core.augment import Augment
from cls_jax.core.errors import InputError
from cls_jax.core.losses import logit_mse
from cls_jax.core.types import Variables
from cls_jax.methods.base import hidden_task
from cls_jax.methods.cls.clser import better_teacher, clser
from cls_jax.methods.cls.ema_teacher import copy_of, maybe_ema_update, teacher_logits
from cls_jax.methods.cls.mean_er import mean_er
from cls_jax.methods.replay.er import er
from cls_jax.nets.base import Net
from cls_jax.nets.mlp import mlp
from tests.support.drive import Drive, made_batch
from tests.support.oracle_weights import oracle_vars
from tests.support.problems import own_problem

PLAIN = Augment(train=lambda key, x: x, test=lambda x: x)
BATCH = 4


def vectors(seed, num=BATCH):
    """Vectors that tell three classes apart."""
    rng = np.random.default_rng(seed)
    y = rng.integers(0, 3, num)
    return made_batch((rng.normal(size=(num, 6)) + 2 * y[:, None]).astype(np.float32), y)


def walk(method, steps=12, batches=vectors):
    """The states after init and after every step."""
    learner = Drive(method, batches, (0,))
    states = [learner.state]
    for number in range(steps):
        learner.step(number)
        states.append(learner.state)
    return states


@cache
def perceptron():
    return mlp(3, (7,))


@cache
def normed():
    """A linear layer, a BatchNorm without scale or shift, a linear head."""

    def init(key, x):
        keys = jax.random.split(key)
        params = {
            "in": jax.random.normal(keys[0], (x.shape[1], 5)),
            "out": jax.random.normal(keys[1], (5, 3)),
        }
        return Variables(params=params, stats={"mean": jnp.zeros(5)})

    def apply(vars, x, *, train, valid=None):
        h, mean = x @ vars.params["in"], vars.stats["mean"]
        if not train:
            return (h - mean) @ vars.params["out"], vars.stats
        rows = jnp.ones(len(h), bool) if valid is None else valid
        count = rows.sum()
        batch = jnp.where(rows[:, None], h, 0).sum(0) / jnp.maximum(count, 1)
        moved = mean + 0.1 * (jax.lax.stop_gradient(batch) - mean) * (count > 0)
        return (h - jnp.where(count > 0, batch, mean)) @ vars.params["out"], {"mean": moved}

    return Net(init, apply)


def built(net=None, factory=clser, num_classes=3, **arguments):
    """The method on an mlp or ``net``, with a small memory."""
    problem = own_problem(net or perceptron(), augment=PLAIN, num_classes=num_classes)
    return factory(problem, **{"memory_size": 9, "replay_size": 5, **arguments})


# --- oracles of the card --------------------------------------------------------------------------


def test_oracle_3_the_likelier_copy_teaches():
    stable = jnp.array([[2.0, 0, 0], [0, 1, 0]])
    plastic = jnp.array([[1.0, 0, 0], [0, 3, 0]])
    targets = better_teacher(stable, plastic, jnp.array([0, 1]))
    np.testing.assert_array_equal(targets, [[2, 0, 0], [0, 3, 0]])
    np.testing.assert_allclose(logit_mse(jnp.zeros((2, 3)), targets), 13 / 6, rtol=1e-6)


def test_a_tie_goes_to_the_plastic_copy():
    stable, plastic = jnp.array([[1.0, 0, 0]]), jnp.array([[11.0, 10, 10]])
    np.testing.assert_array_equal(better_teacher(stable, plastic, jnp.array([0])), plastic)


def test_oracle_6_two_steps_of_the_mnist_mlp():
    """Losses and sums over all parameters of the three networks, from the official classes.

    The last weights are sines of 2e9, which float64 rounds to 5e-7: hence seven digits.
    """
    with jax.enable_x64(True):
        net = mlp(10, dtype="float64")
        index = np.arange(2 * 784, dtype=np.float64).reshape(2, 784)
        data = [
            made_batch(np.sin(1e-4 * index**2 + t), y) for t, y in ((0.0, [0, 1]), (1.0, [2, 1]))
        ]
        shapes = jax.eval_shape(net.init, jax.random.key(0), data[0].x)
        start = oracle_vars(shapes)
        net = net._replace(init=lambda key, x: start)
        method = built(
            net,
            num_classes=10,
            memory_size=2,
            replay_size=2,
            learning_rate=0.1,
            consistency_weight=2.0,
            stable_rate=1.0,
            stable_decay=0.99,
            plastic_rate=1.0,
            plastic_decay=0.4,
        )
        exact = method.at(jax.tree.map(jnp.float64, method.hyper))
        state = exact.init(jax.random.key(0), data[0])
        losses, sums = [], []
        for t in range(2):
            state, metrics = exact.step(jax.random.key(t), state, data[t])
            losses.append(float(metrics["loss"]))
            trees = (state.working.vars, state.plastic.vars, state.stable.vars)
            sums.append([sum(float(p.sum()) for p in jax.tree.leaves(v.params)) for v in trees])
    np.testing.assert_allclose(losses, [1.9693172181, 10.2827766626], rtol=1e-7)
    first = [-10.6364362086, -10.5255730929, -10.4978573140]
    second = [-138.3838666429, -87.2405492229, -53.1265270903]
    np.testing.assert_allclose(sums, [first, second], rtol=1e-7)


def test_oracle_9_sizes_and_initial_bounds_of_the_mnist_mlp():
    vars = mlp(10).init(jax.random.key(0), jnp.zeros((1, 28, 28, 1)))
    assert sum(leaf.size for leaf in jax.tree.leaves(vars.params)) == 89_610
    for name, bound in (("fc1", 0.0823853), ("fc2", 0.1732051), ("fc3", 0.2335497)):
        largest = float(jnp.abs(vars.params[name]["kernel"]).max())
        assert 0.97 * bound < largest <= bound * (1 + 1e-6)
        assert not vars.params[name]["bias"].any()


def test_oracle_10_replay_has_its_share_of_one_mean():
    """B = 10, m = 128; a head that is sure of replay and undecided on the stream: 10/138 nats."""

    def apply(vars, x, *, train, valid=None):
        return x + 0.0 * vars.params["w"], {}

    net = Net(lambda key, x: Variables(params={"w": jnp.zeros(3)}, stats={}), apply)
    method = built(net, consistency_weight=0.0, memory_size=128, replay_size=128)
    state = method.init(jax.random.key(0), made_batch(np.zeros((10, 3), np.float32), [0] * 10))
    sure = jnp.zeros((128, 3)).at[:, 0].set(60.0)
    memory = state.memory.replace(slots={"x": sure, "y": jnp.zeros(128, jnp.int32)})
    state = state.replace(memory=memory.replace(seen=jnp.int32(128)))
    one_nat = np.zeros((10, 3), np.float32)
    one_nat[:, 0] = np.log(2 / (np.e - 1))  # softmax of the label: 1/e
    _, metrics = method.phases[0].step(jax.random.key(1), state, made_batch(one_nat, [0] * 10))
    np.testing.assert_allclose(metrics["loss"], 10 / 138, rtol=1e-5)


# --- the averages ---------------------------------------------------------------------------------


def params(tree):
    return tree.vars.params


def test_oracle_2_no_memory_of_the_past_is_a_copy_and_no_update_is_none():
    states = walk(built(stable_rate=1.0, stable_decay=0.0, plastic_rate=0.0))
    for state in states[1:]:
        chex.assert_trees_all_equal(params(state.stable), params(state.working))
        chex.assert_trees_all_equal(params(state.plastic), params(states[0].plastic))
    assert int(states[-1].stable.updates) == 12
    assert int(states[-1].plastic.updates) == 0


def test_warm_up_is_the_running_mean_of_all_weights():
    """Rate 1 and a cap that does not bind: the mean over the first weights and all later ones."""
    states = walk(built(stable_rate=1.0, stable_decay=0.999))
    past = [params(state.working) for state in states]
    mean = jax.tree.map(lambda *leaves: np.mean(leaves, axis=0), *past)
    chex.assert_trees_all_close(params(states[-1].stable), mean, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("warmup", "decays"), [("steps", (0.75, 0.8)), ("updates", (0.5, 2 / 3))])
def test_warm_up_counts_steps_or_updates(warmup, decays):
    """Updates at steps 3 and 4 only: 1 - 1/(n + 1) with n = 3, 4 or n = 1, 2."""
    ones = Variables(params=jnp.ones(()), stats={})
    rule = {"decay": 0.99, "ema_bn": "own", "warmup": warmup}
    copy = copy_of(Variables(params=jnp.zeros(()), stats={}))
    for step, rate in ((1, 0.0), (2, 0.0), (3, 1.0), (4, 1.0)):
        copy = maybe_ema_update(
            jax.random.key(step), copy, ones, jnp.int32(step), rate=rate, **rule
        )
    np.testing.assert_allclose(copy.vars.params, 1 - decays[0] * decays[1], rtol=1e-6)


def test_updates_fire_at_their_rate_and_independently():
    states = walk(built(stable_rate=0.3, plastic_rate=0.7), steps=400)
    counts = [[int(s.stable.updates), int(s.plastic.updates)] for s in states]
    fired = np.diff(np.asarray(counts), axis=0)
    np.testing.assert_allclose(fired.mean(0), [0.3, 0.7], atol=5 * 0.023)
    assert abs(np.mean(fired.prod(axis=1)) - 0.21) < 5 * 0.021
    still = [s for s, fire in zip(states[1:], fired[:, 0], strict=True) if not fire]
    assert len(still) > 200


def test_the_buffer_holds_the_stream_as_a_reservoir():
    states = walk(built(), steps=3)
    offered = np.concatenate([np.asarray(vectors(number).x) for number in range(3)])
    slots = np.asarray(states[-1].memory.slots["x"])
    assert int(states[-1].memory.seen) == 12
    assert all((offered == row).all(axis=1).any() for row in slots)


# --- BatchNorm statistics -------------------------------------------------------------------------


def test_own_statistics_come_from_replay_alone():
    """The first step has nothing to replay: one update of the working network, none of copies."""
    states = walk(built(normed()), steps=2)
    first = states[1]
    assert not np.array_equal(
        first.working.vars.stats["mean"], states[0].working.vars.stats["mean"]
    )
    for copy in (first.stable, first.plastic):
        np.testing.assert_array_equal(copy.vars.stats["mean"], 0)
    draw_of_four = first.memory.slots["x"][:4]
    for before, after in ((first.stable, states[2].stable), (first.plastic, states[2].plastic)):
        of_replay = (draw_of_four @ before.vars.params["in"]).mean(0)
        np.testing.assert_allclose(after.vars.stats["mean"], 0.1 * of_replay, rtol=1e-4, atol=1e-6)


def test_the_working_statistics_move_twice_a_step():
    """Replay alone, then stream and replay: mean -> 0.9 (0.9 mean + 0.1 r) + 0.1 (r + s) / 2."""
    states = walk(built(normed()), steps=2)
    kernel, before = states[1].working.vars.params["in"], states[1].working.vars.stats["mean"]
    r = (states[1].memory.slots["x"][:4] @ kernel).mean(0)
    s = (vectors(1).x @ kernel).mean(0)
    expected = 0.9 * (0.9 * before + 0.1 * r) + 0.1 * (r + s) / 2
    np.testing.assert_allclose(states[2].working.vars.stats["mean"], expected, rtol=1e-4)


@pytest.mark.parametrize("ema_bn", ["own", "ema", "copy"])
def test_statistics_of_the_copies_are_a_choice(ema_bn):
    method = built(normed(), stable_rate=1.0, plastic_rate=0.0, ema_bn=ema_bn)
    state = walk(method, steps=1)[1]
    working = state.working.vars.stats["mean"]
    share = {"own": 0.0, "ema": 0.5, "copy": 1.0}[ema_bn]
    np.testing.assert_allclose(state.stable.vars.stats["mean"], share * working, rtol=1e-6)
    np.testing.assert_array_equal(state.plastic.vars.stats["mean"], 0)


def test_a_teacher_forward_carries_no_gradient():
    net = normed()
    copy = copy_of(net.init(jax.random.key(0), vectors(0).x))

    def total(params):
        moved = copy.replace(vars=copy.vars.replace(params=params))
        logits, after = teacher_logits(net, moved, vectors(0).x, jnp.ones(BATCH, bool), "own")
        return logits.sum() + after.vars.stats["mean"].sum()

    for leaf in jax.tree.leaves(jax.grad(total)(copy.vars.params)):
        assert not leaf.any()


# --- next to its relatives ------------------------------------------------------------------------


def test_oracle_4_without_consistency_the_working_network_is_er():
    """Same draws, so the same weights; ER's key is split into three, so the memory is handed over.

    One step from one state: the same replay is drawn by whole-memory draws (m = what is filled).
    """
    sizes = {"memory_size": 8, "replay_size": 8}
    other = built(factory=er, **sizes, learning_rate=0.1)
    states = walk(built(**sizes, consistency_weight=0.0), steps=3)
    mine = states[2]
    theirs = other.init(jax.random.key(0), vectors(0))
    theirs = theirs.replace(model=mine.working, memory=mine.memory)
    after, metrics = other.phases[0].step(jax.random.key(9), theirs, vectors(2))
    chex.assert_trees_all_close(params(after.model), params(states[3].working), rtol=1e-5)
    assert metrics["loss"] > 0


def test_oracle_4_with_batch_statistics_only_these_differ_from_er():
    """CLS-ER shows the replay once more, which moves running means and no parameter."""
    shared = {"memory_size": 8, "replay_size": 8, "learning_rate": 0.01}
    other = built(normed(), factory=er, **shared)
    states = walk(built(normed(), **shared, consistency_weight=0.0), steps=3)
    mine = states[2]
    theirs = other.init(jax.random.key(0), vectors(0))
    theirs = theirs.replace(model=mine.working, memory=mine.memory)
    after, _ = other.phases[0].step(jax.random.key(9), theirs, vectors(2))
    working = states[3].working
    chex.assert_trees_all_close(params(after.model), params(working), rtol=1e-4, atol=1e-6)
    assert not np.allclose(after.model.vars.stats["mean"], working.vars.stats["mean"], rtol=1e-3)


def test_mean_er_is_clser_whose_copies_are_one():
    """Equal averages teach equally: the same working network as CLS-ER's after a step."""
    sizes = {"memory_size": 8, "replay_size": 8}
    single = built(factory=mean_er, **sizes, ema_rate=1.0, ema_decay=0.99)
    states = walk(built(**sizes, stable_rate=1.0, plastic_rate=1.0), steps=3)
    mine = states[2]
    theirs = single.init(jax.random.key(0), vectors(0))
    theirs = theirs.replace(
        working=mine.working, stable=mine.stable, memory=mine.memory, step=mine.step
    )
    after, _ = single.phases[0].step(jax.random.key(9), theirs, vectors(2))
    chex.assert_trees_all_close(params(after.working), params(states[3].working), rtol=1e-5)
    chex.assert_trees_all_close(params(after.stable), params(states[3].stable), rtol=1e-5)


def test_the_stable_copy_answers_and_the_others_are_views():
    method = built(plastic_rate=0.2, stable_rate=0.5)
    state = walk(method)[-1]
    net, x = perceptron(), vectors(5).x
    task = hidden_task(3)
    for predict, tree in (
        (method.predict, state.stable),
        (method.views["working"], state.working),
        (method.views["plastic"], state.plastic),
    ):
        expected, _ = net.apply(tree.vars, x, train=False)
        np.testing.assert_allclose(predict(state, x, task), expected, rtol=1e-5)
    assert not np.allclose(method.predict(state, x, task), method.views["working"](state, x, task))


def test_a_stream_too_short_for_the_averages_is_told():
    """S-CIFAR-10's numbers: 78,000 steps are enough (7.8), one epoch's 1,560 are not (0.16)."""
    published = {"stable_rate": 0.1, "stable_decay": 0.999}
    published |= {"plastic_rate": 0.9, "plastic_decay": 0.999}
    method = built(**published)
    assert method.advice(78_000, 1) == ""
    assert "stable_rate 0.1 and stable_decay 0.999 are too slow" in method.advice(1_560, 1)
    assert built(**published, warmup="updates").advice(1_560, 1) == ""
    assert "plastic" in built(plastic_rate=0.001).advice(1_000, 1)


@pytest.mark.parametrize("factory", [clser, mean_er])
@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (
            {"memory_size": 4, "replay_size": 5},
            "replay_size=5 must be between 1 and",
        ),
        ({"ema_bn": "mine"}, "ema_bn is 'mine'; use one of own, ema, copy"),
        ({"warmup": "never"}, "warmup is 'never'; use one of steps, updates"),
    ],
)
def test_bad_choices_are_refused(factory, change, sentence):
    with pytest.raises(InputError, match=sentence):
        built(factory=factory, **change)
