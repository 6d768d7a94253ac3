"""L2-transfer: two tasks by hand, whose head moves, what pulls, and which head answers."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from cls_jax.core.errors import InputError
from cls_jax.core.losses import half_squared
from cls_jax.methods.heads import annealed_adam, with_heads
from cls_jax.methods.regularization.l2_transfer import l2_transfer
from cls_jax.nets.base import Net
from cls_jax.nets.mlp import mlp
from tests.support.drive import CLASSES, Drive, batch, task_of
from tests.support.nets import HIDDEN, perceptron
from tests.support.numpy_mlp import shifted_ce
from tests.support.problems import flat_augment, own_problem, shifted_problem

TASKS, RATE, ANNEALING, WEIGHT = 3, 0.01, 0.5, 4.0
FIRST, SECOND = ([0, 20, 1, 21], [2, 22, 3, 23]), ([40, 60, 41, 61], [42, 62, 43, 63])


def drive(annealing_steps=1, weight=WEIGHT):
    rates = {"learning_rate": RATE, "annealing_rate": ANNEALING, "penalty_weight": weight}
    return Drive(l2_transfer(shifted_problem(), annealing_steps=annealing_steps, **rates))


def letters(state, task):
    """w1, b1 and the head of a task, w2 and b2, float64."""
    params = state.model.vars.params
    leaves = {"w1": params["fc1"]["kernel"], "b1": params["fc1"]["bias"]}
    leaves |= {"w2": params["fc2"]["kernel"][task], "b2": params["fc2"]["bias"][task]}
    return {k: np.asarray(v, np.float64) for k, v in leaves.items()}


def by_hand(params, batches, classes, anchor, weight):
    """The losses and the parameters after Adam on cross-entropy and pull."""
    adam, losses = optax.scale_by_adam(), []
    opt = adam.init(params)
    for step, names in enumerate(batches):
        value, gradient = shifted_ce(params, names, classes)
        for k in ("w1", "b1"):
            value += weight / 2 * np.square(params[k] - anchor[k]).sum()
            gradient[k] = gradient[k] + weight * (params[k] - anchor[k])
        move, opt = adam.update(gradient, opt)
        rate = RATE * ANNEALING**step
        params = {k: v - rate * np.asarray(move[k]) for k, v in params.items()}
        losses.append(value)
    return losses, params


def run_task(learner, number, batches):
    learner.begin(task_of(number))
    return [learner.step(names)["loss"] for names in batches]


def test_two_tasks_by_hand():
    """No pull in the first task; in the second from its second step; Adam and rate anew."""
    learner = drive()
    for number, batches in ((0, FIRST), (1, SECOND)):
        before = letters(learner.state, number)
        classes = [2 * number, 2 * number + 1]
        expected, after = by_hand(before, batches, classes, before, WEIGHT * number)
        found = run_task(learner, number, batches)
        np.testing.assert_allclose(found, expected, rtol=1e-5)
        chex.assert_trees_all_close(letters(learner.state, number), after, rtol=1e-4, atol=1e-6)


def test_the_heads_of_other_tasks_stay_bit_for_bit():
    learner = drive()
    run_task(learner, 0, FIRST)
    before = jax.tree.map(np.asarray, learner.state.model.vars.params["fc2"])
    run_task(learner, 1, SECOND)
    after = jax.tree.map(np.asarray, learner.state.model.vars.params["fc2"])
    for kind in ("kernel", "bias"):
        np.testing.assert_array_equal(after[kind][[0, 2]], before[kind][[0, 2]])
        assert not np.array_equal(after[kind][1], before[kind][1])


@pytest.mark.parametrize(("weight", "moves"), [(0.0, True), (1e6, False)])
def test_the_weight_decides_whether_the_shared_weights_may_go(weight, moves):
    """The first step of a task feels no pull yet and goes about RATE; then the pull holds."""
    learner = drive(100, weight)
    run_task(learner, 0, FIRST)
    before = letters(learner.state, 1)
    run_task(learner, 1, SECOND * 10)
    distance = np.abs(letters(learner.state, 1)["w1"] - before["w1"]).max()
    assert (distance > 5 * RATE) == moves, distance


def test_half_of_the_squared_distance():
    a = {"x": jnp.array([1.0, 2.0]), "y": jnp.array(3.0)}
    assert half_squared(a, {"x": jnp.array([0.0, 4.0]), "y": jnp.array(0.0)}) == 7.0


def test_the_rate_of_apds_last_epoch():
    """apd card, oracle 7: 20 epochs of 40 steps; Adam's first step is as long as its rate."""
    adam = annealed_adam(jnp.float32(1e-3), jnp.float32(0.95), 40)
    opt = adam.init(jnp.float32(0))
    rates = []
    for step in (0, 39, 40, 799):
        clock = optax.ScaleByScheduleState(count=jnp.int32(step))
        update, _ = adam.update(jnp.float32(2), (opt[0], clock))
        rates.append(-float(update))
    np.testing.assert_allclose(rates, [1e-3, 1e-3, 0.95e-3, 3.773536e-4], rtol=1e-5)


def test_heads_are_drawn_independently_and_the_rest_is_the_networks():
    net, x = perceptron(), jnp.zeros((1, 12))
    vars, plain = with_heads(jax.random.key(0), net, x, TASKS), net.init(jax.random.key(0), x)
    chex.assert_trees_all_equal(vars.params["fc1"], plain.params["fc1"])
    kernels = vars.params["fc2"]["kernel"]
    assert kernels.shape == (TASKS, HIDDEN, CLASSES)
    assert all(not np.array_equal(kernels[0], kernel) for kernel in kernels[1:])


def test_the_told_task_answers_and_where_it_is_hidden_the_last_one():
    learner = drive()
    run_task(learner, 0, FIRST)
    run_task(learner, 1, SECOND)
    x = batch([0, 1]).x
    logits = [
        learner.method.predict(learner.state, x, task_of(t, range(CLASSES))) for t in (0, 1, -1)
    ]
    assert not np.array_equal(logits[0], logits[1])
    np.testing.assert_array_equal(logits[1], logits[2])


def test_what_cannot_be_is_refused():
    def make(net, **changes):
        problem = own_problem(net, augment=flat_augment(), num_classes=2, num_tasks=2)
        return l2_transfer(problem, **changes)

    net = mlp(2)
    with pytest.raises(InputError, match=r"annealing_steps=0 is no interval; give at least 1"):
        make(net, annealing_steps=0)
    with pytest.raises(InputError, match="l2_transfer gives each task a last layer"):
        make(Net(net.init, net.apply))
