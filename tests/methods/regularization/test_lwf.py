"""LwF: the card's oracle, two tasks by hand, which classes count, and what stays as it was."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cls_jax.core.errors import InputError
from cls_jax.core.types import Variables
from cls_jax.methods.regularization.lwf import distillation, lwf, smoothed
from cls_jax.nets.base import Net
from tests.support.drive import CLASSES, Drive, batch, task_of
from tests.support.nets import telling_net
from tests.support.numpy_mlp import backward, by_letter, forward, inputs, shifted_ce, softmax
from tests.support.problems import SHIFT, shifted_problem

RATE, WEIGHT, HEAT, DECAY = 0.2, 1.5, 2.0, 0.01
HYPER = {"learning_rate": RATE, "distill_weight": WEIGHT}
HYPER |= {"temperature": HEAT, "weight_decay": DECAY}
FIRST, SECOND = ([0, 20, 1, 21], [2, 22, 3, 23]), ([40, 60, 41, 61], [42, 62, 43, 63])


def drive(net=None):
    return Drive(lwf(shifted_problem(net), **HYPER))


def in_second_task(net=None):
    """After two steps of the first task; the second one has begun."""
    learner = drive(net)
    learner.begin(task_of(0))
    learner.enter("train", task_of(0))
    for names in FIRST:
        learner.step(names)
    learner.begin(task_of(1))
    return learner


def powers(probs, temperature):
    """Probabilities to the power 1 / T, brought back to sum 1: as the official code has it."""
    raised = probs ** (1 / temperature)
    return raised / raised.sum(1, keepdims=True)


# --- the loss -------------------------------------------------------------------------------------


def test_oracle_of_smoothing():
    """The card's O5, beside a class that does not count."""
    logits = jnp.log(jnp.array([[0.8, 0.2, 50.0]]))
    found = jnp.exp(smoothed(logits, jnp.array([True, True, False]), 2.0))
    np.testing.assert_allclose(found[0, :2], [2 / 3, 1 / 3], rtol=1e-6)


@pytest.mark.parametrize("temperature", [1.0, 2.0, 5.0])
def test_distillation_by_hand(temperature):
    """Over columns 1, 2 and 4 and rows 0 to 2; the padded row holds what must not be seen."""
    new, old = np.random.default_rng(0).normal(0, 3, (2, 4, 6))
    past = [1, 2, 4]
    target = powers(softmax(old[:3], past)[:, past], temperature)
    mine = powers(softmax(new[:3], past)[:, past], temperature)
    expected = -(target * np.log(mine)).sum(1).mean()
    slope = np.zeros((4, 6))
    slope[:3, past] = (mine - target) / temperature / 3
    new[3], old[3] = 1e4, -1e4
    arrays = jnp.asarray(new, jnp.float32), jnp.asarray(old, jnp.float32)
    masks = jnp.isin(jnp.arange(6), jnp.array(past)), jnp.arange(4) < 3
    value, gradient = jax.value_and_grad(distillation)(*arrays, masks[0], temperature, masks[1])
    np.testing.assert_allclose(value, expected, rtol=1e-5)
    np.testing.assert_allclose(gradient, slope, rtol=1e-4, atol=1e-7)
    assert (gradient[3] == 0).all()


def test_nothing_past_is_nothing_to_keep():
    logits, none = jnp.ones((3, 4)), jnp.zeros(4, bool)
    value, gradient = jax.value_and_grad(distillation)(
        logits, 5 * logits, none, 2.0, jnp.ones(3, bool)
    )
    assert value == 0
    assert (gradient == 0).all()


# --- two tasks by hand ----------------------------------------------------------------------------


def test_the_first_task_learns_over_its_own_classes():
    """No effect of the head's phase, then cross-entropy over two classes, with weight decay."""
    learner = drive()
    learner.begin(task_of(0))
    before = learner.state
    learner.enter("head", task_of(0))
    for names in FIRST:
        assert learner.step(names, phase="head")["loss"] == 0
    chex.assert_trees_all_equal(learner.state, before)
    learner.enter("train", task_of(0))
    params = by_letter(learner.params)
    for names, num_valid in zip(FIRST, (4, 3), strict=True):
        loss = learner.step(names, num_valid)["loss"]
        value, gradient = shifted_ce(params, names[:num_valid], [0, 1])
        params = {k: v - RATE * (gradient[k] + DECAY * v) for k, v in params.items()}
        np.testing.assert_allclose(loss, value, rtol=1e-5)
        chex.assert_trees_all_close(by_letter(learner.params), params, rtol=1e-4, atol=1e-6)


def test_later_tasks_warm_up_new_columns_and_leave_the_rest_bit_for_bit():
    learner = in_second_task()
    learner.enter("head", task_of(1))
    before, params = learner.state, by_letter(learner.params)
    for names, num_valid in zip(SECOND, (4, 3), strict=True):
        loss = learner.step(names, num_valid, phase="head")["loss"]
        value, gradient = shifted_ce(params, names[:num_valid], [2, 3])
        for k in ("w2", "b2"):
            params[k] = params[k] - RATE * gradient[k]
        np.testing.assert_allclose(loss, value, rtol=1e-5)
        chex.assert_trees_all_close(by_letter(learner.params), params, rtol=1e-4, atol=1e-6)
    old, new = before.model.vars.params, learner.state.model.vars.params
    chex.assert_trees_all_equal(new["fc1"], old["fc1"])
    for kind in ("kernel", "bias"):
        moved = np.asarray(new["fc2"][kind] != old["fc2"][kind]).reshape(-1, CLASSES)
        np.testing.assert_array_equal(moved.any(0), [False, False, True, True, False, False])


def test_later_tasks_keep_what_the_old_network_said():
    """Four classes seen, two past; the old network gets images that are not augmented."""
    learner = in_second_task()
    learner.step(SECOND[0], phase="head")
    learner.enter("train", task_of(1))
    old = params = by_letter(learner.params)
    for names, num_valid in zip((*SECOND, SECOND[0]), (4, 3, 4), strict=True):
        loss = learner.step(names, num_valid)["loss"]
        names = names[:num_valid]
        x = inputs(names, SHIFT)
        value, gradient = shifted_ce(params, names, [0, 1, 2, 3])
        target = powers(softmax(forward(old, inputs(names)), [0, 1])[:, :2], HEAT)
        mine = powers(softmax(forward(params, x), [0, 1])[:, :2], HEAT)
        value += WEIGHT * -(target * np.log(mine)).sum(1).mean()
        slope = np.zeros((len(names), CLASSES))
        slope[:, :2] = WEIGHT * (mine - target) / HEAT / len(names)
        kept = backward(params, x, slope)
        params = {k: v - RATE * (gradient[k] + kept[k] + DECAY * v) for k, v in params.items()}
        np.testing.assert_allclose(loss, value, rtol=1e-5)
        chex.assert_trees_all_close(by_letter(learner.params), params, rtol=1e-4, atol=1e-6)
    chex.assert_trees_all_equal(by_letter(learner.state.old.params), old)
    assert np.abs(old["w1"] - params["w1"]).max() > 1e-3


# --- which classes count --------------------------------------------------------------------------


def test_masks_follow_the_tasks():
    learner = drive()
    assert not learner.state.seen.any()
    for number in range(3):
        learner.begin(task_of(number))
        classes = np.arange(CLASSES) // 2
        np.testing.assert_array_equal(learner.state.past, classes < number)
        np.testing.assert_array_equal(learner.state.seen, classes <= number)
    assert learner.program("begin_task")._cache_size() == 1


def test_a_class_that_comes_back_is_past():
    """Classes 0, 1, then 1, 2: column 2 alone is new, and rows of class 1 do not warm it up."""
    learner = drive()
    for number, classes in enumerate([(0, 1), (1, 2)]):
        learner.begin(task_of(number, classes))
    np.testing.assert_array_equal(learner.state.past, np.isin(np.arange(CLASSES), [0, 1]))
    np.testing.assert_array_equal(learner.state.seen, np.isin(np.arange(CLASSES), [0, 1, 2]))
    before = learner.params
    assert learner.step([20, 21, 22, 23], phase="head")["loss"] == 0
    chex.assert_trees_all_equal(learner.params, before)
    assert jnp.isfinite(learner.step([20, 21, 40, 41])["loss"])


def test_one_program_serves_all_tasks():
    learner = drive()
    for number, names in enumerate([FIRST[0], SECOND[0], [80, 100, 81, 101]]):
        learner.begin(task_of(number))
        for phase in ("head", "train"):
            learner.enter(phase, task_of(number))
            learner.step(names, phase=phase)
    assert all(learner.program("step", p)._cache_size() == 1 for p in ("head", "train"))


# --- the laws, for the second phase too -----------------------------------------------------------


@pytest.mark.parametrize("phase", ["head", "train"])
def test_padding_has_no_influence(phase):
    learner = in_second_task()
    learner.enter("train", task_of(1))
    clean = batch([40, 60, 41, 61], 3)
    garbage = clean.replace(x=clean.x.at[3].set(255), y=clean.y.at[3].set(5))
    one, two = (
        learner.fn("step", phase)(jax.random.key(0), learner.state, examples)
        for examples in (clean, garbage)
    )
    chex.assert_trees_all_equal(one, two)
    assert one[1]["loss"] > 0


def test_the_old_network_shares_no_buffer_with_the_new():
    learner = drive()
    for state in (
        learner.state,
        learner.method.phases[1].enter(jax.random.key(0), learner.state, task_of(0), None),
    ):
        pointers = [leaf.unsafe_buffer_pointer() for leaf in jax.tree.leaves(state)]
        assert len(set(pointers)) == len(pointers)


def centred_net():
    """Features minus their mean over the batch or, outside training, over all batches so far."""

    def init(key, x):
        trunk = jax.random.normal(key, (x.shape[1], 5))
        head = {"kernel": jax.random.normal(key, (5, CLASSES)), "bias": jnp.zeros(CLASSES)}
        return Variables(params={"trunk": trunk, "last": head}, stats={"mean": jnp.ones(5)})

    def features(vars, x, *, train, valid=None):
        h, mean = x @ vars.params["trunk"], vars.stats["mean"]
        if train:
            now = jnp.where(valid[:, None], h, 0).sum(0) / jnp.maximum(valid.sum(), 1)
            return h - now, {"mean": 0.9 * mean + 0.1 * now}
        return h - mean, vars.stats

    def apply(vars, x, **kind):
        h, stats = features(vars, x, **kind)
        return h @ vars.params["last"]["kernel"] + vars.params["last"]["bias"], stats

    return Net(init, apply, features=features, head="last")


def test_the_head_and_the_old_network_see_running_statistics():
    """Official code: the network stands in evaluation mode for both; training moves them alone."""
    net = centred_net()
    learner = in_second_task(net)
    before = learner.state
    loss = learner.step(SECOND[0], phase="head")["loss"]
    vars, x = before.model.vars, jnp.asarray(inputs(SECOND[0]), jnp.float32)
    logits = np.asarray(net.apply(vars, x + SHIFT, train=False)[0], np.float64)
    own = softmax(logits, [2, 3])[np.arange(4), [2, 3, 2, 3]]
    np.testing.assert_allclose(loss, -np.log(own).mean(), rtol=1e-4)
    chex.assert_trees_all_equal(learner.state.model.vars.stats, vars.stats)

    learner.enter("train", task_of(1))
    vars = learner.state.model.vars
    loss = learner.step(SECOND[0])["loss"]
    logits, stats = net.apply(vars, x + SHIFT, train=True, valid=jnp.ones(4, bool))
    logits = np.asarray(logits, np.float64)
    old = np.asarray(net.apply(vars, x, train=False)[0], np.float64)
    learned = -np.log(softmax(logits, [0, 1, 2, 3])[np.arange(4), [2, 3, 2, 3]]).mean()
    target = powers(softmax(old, [0, 1])[:, :2], HEAT)
    kept = -(target * np.log(powers(softmax(logits, [0, 1])[:, :2], HEAT))).sum(1).mean()
    np.testing.assert_allclose(loss, learned + WEIGHT * kept, rtol=1e-4)
    chex.assert_trees_all_close(learner.state.model.vars.stats, stats, rtol=1e-6)
    chex.assert_trees_all_equal(learner.state.old.stats, vars.stats)


def test_a_network_without_a_last_layer_is_refused():
    with pytest.raises(
        InputError, match=r"lwf trains the last layer .* net 'Net' names none.*resnet18"
    ):
        drive(telling_net())
