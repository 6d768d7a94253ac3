"""DER (expandable): whole steps of both phases again in NumPy, the card's oracles, what rests."""

from functools import cache

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cls_jax.core.errors import InputError
from cls_jax.core.types import Variables
from cls_jax.methods.architecture.der_expandable import der_expandable
from cls_jax.methods.architecture.der_expandable_heads import (
    auxiliary_targets,
    joint_logits,
    rate_factor,
    weighted_cross_entropy,
)
from cls_jax.nets.base import Net
from cls_jax.nets.resnet import resnet18
from cls_jax.streams.class_il import class_il
from cls_jax.training.group import task_classes
from cls_jax.training.run import shapes_of
from cls_jax.training.start import Start, Trained, check_start
from tests.conftest import small_source
from tests.core.test_herding import slow_herd
from tests.support.drive import (
    CLASSES,
    NAMES,
    Drive,
    batch,
    float64,
    label_of,
    padded,
    pictures,
    task_of,
)
from tests.support.nets import names_in, perceptron
from tests.support.numpy_mlp import inputs
from tests.support.problems import SHIFT, flat_augment, own_problem, shifted_augment

HIDDEN, SIZE, LEAN, KEEP = 7, 5, 0.3, 0.9
RATE, SECOND_RATE, MOMENTUM, DECAY, OWN, TEMPERATURE = 0.1, 0.2, 0.8, 0.01, 0.7, 5.0
SMALL = {
    "memory_size": 13,
    "replay_size": 13,
    "warmup_epochs": 0,
    "decays": (100,),
    "balanced_epochs": 3,
    "balanced_batch_size": 26,
    "balanced_decays": (2,),
    "learning_rate": RATE,
    "balanced_learning_rate": SECOND_RATE,
    "momentum": MOMENTUM,
    "weight_decay": DECAY,
    "auxiliary_weight": OWN,
    "temperature": TEMPERATURE,
}
FIRST, SECOND = np.arange(0, 40, 3), np.arange(40, 80, 2)  # names of classes 0, 1 and 2, 3
THIRD = np.arange(80, 120, 2)  # of 4, 5


@cache
def telling_net():
    """A perceptron whose features lean in training and whose statistics move with every batch; it
    tells the rows of its last training forward."""

    def init(key, x):
        keys = jax.random.split(key, 3)
        shapes = {"w1": (x.shape[1], HIDDEN), "b1": (HIDDEN,), "w2": (HIDDEN, SIZE)}
        params = {
            name: 0.8 * jax.random.normal(k, shape)
            for k, (name, shape) in zip(keys, shapes.items(), strict=True)
        }
        params["out"] = {"kernel": jnp.zeros((SIZE, CLASSES)), "bias": jnp.zeros(CLASSES)}
        return Variables(params=params, stats={"shown": jnp.zeros(NAMES), "mean": jnp.zeros(SIZE)})

    def features(vars, x, *, train, valid=None):
        p, mean = vars.params, vars.stats["mean"]
        z = jnp.tanh(x @ p["w1"] + p["b1"]) @ p["w2"]
        if not train:
            return z - mean, vars.stats
        names = jnp.round((x[:, 0] - SHIFT) * 255).astype(int)
        rows = jnp.where(valid[:, None], jax.lax.stop_gradient(z), 0)
        new = rows.sum(0) / jnp.maximum(valid.sum(), 1)
        shown = jnp.zeros(NAMES).at[names].add(1.0 * valid)
        return z + LEAN, {"shown": shown, "mean": KEEP * mean + (1 - KEEP) * new}

    def apply(vars, x, *, train, valid=None):
        z, stats = features(vars, x, train=train, valid=valid)
        return z @ vars.params["out"]["kernel"], stats

    return Net(init, apply, features=features, head="out")


class Learner(Drive):
    """Its steps are those of the first phase if nothing is said."""

    def step(self, *given, phase="representation", **kind):
        return super().step(*given, phase=phase, **kind)


def drive(**arguments):
    problem = own_problem(telling_net(), augment=shifted_augment(), num_classes=CLASSES)
    return Learner(der_expandable(problem, **{**SMALL, **arguments}))


def learn(learner, number, names, steps=1):
    """One whole task, and both its phases."""
    task, data = task_of(number), padded(names)
    learner.begin(task, data)
    for at in range(steps):
        learner.step(names[4 * at : 4 * at + 4])
    if len(learner.method.phases) > 1:
        learner.enter("classifier", task, data)
        learner.step([0] * 4, 0, phase="classifier")
    learner.end(task, data)
    return learner


def shown(learner):
    """Names of the valid rows of the last training forward."""
    return names_in(learner.state.extractor.vars.stats["shown"]).tolist()


def params_of(learner):
    """float64 copies of all that is trained."""
    state = learner.state
    return float64({**state.extractor.vars.params, **state.classifier.vars.params})


# --- the same in NumPy ----------------------------------------------------------------------------


class Past:
    """float64 copies of the frozen extractors and of the newest one's statistics."""

    def __init__(self, learner, number):
        frozen = float64(learner.state.frozen)
        self.frozen = [jax.tree.map(lambda leaf, j=j: leaf[j], frozen) for j in range(number)]

    def features(self, x):
        """float64[n, 3, SIZE], zero where there is no frozen one."""
        u = np.zeros((len(x), 3, SIZE))
        for j, one in enumerate(self.frozen):
            p = one.params
            u[:, j] = np.tanh(x @ p["w1"] + p["b1"]) @ p["w2"] - one.stats["mean"]
        return u


def softmax(z):
    z = np.exp(z - z.max(1, keepdims=True))
    return z / z.sum(1, keepdims=True)


def ce(z, y, weight, columns):
    """Mean cross-entropy over these columns, and its derivative by all logits."""
    p, weight = softmax(z[:, columns]), np.asarray(weight) / np.sum(weight)
    at = [columns.index(label) for label in y]
    slope = np.zeros(z.shape)
    slope[:, columns] = weight[:, None] * (p - np.eye(len(columns))[at])
    return -(weight * np.log(p[np.arange(len(y)), at])).sum(), slope


def own_targets(y, old, new):
    """0 for an old class, else 1 and up in the order of the new ones."""
    return [0 if label in old else 1 + new.index(label) for label in y]


def representation(params, past, names, weight, old, new):
    """Loss and gradient of a step of the first phase."""
    x, y, t = inputs(names) + SHIFT, label_of(names), len(past.frozen)
    h = np.tanh(x @ params["w1"] + params["b1"])
    f = h @ params["w2"] + LEAN
    u = past.features(x)
    u[:, t] = f
    z = np.einsum("bed,ced->bc", u, params["weights"])
    loss, slope = ce(z, y, weight, old + new)
    gradient = {"weights": np.einsum("bc,bed->ced", slope, u)}
    gradient["auxiliary"], f_slope = np.zeros((CLASSES + 1, SIZE)), slope @ params["weights"][:, t]
    if old:
        targets = own_targets(y, old, new)
        own, slope = ce(f @ params["auxiliary"].T, targets, weight, list(range(len(new) + 1)))
        loss += OWN * own
        gradient["auxiliary"] = OWN * slope.T @ f
        f_slope = f_slope + OWN * slope @ params["auxiliary"]
    h_slope = f_slope @ params["w2"].T * (1 - h**2)
    gradient |= {"w2": h.T @ f_slope, "w1": x.T @ h_slope, "b1": h_slope.sum(0)}
    return loss, gradient


def descended(params, speed, gradient, rate):
    """After a step of SGD with momentum; the decay is part of the gradient."""
    speed = {k: MOMENTUM * speed.get(k, 0) + g + DECAY * params[k] for k, g in gradient.items()}
    return {**params, **{k: params[k] - rate * v for k, v in speed.items()}}, speed


def close(found, expected):
    chex.assert_trees_all_close(found, expected, rtol=1e-4, atol=1e-6)


# --- the card's oracles ---------------------------------------------------------------------------


def test_oracle_of_the_auxiliary_targets():
    """O1: three old classes, three new ones; of the seventh there is no output."""
    new = jnp.array([False] * 3 + [True] * 3 + [False])
    found, outputs = auxiliary_targets(jnp.array([0, 1, 3, 4, 5]), new)
    assert found.tolist() == [0, 0, 1, 2, 3]
    assert outputs.tolist() == [True] * 4 + [False] * 4


def test_oracle_of_the_losses():
    """O2, to ten digits; a row without weight has no influence, a class not seen neither."""
    with jax.enable_x64(True):
        z, y = jnp.array([[1.0, 0, 0, 2], [0, 0, 0, 1], [9, 9, 9, 9]]), jnp.array([3, 0, 7])
        one, every = jnp.array([1.0, 1, 0]), jnp.ones(4, bool)
        own = jnp.array([[0.0, 1, -1], [2, 0, 0], [jnp.nan] * 3])
        joint = weighted_cross_entropy(z, y, one, every)
        new = jnp.array([False, False, True, True])
        targets, outputs = auxiliary_targets(jnp.array([3, 0, 0]), new)
        own_loss = weighted_cross_entropy(own, targets, one, outputs[:3])
        np.testing.assert_allclose(joint, 1.1187400449, rtol=1e-10)
        np.testing.assert_allclose(own_loss, 1.3235753653, rtol=1e-10)
        np.testing.assert_allclose(joint + own_loss, 2.4423154102, rtol=1e-10)
        cooler = weighted_cross_entropy(z / 5, y, one, every)
        np.testing.assert_allclose(cooler, 1.2952701940, rtol=1e-10)
        wider = jnp.concatenate([z, jnp.full((3, 1), 50.0)], axis=1)
        allowed = jnp.arange(5) < 4
        np.testing.assert_array_equal(weighted_cross_entropy(wider, y, one, allowed), joint)


def test_oracle_of_the_schedule():
    """O3: drops at 110 and 130, as the official scheduler really runs."""
    found = [0.1 * float(rate_factor(jnp.int32(e), 10, (110, 130))) for e in range(170)]
    rising = [0.01 * (e + 1) for e in range(10)]
    expected = rising + [0.1] * 100 + [0.01] * 20 + [0.001] * 40
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    assert float(rate_factor(jnp.int32(0), 0, (16,))) == 1


def test_oracle_of_the_sizes():
    """O7: what the ResNet-18s and the head of ten tasks of ten classes take; BatchNorm's 9,600
    statistics are kept beside the parameters."""
    plain = flat_augment()._replace(test=lambda x: x / 255.0)
    problem = own_problem(resnet18, augment=plain, num_classes=100, num_tasks=10)
    method = der_expandable(problem)
    example = batch([0])
    state = jax.eval_shape(method.init, jax.random.key(0), example)
    params = state.extractor.vars.params
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == 11_168_832
    heads = {name: leaf.shape for name, leaf in state.classifier.vars.params.items()}
    assert heads == {"weights": (100, 10, 512), "auxiliary": (101, 512)}
    bits = method.algorithm.capacity(state.replace(came=jnp.arange(100) // 10))["bits"]
    tasks = np.arange(1, 11)
    numbers = tasks * (11_168_832 + 9_600 + 512 * 10 * tasks)
    np.testing.assert_allclose(bits, 32.0 * numbers, rtol=1e-6)
    assert round((tasks * (11_168_832 + 512 * 10 * tasks))[-1] / 1e6, 2) == 112.20


# --- the phase "representation" -------------------------------------------------------------------


def test_the_first_task_is_cross_entropy_with_a_rate_that_rises_and_falls():
    """No auxiliary loss: its head only decays. Rates: half, whole, whole and a tenth."""
    learner = drive(warmup_epochs=2, decays=(3,))
    learner.begin(task_of(0), padded(FIRST))
    expected, speed, rows = params_of(learner), {}, [[0, 21, 3, 24], [6, 27, 9, 30]]
    for epoch, rate in enumerate([RATE / 2, RATE]):
        names, num_valid = rows[epoch], 4 - epoch
        loss = learner.step(names, num_valid, epoch=epoch)["loss"]
        names = names[:num_valid]
        assert sorted(shown(learner)) == sorted(names)
        past = Past(learner, 0)
        value, gradient = representation(expected, past, names, [1] * num_valid, [], [0, 1])
        np.testing.assert_allclose(loss, value, rtol=1e-5)
        expected, speed = descended(expected, speed, gradient, rate)
        close(params_of(learner), expected)
    moved = []
    for epoch in (2, 3):  # much the same gradient and speed, a tenth of the rate
        before = params_of(learner)
        learner.step(rows[0], epoch=epoch)
        moved.append(np.abs(params_of(learner)["b1"] - before["b1"]).max())
    assert moved[1] < 0.5 * moved[0]


@pytest.mark.parametrize(
    ("replay_size", "weight"),
    [(13, 1), (1, 4 * 12 / 20)],  # beside 4 of 20 examples, 4 * 12 / 20 = 2.4 of 12 exemplars
)
def test_later_tasks_by_hand(replay_size, weight):
    """Whole steps of the third task: two frozen extractors, the newest, both heads, exemplars."""
    learner = drive(replay_size=replay_size)
    learn(learn(learner, 0, FIRST), 1, SECOND)
    held = [name for names in learner.exemplars().values() for name in names]
    assert len(held) == 12
    learner.begin(task_of(2), padded(THIRD))
    past, expected, speed, counts = Past(learner, 2), params_of(learner), {}, []
    for names in ([80, 102, 84, 106], [86, 108, 90, 110], [92, 112, 94, 114]):
        loss = learner.step(names)["loss"]
        drawn = [name for name in shown(learner) if name not in names]
        assert set(drawn) <= set(held)
        counts.append(len(drawn))
        rows, weights = [*names, *drawn], [1] * 4 + [weight] * len(drawn)
        value, gradient = representation(expected, past, rows, weights, [0, 1, 2, 3], [4, 5])
        np.testing.assert_allclose(loss, value, rtol=1e-5)
        expected, speed = descended(expected, speed, gradient, RATE)
        close(params_of(learner), expected)
    assert max(counts) > 0
    assert replay_size > 1 or counts == [1] * 3


def test_as_the_warm_up_ends_both_heads_are_drawn_anew_once():
    """Within +-1 / sqrt(fan in): of W all that two extractors see, of A what one sees."""
    learner = drive(warmup_epochs=2, decays=(3,))
    learner.begin(task_of(0), padded(FIRST))
    learner.begin(task_of(1), padded(SECOND))
    learner.hyper["learning_rate"] = jnp.float32(0)
    seen = []
    for epoch in (0, 1, 2, 2, 3):
        before = params_of(learner)
        learner.step([40, 62, 44, 66], epoch=epoch)
        after = params_of(learner)
        moved = {name for name in after if (after[name] != before[name]).any()}
        assert moved == ({"weights", "auxiliary"} if (epoch, len(seen)) == (2, 2) else set())
        seen.append(after)
    for name, size in (("weights", 2 * SIZE), ("auxiliary", SIZE)):
        drawn = np.abs(seen[-1][name])
        assert 0.9 * size**-0.5 < drawn.max() <= size**-0.5
        assert np.abs(seen[0][name]).max() > size**-0.5, "normal, as the task began"


# --- the phase "classifier" -----------------------------------------------------------------------


def test_the_second_phase_by_hand():
    """All of the balanced subset in each step; features at rest, as they answer."""
    learner = learn(drive(), 0, FIRST)
    learner.begin(task_of(1), padded(SECOND))
    learner.step([40, 62, 44, 66])
    before = params_of(learner)
    learner.enter("classifier", task_of(1), padded(SECOND))
    state, expected = learner.state, params_of(learner)
    bound = (2 * SIZE) ** -0.5
    assert 0.9 * bound < np.abs(expected["weights"]).max() <= bound, "drawn anew"
    held = int(state.balanced.seen)
    names = np.asarray(state.balanced.slots["x"])[:held, 0, 0, 0]
    y = label_of(names)
    assert np.asarray(state.balanced.slots["y"])[:held].tolist() == y.tolist()
    assert np.bincount(y).tolist() == [6] * 4, "as many as old classes have exemplars"
    assert len(set(names)) == held
    assert set(names[y < 2]) <= {n for some in learner.exemplars().values() for n in some}
    assert set(names[y >= 2]) <= set(SECOND)
    u, newest = Past(learner, 1).features(inputs(names) + SHIFT), float64(state.extractor.vars)
    hidden = np.tanh((inputs(names) + SHIFT) @ before["w1"] + before["b1"])
    u[:, 1] = hidden @ before["w2"] - newest.stats["mean"]
    speed = {}
    for number in range(4):
        loss = learner.step([0] * 4, 0, phase="classifier")["loss"]
        if number == 3:  # three passes of one step each are over
            assert float(loss) == 0
            break
        z = np.einsum("bed,ced->bc", u, expected["weights"]) / TEMPERATURE
        value, slope = ce(z, y, [1] * held, [0, 1, 2, 3])
        gradient = {"weights": np.einsum("bc,bed->ced", slope, u) / TEMPERATURE}
        np.testing.assert_allclose(loss, value, rtol=1e-5)
        rate = SECOND_RATE if number < 2 else SECOND_RATE / 10
        expected, speed = descended(expected, speed, gradient, rate)
        close(params_of(learner)["weights"], expected["weights"])
    close(params_of(learner)["weights"], expected["weights"])
    chex.assert_trees_all_equal(learner.state.extractor.vars, state.extractor.vars)
    chex.assert_trees_all_equal(learner.state.frozen, state.frozen)


def test_the_first_task_has_no_second_phase():
    learner = drive()
    learner.begin(task_of(0), padded(FIRST))
    learner.step([0, 21, 3, 24])
    before = params_of(learner)
    learner.enter("classifier", task_of(0), padded(FIRST))
    assert float(learner.step([0] * 4, 0, phase="classifier")["loss"]) == 0
    chex.assert_trees_all_equal(params_of(learner), before)
    assert [phase.name for phase in drive(balanced_epochs=0).method.phases] == ["representation"]


# --- boundaries -----------------------------------------------------------------------------------


def test_a_new_extractor_is_a_copy_and_the_old_ones_rest():
    """O6: the same features as the task begins; afterwards those of the past bit for bit, whatever
    is learned, statistics included."""
    learner = learn(drive(), 0, FIRST)
    kept = learner.state.extractor.vars
    learner.begin(task_of(1), padded(SECOND))
    chex.assert_trees_all_equal(learner.state.extractor.vars, kept)
    for _ in range(100):
        learner.step([40, 62, 44, 66])
    learner.enter("classifier", task_of(1), padded(SECOND))
    learner.step([0] * 4, 0, phase="classifier")
    learner.end(task_of(1), padded(SECOND))
    second = learner.state.extractor.vars
    learner.begin(task_of(2), padded(THIRD))
    learner.step([80, 102, 84, 106])
    for number, one in enumerate((kept, second)):
        mine = jax.tree.map(lambda leaf, j=number: leaf[j], learner.state.frozen)
        chex.assert_trees_all_equal(mine, one)
    assert (np.asarray(second.stats["mean"]) != np.asarray(kept.stats["mean"])).all()
    assert (np.asarray(second.params["w1"]) != np.asarray(kept.params["w1"])).any()


def test_the_controls():
    """Drawn anew, a new extractor is another one; without growth one learns on, alone."""
    learner = drive(warm_start=False)
    learner.begin(task_of(0), padded(FIRST))
    kept = params_of(learner)["w1"]
    learner.begin(task_of(1), padded(SECOND))
    assert (params_of(learner)["w1"] != kept).all()
    np.testing.assert_array_equal(np.asarray(learner.state.frozen.params["w1"])[0], kept)
    learner = drive(grow=False)
    learner.begin(task_of(0), padded(FIRST))
    learner.begin(task_of(1), padded(SECOND))
    learner.step([40, 62, 44, 66])
    assert (params_of(learner)["w1"] != kept).all()
    assert params_of(learner)["weights"].shape == (CLASSES, 1, SIZE)
    assert not np.any(learner.state.frozen.params["w1"])
    bits = learner.method.algorithm.capacity(learner.state)["bits"]
    one = 12 * HIDDEN + HIDDEN + HIDDEN * SIZE + SIZE + NAMES
    np.testing.assert_array_equal(bits, [32 * (one + SIZE * c) for c in (2, 4, 4)])


def test_the_memory_is_shared_out_among_the_classes_seen():
    """O6, 13 exemplars: 6 of each of two classes, 3 of four, 2 of six; new ones are herded on what
    all extractors see, of the others the first stay."""
    learner, before = drive(), {}
    for number, (names, quota) in enumerate(((FIRST, 6), (SECOND, 3), (THIRD, 2))):
        learn(learner, number, names)
        found, p, past = learner.exemplars(), params_of(learner), Past(learner, number)
        assert [len(some) for some in found.values()] == [quota] * (2 * number + 2)
        for c, some in before.items():
            assert found[c] == some[:quota]
        for c in (2 * number, 2 * number + 1):
            mine = names[label_of(names) == c]
            u, stats = past.features(inputs(mine)), float64(learner.state.extractor.vars.stats)
            u[:, number] = np.tanh(inputs(mine) @ p["w1"] + p["b1"]) @ p["w2"] - stats["mean"]
            u = u.reshape(len(mine), -1)
            u /= np.linalg.norm(u, axis=1, keepdims=True)
            assert found[c] == mine[slow_herd(u, quota)].tolist()
        before = found


def test_answers_by_hand():
    learner = learn(learn(drive(), 0, FIRST), 1, SECOND)
    names = list(range(0, NAMES, 7))
    u, p = Past(learner, 1).features(inputs(names)), params_of(learner)
    mean = float64(learner.state.extractor.vars.stats["mean"])
    u[:, 1] = np.tanh(inputs(names) @ p["w1"] + p["b1"]) @ p["w2"] - mean
    expected = np.einsum("bed,ced->bc", u, p["weights"])
    logits = learner.predict(pictures(names), task_of(0))
    np.testing.assert_allclose(logits[:, :4], expected[:, :4], rtol=1e-4, atol=1e-5)
    assert (logits[:, 4:] < -1e8).all()
    again = joint_logits(jnp.asarray(p["weights"]), jnp.asarray(u))
    np.testing.assert_allclose(again, expected, rtol=1e-5, atol=1e-6)


def test_a_class_that_comes_back_is_old():
    """Class 1 again, with class 2: to the auxiliary head class 2 alone is new."""
    learner = learn(drive(), 0, FIRST)
    again = [22, 25, 40, 41, 42]
    learner.begin(task_of(1, [1, 2]), padded(again))
    assert learner.state.past.tolist() == [True, True] + [False] * 4
    past, params = Past(learner, 1), params_of(learner)
    loss = learner.step([22, 25, 40, 41])["loss"]
    rows = [22, 25, 40, 41, *[name for name in shown(learner) if name not in again]]
    value, _ = representation(params, past, rows, [1] * len(rows), [0, 1], [2])
    np.testing.assert_allclose(loss, value, rtol=1e-5)


def test_one_program_serves_all_tasks():
    learner = drive()
    for number, names in enumerate([FIRST, SECOND, THIRD]):
        learn(learner, number, names)
    parts = (("begin_task",), ("step", "representation"), ("enter", "classifier"))
    for part in (*parts, ("step", "classifier"), ("end_task",)):
        assert learner.program(*part)._cache_size() == 1


# --- bad input ------------------------------------------------------------------------------------


def test_what_cannot_be_is_said_before_anything_is_computed():
    for why, wrong in (
        ("memory_size=5 gives none of the 6 classes an exemplar", {"memory_size": 5}),
        ("replay_size=14 must be between 1 and the memory's 13 slots", {"replay_size": 14}),
        ("warmup_epochs is -1; give a value at least 0", {"warmup_epochs": -1}),
        ("balanced_epochs is -1; give a value at least 0", {"balanced_epochs": -1}),
        ("balanced_batch_size is 0; give a value at least 1", {"balanced_batch_size": 0}),
        ("decays is .3, 2.; give rising numbers", {"decays": (3, 2)}),
        ("balanced_decays is .0,.; give rising numbers", {"balanced_decays": (0,)}),
    ):
        with pytest.raises(InputError, match=why):
            drive(**wrong)
    headless = perceptron()._replace(head=None)
    problem = own_problem(headless, augment=shifted_augment(), num_classes=CLASSES)
    with pytest.raises(InputError, match="der_expandable joins features"):
        der_expandable(problem, **SMALL)


def test_more_tasks_than_there_are_places_are_refused():
    """Made for two tasks, and two more are to be learned."""
    first = class_il(small_source(), tasks=2, batch_size=4)
    stream = class_il(small_source(), tasks=(2, 4), batch_size=4)
    problem = own_problem(telling_net(), augment=flat_augment(), num_classes=CLASSES, num_tasks=2)
    method = der_expandable(problem, **SMALL)
    trained = Trained(method, shapes_of(first), task_classes(first, 0), None)
    why = "der_expandable keeps room for 2 tasks, and these make 4; begin the first run with a larg"
    with pytest.raises(InputError, match=why):
        check_start(Start({0: trained}, first, {}), method, stream, (0,))


def test_a_stream_shorter_than_the_warm_up_is_told():
    method = drive(warmup_epochs=3).method
    assert "warmup_epochs 3 takes all of 3 passes" in method.algorithm.advice(100, 3)
    assert method.algorithm.advice(100, 4) == ""
