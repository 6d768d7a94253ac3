"""UCIR: whole steps again in NumPy, who is imprinted, who is an exemplar, what stands still."""

from functools import cache, partial

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cls_jax.core.errors import InputError
from cls_jax.core.types import Variables
from cls_jax.methods.prototypes.ucir import adaptive_weight, ucir
from cls_jax.nets.extractor import Extractor, Features
from tests.core.test_herding import slow_herd
from tests.support.drive import (
    CLASSES,
    NAMES,
    Drive,
    float64,
    label_of,
    padded,
    pictures,
    task_of,
)
from tests.support.nets import names_in
from tests.support.numpy_mlp import inputs
from tests.support.problems import SHIFT, own_problem, shifted_augment

HIDDEN, SIZE, LEAN = 7, 5, 0.3
RATE, MOMENTUM, DECAY, SCALE, BASE, MARGIN, MARGIN_WEIGHT = 0.1, 0.8, 0.01, 3.0, 0.7, 0.5, 1.3
SMALL = {
    "exemplars_per_class": 4,
    "replay_size": 6,
    "decays": (100,),
    "learning_rate": RATE,
    "balanced_learning_rate": 0.2,
    "momentum": MOMENTUM,
    "weight_decay": DECAY,
    "initial_scale": SCALE,
    "embedding_weight": BASE,
    "margin": MARGIN,
    "margin_weight": MARGIN_WEIGHT,
}
FIRST, SECOND = np.arange(0, 40, 3), np.arange(40, 80, 2)  # names of classes 0, 1 and 2, 3


@cache
def telling_extractor():
    """A perceptron whose features lean in training, and that tells the rows of its last forward."""

    def init(key, x):
        keys = jax.random.split(key, 3)
        shapes = {"w1": (x.shape[1], HIDDEN), "b1": (HIDDEN,), "w2": (HIDDEN, SIZE)}
        params = {
            name: 0.8 * jax.random.normal(k, shape)
            for k, (name, shape) in zip(keys, shapes.items(), strict=True)
        }
        return Variables(params=params, stats={"shown": jnp.zeros(NAMES)})

    def apply(vars, x, *, train, valid=None):
        p = vars.params
        features = jnp.tanh(x @ p["w1"] + p["b1"]) @ p["w2"]
        if not train:
            return Features(features, None), vars.stats
        names = jnp.round((x[:, 0] - SHIFT) * 255).astype(int)
        return Features(features + LEAN, None), {
            "shown": jnp.zeros(NAMES).at[names].add(1.0 * valid)
        }

    return Extractor(init, apply)


def drive(**arguments):
    augment = shifted_augment()
    problem = own_problem(extractor=telling_extractor(), augment=augment, num_classes=CLASSES)
    return Drive(ucir(problem, **{**SMALL, **arguments}))


def params_of(learner):
    """float64 copies of all that is trained."""
    state = learner.state
    return float64({**state.extractor.vars.params, **state.classifier.vars.params})


def shown(learner):
    """Names of the valid rows of the last training forward."""
    return names_in(learner.state.extractor.vars.stats["shown"]).tolist()


def held_by(learner):
    """Names of all exemplars."""
    return [name for names in learner.exemplars().values() for name in names]


# --- the same in NumPy ----------------------------------------------------------------------------


def unit(v):
    return v / np.linalg.norm(v, axis=-1, keepdims=True)


def features(params, names, *, train=False, augmented=False):
    """float64[n, SIZE] unit features."""
    x = inputs(names) + SHIFT * augmented
    return unit(np.tanh(x @ params["w1"] + params["b1"]) @ params["w2"] + LEAN * train)


def ce(cosines, scale, y, seen):
    """Of each row, over the classes seen."""
    logits = scale * cosines
    return np.log(np.exp(logits[:, seen]).sum(1)) - logits[np.arange(len(y)), y]


def too_near(cosines, y, past, new):
    """Mean over rows of past classes and their two nearest new classes."""
    terms = [
        max(0, MARGIN - row[label] + other)
        for row, label in zip(cosines, y, strict=True)
        if label in past
        for other in sorted(row[new])[::-1][:2]
    ]
    return np.mean(terms) if terms else 0


def whole_loss(params, old, names, weight, past, new):
    """Cross-entropy, embedding loss and margin of a step; ``weight`` is one a name."""
    y, weight = label_of(names), np.asarray(weight) / np.sum(weight)
    now = features(params, names, train=True, augmented=True)
    cosines = now @ unit(params["weights"]).T
    value = (weight * ce(cosines, params["scale"], y, past + new)).sum()
    if past:
        before = features(old, names, augmented=True)
        hold = BASE * np.sqrt(len(past) / len(new))
        value += hold * (weight * (1 - (now * before).sum(1))).sum()
    return value + MARGIN_WEIGHT * too_near(cosines, y, past, new)


def loss_of(old, names, weight, past, new, params):
    """``whole_loss`` of the parameters, which come last."""
    return whole_loss(params, old, names, weight, past, new)


def slope(loss, params, step=1e-6):
    """The gradient by central differences."""
    found = {}
    for name, value in params.items():
        found[name] = np.zeros(value.shape)
        for place in np.ndindex(value.shape):
            move = np.zeros(value.shape)
            move[place] = step
            high, low = (loss({**params, name: value + sign * move}) for sign in (1, -1))
            found[name][place] = (high - low) / (2 * step)
    return found


def descended(params, speed, gradient, rate=RATE, still=()):
    """The parameters and the velocity after a step of SGD; classes in ``still`` stay."""
    speed = {k: MOMENTUM * speed.get(k, 0) + gradient[k] + DECAY * v for k, v in params.items()}
    after = {k: v - rate * speed[k] for k, v in params.items()}
    after["weights"][list(still)] = params["weights"][list(still)]
    return after, speed


def close(found, expected):
    chex.assert_trees_all_close(found, expected, rtol=2e-4, atol=2e-6)


def in_second_task(**arguments):
    """A learner with exemplars of classes 0 and 1; the second task has begun."""
    learner = drive(**arguments)
    learner.begin(task_of(0), padded(FIRST))
    learner.step([0, 21, 3, 24])
    if learner.method.needs.end_data:
        learner.end(task_of(0), padded(FIRST))
    elif arguments.get("balanced_epochs"):
        learner.enter("balanced", task_of(0), padded(FIRST))
    learner.begin(task_of(1), padded(SECOND))
    return learner


# --- the loss -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("past", "new", "expected"),
    [(50, 10, 11.180340), (90, 10, 15.0), (0, 50, 0.0), (3, 0, 8.660254)],
)
def test_oracle_of_the_adaptive_weight(past, new, expected):
    """The card's O8; nothing past is nothing to hold; no new class counts as one."""
    classes = np.arange(100)
    masks = (past <= classes) & (classes < past + new), classes < past
    np.testing.assert_allclose(adaptive_weight(5.0, *map(jnp.asarray, masks)), expected, rtol=1e-6)


def test_the_first_task_is_cross_entropy_with_a_rate_that_falls():
    """Two steps an epoch, a tenth of the rate from epoch 1."""
    learner = drive(decays=(1, 3))
    learner.begin(task_of(0), padded([0, 3, 6, 9, 20, 23, 26, 29]))
    expected, speed = params_of(learner), {}
    for number, names in enumerate(
        [[0, 20, 3, 23], [6, 26, 9, 29], [0, 23, 6, 26], [3, 9, 20, 29]]
    ):
        num_valid = 3 if number == 1 else 4
        loss = learner.step(names, num_valid, epoch=number // 2)["loss"]
        names = names[:num_valid]
        assert sorted(shown(learner)) == sorted(names)
        of = partial(loss_of, None, names, [1] * len(names), [], [0, 1])
        np.testing.assert_allclose(loss, of(expected), rtol=1e-4)
        rate = RATE if number < 2 else RATE / 10
        expected, speed = descended(expected, speed, slope(of, expected), rate)
        close(params_of(learner), expected)


@pytest.mark.parametrize(
    ("replay_size", "weight"),
    [(8, 1), (1, 4 * 8 / 20)],  # beside 4 of 20 examples, 4 * 8 / 20 = 1.6 of the 8 exemplars
)
@pytest.mark.parametrize("frozen", [True, False])
def test_later_tasks_by_hand(replay_size, weight, frozen):
    learner = in_second_task(replay_size=replay_size, freeze_old_weights=frozen)
    old = expected = params_of(learner)
    speed, counts, margins, held = {}, [], [], held_by(learner)
    assert len(held) == 8
    for names in ([40, 62, 44, 66], [46, 68, 50, 70], [52, 72, 54, 74]):
        loss = learner.step(names)["loss"]
        drawn = [name for name in shown(learner) if name not in names]
        counts.append(len(drawn))
        assert set(drawn) <= set(held)
        rows, weights = [*names, *drawn], [1] * 4 + [weight] * len(drawn)
        of = partial(loss_of, old, rows, weights, [0, 1], [2, 3])
        np.testing.assert_allclose(loss, of(expected), rtol=1e-4)
        cosines = features(expected, rows, train=True, augmented=True)
        cosines = cosines @ unit(expected["weights"]).T
        margins.append(too_near(cosines, label_of(rows), [0, 1], [2, 3]))
        still = [0, 1] if frozen else []
        expected, speed = descended(expected, speed, slope(of, expected), still=still)
        close(params_of(learner), expected)
    moved = np.abs(expected["weights"] - old["weights"]).max(1)
    assert (moved[:2] > 0).all() != frozen
    assert (moved[2:4] > 1e-3).all()
    assert max(counts) > 0
    assert max(margins) > 0.1
    assert replay_size > 1 or counts == [1] * 3


def test_without_exemplars_no_margin_and_nothing_kept():
    learner = in_second_task(exemplars_per_class=0)
    assert not learner.method.needs.end_data
    assert learner.method.views == {}
    assert int(learner.state.memory.seen) == 0
    params, names = params_of(learner), [40, 62, 44, 66]
    loss = learner.step(names)["loss"]
    assert sorted(shown(learner)) == [40, 44, 62, 66]
    expected = whole_loss(params, params, names, [1] * 4, [0, 1], [2, 3])
    np.testing.assert_allclose(loss, expected, rtol=1e-4)


# --- boundaries -----------------------------------------------------------------------------------


def test_a_task_begins_with_imprinted_weights_and_a_copy():
    learner = drive()
    learner.begin(task_of(0), padded(FIRST))
    initial = params_of(learner)
    learner.step([0, 21, 3, 24])
    assert np.abs(params_of(learner)["weights"] - initial["weights"])[:2].max() > 1e-3
    learner.end(task_of(0), padded(FIRST))
    before = params_of(learner)
    learner.begin(task_of(1), padded(SECOND))
    state, weights = learner.state, params_of(learner)["weights"]
    length = np.linalg.norm(before["weights"][:2], axis=1).mean()
    for c in range(CLASSES):
        expected = before["weights"][c]
        if c in (2, 3):
            expected = length * unit(features(before, SECOND[label_of(SECOND) == c]).mean(0))
        np.testing.assert_allclose(weights[c], expected, rtol=1e-4, atol=1e-6)
    chex.assert_trees_all_equal(state.old, state.extractor.vars)
    assert state.past.tolist() == [True, True, False, False, False, False]
    assert state.seen.tolist() == [True, True, True, True, False, False]
    assert (int(state.task_size), int(state.step)) == (len(SECOND), 0)
    for leaf in jax.tree.leaves((state.extractor.opt, state.classifier.opt)):
        assert not np.any(leaf)


def test_a_class_that_comes_back_is_past():
    """Class 1 again, with class 2, which alone is imprinted; class 1 is herded from old and new."""
    learner = drive()
    learner.begin(task_of(0), padded(FIRST))
    learner.end(task_of(0), padded(FIRST))
    before, kept, again = params_of(learner), learner.exemplars(), [22, 25, 40, 41, 42]
    learner.begin(task_of(1, [1, 2]), padded(again))
    moved = (params_of(learner)["weights"] != before["weights"]).any(1)
    assert moved.tolist() == [False, False, True, False, False, False]
    learner.step([22, 25, 40, 41])
    learner.end(task_of(1, [1, 2]), padded(again))
    candidates, params = np.array([*kept[1], 22, 25]), params_of(learner)
    found = learner.exemplars()
    assert found[1] == candidates[slow_herd(features(params, candidates), 4)].tolist()
    assert found[0] == kept[0]


def test_every_class_keeps_as_many_exemplars():
    """Herded with the network as the task ends; those of earlier classes stay."""
    learner = in_second_task()
    params = params_of(learner)
    expected = {}
    for c in (0, 1):
        names = FIRST[label_of(FIRST) == c]
        expected[c] = names[slow_herd(features(params, names), 4)].tolist()
    assert learner.exemplars() == expected
    learner.step([40, 62, 44, 66])
    learner.end(task_of(1), padded(SECOND))
    params = params_of(learner)
    for c in (2, 3):
        names = SECOND[label_of(SECOND) == c]
        expected[c] = names[slow_herd(features(params, names), 4)].tolist()
    assert learner.exemplars() == expected


def test_answers_by_hand():
    learner = in_second_task()
    learner.step([40, 62, 44, 66])
    learner.end(task_of(1), padded(SECOND))
    params, names = params_of(learner), list(range(0, NAMES, 7))
    seen = features(params, names)
    cosines = seen @ unit(params["weights"]).T
    logits = learner.predict(pictures(names), task_of(0))
    np.testing.assert_allclose(
        logits[:, :4], params["scale"] * cosines[:, :4], rtol=1e-4, atol=1e-5
    )
    nme = np.asarray(learner.method.views["nme"](learner.state, pictures(names), task_of(0)))
    for c, exemplars in learner.exemplars().items():
        mean = unit(features(params, exemplars).mean(0))
        distance = np.square(seen - mean).sum(1)
        np.testing.assert_allclose(nme[:, c], -distance, rtol=1e-3, atol=1e-5)
    for answer in (logits, nme):
        assert (answer[:, 4:] < -1e8).all()
        assert np.isfinite(answer).all()


def test_one_program_serves_all_tasks():
    learner = drive(balanced_epochs=1)
    for number, names in enumerate([FIRST, SECOND, [80, 81, 100, 101]]):
        learner.begin(task_of(number), padded(names))
        learner.step(names[:4])
        learner.enter("balanced", task_of(number), padded(names))
        learner.step([0, 0, 0, 0], 0, phase="balanced")
    parts = (("begin_task",), ("step", "train"), ("enter", "balanced"), ("step", "balanced"))
    assert {learner.program(*part)._cache_size() for part in parts} == {1}


# --- the balanced phase ---------------------------------------------------------------------------


def in_balanced_phase(**arguments):
    """The phase "balanced" of the second task begins."""
    small = {"balanced_epochs": 3, "balanced_batch_size": 24, "balanced_decays": (2,)}
    learner = in_second_task(**{**small, **arguments})
    learner.step([40, 62, 44, 66])
    learner.enter("balanced", task_of(1), padded(SECOND))
    return learner


def test_the_balanced_phase_by_hand():
    """All 16 exemplars in each step: weights of all classes move, and nothing else."""
    learner = in_balanced_phase()
    assert [len(names) for names in learner.exemplars().values()] == [4] * 4
    before, expected, speed = learner.state, params_of(learner), {}
    for number in range(4):
        loss = learner.step([0, 0, 0, 0], 0, phase="balanced")["loss"]

        def of(params):
            y = label_of(held_by(learner))
            cosines = features(params, held_by(learner), augmented=True) @ unit(params["weights"]).T
            value = ce(cosines, params["scale"], y, [0, 1, 2, 3]).mean()
            return value + MARGIN_WEIGHT * too_near(cosines, y, [0, 1], [2, 3])

        np.testing.assert_allclose(loss, of(expected), rtol=1e-4)
        if number < 3:  # three epochs of a step each
            rate = 0.2 if number < 2 else 0.02
            after, speed = descended(expected, speed, slope(of, expected), rate)
            expected = {**expected, "weights": after["weights"]}
        close(params_of(learner), expected)
    chex.assert_trees_all_equal(learner.state.extractor, before.extractor)
    moved = np.asarray(learner.state.classifier.vars.params["weights"])
    moved = np.abs(moved - np.asarray(before.classifier.vars.params["weights"])).max(1)
    assert (moved[:4] > 1e-3).all()


def test_balanced_steps_cover_the_exemplars_of_all_classes():
    """6 classes of 4 in batches of 5: ceil(24 / 5) steps an epoch; 16 exemplars need 4 of them."""
    learner = in_balanced_phase(balanced_batch_size=5)
    assert learner.method.phases[1].num_steps == 3 * 5
    before, moves = params_of(learner)["weights"], []
    for _ in range(15):
        learner.step([0, 0, 0, 0], 0, phase="balanced")
        moves.append(bool((params_of(learner)["weights"] != before).any()))
        before = params_of(learner)["weights"]
    assert moves == [True] * 12 + [False] * 3


def test_the_first_task_has_nothing_to_balance():
    learner = drive(balanced_epochs=2)
    learner.begin(task_of(0), padded(FIRST))
    learner.step([0, 21, 3, 24])
    learner.enter("balanced", task_of(0), padded(FIRST))
    before = learner.state
    assert len(held_by(learner)) == 8
    assert learner.step([0, 0, 0, 0], 0, phase="balanced")["loss"] > 0
    chex.assert_trees_all_equal(learner.state.classifier, before.classifier)


# --- choices --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"exemplars_per_class": -1}, "exemplars_per_class is -1"),
        ({"replay_size": 0}, "replay_size is 0"),
        ({"hardest": 0}, "hardest is 0"),
        ({"balanced_batch_size": 0}, "balanced_batch_size is 0"),
        ({"exemplars_per_class": 0, "balanced_epochs": 2}, "keep exemplars"),
        ({"decays": (80, 40)}, r"decays is \(80, 40\)"),
        ({"balanced_decays": (0,)}, r"balanced_decays is \(0,\)"),
    ],
)
def test_impossible_choices_are_named(change, message):
    with pytest.raises(InputError, match=message):
        drive(**change)
