"""DEN's phases: each step in NumPy, what moves in which phase, who answers, and what is kept."""

from itertools import pairwise

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cls_jax.core.errors import InputError
from cls_jax.methods.architecture.den import den
from tests.conftest import small_problem
from tests.support.drive import CLASSES, Drive, batch, float64, label_of, task_of
from tests.support.numpy_mlp import inputs
from tests.support.problems import SHIFT, shifted_problem

TASKS, HIDDEN = 3, (6, 5)
HYPER = {
    "learning_rate": 0.02,
    "annealing_rate": 0.5,
    "l1_weight": 1e-3,
    "head_l1_weight": 2e-3,
    "l2_weight": 0.01,
    "group_weight": 5e-3,
    "drift_weight": 0.7,
    "expand_threshold": 0.01,
    "split_threshold": 0.0,
}
PHASES = ("head", "select", "expand", "split")
NAMES = {0: ([0, 20, 1, 21], [2, 22, 3, 23]), 1: ([40, 60, 41, 61], [42, 62, 43, 63])}


def drive(hyper=None, hidden=HIDDEN, **sizes):
    """At the start; all of the same sizes share their programs."""
    sizes = {"added_units": 2, "head_epochs": 1, "annealing_steps": 2, **sizes}
    return Drive(den(shifted_problem(hidden=hidden), **HYPER | (hyper or {}), **sizes))


def give(learner, **hyper):
    """Sets the hyper-parameters; those left out are HYPER's."""
    learner.hyper = {name: jnp.float32(value) for name, value in {**HYPER, **hyper}.items()}


def begin(learner, number):
    """As every task begins, with the same draw."""
    learner.begin(task_of(number), key=jax.random.key(1))


def enter(learner, phase, number):
    """As every phase begins, with the same draw."""
    learner.enter(phase, task_of(number), key=jax.random.key(2))


def learn(learner, number, steps=4, upto="split"):
    """A task, up to the end of a phase."""
    begin(learner, number)
    for phase in PHASES[: PHASES.index(upto) + 1]:
        enter(learner, phase, number)
        for s in range(steps):
            learner.step(NAMES.get(number, NAMES[1])[s % 2], phase=phase)
    return learner


def at(phase, number=1, **changes):
    """A learner that has just entered a phase of a task."""
    learner = drive(**changes)
    for earlier in range(number):
        learn(learner, earlier)
    begin(learner, number)
    for name in PHASES[: PHASES.index(phase)]:
        enter(learner, name, number)
        for s in range(4):
            learner.step(NAMES[number][s % 2], phase=name)
    enter(learner, phase, number)
    return learner


# --- a step in NumPy ------------------------------------------------------------------------------


def forward(params, x, used, task):
    """Outputs, and every layer's input and pre-activation."""
    h, seen = x, []
    for layer, units in zip(params["body"], used, strict=True):
        z = h @ layer["kernel"] + layer["bias"]
        seen.append((h, z))
        h = np.maximum(z, 0) * units
    return h @ params["heads"]["kernel"][task] + params["heads"]["bias"][task], seen, h


def bce(params, names, used, task):
    """The mean over batch and classes, and its gradient."""
    out, seen, h = forward(params, inputs(names, SHIFT), used, task)
    probs, target = 1 / (1 + np.exp(-out)), np.eye(CLASSES)[label_of(names)]
    value = -(target * np.log(probs) + (1 - target) * np.log(1 - probs)).mean()
    slope = (probs - target) / target.size
    gradient = jax.tree.map(np.zeros_like, params)
    gradient["heads"]["kernel"][task], gradient["heads"]["bias"][task] = h.T @ slope, slope.sum(0)
    back = slope @ params["heads"]["kernel"][task].T
    for n in reversed(range(len(seen))):
        below, z = seen[n]
        back = back * used[n] * (z > 0)
        gradient["body"][n]["kernel"][:], gradient["body"][n]["bias"][:] = (
            below.T @ back,
            back.sum(0),
        )
        back = back @ params["body"][n]["kernel"].T
    return value, gradient


def moving(state, phase, task):
    """The card's table, entry by entry: (what is trained, what is pulled, what is grouped)."""
    stamps = [np.asarray(s) for s in state.stamps]
    used = [np.asarray(u) for u in state.used]
    there, old = [s > 0 for s in stamps], [(s > 0) & (s <= task) for s in stamps]
    new = [s == task + 1 for s in stamps]
    trained = jax.tree.map(lambda leaf: np.zeros(leaf.shape, bool), state.model.vars.params)
    pulled = jax.tree.map(np.copy, trained["body"])
    for n, layer in enumerate(trained["body"]):
        num_below, num = layer["kernel"].shape
        for j in range(num):
            for i in range(num_below):

                def inside(units, i=i, j=j, n=n):
                    return (n == 0 or units[n - 1][i]) and units[n][j]

                layer["kernel"][i, j] = {
                    "head": False,
                    "select": inside(used),
                    "expand": inside(there) and (new[n][j] or (n > 0 and new[n - 1][i])),
                    "split": inside(there),
                }[phase]
                pulled[n]["kernel"][i, j] = layer["kernel"][i, j] and inside(old)
        layer["bias"][:] = {
            "head": np.zeros(num, bool),
            "select": used[n],
            "expand": new[n],
            "split": there[n],
        }[phase]
        pulled[n]["bias"][:] = layer["bias"] & old[n]
    rows = used[-1] if phase == "select" else there[-1]
    trained["heads"]["kernel"][task, rows] = True
    trained["heads"]["bias"][task] = True
    return trained, pulled, new if phase == "expand" else [np.zeros_like(u) for u in new]


@pytest.mark.parametrize("phase", PHASES)
def test_three_steps_of_a_later_task_by_hand(phase):
    """Adam, L1, group lasso, in this order; the third step has half the rate; a padded row."""
    learner = at(phase)
    state, task = learner.state, 1
    trained, pulled, grouped = moving(state, phase, task)
    params, previous = learner.params, jax.tree.map(np.float64, state.previous)
    used = [np.asarray(u, float) for u in state.used]
    l1 = HYPER["head_l1_weight"] if phase == "head" else HYPER["l1_weight"]
    first = second = jax.tree.map(np.zeros_like, params)
    assert any(leaf.any() for leaf in jax.tree.leaves(trained))
    for number, (names, num_valid) in enumerate(
        zip((*NAMES[1], NAMES[1][0]), (4, 3, 4), strict=True)
    ):
        loss = learner.step(names, num_valid, phase=phase)["loss"]
        value, gradient = bce(params, names[:num_valid], used, task)
        sizes = jax.tree.map(lambda w, m: (w * m) ** 2, params, trained)
        value += HYPER["l2_weight"] / 2 * sum(leaf.sum() for leaf in jax.tree.leaves(sizes))
        drift = jax.tree.map(lambda w, p, m: (w - p) * m, params["body"], previous, pulled)
        squares = sum((leaf**2).sum() for leaf in jax.tree.leaves(drift))
        value += HYPER["drift_weight"] / 2 * squares
        np.testing.assert_allclose(loss, value, rtol=1e-4)
        pull = {"body": drift, "heads": jax.tree.map(np.zeros_like, params["heads"])}
        gradient = jax.tree.map(
            lambda g, w, p, m: m * (g + HYPER["l2_weight"] * w + HYPER["drift_weight"] * p),
            gradient,
            params,
            pull,
            trained,
        )
        first = jax.tree.map(lambda m, g: 0.9 * m + 0.1 * g, first, gradient)
        second = jax.tree.map(lambda v, g: 0.999 * v + 0.001 * g**2, second, gradient)
        rate, t = HYPER["learning_rate"] * 0.5 ** (number // 2), number + 1

        def moved(w, m, v, allowed, rate=rate, t=t):
            w = w - rate * (m / (1 - 0.9**t)) / (np.sqrt(v / (1 - 0.999**t)) + 1e-8)
            return np.where(allowed, np.sign(w) * np.maximum(np.abs(w) - l1, 0), w)

        params = jax.tree.map(moved, params, first, second, trained)
        for layer, columns in zip(params["body"], grouped, strict=True):
            for j in np.flatnonzero(columns):
                length = np.linalg.norm(layer["kernel"][:, j])
                layer["kernel"][:, j] *= max(1 - HYPER["group_weight"] / length, 0)
        found = learner.params
        chex.assert_trees_all_close(found, params, rtol=2e-3, atol=2e-5)
        same = jax.tree.map(lambda a, b, m: (a == b) | m, found, params_of(state), trained)
        assert all(leaf.all() for leaf in jax.tree.leaves(same)), "something frozen moved"
    if phase in ("select", "split"):
        assert squares > 0


def params_of(state):
    return float64(state.model.vars.params)


# --- from task to task ----------------------------------------------------------------------------


def test_the_first_task_trains_everything_and_only_in_select():
    learner = drive()
    begin(learner, 0)
    for phase in PHASES:
        enter(learner, phase, 0)
        before = learner.state
        for names in NAMES[0]:
            assert learner.step(names, phase=phase)["loss"] > 0
        moved = jax.tree.map(
            lambda a, b: bool((a != b).any()), learner.state.model.vars, before.model.vars
        )
        assert all(jax.tree.leaves(moved.params)) == any(jax.tree.leaves(moved.params))
        assert any(jax.tree.leaves(moved.params)) == (phase == "select")
    for stamp, n in zip(learner.state.stamps, HIDDEN, strict=True):
        assert stamp.tolist() == [1] * n + [0] * 8


def free_places_are_zero(state):
    below = np.ones(state.previous[0]["kernel"].shape[0], bool)
    for layer, stamp in zip(state.model.vars.params["body"], state.stamps, strict=True):
        there, kernel = np.asarray(stamp) > 0, np.asarray(layer["kernel"])
        if kernel[~below].any() or kernel[:, ~there].any() or layer["bias"][~there].any():
            return False
        below = there
    return not np.asarray(state.model.vars.params["heads"]["kernel"])[:, ~below].any()


def test_widths_grow_and_what_belongs_to_free_places_stays_zero():
    learner = drive()
    widths = []
    for number in range(TASKS):
        begin(learner, number)
        for phase in PHASES:
            enter(learner, phase, number)
            assert free_places_are_zero(learner.state)
            for s in range(4):
                learner.step(NAMES[min(number, 1)][s % 2], phase=phase)
            assert free_places_are_zero(learner.state)
        widths.append([int((s > 0).sum()) for s in learner.state.stamps])
        assert max(int(s.max()) for s in learner.state.stamps) == number + 1
    assert widths[0] == list(HIDDEN)
    for before, after in pairwise(widths):
        assert all(b < a <= b + 4 for b, a in zip(before, after, strict=True))
    capacity = learner.method.algorithm.capacity(learner.state)
    for n in range(2):
        assert capacity[f"units of layer {n + 1}"].tolist() == [w[n] for w in widths]
    assert capacity["refused units"].tolist() == [0, 0, 0]
    sizes = []
    for t, (a, b) in enumerate(widths):
        heads = sum(w[1] * CLASSES + CLASSES for w in widths[: t + 1])
        sizes.append(32 * (12 * a + a + a * b + b + heads))
    assert capacity["bits"].tolist() == sizes


def test_earlier_answers_keep_every_bit_while_old_weights_are_frozen():
    """Oracle 8: a task grows the network, and who is asked for task 1 does not hear of it."""
    learner = drive()
    learn(learner, 0)
    x, hidden = batch([0, 20, 40, 60, 80, 100]).x, task_of(-1)
    predict = jax.jit(learner.method.predict)
    before = predict(learner.state, x, task_of(0))
    np.testing.assert_array_equal(predict(learner.state, x, hidden), before)
    give(learner, learning_rate=0.0, l1_weight=0.0, drift_weight=0.0)
    begin(learner, 1)
    for phase in ("head", "select"):
        enter(learner, phase, 1)
        learner.step(NAMES[1][0], phase=phase)
    give(learner)
    enter(learner, "expand", 1)
    for s in range(4):
        learner.step(NAMES[1][s % 2], phase="expand")
    assert [int((s == 2).sum()) for s in learner.state.stamps] == [2, 2]
    np.testing.assert_array_equal(predict(learner.state, x, task_of(0)), before)
    newest = predict(learner.state, x, task_of(1))
    np.testing.assert_array_equal(predict(learner.state, x, hidden), newest)
    assert np.abs(newest - before).max() > 1e-3
    everyone = learner.method.views["no_stamps"]
    assert np.abs(everyone(learner.state, x, task_of(0)) - before).max() > 1e-3
    np.testing.assert_allclose(everyone(learner.state, x, task_of(1)), newest, rtol=1e-6)


def test_answers_by_hand():
    learner = learn(learn(drive(), 0), 1)
    names = [0, 20, 40, 60]
    for task in (0, 1):
        units = [(np.asarray(s) > 0) & (np.asarray(s) <= task + 1) for s in learner.state.stamps]
        expected, *_ = forward(learner.params, inputs(names), units, task)
        found = learner.method.predict(learner.state, batch(names).x, task_of(task))
        np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-5)


def test_it_grows_only_while_the_loss_is_high():
    """Of the last 50 steps, or of all if there were fewer; never in the first task."""
    others = {"annealing_rate": 1.0, "drift_weight": 0.0}
    learner = at("select", hyper=others)
    step = learner.fn("step", "select")
    losses, state, key = [], learner.state, jax.random.key(0)
    for s in range(60):
        params, used = params_of(state), [np.asarray(u, float) for u in state.used]
        losses.append(bce(params, NAMES[1][s % 2], used, 1)[0])
        state, _ = step(key, state, batch(NAMES[1][s % 2]))
        if s + 1 in (1, 3, 50, 60):
            mean = np.mean(losses[-50:])
            for threshold, grows in ((mean * 0.999, True), (mean * 1.001, False)):
                give(learner, **others, expand_threshold=threshold)
                then = learner.fn("enter", "expand")(key, state, task_of(1), None)
                assert [int((z == 2).sum()) for z in then.stamps] == ([2, 2] if grows else [0, 0])
                assert bool(then.learns) == grows
    assert abs(np.mean(losses) / np.mean(losses[-50:]) - 1) > 0.002, "the window must matter"
    first = at("expand", 0, hyper={"expand_threshold": 0.0})
    assert not bool(first.state.learns)


def test_without_growth_expand_changes_nothing():
    learner = at("expand", hyper={"expand_threshold": 10.0})
    before = learner.state.model.vars
    learner.step(NAMES[1][0], phase="expand")
    chex.assert_trees_all_equal(learner.state.model.vars, before)


def test_select_uses_what_the_head_needs():
    """A strong L1 on the head leaves few units; only their connections may move."""
    learner = at("select", hyper={"head_l1_weight": 0.12, "learning_rate": 0.005})
    kernel = learner.state.model.vars.params["heads"]["kernel"][1]
    chosen = np.asarray((kernel != 0).any(axis=1))
    assert 0 < chosen.sum() < 5
    np.testing.assert_array_equal(learner.state.used[1], chosen)


def test_splitting_can_be_left_out():
    learner = at("split", split=False)
    whole = at("split")
    assert all(int((s == 2).sum()) == 2 for s in learner.state.stamps)
    assert all(int((s == 2).sum()) == 4 for s in whole.state.stamps)
    for layer, old in zip(
        learner.state.model.vars.params["body"], learner.state.previous, strict=True
    ):
        assert (np.asarray(layer["kernel"]) != np.asarray(old["kernel"])).any()


def test_a_full_network_goes_on_and_says_so():
    """Room for 3 units a layer where 8 could be wanted: two fit, then one."""
    learner = drive(room=3)
    for number in range(TASKS):
        begin(learner, number)
        for phase in PHASES:
            enter(learner, phase, number)
            learner.state = learner.state.replace(losses=jnp.ones(50), num_steps=jnp.int32(50))
    assert [s.tolist() for s in learner.state.stamps] == [[1] * n + [2, 2, 3] for n in HIDDEN]
    assert learner.method.algorithm.capacity(learner.state)["refused units"].tolist() == [0, 0, 2]
    assert np.isfinite(learner.method.predict(learner.state, batch([0, 20]).x, task_of(2))).all()
    advice = learner.method.advice(100, 1)
    assert "8 more units a layer and room=3" in advice
    assert "not added" in advice
    assert drive().method.advice(100, 1) == ""


@pytest.mark.parametrize(
    ("sizes", "words"),
    [
        ({"added_units": 0}, "added_units=0 lets nothing grow"),
        ({"room": -1}, "room=-1 would cut"),
        ({"head_epochs": 0}, "head_epochs=0 selects nothing"),
        ({"annealing_steps": 0}, "annealing_steps=0"),
        ({"hidden": ()}, r"hidden=\(\): den needs a hidden layer"),
        ({"hidden": (4, 0)}, r"hidden=\(4, 0\)"),
    ],
)
def test_sizes_that_cannot_be_are_refused(sizes, words):
    with pytest.raises(InputError, match=words):
        drive(**sizes)


def test_a_convolutional_network_is_refused():
    with pytest.raises(InputError, match=r"net is 'resnet18'.*use 'mlp'"):
        den(small_problem("resnet18"))
