"""Online EWC: the card's oracle, two tasks by hand, and the Fisher information row by row."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cls_jax.core.types import Trainable, Variables
from cls_jax.methods.regularization.ewc_online import EwcOnlineState, ewc_online, penalty
from cls_jax.nets.mlp import mlp
from cls_jax.streams.class_il import class_il
from cls_jax.training.runner import run
from tests.conftest import TASKS, small_method, small_source
from tests.support.drive import CLASSES, Drive, batch, label_of, task_of
from tests.support.nets import normed_net
from tests.support.numpy_mlp import by_letter, inputs, shifted_ce
from tests.support.problems import SHIFT, flat_augment, own_problem, shifted_problem

RATE, WEIGHT, KEEP = 0.1, 3.0, 0.5
FIRST, SECOND = ([0, 20, 1, 21], [2, 22, 3, 23]), ([40, 60, 41, 61], [42, 62, 43, 63])


def drive(net=None):
    weights = {"penalty_weight": WEIGHT, "fisher_keep_rate": KEEP}
    return Drive(ewc_online(shifted_problem(net), learning_rate=RATE, **weights))


def fisher_by_hand(params, names):
    """A plain loop: mean of p(y | x) times the squared gradient of log p(y | x)."""
    total = {k: np.zeros_like(v) for k, v in params.items()}
    for name in names:
        value, gradient = shifted_ce(params, [name])
        for k, g in gradient.items():
            total[k] += np.exp(-value) * np.square(g) / len(names)
    return total


# --- the penalty ----------------------------------------------------------------------------------


def test_oracle_of_the_penalty():
    """The card's O3: 12.5 with gradient (10, -40); over all leaves together."""
    theta = {"a": jnp.array([1.5]), "b": jnp.array([[-0.5]])}
    anchor = {"a": jnp.array([1.0]), "b": jnp.array([[0.0]])}
    fisher = {"a": jnp.array([1.0]), "b": jnp.array([[4.0]])}
    value, gradient = jax.value_and_grad(lambda p: 10 * penalty(p, anchor, fisher))(theta)
    assert value == 12.5
    assert gradient["a"].tolist() == [10.0]
    assert gradient["b"].tolist() == [[-40.0]]


def test_oracle_of_the_merge():
    """The card's O3: F = (1, 4) kept by half, F_t = (0, 2) from four examples: (.5, 4)."""
    problem = own_problem(mlp(CLASSES), augment=flat_augment(), num_classes=CLASSES)
    method = ewc_online(problem, fisher_keep_rate=0.5)
    theta = {"w": jnp.array([3.0, -2.0])}
    state = EwcOnlineState(
        model=Trainable(vars=Variables(params=theta, stats={}), opt=()),
        anchor={"w": jnp.zeros(2)},
        fisher={"w": jnp.array([1.0, 4.0])},
        fisher_sum={"w": jnp.array([0.0, 8.0])},
        count=jnp.int32(4),
    )
    after = method.end_task(jax.random.key(0), state, task_of(0), None)
    assert after.fisher["w"].tolist() == [0.5, 4.0]
    assert after.anchor["w"].tolist() == [3.0, -2.0]
    anchor, theta = after.anchor["w"], after.model.vars.params["w"]
    assert anchor.unsafe_buffer_pointer() != theta.unsafe_buffer_pointer()


# --- two tasks by hand ----------------------------------------------------------------------------


def test_two_tasks_by_hand():
    """Steps held back by F, F from single examples, its decay, anchors; every parameter."""
    learner = drive()
    params = by_letter(learner.params)
    fisher = {k: np.zeros_like(v) for k, v in params.items()}
    anchor = params
    pulled = 0.0
    for number, names_of in enumerate((FIRST, SECOND, FIRST)):
        learner.begin(task_of(number))
        learner.enter("train", task_of(number))
        for names, num_valid in zip(names_of, (4, 3), strict=True):
            loss = learner.step(names, num_valid)["loss"]
            value, gradient = shifted_ce(params, names[:num_valid])
            shift = {k: v - anchor[k] for k, v in params.items()}
            pull = WEIGHT * sum((fisher[k] * shift[k] ** 2).sum() for k in params)
            np.testing.assert_allclose(loss, value + pull, rtol=1e-5)
            params = {
                k: v - RATE * (gradient[k] + 2 * WEIGHT * fisher[k] * shift[k])
                for k, v in params.items()
            }
            chex.assert_trees_all_close(by_letter(learner.params), params, rtol=1e-4, atol=1e-6)
            pulled = max(pulled, pull)
        learner.enter("fisher", task_of(number))
        for names, num_valid in zip(names_of, (4, 3), strict=True):
            loss = learner.step(names, num_valid, phase="fisher")["loss"]
            np.testing.assert_allclose(loss, shifted_ce(params, names[:num_valid])[0], rtol=1e-4)
        learner.end(task_of(number))
        examples = [*names_of[0], *names_of[1][:3]]
        assert learner.state.count == 7
        new = fisher_by_hand(params, examples)
        fisher = {k: KEEP * f + new[k] for k, f in fisher.items()}
        anchor = params
        found = by_letter(learner.state.fisher)
        chex.assert_trees_all_close(found, fisher, rtol=2e-3, atol=1e-7)
        chex.assert_trees_all_equal(learner.state.anchor, learner.state.model.vars.params)
    assert pulled > 1e-3


# --- the Fisher phase -----------------------------------------------------------------------------


def test_it_moves_nothing_and_starts_at_zero():
    learner = drive()
    learner.step(FIRST[0], phase="fisher")
    before = learner.state
    after, _ = learner.fn("step", "fisher")(jax.random.key(0), before, batch(FIRST[1]))
    for part in ("model", "anchor", "fisher"):
        chex.assert_trees_all_equal(getattr(after, part), getattr(before, part))
    assert after.count == 8
    learner.enter("fisher", task_of(1))
    assert learner.state.count == 0
    assert all((leaf == 0).all() for leaf in jax.tree.leaves(learner.state.fisher_sum))


@pytest.mark.parametrize("phase", ["train", "fisher"])
def test_padding_has_no_influence(phase):
    learner = drive(normed_net(CLASSES))
    learner.step(FIRST[0], phase="fisher")
    learner.end(task_of(0))
    learner.step(SECOND[1])
    clean = batch(SECOND[0], 3)
    garbage = clean.replace(x=clean.x.at[3].set(255), y=clean.y.at[3].set(-1))
    one, two = (
        learner.fn("step", phase)(jax.random.key(0), learner.state, examples)
        for examples in (clean, garbage)
    )
    chex.assert_trees_all_equal(one, two)
    empty = batch(SECOND[0], 0)
    after, metrics = learner.fn("step", "fisher")(jax.random.key(0), learner.state, empty)
    chex.assert_trees_all_equal(after, learner.state)
    assert metrics["loss"] == 0


def test_batch_statistics_are_those_of_one_image_and_stay():
    """Official code: training mode and one example at a time; its running statistics we leave."""
    net = normed_net(CLASSES)
    learner = drive(net)
    for names in FIRST:
        learner.step(names)
    vars = learner.state.model.vars
    learner.step(SECOND[0], phase="fisher")
    chex.assert_trees_all_equal(learner.state.model.vars, vars)
    x = jnp.asarray(inputs(SECOND[0], SHIFT), jnp.float32)
    total = jax.tree.map(jnp.zeros_like, vars.params)
    for row, label in zip(x, label_of(SECOND[0]), strict=True):

        def log_prob(params, row=row, label=label):
            logits, _ = net.apply(vars.replace(params=params), row[None], train=True)
            return jax.nn.log_softmax(logits)[0, label]

        value, gradient = jax.value_and_grad(log_prob)(vars.params)
        prob = jnp.exp(value)
        total = jax.tree.map(lambda t, g, p=prob: t + p * jnp.square(g), total, gradient)
    chex.assert_trees_all_close(learner.state.fisher_sum, total, rtol=1e-4, atol=1e-7)
    assert max(leaf.max() for leaf in jax.tree.leaves(total)) > 1e-3


def test_a_run_shows_it_every_example_once():
    """Three passes to learn, one for F; the task's number is never told."""
    method = small_method("ewc_online")
    assert not method.needs.told_task
    stream = class_il(small_source(), tasks=TASKS, batch_size=4, epochs=3)
    state = run(method, stream).states[0]
    assert state.count == 22
    assert all((leaf >= 0).all() for leaf in jax.tree.leaves(state.fisher))
    chex.assert_trees_all_equal(state.anchor, state.model.vars.params)
