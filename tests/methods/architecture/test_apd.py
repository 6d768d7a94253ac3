"""APD: the card's oracles, two tasks by hand in every variant, what answers, what is kept."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from cls_jax.core.errors import InputError
from cls_jax.core.types import Task
from cls_jax.methods.architecture.apd import apd, forget
from cls_jax.methods.architecture.apd_capacity import numbers_kept, official_percent, one_network
from cls_jax.methods.architecture.apd_consolidation import Groups
from cls_jax.methods.architecture.apd_weights import (
    ApdParams,
    composed,
    drift_penalty,
    l1_norm,
    pruned,
)
from cls_jax.nets.mlp import mlp
from cls_jax.nets.resnet import resnet18
from tests.support.drive import CLASSES, Drive, batch, task_of
from tests.support.nets import HIDDEN
from tests.support.numpy_mlp import shifted_ce
from tests.support.problems import flat_augment, own_problem, shifted_problem

TASKS, RATE, ANNEALING = 3, 0.01, 0.5
ARGUMENTS = {
    "consolidate_every": 0,
    "annealing_steps": 1,
    "learning_rate": RATE,
    "annealing_rate": ANNEALING,
    "sparsity_weight": 0.02,
    "drift_weight": 3.0,
    "weight_decay": 0.1,
    "mask_weight": 0.05,
    "residue_scale": 0.25,
    "agreement_gap": 0.05,
}
FIRST = [[0, 20, 1, 21], [2, 22, 3, 23], [4, 24, 5, 25]]
SECOND = [[40, 60, 41, 61], [42, 62, 43, 63], [44, 64, 45, 65]]
VARIANTS = {
    "apd": {},
    "apd with old masks as they are": {"train_old_masks": False},
    "apd_fixed": {"retroactive": False},
}


def drive(**changes):
    return Drive(apd(shifted_problem(), **{**ARGUMENTS, **changes}))


def run_task(learner, number, batches):
    """The losses of a whole task."""
    learner.begin(task_of(number))
    losses = [learner.step(names)["loss"] for names in batches]
    learner.end(task_of(number))
    return losses


def logits_of(learner, task, state=None):
    x, state = batch([0, 20, 41, 61, 99]).x, learner.state if state is None else state
    return np.asarray(learner.method.predict(state, x, task_of(task, range(CLASSES))))


def with_residues(state, change):
    """The state with ``change`` of its residues in their place."""
    vars = state.model.vars
    params = vars.params.replace(residues=change(vars.params.residues))
    return state.replace(model=state.model.replace(vars=vars.replace(params=params)))


# --- oracles --------------------------------------------------------------------------------------


def test_weights_of_a_task_by_hand():
    """apd card, oracle 1; one mask entry belongs to an output unit."""
    found = composed(jnp.array([[2.0, 2.0]]), jnp.array([0.0, jnp.log(3.0)]), jnp.array(0.3))
    np.testing.assert_allclose(found, [[1.3, 1.8]], rtol=1e-6)


def test_the_drift_of_an_old_task_by_hand():
    """apd card, oracle 2: sigma goes from 1 to 1.4; the residue makes up for it, or pays."""

    def penalty(residue):
        now = {"fc/kernel": composed(jnp.array([[1.4]]), jnp.array([0.0]), jnp.array([[residue]]))}
        then = {"fc/kernel": jnp.array([[[0.8]], [[99.0]]])}
        both = {"fc/kernel": jnp.stack([now["fc/kernel"], jnp.zeros((1, 1))])}
        return 100 * drift_penalty(both, then, jnp.array([True, False]))

    np.testing.assert_allclose(penalty(0.3), 2.0, rtol=1e-5)
    np.testing.assert_allclose(penalty(0.1), 0.0, atol=1e-6)


def test_pruning_is_strict():
    """apd card, oracle 3."""
    residue = jnp.array([5e-4, 4e-4, -3.9e-4, -4.1e-4])
    np.testing.assert_array_equal(pruned(residue, 4e-4), jnp.array([5e-4, 0, 0, -4.1e-4]))


def test_a_residue_of_zero_is_not_pushed():
    """The L1's gradient is that of PyTorch and TensorFlow: the sign, which is 0 at 0."""
    residues = {"fc/kernel": jnp.array([[0.0, -0.0, 2.0, -3.0], [5.0, 0.0, -1.0, 1.0]])}
    counted = jnp.array([True, False])
    value, gradient = jax.value_and_grad(l1_norm)(residues, counted)
    assert value == 5
    np.testing.assert_array_equal(gradient["fc/kernel"], [[0, 0, 1, -1], [0, 0, 0, 0]])


def test_zeros_that_no_image_moves_stay_zero():
    """Steps without a valid row: residues and masks of 0 feel their L1 alone, and Adam rests."""
    learner = drive(residue_scale=0.0)
    learner.begin(task_of(1))
    params = learner.state.model.vars.params
    params = params.replace(masks=jax.tree.map(jnp.zeros_like, params.masks))
    model = learner.state.model
    model = model.replace(vars=model.vars.replace(params=params))
    learner.state = learner.state.replace(model=model)
    for names in FIRST:
        learner.step(names, 0)
    after = learner.state.model.vars.params
    for leaf in (*after.residues.values(), *after.masks.values()):
        np.testing.assert_array_equal(leaf[1], np.zeros_like(leaf[1]))
    assert not np.array_equal(after.shared["fc1/kernel"], params.shared["fc1/kernel"])


# --- two tasks by hand ----------------------------------------------------------------------------


def sigmoid(v):
    return 1 / (1 + np.exp(-v))


def trained(state):
    """{name: float64[...]}: sigma s, residues t and masks v of tasks 0 and 1, biases and heads."""
    p = state.model.vars.params
    found = {"s": p.shared["fc1/kernel"]}
    for task in (0, 1):
        found |= {
            f"t{task}": p.residues["fc1/kernel"][task],
            f"v{task}": p.masks["fc1/kernel"][task],
        }
        found |= {f"b{task}": p.own["fc1/bias"][task], f"w{task}": p.own["fc2/kernel"][task]}
        found[f"c{task}"] = p.own["fc2/bias"][task]
    return {k: np.asarray(v, np.float64) for k, v in found.items()}


def theta(p, task):
    return p["s"] * sigmoid(p[f"v{task}"]) + p[f"t{task}"]


def loss_and_gradient(p, names, task, anchor, variant):
    """Section 2 of the card, differentiated by hand."""
    zeros = {k: np.zeros_like(v) for k, v in p.items()}
    net = {"w1": theta(p, task), "b1": p[f"b{task}"], "w2": p[f"w{task}"], "b2": p[f"c{task}"]}
    value, inner = shifted_ce(net, names, [2 * task, 2 * task + 1])
    grad = {**zeros, f"b{task}": inner["b1"], f"w{task}": inner["w2"], f"c{task}": inner["b2"]}

    def through(task, slope, *, mask=True):
        m = sigmoid(p[f"v{task}"])
        grad["s"] = grad["s"] + slope * m
        grad[f"t{task}"] = grad[f"t{task}"] + slope
        if mask:
            grad[f"v{task}"] = grad[f"v{task}"] + (slope * p["s"]).sum(0) * m * (1 - m)

    def shrink(task):
        nonlocal value
        value += 0.02 * np.abs(p[f"t{task}"]).sum()
        grad[f"t{task}"] = grad[f"t{task}"] + 0.02 * np.sign(p[f"t{task}"])

    through(task, inner["w1"])
    shrink(task)
    if task == 1 and variant == "apd_fixed":
        value += 3.0 / 2 * np.square(p["s"] - anchor).sum()
        grad["s"] = grad["s"] + 3.0 * (p["s"] - anchor)
    elif task == 1:
        value += 3.0 / 2 * np.square(theta(p, 0) - anchor).sum()
        through(0, 3.0 * (theta(p, 0) - anchor), mask=variant == "apd")
        shrink(0)
    for k in (f"t{task}", f"v{task}", *(("s",) if task == 0 else ())):
        value += 0.1 / 2 * np.square(p[k]).sum()
        grad[k] = grad[k] + 0.1 * p[k]
    value += 0.05 * np.abs(p[f"v{task}"]).sum()
    grad[f"v{task}"] = grad[f"v{task}"] + 0.05 * np.sign(p[f"v{task}"])
    return value, grad


@pytest.mark.parametrize("variant", VARIANTS)
def test_two_tasks_by_hand(variant):
    """Every loss, and every parameter after every task: Adam on all terms, anew with each task."""
    learner = drive(**VARIANTS[variant])
    for task, batches in ((0, FIRST), (1, SECOND)):
        learner.begin(task_of(task))
        p = trained(learner.state)
        np.testing.assert_allclose(p[f"t{task}"], 0.25 * p["s"], rtol=1e-6)
        anchor = p["s"] if variant == "apd_fixed" else theta(p, 0)
        adam = optax.scale_by_adam()
        opt, before = adam.init(p), p
        for step, names in enumerate(batches):
            value, gradient = loss_and_gradient(p, names, task, anchor, variant)
            found = learner.step(names)["loss"]
            np.testing.assert_allclose(found, value, rtol=1e-5)
            move, opt = adam.update(gradient, opt)
            p = {k: v - RATE * ANNEALING**step * np.asarray(move[k]) for k, v in p.items()}
        after = trained(learner.state)
        chex.assert_trees_all_close(after, p, rtol=1e-3, atol=1e-5)
        still = {"b", "w", "c"} | ({"t", "v"} if variant == "apd_fixed" or task == 0 else set())
        still |= {"v"} if "as they are" in variant else set()
        for kind in still:  # of the other task, bit for bit
            np.testing.assert_array_equal(after[f"{kind}{1 - task}"], before[f"{kind}{1 - task}"])
        learner.end(task_of(task))


def test_a_large_drift_weight_keeps_old_weights_and_none_loses_them():
    """The largest change of a weight of task 0 while task 1 is learned for 60 steps."""

    def moved(weight):
        learner = drive(drift_weight=weight, sparsity_weight=0.0, annealing_rate=1.0)
        run_task(learner, 0, FIRST)
        before = theta(trained(learner.state), 0)
        run_task(learner, 1, SECOND * 20)
        return np.abs(theta(trained(learner.state), 0) - before).max()

    assert moved(1e3) < 0.01
    assert moved(0.0) > 0.05


# --- what answers ---------------------------------------------------------------------------------


def test_small_residues_do_not_answer():
    """Pruned at lambda1: an entry at the limit changes nothing, one beyond it does."""
    learner = drive()
    run_task(learner, 0, FIRST)

    def answered(size):
        params = learner.state.model.vars.params
        residues = {n: jnp.full_like(leaf, size) for n, leaf in params.residues.items()}
        vars = learner.state.model.vars.replace(params=params.replace(residues=residues))
        return logits_of(
            learner, 0, learner.state.replace(model=learner.state.model.replace(vars=vars))
        )

    np.testing.assert_array_equal(answered(0.02), answered(0.0))
    assert not np.array_equal(answered(0.0201), answered(0.0))


def test_where_the_task_is_hidden_the_last_one_answers():
    learner = drive()
    for number, batches in enumerate((FIRST, SECOND)):
        run_task(learner, number, batches)
    np.testing.assert_array_equal(logits_of(learner, -1), logits_of(learner, 1))
    assert not np.array_equal(logits_of(learner, 0), logits_of(learner, 1))


@pytest.mark.parametrize("consolidate_every", [0, 2])
def test_a_task_can_be_forgotten_and_no_other_changes_a_bit(consolidate_every):
    """Its logits become 0; also where a group held something for it and for another task."""
    learner = drive(agreement_gap=0.2, consolidate_every=consolidate_every, clusters=1)
    third = [[80, 100, 81, 101], [82, 102, 83, 103]]
    for number, batches in enumerate((FIRST, SECOND, third)):
        run_task(learner, number, batches)
    before = [logits_of(learner, task) for task in range(TASKS)]
    state = jax.jit(forget)(learner.state, jnp.int32(1))
    if consolidate_every:
        np.testing.assert_array_equal(learner.state.groups["fc1/kernel"].member, [0, 0, -1])
        np.testing.assert_array_equal(state.groups["fc1/kernel"].member, [0, -1, -1])
        assert (learner.state.groups["fc1/kernel"].common != 0).any()
    for task in (0, 2):
        np.testing.assert_array_equal(logits_of(learner, task, state), before[task])
    assert (before[1] != 0).any()
    assert (logits_of(learner, 1, state) == 0).all()
    np.testing.assert_array_equal(state.learned, [True, False, True])
    of_params = jax.tree.leaves((state.model.vars.params.residues, state.model.vars.params.masks))
    for leaf in [*of_params, *jax.tree.leaves((state.model.vars.params.own, state.anchor))]:
        assert (leaf[1] == 0).all()


def test_apd_fixed_forgets_too():
    """Its anchor is the shared weights, which all tasks need."""
    learner = drive(retroactive=False)
    for number, batches in enumerate((FIRST, SECOND)):
        run_task(learner, number, batches)
    before, state = logits_of(learner, 0), jax.jit(forget)(learner.state, jnp.int32(1))
    chex.assert_trees_all_equal(state.anchor, learner.state.anchor)
    np.testing.assert_array_equal(logits_of(learner, 0, state), before)
    assert (logits_of(learner, 1, state) == 0).all()


def test_a_forgotten_task_pulls_at_nothing():
    """The next task is learned as if it had never been."""
    losses = []
    for garbage in (0.0, 1e3):
        learner = drive()
        run_task(learner, 0, FIRST)
        state = forget(learner.state, jnp.int32(0))
        learner.state = with_residues(
            state, lambda residues, g=garbage: {n: r.at[0].set(g) for n, r in residues.items()}
        )
        losses.append(run_task(learner, 1, SECOND))
    np.testing.assert_array_equal(*losses)


# --- what is kept ---------------------------------------------------------------------------------


def test_numbers_kept_by_hand():
    """Three tasks, two learned, a group of theirs: 6 + 3 + 2 + 4 + 4 + 6."""
    residues = jnp.zeros((3, 2, 3)).at[0, 0].set(jnp.array([0.5, 0.01, -0.02]))
    residues = residues.at[1, 1].set(jnp.array([0.3, -0.4, 0.0])).at[2].set(9.0)
    params = ApdParams(
        shared={"fc1/kernel": jnp.ones((2, 3))},
        residues={"fc1/kernel": residues},
        masks={"fc1/kernel": jnp.zeros((3, 2))},
        own={"fc1/bias": jnp.zeros((3, 2)), "fc2/kernel": jnp.zeros((3, 2, 6))},
    )
    common = jnp.zeros((2, 2, 3)).at[0, 0, :2].set(0.7).at[1].set(0.7)
    groups = {"fc1/kernel": Groups(common, common, jnp.array([0, 0, 1]))}
    classes = jnp.zeros((3, 6), bool).at[0, :2].set(True).at[1, 2].set(True).at[2].set(True)
    learned = jnp.array([True, True, False])
    found = numbers_kept(params, {}, groups, 0.01, classes, learned, "fc2")
    assert found == 6 + (2 + 2) + 2 + 2 * 2 + 2 * 2 + 2 * 3
    assert one_network(params, {}, classes, "fc2") == 6 + 2 + 2 * 6
    alone = groups["fc1/kernel"].replace(member=jnp.array([-1, -1, 1]))
    args = params, {}, {"fc1/kernel": alone}, 0.01, classes, learned, "fc2"
    assert found - numbers_kept(*args) == 2


def test_the_official_count_by_hand():
    """Above: shared, residues, the group, all masks, last layer and biases of task 1 alone.

    Below: shared, and the two columns of task 0's last layer, without its bias.
    """
    params = ApdParams(
        shared={"fc1/kernel": jnp.ones((2, 3))},
        residues={"fc1/kernel": jnp.zeros((3, 2, 3)).at[0, 0, :2].set(0.5).at[2].set(9.0)},
        masks={"fc1/kernel": jnp.zeros((3, 3))},
        own={
            "fc1/bias": jnp.zeros((3, 3)),
            "fc2/kernel": jnp.zeros((3, 3, 6)),
            "fc2/bias": jnp.zeros((3, 6)),
        },
    )
    common = jnp.zeros((1, 2, 3)).at[0, 0, 2].set(0.7).at[0, 1, 0].set(0.01)
    groups = {"fc1/kernel": Groups(common, common, jnp.array([0, 0, -1]))}
    classes = jnp.zeros((3, 6), bool).at[0, :2].set(True).at[1, 2].set(True).at[2].set(True)
    learned = jnp.array([True, True, False])
    found = official_percent(params, {}, groups, 0.01, classes, learned, "fc2", jnp.int32(1))
    above = 6 + 2 + 1 + 2 * 3 + (3 + 1) + 3
    np.testing.assert_allclose(found, 100 * above / (6 + 2 * 3), rtol=1e-6)
    first = jnp.array([True, False, False])
    found = official_percent(params, {}, {}, 0.01, classes, first, "fc2", jnp.int32(0))
    np.testing.assert_allclose(found, 100 * (6 + 2 + 3 + 2 * (3 + 1) + 3) / 6, rtol=1e-6)


def test_capacity_is_counted_after_each_task_in_the_order_of_learning():
    learner = drive()
    found = []
    for number, batches in ((2, FIRST[:1]), (0, SECOND[:1])):
        learner.begin(task_of(number, [0, 1, 2, 3]))
        learner.step(batches[0])
        learner.end(task_of(number))
        found.append(learner.method.algorithm.capacity(learner.state))
    bits = np.asarray([one["bits"] for one in found])
    assert (bits[0] > 0).tolist() == [True, False, False]
    assert bits[1, 0] == bits[0, 0]
    assert bits[1, 1] > bits[1, 0]
    shared, own = 12 * HIDDEN, HIDDEN + HIDDEN + 4 * (HIDDEN + 1)
    assert 32 * (shared + own) < bits[0, 0] <= 32 * (2 * shared + own)
    official = np.asarray([one["percent, official count"] for one in found])
    assert (official[0] > 0).tolist() == [True, False, False]
    assert official[1, 0] == official[0, 0]
    head = 4 * (HIDDEN + 1)
    above = [bits[n, n] / 32 - n * (head + HIDDEN) for n in (0, 1)]
    below = [shared + n * 4 * HIDDEN for n in (0, 1)]
    np.testing.assert_allclose(official[1, :2], 100 * np.divide(above, below), rtol=1e-5)
    percent = found[1]["percent of one network"][1]
    np.testing.assert_allclose(percent, 100 * bits[1, 1] / 32 / (shared + own - HIDDEN), rtol=1e-5)


# --- what cannot be -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"consolidate_every": -1}, "consolidate_every=-1; give a number of tasks, or 0"),
        ({"consolidate_every": 2, "clusters": 3}, "clusters=3 of 2 tasks cannot be; give 1 to 2"),
        ({"clusters": 0}, "clusters=0 of 5 tasks cannot be"),
        ({"annealing_steps": 0}, "annealing_steps=0 is no interval"),
    ],
)
def test_what_cannot_be_is_refused(changes, words):
    with pytest.raises(InputError, match=words):
        apd(own_problem(mlp(2), augment=flat_augment(), num_classes=2, num_tasks=2), **changes)


@pytest.mark.more
def test_statistics_are_kept_for_each_task():
    """BatchNorm's, of a network that has them: those of other tasks stay."""
    net = resnet18(4, width=1)
    augment = flat_augment()._replace(
        train=lambda key, x: x.astype(jnp.float32) / 255, test=lambda x: x.astype(jnp.float32) / 255
    )
    problem = own_problem(net, augment=augment, num_classes=4, num_tasks=2)
    method = apd(problem, consolidate_every=0)
    example = batch([0, 20, 1, 21]).replace(y=jnp.array([0, 1, 0, 1], jnp.int32))
    state = method.init(jax.random.key(0), example)
    classes = jnp.arange(4) < 2
    state = method.begin_task(jax.random.key(1), state, Task(jnp.int32(1), classes, classes), None)
    after, _ = jax.jit(method.phases[0].step)(jax.random.key(2), state, example)
    before = state.model.vars.stats
    moved = jax.tree.map(
        lambda a, b: (a != b).reshape(2, -1).any(1), after.model.vars.stats, before
    )
    assert jax.tree.all(jax.tree.map(lambda m: not m[0] and bool(m[1]), moved))
