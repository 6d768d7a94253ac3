"""OCS: the card's oracles in double precision, a whole step by hand, and what is kept of a task."""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cls_jax.core.augment import Augment
from cls_jax.core.errors import InputError
from cls_jax.core.types import Variables
from cls_jax.methods.replay.ocs import ocs
from cls_jax.methods.replay.ocs_selection import (
    agreement,
    balanced,
    cosine,
    losses_of,
    only_in_value,
)
from cls_jax.nets.base import Net
from cls_jax.nets.gradient_gram import gradient_gram
from cls_jax.nets.linen import apply_linen, init_linen
from cls_jax.nets.mlp import mlp
from tests.support.drive import Drive, label_of, made_batch, task_of
from tests.support.nets import perceptron, shown
from tests.support.numpy_mlp import backward, by_letter, ce, inputs, logits_of, softmax
from tests.support.oracle_weights import oracle_vars
from tests.support.problems import flat_augment, own_problem, telling_problem

AS_IT_IS = Augment(lambda key, x: x, lambda x: x)


@pytest.fixture
def x64():
    with jax.enable_x64(True):
        yield


def everyone(n):
    return jnp.ones((n, n), bool)


# --- the card's numbers: O1 to O6, O3 with O2 ----------------------------------------------------

GRADIENTS = np.array([[1.0, 0], [0, 1], [3, 4], [-1, 1]])


def test_oracle_1_scores(x64):
    similarity, diversity = agreement(jnp.asarray(GRADIENTS @ GRADIENTS.T), everyone(4))
    found = [0.4472135955, 0.8944271910, 0.9838699101, 0.3162277660]
    np.testing.assert_allclose(similarity, found, atol=1e-10)
    found = [0.2232233047, 0.6267766953, 0.6353553391, 0.2853553391]
    np.testing.assert_allclose(-diversity, found, atol=1e-10)
    reference = np.array([2.0, -1])
    norm = np.linalg.norm(GRADIENTS, axis=1)
    affinity = cosine(jnp.asarray(GRADIENTS @ reference), norm, np.sqrt(5))
    whole = [894.6511812907, -446.9459450043, 179.2339527710, -948.6524256236]
    np.testing.assert_allclose(similarity + diversity + 1000 * affinity, whole, atol=1e-9)


def test_each_example_is_compared_with_its_peers_alone(x64):
    """Two groups at once are as each by itself; one without peers scores 0."""
    gram = jnp.asarray(GRADIENTS @ GRADIENTS.T)
    group = np.array([0, 1, 0, 1])
    both = agreement(gram, jnp.asarray(group[:, None] == group))
    for number in range(2):
        mine = np.flatnonzero(group == number)
        alone = agreement(gram[np.ix_(mine, mine)], everyone(2))
        for one, other in zip(both, alone, strict=True):
            np.testing.assert_allclose(one[mine], other, atol=1e-14)
    for one in agreement(gram, jnp.zeros((4, 4), bool)):
        np.testing.assert_array_equal(one, 0)


def oracle_2():
    net = mlp(3, (3,), "float64")
    vars = oracle_vars(jax.eval_shape(net.init, jax.random.key(0), jnp.zeros((1, 2))))
    x = np.sin(0.1 * np.arange(10.0) ** 2).reshape(5, 2)
    held = np.cos(0.1 * np.arange(6.0) ** 2).reshape(3, 2)
    return net, vars, x, [0, 1, 2, 0, 1], held, [2, 2, 0]


def gradients(net, vars, x, y):
    """float64[n, P]: of each example, one by one."""

    def loss(params, x, y):
        logits, _ = net.apply(vars.replace(params=params), x[None], train=False)
        return -jax.nn.log_softmax(logits)[0, y]

    each = jax.jit(jax.vmap(jax.grad(loss), (None, 0, 0)))(vars.params, x, np.array(y))
    return np.concatenate([leaf.reshape(len(y), -1) for leaf in jax.tree.leaves(each)], axis=1)


def test_oracle_2_scores_of_a_perceptron(x64):
    """The last, with tau 1000, in the order 2, 3, 4, 1, 0."""
    net, vars, x, y, held, held_y = oracle_2()
    targets = jnp.array(y), jnp.ones(5, bool), None
    gram = jax.jit(partial(gradient_gram, net, losses=losses_of))(vars=vars, x=x, targets=targets)
    g, r = gradients(net, vars, x, y), gradients(net, vars, held, held_y).mean(0)
    np.testing.assert_allclose(gram, g @ g.T, atol=1e-12)  # O3
    similarity, diversity = agreement(gram, everyone(5))
    found = [-0.4137541397, 0.6768731423, 0.0596676797, -0.1439400107, 0.6775629636]
    np.testing.assert_allclose(similarity + diversity, found, atol=1e-10)
    affinity = cosine(g @ r, jnp.sqrt(jnp.diagonal(gram)), np.linalg.norm(r))
    found = [-280.3830270797, -125.6150179462, 869.2278561079, 81.1909866336, -116.3219356624]
    np.testing.assert_allclose(similarity + diversity + 1000 * affinity, found, atol=1e-8)


def test_oracle_2_two_whole_steps(x64):
    """The highest scores; two means; SGD with PyTorch's momentum at the second task's rate."""
    picks = [2, 3]
    net, vars, x, y, held, held_y = oracle_2()
    problem = own_problem(net, augment=AS_IT_IS, num_classes=3)
    sizes = {"memory_size": 3, "selection_size": len(picks), "replay_size": 3}
    rates = {"learning_rate": 0.1, "learning_rate_factor": 0.5, "replay_weight": 0.3}
    method = ocs(problem, **sizes, warmup_batches=0)
    hyper = method.hyper | rates
    method = method.at({name: jnp.asarray(value, jnp.float64) for name, value in hyper.items()})
    given = made_batch(x, y)
    state = method.init(jax.random.key(0), given)
    slots = {"x": jnp.asarray(held), "y": jnp.array(held_y, jnp.int32)}
    slots["task"] = jnp.zeros(3, jnp.int32)
    memory = state.memory.replace(slots=slots, seen=jnp.int32(3))
    state = state.replace(model=state.model.replace(vars=vars), memory=memory, task=jnp.int32(1))
    step = jax.jit(method.phases[0].step)

    def loss(params, picks):
        def mean(x, y):
            logits, _ = net.apply(vars.replace(params=params), jnp.asarray(x), train=True)
            return -jax.nn.log_softmax(logits)[jnp.arange(len(y)), y].mean()

        new = mean(jnp.asarray(x)[picks], jnp.array(y)[picks])
        return new + 0.3 * mean(held, jnp.array(held_y))

    gradient_of = jax.jit(jax.value_and_grad(loss))
    first, metrics = step(jax.random.key(1), state, given)
    value, slope = gradient_of(vars.params, np.array(picks))
    np.testing.assert_allclose(metrics["loss"], value, atol=1e-12)
    expected = jax.tree.map(lambda p, g: p - 0.05 * g, vars.params, slope)
    for a, b in zip(*map(jax.tree.leaves, (first.model.vars.params, expected)), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-12)
    kept = first.candidates.slots["x"][: len(picks)]
    np.testing.assert_array_equal(kept, x[picks])

    # The second step, with the score written out.
    vars = first.model.vars
    g, r = gradients(net, vars, x, y), gradients(net, vars, held, held_y).mean(0)
    unit = g / np.linalg.norm(g, axis=1, keepdims=True)
    score = unit @ (g.mean(0) / np.linalg.norm(g.mean(0))) - (unit @ unit.T).mean(1)
    score += 1000 * unit @ (r / np.linalg.norm(r))
    again = np.argsort(-score)[: len(picks)]
    second, metrics = step(jax.random.key(2), first, given)
    value, more = gradient_of(vars.params, again)
    np.testing.assert_allclose(metrics["loss"], value, atol=1e-12)
    expected = jax.tree.map(lambda p, g, m: p - 0.05 * (m + 0.8 * g), vars.params, slope, more)
    for a, b in zip(*map(jax.tree.leaves, (second.model.vars.params, expected)), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-12)


def test_oracle_4_a_mask_that_no_gradient_knows(x64):
    logits, classes = jnp.array([[0.2, -0.1, 0.5, 0.3]]), jnp.array([False, False, True, True])

    def loss(logits):
        targets = jnp.array([0]), jnp.array([True]), None
        return losses_of(only_in_value(logits, classes), targets).sum()

    value, slope = jax.value_and_grad(loss)(logits)
    np.testing.assert_allclose(slope, [[-1, 0, 0.5498339973, 0.4501660027]], atol=1e-10)
    assert value == pytest.approx(1e9 + 1.09814, abs=1e-4)  # the code's floor is -1e11


class Normed(nn.Module):
    @nn.compact
    def __call__(self, x, *, train, valid=None):
        h = nn.Dense(2, use_bias=False, param_dtype="float64")(x)
        own = {"epsilon": 1e-5, "use_bias": False, "use_scale": False, "dtype": "float64"}
        return nn.BatchNorm(use_running_average=not train, **own)(h)


def test_oracle_5_gradients_with_the_statistics_held(x64):
    """Running statistics that are the batch's: the card's gradient of loss 2 through the weights
    alone, where one through the batch's statistics (the code's) depends on the other examples.
    """
    x, y = np.array([[1.0, 2], [0, 1], [2, -1]]), np.array([0, 1, 0])
    net = Net(lambda key, x: init_linen(key, Normed(), x), partial(apply_linen, Normed()))
    shapes = jax.eval_shape(net.init, jax.random.key(0), jnp.asarray(x))
    params = jax.tree.map(lambda leaf: jnp.eye(2), shapes.params)
    stats = {"BatchNorm_0": {"mean": jnp.asarray(x.mean(0)), "var": jnp.asarray(x.var(0))}}
    assert jax.tree.structure(stats) == jax.tree.structure(shapes.stats)
    vars = Variables(params, stats)

    def losses(params, train):
        logits, _ = net.apply(vars.replace(params=params), x, train=train)
        return losses_of(logits, (y, jnp.ones(3, bool), None))

    def gradient(train):
        (kernel,) = jax.tree.leaves(jax.grad(lambda params: losses(params, train)[1])(params))
        return kernel.T.ravel()

    for train in (False, True):
        expected = [1.3641986742, 0.2028781848, 0.0743878914]
        np.testing.assert_allclose(losses(params, train), expected, atol=1e-9)

    held = np.array([0, 0.2248888049, 0, -0.1472249126])
    np.testing.assert_allclose(gradient(False), held, atol=1e-9)
    through = [-3.3735e-6, -0.1499224966, 0.1261929174, -3.1548e-7]
    np.testing.assert_allclose(gradient(True), through, atol=1e-9)
    gram = gradient_gram(net, vars, jnp.asarray(x), losses_of, (y, jnp.ones(3, bool), None))
    np.testing.assert_allclose(gram[1, 1], held @ held, atol=1e-9)


def test_oracle_6_shares_of_classes():
    """66 of ten classes: six each, and the six best of what is left; 5 of five: one each."""
    rng = np.random.default_rng(0)
    y, score = rng.permutation(np.repeat(np.arange(10), 30)), rng.random(300)
    taken = np.asarray(balanced(jnp.asarray(score), jnp.asarray(y), jnp.ones(300, bool), 66, 10))
    assert taken.sum() == 66
    best = np.concatenate(
        [np.flatnonzero(y == c)[np.argsort(-score[y == c])][:6] for c in range(10)]
    )
    assert taken[best].all()
    rest = np.setdiff1d(np.arange(300), best)
    last = rest[np.argsort(-score[rest])][:6]
    np.testing.assert_array_equal(np.flatnonzero(taken), np.sort(np.r_[best, last]))
    taken = np.asarray(balanced(jnp.asarray(score), jnp.asarray(y % 5), jnp.ones(300, bool), 5, 5))
    np.testing.assert_array_equal(np.bincount(y[taken] % 5), np.ones(5))


@pytest.mark.parametrize(
    ("counts", "quota", "expected"),
    [((8, 3, 1), 7, (3, 3, 1)), ((8, 3, 1), 9, (5, 3, 1)), ((2, 0, 1), 9, (2, 0, 1))],
)
def test_what_a_poor_class_leaves_goes_to_the_others(counts, quota, expected):
    y = np.repeat(np.arange(3), counts)
    score, eligible = jnp.arange(len(y) + 2.0), jnp.arange(len(y) + 2) < len(y)
    y = jnp.asarray(np.append(y, [0, 0]))  # two more that are not eligible, with the best scores
    taken = np.asarray(balanced(score, y, eligible, jnp.int32(quota), 3))
    assert not taken[-2:].any()
    np.testing.assert_array_equal(np.bincount(np.asarray(y)[taken], minlength=3), expected)


# --- driven by hand -------------------------------------------------------------------------------

SIZES = {"memory_size": 12, "selection_size": 2, "replay_size": 4, "candidates": 30}


def driven(problem=None, **changes):
    return Drive(ocs(problem or telling_problem(), **{**SIZES, "warmup_batches": 0, **changes}))


def learned_tasks(drive, number, steps=6, size=6):
    """So many tasks, two passes each; the names that were candidates as each ended."""
    candidates = []
    for task in range(number):
        drive.begin(task_of(task))
        for epoch in range(2):
            for s in range(steps):
                names = 40 * task + 6 * s + np.arange(size)
                drive.step(names, task=task, epoch=epoch)
        slots = drive.state.candidates.slots["x"][: int(drive.state.candidates.seen)]
        candidates.append({*np.asarray(slots)[:, 0, 0, 0].tolist()})
        drive.end(task_of(task))
    return candidates


def coreset(drive):
    """(names, tasks) of what is held."""
    held = int(drive.state.memory.seen)
    names = drive.held()[:held]
    np.testing.assert_array_equal(drive.slots("y")[:held], label_of(names))
    return names, drive.slots("task")[:held]


@pytest.mark.parametrize(
    "kind",
    ["random", *(pytest.param(kind, marks=pytest.mark.more) for kind in ("score", "uniform"))],
)
def test_each_task_has_its_share_of_different_examples(kind):
    drive = driven(coreset=kind, selection="random" if kind == "uniform" else "score")
    candidates = learned_tasks(drive, 3)
    names, task = coreset(drive)
    assert len(set(names)) == len(names) == 12
    np.testing.assert_array_equal(np.bincount(task), [4, 4, 4])
    np.testing.assert_array_equal(task, label_of(names) // 2)
    for number in range(3):
        assert {*names[task == number]} <= candidates[number]
    picks = 12 if kind != "uniform" else 30  # of a pass of six batches of six
    assert [len(some) <= picks for some in candidates] == 3 * [True]
    if kind == "uniform":
        assert len(candidates[0]) > 12


def test_candidates_are_those_of_the_latest_pass():
    drive = driven()
    drive.begin(task_of(0))
    for epoch, seen in ((0, 2), (0, 4), (1, 2), (1, 4), (2, 2)):
        drive.step(range(6), task=0, epoch=epoch)
        assert int(drive.state.candidates.seen) == seen
    drive.begin(task_of(1))
    assert int(drive.state.candidates.seen) == 0


def test_a_replay_is_of_one_old_task_and_there_is_none_in_the_first():
    drive = driven()
    learned_tasks(drive, 2)
    names, task = coreset(drive)
    drive.begin(task_of(2))
    chosen = set()
    for _ in range(12):
        drive.step(range(80, 86), task=2)
        picked, replayed = shown(drive, 2)
        assert len(picked) == 2
        assert {*picked} <= {*range(80, 86)}
        assert len(set(replayed)) == 4
        (one,) = {int(task[names == name][0]) for name in replayed}
        chosen.add(one)
    assert chosen == {0, 1}
    first = driven()
    first.begin(task_of(0))
    first.step(range(6), task=0)
    assert [len(some) for some in shown(first, 2)] == [2, 0]


def test_the_first_batches_of_the_first_pass_are_picked_by_chance():
    """The score picks the same two however it is asked; chance does not."""
    drive = driven(warmup_batches=2, learning_rate=0.0)
    drive.begin(task_of(0))
    start, picked = drive.state, {}
    for name, step, epoch in (("warm", 0, 0), ("after", 2, 0), ("second pass", 0, 1)):
        found = set()
        for _ in range(8):
            drive.state = start.replace(step=jnp.int32(step))
            drive.step(range(6), task=0, epoch=epoch)
            found.add(tuple(shown(drive, 2)[0]))
        picked[name] = found
    assert len(picked["warm"]) > 1
    assert len(picked["after"]) == 1
    assert picked["second pass"] == picked["after"]


def test_padding_is_never_picked():
    drive = driven(selection_size=3)
    drive.begin(task_of(0))
    drive.step([0, 21, 40, 41, 42, 43], 2, task=0)
    assert [len(some) for some in shown(drive, 2)] == [2, 0]
    assert int(drive.state.candidates.seen) == 2


def test_a_task_begins_with_a_rate_and_a_momentum_of_its_own():
    net = perceptron()
    drive = driven(own_problem(net, augment=flat_augment(), num_classes=6), selection_size=4)
    drive.hyper |= {"learning_rate": jnp.float32(0.1), "learning_rate_factor": jnp.float32(0.5)}
    for task, rate in ((0, 0.1), (1, 0.05), (2, 0.025)):
        drive.begin(task_of(task))
        before = by_letter(drive.state.model.vars.params)
        drive.step([40 * task, 40 * task + 20, 40 * task + 1, 40 * task + 21], task=task)
        after = by_letter(drive.state.model.vars.params)
        _, slope = ce(before, [40 * task, 40 * task + 20, 40 * task + 1, 40 * task + 21])
        for name, gradient in slope.items():
            np.testing.assert_allclose(after[name], before[name] - rate * gradient, atol=1e-6)


def flat(gradient):
    return np.concatenate([gradient[name].ravel() for name in sorted(gradient)])


@pytest.mark.more
@pytest.mark.parametrize("current", [False, True])
def test_by_own_classes_only_those_of_its_task_compete(current):
    """Picks and loss of a step, written out: r is under the old task's mask, or under the wrong
    one, where the label's slope is -1 whatever is known of it."""
    problem = own_problem(perceptron(), augment=flat_augment(), num_classes=6)
    drive = driven(problem, own_classes=True, current_classes=current)
    assert drive.method.name == "ocs_own"
    learned_tasks(drive, 1)
    drive.begin(task_of(1))
    params = by_letter(drive.state.model.vars.params)
    held = drive.held()[: int(drive.state.memory.seen)]
    reference = ce(params, held, classes=[0, 1])[1]
    if current:
        slope = softmax(logits_of(params, held), [2, 3]) - np.eye(6)[label_of(held)]
        reference = backward(params, inputs(held), slope / len(held))
    names = np.array([40, 60, 41, 61, 42, 62])
    g = np.stack([flat(ce(params, [name], classes=[2, 3])[1]) for name in names])
    unit = g / np.linalg.norm(g, axis=1, keepdims=True)
    score = unit @ g.mean(0) / np.linalg.norm(g.mean(0)) - (unit @ unit.T).mean(1)
    score += 1000 * unit @ flat(reference) / np.linalg.norm(flat(reference))
    loss = float(drive.step(names, task=1)["loss"])
    picks = np.asarray(drive.state.candidates.slots["x"])[:2, 0, 0, 0]
    np.testing.assert_array_equal(picks, names[np.argsort(-score)[:2]])
    rest = loss - ce(params, picks, classes=[2, 3])[0]
    each = [ce(params, [name], classes=[0, 1])[0] for name in held]
    assert min(each) - 1e-5 <= rest <= max(each) + 1e-5


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"memory_size": 2, "replay_size": 2}, "gives none of the 3 tasks a slot .*at least 3"),
        ({"replay_size": 13}, "replay_size=13 must be between 1 and the memory's 12 slots"),
        ({"selection_size": 0}, "selection_size is 0; give a value at least 1"),
        ({"candidates": 0}, "candidates is 0; give a value at least 1"),
        ({"warmup_batches": -1}, "warmup_batches is -1; give a value at least 0"),
        ({"learning_rate_factor": -0.5}, "learning_rate_factor is -0.5; give a value at least 0"),
        ({"current_classes": True}, "current_classes is True, but without own_classes"),
    ],
)
def test_bad_arguments_are_named(change, message):
    with pytest.raises(InputError, match=message):
        ocs(telling_problem(), **{**SIZES, **change})


def test_a_batch_that_is_not_larger_is_taken_whole():
    drive = driven(selection_size=7)
    drive.begin(task_of(0))
    drive.step(range(6), task=0)
    np.testing.assert_array_equal(np.sort(shown(drive, 2)[0]), range(6))
