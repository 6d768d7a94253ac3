"""A-GEM: the card's oracle, whole steps by hand, what is stored of each task and what is not."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cls_jax.core.errors import InputError
from cls_jax.methods.replay.agem import agem, project
from tests.support.drive import CLASSES, Drive, batch, label_of, task_of
from tests.support.nets import normed_net, shown
from tests.support.numpy_mlp import ce, descended
from tests.support.problems import flat_augment, own_problem, telling_problem

RATE, TASKS = 0.2, 3


def drive(memory_size=14, replay_size=3, tells=True):
    sizes = {"memory_size": memory_size, "replay_size": replay_size}
    return Drive(agem(telling_problem(tells=tells), learning_rate=RATE, **sizes))


# --- the projection -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("gradient", "reference", "expected"),
    [
        ([1.0, 0.0], [-1.0, 1.0], [0.5, 0.5]),
        ([1.0, 0.0], [1.0, 1.0], [1.0, 0.0]),
        ([1.0, 0.0], [0.0, 1.0], [1.0, 0.0]),
        ([1.0, -2.0], [0.0, 0.0], [1.0, -2.0]),
    ],
)
def test_oracle(gradient, reference, expected):
    """Against the reference: onto its orthogonal plane; else, or without one: as it is."""
    out, projected = project(jnp.array(gradient), jnp.array(reference))
    np.testing.assert_allclose(out, expected, rtol=1e-6)
    assert projected == (expected != gradient)


def test_a_tree_is_projected_as_one_vector():
    """Over all leaves together, not leaf by leaf: the second leaf alone is not in conflict."""
    gradient = {"a": jnp.array([[1.0, 2.0]]), "b": jnp.array([3.0])}
    reference = {"a": jnp.array([[-4.0, 0.5]]), "b": jnp.array([0.25])}
    out, projected = project(gradient, reference)
    g, r = np.array([1, 2, 3.0]), np.array([-4, 0.5, 0.25])
    expected = g - (g @ r) / (r @ r) * r
    assert projected
    np.testing.assert_allclose(np.append(out["a"], out["b"]), expected, rtol=1e-6)
    assert abs(expected @ r) < 1e-12


# --- the step -------------------------------------------------------------------------------------


def test_the_first_task_is_plain_descent():
    learner = drive()
    params = learner.params
    for names, num_valid in ([0, 20, 1, 21], 4), ([2, 22, 3, 23], 2):
        metrics = learner.step(names, num_valid, task=0)
        value, gradient = ce(params, names[:num_valid])
        params = descended(params, RATE, (1, gradient))
        np.testing.assert_allclose(metrics["loss"], value, rtol=1e-5)
        chex.assert_trees_all_close(learner.params, params, rtol=1e-4, atol=1e-6)
        assert metrics["projected"] == 0
        assert [len(names) for names in shown(learner, 2)] == [num_valid, 0]
    assert (learner.state.memory.seen == 0).all()


@pytest.mark.parametrize("tells", [True, False])
def test_later_steps_do_not_climb_the_loss_on_replay(tells):
    """Both cases occur; without statistics the draw is the whole memory, so it is known as well."""
    learner = drive(replay_size=3 if tells else 12, tells=tells)
    first = [0, 20, 1, 21]
    learner.step(first, task=0)
    learner.end(task_of(0), batch(first, task=0))
    held = set(learner.held()[:4])
    assert held == set(first)
    params, bent = learner.params, []
    for names in ([40, 60, 41, 61], [0, 20, 2, 22], [42, 62, 43, 63], [1, 21, 3, 23]):
        metrics = learner.step(names, task=1)
        replayed = shown(learner, 2)[1] if tells else first
        assert set(replayed) <= held
        assert len(replayed) == (3 if tells else 4)
        value, g = ce(params, names)
        _, r = ce(params, replayed)
        dot = sum((g[k] * r[k]).sum() for k in g)
        share = min(dot, 0) / sum(np.square(r[k]).sum() for k in r)
        params = descended(params, RATE, (1, g), (-share, r))
        np.testing.assert_allclose(metrics["loss"], value, rtol=1e-4)
        chex.assert_trees_all_close(learner.params, params, rtol=1e-3, atol=1e-5)
        assert metrics["projected"] == (dot < 0)
        bent.append(bool(dot < 0))
    assert set(bent) == {True, False}


def test_batch_statistics_see_the_stream_then_the_replay():
    net, augment = normed_net(CLASSES), flat_augment()
    problem = own_problem(net, augment=augment, num_classes=CLASSES, num_tasks=TASKS)
    method = agem(problem, memory_size=12, replay_size=4, learning_rate=RATE)
    state = method.init(jax.random.key(0), batch([0, 1, 2, 3]))
    first, second = batch([0, 20, 1, 21], task=0), batch([40, 60, 41, 61], 3, task=1)
    state = method.end_task(jax.random.key(1), state, task_of(0), first)
    after, _ = jax.jit(method.phases[0].step)(jax.random.key(2), state, second)
    vars = state.model.vars
    _, stats = net.apply(vars, augment.test(second.x), train=True, valid=second.valid)
    _, stats = net.apply(vars.replace(stats=stats), augment.test(first.x), train=True)
    chex.assert_trees_all_close(after.model.vars.stats, stats, rtol=1e-4, atol=1e-6)


# --- the memory -----------------------------------------------------------------------------------


def test_each_task_gets_its_share():
    """14 slots, 3 tasks: 4 different examples of each, in its own place; padding is not stored."""
    learner = drive()
    assert learner.held().size == 12
    tasks = [list(range(0, 10)), list(range(40, 50)), list(range(80, 90))]
    for number, names in enumerate(tasks):
        learner.end(task_of(number), batch(names, 9, task=number))
        own = learner.held()[4 * number : 4 * number + 4]
        assert len(set(own)) == 4
        assert set(own) <= set(names[:9])
        stored = np.where(np.arange(TASKS) <= number, 4, 0)
        np.testing.assert_array_equal(learner.state.memory.seen, stored)
    np.testing.assert_array_equal(learner.state.memory.slots["y"], label_of(learner.held()))


def test_what_is_stored_is_a_uniform_draw():
    learner, runs = drive(), 600
    keys = jax.random.split(jax.random.key(3), runs)
    end = jax.vmap(learner.fn("end_task"), in_axes=(0, None, None, None))
    states = end(keys, learner.state, task_of(1), batch(range(1, 13), num_valid=10, task=1))
    held = np.asarray(states.memory.slots["x"])[:, 4:8, 0, 0, 0]
    often = np.bincount(held.ravel(), minlength=13) / runs
    assert often[0] == often[11] == often[12] == 0
    assert np.abs(often[1:11] - 0.4).max() < 0.08  # standard error 0.02


def test_a_task_shorter_than_its_share_is_stored_whole_and_replays_no_empty_slot():
    learner = drive(memory_size=24, replay_size=6)
    learner.end(task_of(0), batch([10, 11, 12, 13], 3, task=0))
    assert set(learner.held()[:3]) == {10, 11, 12}
    learner.step([40, 41, 42, 43], task=1)
    np.testing.assert_array_equal(shown(learner, 1)[0], [10, 11, 12])


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ((2, 1), "memory_size=2 gives none of the 3 tasks a slot of its own; use at least 3"),
        ((14, 13), "replay_size=13 must be between 1 and the memory's 12 slots"),
        ((14, 0), "replay_size=0 must be"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(sizes, message):
    with pytest.raises(InputError, match=message):
        drive(*sizes)
