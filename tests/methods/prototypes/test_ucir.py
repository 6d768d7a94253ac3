"""UCIR: whole steps again in NumPy, who is imprinted, who is an exemplar, what stands still."""

from functools import partial

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
from tests.support.by_hand import CLASSES, NAMES, batch, inputs, label_of
from tests.support.learner import pictures
from tests.support.phased import SHIFT, shifted_augment, task_of
from tests.support.problems import own_problem

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


class Pupil:
    """A state and the compiled functions that move it on."""

    def __init__(self, **arguments):
        kind = {"augment": shifted_augment(), "num_classes": CLASSES}
        problem = own_problem(extractor=telling_extractor(), **kind)
        self.method = ucir(problem, **{**SMALL, **arguments})
        self.fns = {"begin": self.method.begin_task, "end": self.method.end_task}
        self.fns |= {phase.name: phase.step for phase in self.method.phases}
        self.fns |= {f"enter {phase.name}": phase.enter for phase in self.method.phases}
        self.fns = {name: jax.jit(fn) for name, fn in self.fns.items()}
        self.state = self.method.init(jax.random.key(0), batch([0, 1, 2]))
        self.clock = 0

    def call(self, name, *args):
        self.clock += 1
        return self.fns[name](jax.random.key(self.clock), self.state, *args)

    def edge(self, name, number, names, classes=None):
        """A boundary with all examples of the task, padding behind them."""
        names = list(names)
        data = batch(names + [119] * (24 - len(names)), num_valid=len(names))
        self.state = self.call(name, task_of(number, classes), data)

    def step(self, names, num_valid=None, phase="train", epoch=0):
        """An update; gives its loss."""
        examples = batch(names, num_valid).replace(epoch=np.int32(epoch))
        self.state, metrics = self.call(phase, examples)
        return metrics["loss"]

    @property
    def params(self):
        """float64 copies of all that is trained."""
        trees = self.state.extractor.vars.params, self.state.classifier.vars.params
        return {k: np.asarray(v, np.float64) for tree in trees for k, v in tree.items()}

    def shown(self):
        """Names of the valid rows of the last training forward."""
        histogram = np.asarray(self.state.extractor.vars.stats["shown"])
        return np.repeat(np.arange(NAMES), histogram.astype(int)).tolist()

    def exemplars(self):
        """{class: names, best first}."""
        slots, held = self.state.memory.slots, int(self.state.memory.seen)
        names, y = np.asarray(slots["x"])[:held, 0, 0, 0], np.asarray(slots["y"])[:held]
        np.testing.assert_array_equal(y, label_of(names))
        return {int(c): names[y == c].tolist() for c in sorted(set(y))}

    def held(self):
        """Names of all exemplars."""
        return [name for names in self.exemplars().values() for name in names]

    def predict(self, names, view=None):
        fn = self.method.views[view] if view else self.method.predict
        return np.asarray(fn(self.state, pictures(names), task_of(0)))


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
    """A pupil with exemplars of classes 0 and 1; the second task has begun."""
    pupil = Pupil(**arguments)
    pupil.edge("begin", 0, FIRST)
    pupil.step([0, 21, 3, 24])
    if pupil.method.needs.end_data:
        pupil.edge("end", 0, FIRST)
    elif arguments.get("balanced_epochs"):
        pupil.edge("enter balanced", 0, FIRST)
    pupil.edge("begin", 1, SECOND)
    return pupil


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
    pupil = Pupil(decays=(1, 3))
    pupil.edge("begin", 0, [0, 3, 6, 9, 20, 23, 26, 29])
    expected, speed = pupil.params, {}
    for number, names in enumerate(
        [[0, 20, 3, 23], [6, 26, 9, 29], [0, 23, 6, 26], [3, 9, 20, 29]]
    ):
        num_valid = 3 if number == 1 else 4
        loss = pupil.step(names, num_valid, epoch=number // 2)
        names = names[:num_valid]
        assert sorted(pupil.shown()) == sorted(names)
        of = partial(loss_of, None, names, [1] * len(names), [], [0, 1])
        np.testing.assert_allclose(loss, of(expected), rtol=1e-4)
        rate = RATE if number < 2 else RATE / 10
        expected, speed = descended(expected, speed, slope(of, expected), rate)
        close(pupil.params, expected)


@pytest.mark.parametrize(
    ("replay_size", "weight"),
    [(8, 1), (1, 4 * 8 / 20)],  # beside 4 of 20 examples, 4 * 8 / 20 = 1.6 of the 8 exemplars
)
@pytest.mark.parametrize("frozen", [True, False])
def test_later_tasks_by_hand(replay_size, weight, frozen):
    pupil = in_second_task(replay_size=replay_size, freeze_old_weights=frozen)
    old = expected = pupil.params
    speed, counts, margins, held = {}, [], [], pupil.held()
    assert len(held) == 8
    for names in ([40, 62, 44, 66], [46, 68, 50, 70], [52, 72, 54, 74]):
        loss = pupil.step(names)
        drawn = [name for name in pupil.shown() if name not in names]
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
        close(pupil.params, expected)
    moved = np.abs(expected["weights"] - old["weights"]).max(1)
    assert (moved[:2] > 0).all() != frozen
    assert (moved[2:4] > 1e-3).all()
    assert max(counts) > 0
    assert max(margins) > 0.1
    assert replay_size > 1 or counts == [1] * 3


def test_without_exemplars_no_margin_and_nothing_kept():
    pupil = in_second_task(exemplars_per_class=0)
    assert not pupil.method.needs.end_data
    assert pupil.method.views == {}
    assert int(pupil.state.memory.seen) == 0
    params, names = pupil.params, [40, 62, 44, 66]
    loss = pupil.step(names)
    assert sorted(pupil.shown()) == [40, 44, 62, 66]
    expected = whole_loss(params, params, names, [1] * 4, [0, 1], [2, 3])
    np.testing.assert_allclose(loss, expected, rtol=1e-4)


# --- boundaries -----------------------------------------------------------------------------------


def test_a_task_begins_with_imprinted_weights_and_a_copy():
    pupil = Pupil()
    pupil.edge("begin", 0, FIRST)
    initial = pupil.params
    pupil.step([0, 21, 3, 24])
    assert np.abs(pupil.params["weights"] - initial["weights"])[:2].max() > 1e-3
    pupil.edge("end", 0, FIRST)
    before = pupil.params
    pupil.edge("begin", 1, SECOND)
    state, weights = pupil.state, pupil.params["weights"]
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
    pupil = Pupil()
    pupil.edge("begin", 0, FIRST)
    pupil.edge("end", 0, FIRST)
    before, kept, again = pupil.params, pupil.exemplars(), [22, 25, 40, 41, 42]
    pupil.edge("begin", 1, again, classes=[1, 2])
    moved = (pupil.params["weights"] != before["weights"]).any(1)
    assert moved.tolist() == [False, False, True, False, False, False]
    pupil.step([22, 25, 40, 41])
    pupil.edge("end", 1, again, classes=[1, 2])
    candidates, params = np.array([*kept[1], 22, 25]), pupil.params
    found = pupil.exemplars()
    assert found[1] == candidates[slow_herd(features(params, candidates), 4)].tolist()
    assert found[0] == kept[0]


def test_every_class_keeps_as_many_exemplars():
    """Herded with the network as the task ends; those of earlier classes stay."""
    pupil = in_second_task()
    params = pupil.params
    expected = {}
    for c in (0, 1):
        names = FIRST[label_of(FIRST) == c]
        expected[c] = names[slow_herd(features(params, names), 4)].tolist()
    assert pupil.exemplars() == expected
    pupil.step([40, 62, 44, 66])
    pupil.edge("end", 1, SECOND)
    params = pupil.params
    for c in (2, 3):
        names = SECOND[label_of(SECOND) == c]
        expected[c] = names[slow_herd(features(params, names), 4)].tolist()
    assert pupil.exemplars() == expected


def test_answers_by_hand():
    pupil = in_second_task()
    pupil.step([40, 62, 44, 66])
    pupil.edge("end", 1, SECOND)
    params, names = pupil.params, list(range(0, NAMES, 7))
    seen = features(params, names)
    cosines = seen @ unit(params["weights"]).T
    logits = pupil.predict(names)
    np.testing.assert_allclose(
        logits[:, :4], params["scale"] * cosines[:, :4], rtol=1e-4, atol=1e-5
    )
    nme = pupil.predict(names, "nme")
    for c, exemplars in pupil.exemplars().items():
        mean = unit(features(params, exemplars).mean(0))
        distance = np.square(seen - mean).sum(1)
        np.testing.assert_allclose(nme[:, c], -distance, rtol=1e-3, atol=1e-5)
    for answer in (logits, nme):
        assert (answer[:, 4:] < -1e8).all()
        assert np.isfinite(answer).all()


def test_one_program_serves_all_tasks():
    pupil = Pupil(balanced_epochs=1)
    for number, names in enumerate([FIRST, SECOND, [80, 81, 100, 101]]):
        pupil.edge("begin", number, names)
        pupil.step(names[:4])
        pupil.edge("enter balanced", number, names)
        pupil.step([0, 0, 0, 0], 0, "balanced")
    assert {
        fn._cache_size() for name, fn in pupil.fns.items() if name not in ("end", "enter train")
    } == {1}


# --- the balanced phase ---------------------------------------------------------------------------


def balanced_pupil(**arguments):
    """The phase "balanced" of the second task begins."""
    small = {"balanced_epochs": 3, "balanced_batch_size": 24, "balanced_decays": (2,)}
    pupil = in_second_task(**{**small, **arguments})
    pupil.step([40, 62, 44, 66])
    pupil.edge("enter balanced", 1, SECOND)
    return pupil


def test_the_balanced_phase_by_hand():
    """All 16 exemplars in each step: weights of all classes move, and nothing else."""
    pupil = balanced_pupil()
    assert [len(names) for names in pupil.exemplars().values()] == [4] * 4
    before, expected, speed = pupil.state, pupil.params, {}
    for number in range(4):
        loss = pupil.step([0, 0, 0, 0], 0, "balanced")

        def of(params):
            y = label_of(pupil.held())
            cosines = features(params, pupil.held(), augmented=True) @ unit(params["weights"]).T
            value = ce(cosines, params["scale"], y, [0, 1, 2, 3]).mean()
            return value + MARGIN_WEIGHT * too_near(cosines, y, [0, 1], [2, 3])

        np.testing.assert_allclose(loss, of(expected), rtol=1e-4)
        if number < 3:  # three epochs of a step each
            rate = 0.2 if number < 2 else 0.02
            after, speed = descended(expected, speed, slope(of, expected), rate)
            expected = {**expected, "weights": after["weights"]}
        close(pupil.params, expected)
    chex.assert_trees_all_equal(pupil.state.extractor, before.extractor)
    moved = np.asarray(pupil.state.classifier.vars.params["weights"])
    moved = np.abs(moved - np.asarray(before.classifier.vars.params["weights"])).max(1)
    assert (moved[:4] > 1e-3).all()


def test_balanced_steps_cover_the_exemplars_of_all_classes():
    """6 classes of 4 in batches of 5: ceil(24 / 5) steps an epoch; 16 exemplars need 4 of them."""
    pupil = balanced_pupil(balanced_batch_size=5)
    assert pupil.method.phases[1].num_steps == 3 * 5
    before, moves = pupil.params["weights"], []
    for _ in range(15):
        pupil.step([0, 0, 0, 0], 0, "balanced")
        moves.append(bool((pupil.params["weights"] != before).any()))
        before = pupil.params["weights"]
    assert moves == [True] * 12 + [False] * 3


def test_the_first_task_has_nothing_to_balance():
    pupil = Pupil(balanced_epochs=2)
    pupil.edge("begin", 0, FIRST)
    pupil.step([0, 21, 3, 24])
    pupil.edge("enter balanced", 0, FIRST)
    before = pupil.state
    assert len(pupil.held()) == 8
    assert pupil.step([0, 0, 0, 0], 0, "balanced") > 0
    chex.assert_trees_all_equal(pupil.state.classifier, before.classifier)


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
        Pupil(**change)
