"""SPB: the card's oracles, a step done again by other arithmetic, phases, and what is refused."""

from functools import cache

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cls_jax.core.augment import Augment, recipe
from cls_jax.core.errors import InputError
from cls_jax.core.types import Batch, Task, Variables
from cls_jax.methods.prototypes.spb import spb, spb_i, spb_m, sum_predictions
from cls_jax.nets.extractor import Extractor, Features, flat_extractor
from tests.support.drive import Drive, made_batch, task_of
from tests.support.problems import own_problem

CLASSES, SIDE, SIZE, BATCH = 6, 2, 3, 4
SMALL = {
    "base_learning_rate": 0.2,
    "learning_rate": 0.05,
    "classifier_learning_rate": 0.1,
    "momentum": 0.9,
    "weight_decay": 0.01,
    "initial_scale": 4.0,
}
DECAYS = {"base_decays": (1,), "decays": (1,)}
PHASES = ((0, 1, 2), (3,), (4, 5))


@cache
def linear() -> Extractor:
    """Features are a matrix times the pixels, and may be negative."""

    def init(key, x):
        matrix = jax.random.normal(key, (int(np.prod(x.shape[1:])), SIZE))
        return Variables(params={"matrix": matrix}, stats={})

    def apply(vars, x, *, train, valid=None):
        del train, valid
        return Features(x.reshape(len(x), -1) @ vars.params["matrix"], None), {}

    return Extractor(init, apply)


@cache
def plain() -> Augment:
    def test(x):
        return x.astype(jnp.float32) / 255

    return Augment(train=lambda key, x: test(x), test=test)


def problem(shape=None):
    """On the linear extractor; raw examples may be known to have this shape."""
    made = own_problem(extractor=linear(), augment=plain(), num_classes=CLASSES)
    return made._replace(shape=shape)


def phase_of(number):
    return task_of(number, PHASES[number], sum(PHASES[: number + 1], ()))


def batch_of(number, draw=0, size=BATCH, num_valid=None, epoch=0):
    """Random pictures of the phase's classes."""
    rng = np.random.default_rng(100 * number + draw)
    x = rng.integers(0, 256, (size, SIDE, SIDE, 1), np.uint8)
    y = rng.choice(PHASES[number], size).astype(np.int32)
    y[: len(PHASES[number])] = PHASES[number]
    return made_batch(x, y, valid=num_valid, task=number, epoch=epoch)


def drive(factory=spb, **arguments):
    return Drive(factory(problem(), **{**SMALL, **arguments}), batch_of, (0,))


def all_of(number):
    """What a boundary gets: seven examples, the last of which is padding."""
    return phase_of(number), batch_of(number, 9, size=7, num_valid=6)


def learn(learner, number, steps=2):
    """A whole phase."""
    learner.begin(*all_of(number))
    for draw in range(steps):
        learner.step(number, draw)
    if learner.method.needs.end_data:
        learner.end(*all_of(number))


@cache
def in_second_phase(**choices):
    """After two steps of the first phase; the second has begun."""
    learner = drive(**DECAYS, **choices)
    learn(learner, 0)
    learner.begin(*all_of(1))
    return learner


# --- the oracles that need the method itself ------------------------------------------------------


def test_summed_probabilities_and_summed_logits_can_disagree():
    """The card's O5."""
    heads = jnp.array([[5.0, 0, 0]] + [[0, 1.5, 0]] * 3)[:, None]
    every = jnp.ones(3, bool)
    probabilities = jnp.exp(sum_predictions(heads, every, "probabilities"))[0]
    np.testing.assert_allclose(probabilities, [1.449546, 2.080964, 0.469491], atol=1e-5)
    np.testing.assert_allclose(sum_predictions(heads, every, "logits")[0], [5, 4.5, 0])


def test_one_rotation_is_spb_bit_for_bit():
    """The card's O6: three phases of both, every leaf and every answer."""
    one, many = drive(**DECAYS), drive(spb_m, rotations=1, **DECAYS)
    for learner in (one, many):
        for number in range(3):
            learn(learner, number)
    chex.assert_trees_all_equal(one.state, many.state)
    x, task = batch_of(0).x, phase_of(2)
    np.testing.assert_array_equal(one.predict(x, task), many.predict(x, task))


def test_the_loss_of_spb_m_is_the_mean_of_its_classifiers():
    """The card's O6, first half: in the first phase the four cross-entropies, by hand."""
    learner = drive(spb_m)
    learner.begin(*all_of(0))
    head = jax.tree.map(np.asarray, learner.state.classifier.vars.params)
    matrix = np.asarray(learner.state.extractor.vars.params["matrix"])
    batch = batch_of(0)
    x, y = np.asarray(batch.x, np.float64) / 255, np.asarray(batch.y)
    found = []
    for number in range(4):
        turned = np.rot90(x, number, axes=(1, 2)).reshape(BATCH, -1)
        found.append(
            cross_entropy_by_hand(turned @ matrix, head["weights"][number], 4.0, y, PHASES[0])
        )
    np.testing.assert_allclose(learner.step(0)["loss"], np.mean(found), rtol=1e-5)
    assert np.ptp(found) > 0.01


# --- a step, by other arithmetic ------------------------------------------------------------------


def unit_rows(v):
    return v / np.linalg.norm(v, axis=-1, keepdims=True)


def cross_entropy_by_hand(features, weights, scale, y, classes):
    """float64: cosines times the scale, softmax over ``classes``."""
    logits = scale * unit_rows(features) @ unit_rows(weights).T
    allowed = np.exp(logits[:, list(classes)])
    return -np.log(np.exp(logits[np.arange(len(y)), y]) / allowed.sum(1)).mean()


def loss_by_hand(matrix, weights, scale, old, batch, ratio, classes):
    """``N_n / N_o CE + N_o / N_n |f - f_old|^2``; ratio is N_o / N_n, 0 in the first phase."""
    x = np.asarray(batch.x, np.float64).reshape(BATCH, -1) / 255
    ce = cross_entropy_by_hand(x @ matrix, weights, scale, np.asarray(batch.y), classes)
    if ratio == 0:
        return ce
    drift = np.square(unit_rows(x @ matrix) - unit_rows(x @ old)).sum(1).mean()
    return ce / ratio + ratio * drift


def slope(fn, at):
    """Central differences of ``fn`` in float64."""
    at, out = np.asarray(at, np.float64), np.zeros(np.shape(at))
    for place in np.ndindex(out.shape):
        moved = [at.copy(), at.copy()]
        moved[0][place] += 1e-6
        moved[1][place] -= 1e-6
        out[place] = (fn(moved[0]) - fn(moved[1])) / 2e-6
    return out


def descent_by_hand(params, trace, rates, batch, old, ratio, classes):
    """One step of torch.optim.SGD on (matrix, weights, scale), each with its rate and decay."""
    after, traces = {}, {}
    for name, rate in rates.items():

        def fn(value, name=name):
            kind = {"old": old, "batch": batch, "ratio": ratio, "classes": classes}
            return loss_by_hand(**{**params, name: value}, **kind)

        gradient = slope(fn, params[name])
        gradient = gradient + (0 if name == "scale" else 0.01) * params[name]
        traces[name] = 0.9 * trace.get(name, 0) + gradient
        after[name] = params[name] - rate * traces[name]
    return after, traces


def params_of(state):
    head = state.classifier.vars.params
    return {
        "matrix": np.asarray(state.extractor.vars.params["matrix"], np.float64),
        "weights": np.asarray(head["weights"][0], np.float64),
        "scale": np.asarray(head["scale"], np.float64),
    }


@pytest.mark.parametrize("number", [0, 1])
def test_two_steps_of_a_phase_are_those_by_hand(number):
    """And one of the next pass, where the rate is a tenth."""
    learner = drive(**DECAYS)
    if number == 1:
        learn(learner, 0)
    learner.begin(*all_of(number))
    params, old = params_of(learner.state), params_of(learner.state)["matrix"]
    ratio, classes = (0, PHASES[0]) if number == 0 else (3, PHASES[0] + PHASES[1])
    extractor, head = (0.2, 0.2) if number == 0 else (0.05, 0.1)
    trace = {}
    for draw in range(3):
        fall = 0.1 if draw == 2 else 1.0
        rates = {"matrix": fall * extractor, "weights": fall * head, "scale": fall * head}
        batch = batch_of(number, draw)
        loss = loss_by_hand(**params, old=old, batch=batch, ratio=ratio, classes=classes)
        found = learner.step(number, draw, epoch=draw // 2)["loss"]
        np.testing.assert_allclose(found, loss, rtol=2e-5)
        params, trace = descent_by_hand(params, trace, rates, batch, old, ratio, classes)
        for name, value in params_of(learner.state).items():
            np.testing.assert_allclose(value, params[name], rtol=1e-4, atol=1e-5, err_msg=name)


# --- phases ---------------------------------------------------------------------------------------


def test_new_weights_point_to_their_prototypes_and_old_ones_stay():
    learner = drive(**DECAYS)
    learn(learner, 0)
    before = params_of(learner.state)
    learner.begin(*all_of(1))
    after, data = params_of(learner.state), batch_of(1, 9, size=7)
    x = np.asarray(data.x[:6], np.float64).reshape(6, -1) / 255  # the seventh is padding
    mean = unit_rows(x @ before["matrix"]).mean(0)
    length = np.linalg.norm(before["weights"][list(PHASES[0])], axis=1).mean()
    np.testing.assert_allclose(after["weights"][3], length * unit_rows(mean), rtol=1e-5)
    np.testing.assert_array_equal(
        np.delete(after["weights"], 3, 0), np.delete(before["weights"], 3, 0)
    )


def test_a_phase_begins_with_fresh_optimizers_and_a_copy_of_the_extractor():
    learner = in_second_phase()
    moving = (learner.state.extractor.opt, learner.state.classifier.opt)
    assert all((np.asarray(leaf) == 0).all() for leaf in jax.tree.leaves(moving))
    chex.assert_trees_all_equal(learner.state.old, learner.state.extractor.vars)
    assert learner.state.own.tolist() == [False, False, False, True, False, False]


def test_a_class_that_comes_back_is_learned_among_the_classes_of_its_phase():
    """With the softmax over the phase's own classes; over new ones alone it would cost 1e9."""
    learner = in_second_phase(ce_scope="new")
    x = batch_of(0)
    both = Task(jnp.int32(1), phase_of(0).classes | phase_of(1).classes, phase_of(1).seen)
    again = learner.fn("begin_task")(jax.random.key(1), learner.state, both, batch_of(0, 9, size=7))
    assert again.own.tolist() == both.classes.tolist()
    after, metrics = learner.fn("step", "train")(jax.random.key(2), again, x)
    assert 0 < float(metrics["loss"]) < 100
    weights = (s.classifier.vars.params["weights"] for s in (again, after))
    assert float(jnp.abs(jnp.subtract(*weights))[0, list(PHASES[0])].max()) > 1e-4


@pytest.mark.parametrize("scope", ["seen", "new"])
def test_over_new_classes_alone_a_single_one_has_nothing_to_learn(scope):
    """As the card says of phases of one class: then the cross-entropy is identically 0."""
    learner = in_second_phase(ce_scope=scope, weighting="none")
    loss = learner.fn("step", "train")(jax.random.key(0), learner.state, batch_of(1))[1]["loss"]
    assert (float(loss) == 0) == (scope == "new")


def test_old_weights_can_be_fixed():
    free, fixed = in_second_phase(), in_second_phase(freeze_old_weights=True)
    for learner, moves in ((free, True), (fixed, False)):
        state, _ = learner.fn("step", "train")(jax.random.key(0), learner.state, batch_of(1))
        before, after = params_of(learner.state)["weights"], params_of(state)["weights"]
        assert (before[0] != after[0]).any() == moves
        assert (before[3] != after[3]).any()


def test_a_frozen_extractor_answers_with_prototypes_of_every_class():
    learner = drive(freeze_after_base=True)
    learn(learner, 0)
    after_base = params_of(learner.state)
    learn(learner, 1)
    learn(learner, 2)
    np.testing.assert_array_equal(params_of(learner.state)["matrix"], after_base["matrix"])
    for number in range(3):
        data = batch_of(number, 9, size=7)
        x = np.asarray(data.x[:6], np.float64).reshape(6, -1) / 255
        for c in PHASES[number]:
            mean = unit_rows(x[np.asarray(data.y[:6]) == c] @ after_base["matrix"]).mean(0)
            found = unit_rows(params_of(learner.state)["weights"][c])
            np.testing.assert_allclose(found, unit_rows(mean), atol=1e-5)


def test_answers_come_from_classes_seen_alone():
    learner = in_second_phase()
    answers = learner.predict(batch_of(2).x, phase_of(1))
    assert set(np.asarray(answers.argmax(-1)).tolist()) <= {0, 1, 2, 3}


# --- SPB-I ----------------------------------------------------------------------------------------


def test_the_rotation_learner_adds_its_cross_entropy_over_four_turns():
    """Two classes' weights, by hand: CE of the image as it is, plus CE of which rotation it is."""
    learner = drive(spb_i)
    learner.begin(*all_of(0))
    head = jax.tree.map(np.asarray, learner.state.classifier.vars.params)
    matrix = params_of(learner.state)["matrix"]
    batch = batch_of(0)
    x = np.asarray(batch.x, np.float64) / 255
    turns = [np.rot90(x, k, axes=(1, 2)).reshape(BATCH, -1) @ matrix for k in range(4)]
    own = cross_entropy_by_hand(turns[0], head["weights"][0], 4.0, np.asarray(batch.y), PHASES[0])
    which = np.repeat(np.arange(4), BATCH)
    turned = (np.concatenate(turns), head["learner_weights"], 4.0, which, range(4))
    np.testing.assert_allclose(
        learner.step(0)["loss"], own + cross_entropy_by_hand(*turned), rtol=1e-5
    )


@pytest.mark.slow
def test_the_contrastive_learner_tells_images_apart():
    """On a perceptron its loss falls, and its projection is trained with the classifier's rate."""
    augment = recipe((8, 8, 3), normalisation="half", views="standard", view_padding=1)
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.integers(0, 256, (8, 8, 8, 3), np.uint8))
    yes, y = jnp.ones(8, bool), jnp.asarray([0, 1] * 4)
    data = Batch(x, y, jnp.zeros(8, jnp.int32), yes, yes)
    flat = own_problem(extractor=flat_extractor((16,)), augment=augment, num_classes=2)
    method = spb_i(flat, learner="contrastive")
    state = method.init(jax.random.key(0), data)
    state = method.begin_task(jax.random.key(1), state, Task(jnp.int32(0), yes[:2], yes[:2]), data)
    step, losses = jax.jit(method.phases[0].step), []
    before = state.classifier.vars.params["learner"]
    for s in range(40):
        state, metrics = step(jax.random.key(s), state, data)
        losses.append(float(metrics["loss"]))
    assert np.mean(losses[-5:]) < 0.7 * np.mean(losses[:5]), losses
    chex.assert_trees_all_equal_shapes(state.classifier.vars.params["learner"], before)


def test_the_learner_is_not_needed_to_answer():
    """SPB-I keeps what SPB keeps; SPB-M three classifiers more."""
    kept = [
        float(learner.method.algorithm.capacity(learner.state)["bits"])
        for learner in (drive(), drive(spb_i), drive(spb_m))
    ]
    pixels = SIDE * SIDE
    assert kept[0] == kept[1] == 32 * (pixels * SIZE + CLASSES * SIZE + 1)
    assert kept[2] - kept[0] == 32 * 3 * CLASSES * SIZE


# --- refused --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rotations": 3}, "rotations is 3; an image has 1, 2 or 4 of them"),
        ({"rotations": 2, "learner": "rotation"}, "SPB-M and SPB-I exclude each other"),
        ({"learner": "contrastive"}, "there are no changed views of vectors"),
        (
            {"weighting": "raw"},
            "weighting is 'raw'; use one of reciprocal, equal, sqrt, none",
        ),
        ({"decays": (30, 20)}, r"decays is \(30, 20\); give rising numbers of epochs"),
        ({"base_decays": (0,)}, "base_decays"),
    ],
)
def test_bad_choices_are_named(change, message):
    with pytest.raises(InputError, match=message):
        spb(problem(), **change)


@pytest.mark.parametrize(
    ("factory", "arguments"), [(spb_m, {}), (spb_i, {}), (spb_m, {"rotations": 2})]
)
@pytest.mark.parametrize("shape", [(8, 10, 3), (64,)])
def test_only_square_images_can_be_turned(factory, arguments, shape):
    with pytest.raises(InputError, match="turns square images, and the examples have shape"):
        factory(problem(shape), **arguments)
    factory(problem((8, 8, 1)), **arguments)
    spb(problem(shape))
