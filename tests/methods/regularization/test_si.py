"""SI: the card's oracle, tasks by hand with clipping and pull, and the range of its damping."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cls_jax.core.errors import InputError
from cls_jax.methods.regularization.ewc_online import penalty
from cls_jax.methods.regularization.si import consolidated, credited, si
from tests.conftest import small_method
from tests.support.drive import CLASSES, Drive, batch, task_of
from tests.support.nets import normed_net
from tests.support.numpy_mlp import by_letter, shifted_ce
from tests.support.problems import shifted_problem

RATE, WEIGHT, DAMPING = 0.5, 20.0, 0.05
NAMES = ([0, 20, 1, 21], [2, 22, 3, 23]), ([40, 60, 41, 61], [42, 62, 43, 63])


def drive(net=None):
    hyper = {"learning_rate": RATE, "penalty_weight": WEIGHT, "damping": DAMPING}
    return Drive(si(shifted_problem(net), **hyper))


def test_oracle():
    """The card's O4, from the first step to the pull of the penalty."""
    gradient, start = {"w": jnp.array([0.2])}, {"w": jnp.array([0.0])}
    after = {"w": jnp.array([-0.02])}
    credit = credited({"w": jnp.array([0.0])}, gradient, start, after)
    np.testing.assert_allclose(credit["w"], [0.004], rtol=1e-6)
    importance = consolidated({"w": jnp.array([0.0])}, credit, after, start, 0.9)
    np.testing.assert_allclose(importance["w"], [0.0044425], rtol=1e-5)
    shifted = {"w": after["w"] + 0.1}
    pull = jax.grad(lambda p: 1.0 * penalty(p, after, importance))(shifted)
    np.testing.assert_allclose(pull["w"], [0.0008885], rtol=1e-4)


def test_importance_adds_up_over_tasks():
    one = {"w": jnp.array([1.0, 2.0])}
    out = consolidated(one, {"w": jnp.array([0.3, -0.1])}, {"w": jnp.array([0.5, 1.0])}, one, 0.25)
    np.testing.assert_allclose(out["w"], [1 + 0.3 / 0.5, 2 - 0.1 / 1.25], rtol=1e-6)


def test_three_tasks_by_hand():
    """Every parameter; some steps are clipped, some are pulled, and credit counts CE alone."""
    learner = drive()
    learner.state = learner.state.replace(  # large weights make large gradients
        model=jax.tree.map(lambda leaf: 3 * leaf, learner.state.model),
        anchor=jax.tree.map(lambda leaf: 3 * leaf, learner.state.anchor),
    )
    params = anchor = by_letter(learner.params)
    zeros = {k: np.zeros_like(v) for k, v in params.items()}
    importance, clipped, pulled = zeros, 0, 0.0
    for number, names_of in enumerate((*NAMES, NAMES[0])):
        learner.begin(task_of(number))
        learner.enter("train", task_of(number))
        credit = zeros
        for names, num_valid in zip(names_of, (4, 3), strict=True):
            loss = learner.step(names, num_valid)["loss"]
            value, gradient = shifted_ce(params, names[:num_valid])
            shift = {k: v - anchor[k] for k, v in params.items()}
            pull = {k: 2 * WEIGHT * importance[k] * shift[k] for k in params}
            held = WEIGHT * sum((importance[k] * shift[k] ** 2).sum() for k in params)
            np.testing.assert_allclose(loss, value + held, rtol=1e-4)
            whole = {k: gradient[k] + pull[k] for k in params}
            before = params
            params = {k: v - RATE * np.clip(whole[k], -1, 1) for k, v in params.items()}
            credit = {k: w + gradient[k] * (before[k] - params[k]) for k, w in credit.items()}
            chex.assert_trees_all_close(by_letter(learner.params), params, rtol=1e-3, atol=1e-5)
            found = by_letter(learner.state.credit)
            chex.assert_trees_all_close(found, credit, rtol=1e-3, atol=1e-5)
            clipped += sum((np.abs(w) > 1).sum() for w in whole.values())
            pulled = max(pulled, max(np.abs(p).max() for p in pull.values()))
        learner.end(task_of(number))
        importance = {
            k: o + credit[k] / ((params[k] - anchor[k]) ** 2 + DAMPING)
            for k, o in importance.items()
        }
        anchor = params
        found = by_letter(learner.state.importance)
        chex.assert_trees_all_close(found, importance, rtol=1e-3, atol=1e-4)
        chex.assert_trees_all_equal(learner.state.anchor, learner.state.model.vars.params)
        assert all((leaf == 0).all() for leaf in jax.tree.leaves(learner.state.credit))
    assert clipped > 10
    assert pulled > 0.1


def test_the_first_task_is_clipped_descent():
    """Each component by itself, not the norm: the others keep their full step."""
    learner = drive()
    learner.state = learner.state.replace(model=jax.tree.map(lambda x: 9 * x, learner.state.model))
    params = by_letter(learner.params)
    _, gradient = shifted_ce(params, NAMES[0][0])
    learner.step(NAMES[0][0])
    steps = {k: (params[k] - v) / RATE for k, v in by_letter(learner.params).items()}
    limited = {k: np.clip(g, -1, 1) for k, g in gradient.items()}
    chex.assert_trees_all_close(steps, limited, rtol=1e-3, atol=1e-4)
    large = np.concatenate([np.abs(g).ravel() > 1 for g in gradient.values()])
    assert 5 < large.sum() < large.size - 5


def test_padding_has_no_influence():
    learner = drive(normed_net(CLASSES))
    learner.step(NAMES[0][0])
    learner.end(task_of(0))
    learner.step(NAMES[1][1])
    clean = batch(NAMES[1][0], 3)
    garbage = clean.replace(x=clean.x.at[3].set(255), y=clean.y.at[3].set(-1))
    step = learner.fn("step", "train")
    one, two = (step(jax.random.key(0), learner.state, b) for b in (clean, garbage))
    chex.assert_trees_all_equal(one, two)


def test_no_two_trees_share_a_buffer():
    learner = drive()
    learner.step(NAMES[0][0])
    ended = learner.fn("end_task")(jax.random.key(0), learner.state, None, None)
    for state in (learner.state, ended):
        pointers = [leaf.unsafe_buffer_pointer() for leaf in jax.tree.leaves(state)]
        assert len(set(pointers)) == len(pointers)


@pytest.mark.parametrize("damping", [0.0, -0.1, float("nan")])
def test_damping_is_above_zero(damping):
    assert small_method("si", damping=1e-6).hyper["damping"] == 1e-6
    with pytest.raises(InputError, match="damping is"):
        small_method("si", damping=damping)
