"""Task-aware DualNet: replay, own columns, soft targets, optimizer states, what does not fit.

On networks that tell what they were shown; the slow phase and the task-free learner have their own
files, the networks are in tests/nets.
"""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cls_jax.core.errors import InputError
from cls_jax.methods.cls.dualnet import dualnet
from tests.support.drive import CLASSES, pictures, task_of
from tests.support.dualnet import (
    BATCH,
    FREE,
    SMALL,
    answers,
    batch_of,
    drive,
    in_second_task,
    learn,
    shown,
    small_dualnet,
)
from tests.support.nets import flat_dualnets
from tests.support.problems import flat_augment, own_problem

# --- task-aware: replay ---------------------------------------------------------------------------


def test_the_first_task_replays_nothing_and_embeds_the_batch():
    learner = drive()
    learner.begin(task_of(0))
    for names in ([0, 1, 2, 3], [4, 5, 6, 7]):
        before = learner.state
        metrics = learner.step(0, names)
        assert metrics["replay_ce"] == metrics["soft"] == 0
        assert metrics["loss"] == metrics["ce"] > 0
        assert shown(before, learner.state) == dict.fromkeys(names, 1)
        assert shown(before, learner.state, "embedded") == dict.fromkeys(names, 2)


def test_later_tasks_replay_and_embed_earlier_tasks_alone():
    learner, before, metrics = in_second_task()
    replayed = shown(before, learner.state)
    stream = {name: replayed.pop(name) for name in (100, 101, 102, 103)}
    assert set(stream.values()) == {1}
    assert len(replayed) == SMALL["replay_size"]
    assert set(replayed) <= set(range(8))
    embedded = shown(before, learner.state, "embedded")
    assert len(embedded) == SMALL["ssl_size"]
    assert set(embedded) <= set(range(8))
    assert set(embedded.values()) == {2}
    assert metrics["replay_ce"] > 0
    assert metrics["soft"] > 0


def test_every_inner_step_draws_anew():
    changes = {"n_outer": 2, "inner_steps": 2}
    learner, before, _ = in_second_task(**changes)
    embedded = shown(before, learner.state, "embedded")
    assert sum(embedded.values()) == 2 * 4 * SMALL["ssl_size"]
    assert len(embedded) > SMALL["ssl_size"]
    assert sum(shown(before, learner.state).values()) == 2 * (BATCH + SMALL["replay_size"])


def test_what_is_stored_is_the_ring_of_the_task():
    learner, _, _ = in_second_task()
    np.testing.assert_array_equal(learner.held()[:8], range(8))
    np.testing.assert_array_equal(learner.held()[8:12], [100, 101, 102, 103])
    np.testing.assert_array_equal(learner.slots("y")[:12], [0, 1] * 4 + [2, 3] * 2)
    np.testing.assert_array_equal(learner.state.memory.seen, [8, 4, 0])


# --- task-aware: own columns ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("columns", "moved"), [([4, 5], set()), ([0, 1], {"replay_ce", "soft"}), ([2, 3], {"ce"})]
)
def test_columns_of_other_classes_have_no_influence(columns, moved):
    learner, before, metrics = in_second_task()
    fast = before.fast
    head = fast.vars.params["head"]
    noise = jax.random.normal(jax.random.key(9), (head.shape[0], len(columns)))
    params = {**fast.vars.params, "head": head.at[:, jnp.asarray(columns)].set(3 * noise)}
    other = before.replace(fast=fast.replace(vars=fast.vars.replace(params=params)))
    key = jax.random.key(learner.clock)
    _, changed = learner.fn("step", "train")(key, other, batch_of(1, [100, 101, 102, 103]))
    for name in ("ce", "replay_ce", "soft"):
        same = np.array_equal(changed[name], metrics[name])
        assert same == (name not in moved), name


def test_the_supervised_step_is_sgd_on_both_trees():
    """One step of the first task, by hand; the slow phase is off, the fast phase moves slow."""
    learner = drive(ssl_learning_rate=0.0, lookahead_step_size=0.0)
    learner.begin(task_of(0))
    before = learner.state
    metrics = learner.step(0, [0, 1, 2, 3])
    nets, examples = flat_dualnets(CLASSES), batch_of(0, [0, 1, 2, 3])

    def loss(params):
        x = flat_augment().test(examples.x)
        slow = before.slow.vars.replace(params=params["slow"])
        maps, _ = nets.features(slow, x, train=True)
        fast = before.fast.vars.replace(params=params["fast"])
        logits, _ = nets.classify(fast, x, maps, train=True)
        own = jax.nn.log_softmax(logits[:, :2])  # task 0 has classes 0 and 1
        return -own[jnp.arange(BATCH), examples.y].mean()

    params = {"slow": before.slow.vars.params, "fast": before.fast.vars.params}
    value, gradient = jax.value_and_grad(loss)(params)
    np.testing.assert_allclose(metrics["loss"], value, rtol=1e-5)
    expected = jax.tree.map(lambda p, g: p - 0.03 * g, params, gradient)
    now = {"slow": learner.state.slow.vars.params, "fast": learner.state.fast.vars.params}
    chex.assert_trees_all_close(now, expected, rtol=1e-5, atol=1e-6)
    assert not np.array_equal(now["slow"]["trunk"], params["slow"]["trunk"])
    assert not np.array_equal(now["fast"]["head"], params["fast"]["head"])


def test_kl_over_the_batch_is_the_number_of_own_classes_times_kl_over_elements():
    elements = in_second_task()[2]["soft"]
    batchmean = in_second_task(kl_reduction="batchmean")[2]["soft"]
    np.testing.assert_allclose(batchmean, 2 * elements, rtol=1e-5)


def test_the_soft_target_loss_is_weighted():
    _, _, metrics = in_second_task()
    total = metrics["ce"] + metrics["replay_ce"] + 10 * metrics["soft"]
    np.testing.assert_allclose(metrics["loss"], total, rtol=1e-6)


# --- task-aware: soft targets ---------------------------------------------------------------------


def test_a_boundary_stores_what_predict_says_of_the_last_task():
    learner = drive()
    learn(learner, 0, [0, 1, 2, 3], [4, 5])
    assert not learner.slots("has_logits").any()
    before = learner.begin(task_of(1))
    filled = np.arange(24) < 6
    np.testing.assert_array_equal(learner.slots("has_logits"), filled)
    np.testing.assert_allclose(
        learner.slots("logits")[filled], answers(learner)[filled], rtol=1e-5, atol=1e-6
    )
    assert not learner.slots("logits")[~filled].any()
    chex.assert_trees_all_equal(learner.state.slow, before.slow)
    chex.assert_trees_all_equal(learner.state.fast, before.fast)
    np.testing.assert_array_equal(learner.state.task_classes[1], np.arange(6) // 2 == 1)


def test_a_boundary_refreshes_the_last_task_alone():
    learner, _, _ = in_second_task()
    before = learner.slots("logits")
    other = drive()
    other.state, other.clock = learner.state, learner.clock
    other.begin(task_of(2))
    np.testing.assert_array_equal(other.slots("logits")[:8], before[:8])
    np.testing.assert_array_equal(other.slots("has_logits"), np.arange(24) < 12)
    assert np.abs(other.slots("logits")[8:12]).min() > 0
    assert not np.allclose(other.slots("logits")[:8], answers(other)[:8], rtol=1e-3)
    np.testing.assert_allclose(
        other.slots("logits")[8:12], answers(other)[8:12], rtol=1e-5, atol=1e-6
    )


def test_the_first_boundary_changes_nothing_but_the_classes():
    for changes in ({}, {"snapshot": "train"}, FREE, {**FREE, "snapshot": "train"}):
        learner = drive(**changes)
        before = learner.begin(task_of(0))
        same = ("slow", "fast", "memory")
        for name in same:
            chex.assert_trees_all_equal(getattr(learner.state, name), getattr(before, name))


def test_a_snapshot_in_training_mode_uses_the_batch_and_moves_the_statistics():
    learner = drive(snapshot="train")
    learn(learner, 0, [0, 1, 2, 3], [4, 5])
    before = learner.begin(task_of(1))
    assert shown(before, learner.state) == dict.fromkeys(range(6), 1)
    assert not np.array_equal(
        learner.state.fast.vars.stats["adapt"], before.fast.vars.stats["adapt"]
    )
    nets, x = flat_dualnets(CLASSES), flat_augment().test(pictures(range(6)))
    maps, _ = nets.features(before.slow.vars, x, train=True)
    logits, _ = nets.classify(before.fast.vars, x, maps, train=True)
    np.testing.assert_allclose(learner.slots("logits")[:6], logits, rtol=1e-5, atol=1e-5)
    chex.assert_trees_all_equal(learner.state.slow.vars.params, before.slow.vars.params)


# --- optimizer states -----------------------------------------------------------------------------


def test_three_optimizer_states_and_momentum_in_one():
    learner = drive(ssl_optimizer="momentum")
    state = learner.state
    assert set(state.slow.opt) == {"ssl", "supervised"}
    assert jax.tree.leaves((state.slow.opt["supervised"], state.fast.opt)) == []
    ssl, params = (jax.tree.leaves(t) for t in (state.slow.opt["ssl"], state.slow.vars.params))
    assert sum(leaf.size for leaf in ssl) == sum(leaf.size for leaf in params)
    assert not any(leaf.any() for leaf in jax.tree.leaves(state.slow.opt["ssl"]))
    learn(learner, 0, [0, 1, 2, 3])
    assert all(leaf.any() for leaf in jax.tree.leaves(learner.state.slow.opt["ssl"]))


def test_byol_keeps_an_averaged_network_and_others_do_not():
    learner = drive(target_decay=0.5, objective="byol")
    start = learner.state.target
    chex.assert_trees_all_equal(start, learner.state.slow.vars)
    learn(learner, 0, [0, 1, 2, 3])
    assert not np.array_equal(learner.state.target.params["trunk"], start.params["trunk"])
    assert drive().state.target == ()


# --- what does not fit ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"n_outer": 0}, "n_outer is 0; give a value at least 1"),
        ({"inner_steps": 0}, "inner_steps is 0; give a value at least 1"),
        ({"ssl_size": 0}, "ssl_size is 0; give a value at least 1"),
        ({"ssl_size": 25}, "ssl_size is 25; give a value at least 1 and at most 24"),
        ({"memory_size": 0}, "memory_size=0 leaves nothing to replay"),
        ({"replay_size": 0}, "replay_size=0 must be between 1 and the memory's 24 slots"),
        ({"replay_size": 25}, "replay_size=25 must be between 1 and the memory's 24 slots"),
        ({"memory_size": 25}, "memory_size=25 cannot be divided evenly among 3 tasks; use a mult"),
    ],
)
def test_sizes_that_do_not_fit_are_named(changes, message):
    with pytest.raises(InputError, match=message):
        small_dualnet(**changes)


def test_a_reservoir_need_not_be_divided():
    assert small_dualnet(**FREE, memory_size=25).name == "dualnet_tf"


def test_missing_views_are_named():
    augment = flat_augment()._replace(view=None)
    problem = own_problem(augment=augment, num_classes=CLASSES, dualnets=flat_dualnets)
    with pytest.raises(InputError, match="augment has no self-supervised views; give views="):
        dualnet(problem, **SMALL)
