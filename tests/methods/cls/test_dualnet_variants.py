"""DualNet's task-free and semi-supervised variants, on networks that tell what they were shown."""

from functools import cache

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cls_jax.data.dataset import Dataset, Split
from cls_jax.streams.class_il import class_il
from cls_jax.training.runner import run
from tests.support.drive import CLASSES, pictures, task_of
from tests.support.dualnet import (
    BATCH,
    FREE,
    SMALL,
    TASKS,
    answers,
    drive,
    in_second_task,
    learn,
    shown,
    small_dualnet,
)
from tests.support.nets import flat_dualnets
from tests.support.problems import flat_augment

# --- task-free ------------------------------------------------------------------------------------

EIGHT = {**FREE, "memory_size": 8, "replay_size": 8}


def test_the_task_free_learner_is_told_boundaries_and_no_task():
    aware, free = small_dualnet(), small_dualnet(**FREE)
    assert (aware.name, free.name) == ("dualnet", "dualnet_tf")
    assert (aware.needs.told_task, free.needs.told_task) == (True, False)
    assert aware.needs.boundaries
    assert free.needs.boundaries
    assert not aware.needs.unlabelled
    assert not free.needs.unlabelled


def test_task_free_replay_starts_after_the_first_boundary_between_tasks():
    learner = drive(**FREE)
    learner.begin(task_of(0))
    for names in ([0, 1, 2, 3], [4, 5, 6, 7]):
        before = learner.state
        metrics = learner.step(0, names)
        assert metrics["replay_ce"] == metrics["soft"] == 0
        assert shown(before, learner.state) == dict.fromkeys(names, 1)
        assert shown(before, learner.state, "embedded") == dict.fromkeys(names, 2)
    assert learner.state.memory.seen == 8  # one reservoir
    np.testing.assert_array_equal(learner.held()[:8], range(8))
    np.testing.assert_array_equal(learner.slots("task")[:8], -1)
    learner.begin(task_of(1))
    assert learner.step(1, [100, 101, 102, 103])["replay_ce"] > 0


@cache
def current_items_replayed(**changes):
    """Four examples of task 0 with soft targets, four of task 1 without, all eight replayed."""
    learner = drive(**{**EIGHT, **changes})
    learn(learner, 0, [0, 1, 2, 3])
    learner.begin(task_of(1))
    before = learner.state
    metrics = learner.step(1, [100, 101, 102, 103])
    return learner, before, metrics


def test_task_free_replays_the_current_task_too():
    learner, before, _ = current_items_replayed()
    expected = {**dict.fromkeys(range(4), 1), **dict.fromkeys(range(100, 104), 2)}
    assert shown(before, learner.state) == expected
    np.testing.assert_array_equal(learner.slots("has_logits"), np.arange(8) < 4)


@pytest.mark.parametrize(
    ("stale", "reduction"), [(False, "elements"), (True, "elements"), (False, "batchmean")]
)
def test_the_task_free_soft_target_loss_by_hand(stale, reduction):
    """sum over rows with soft targets of their own of KL / C; stale rows teach zero logits."""
    changes = {"stale_soft_targets": stale, "kl_reduction": reduction}
    off = {"ssl_learning_rate": 0.0, "lookahead_step_size": 0.0}
    learner = drive(**{**EIGHT, **changes, **off})
    learn(learner, 0, [0, 1, 2, 3])
    learner.begin(task_of(1))
    before = learner.state
    metrics = learner.step(1, [100, 101, 102, 103])
    nets, x = flat_dualnets(CLASSES), flat_augment().test(pictures([0, 1, 2, 3, *range(100, 104)]))
    maps, _ = nets.features(before.slow.vars, x, train=True)
    logits, _ = nets.classify(before.fast.vars, x, maps, train=True)
    teacher = np.concatenate([learner.slots("logits")[:4], np.zeros((4, CLASSES))])
    student, teacher = np.asarray(logits, np.float64) / 2, teacher.astype(np.float64) / 2
    log_s = student - np.log(np.exp(student).sum(1, keepdims=True))
    log_t = teacher - np.log(np.exp(teacher).sum(1, keepdims=True))
    rows = (np.exp(log_t) * (log_t - log_s)).sum(1)[: 8 if stale else 4]
    expected = rows.sum() / CLASSES if reduction == "elements" else rows.mean()
    np.testing.assert_allclose(metrics["soft"], expected, rtol=1e-4)


def test_an_overwritten_slot_keeps_the_logits_of_the_evicted_until_the_next_boundary():
    learner, _, _ = current_items_replayed()
    other = drive(**EIGHT)
    other.state, other.clock = learner.state, learner.clock
    old, held = other.slots("logits").copy(), other.held().copy()
    for first in range(104, 124, 4):
        other.step(1, range(first, first + 4))
    replaced = (other.held() != held) & (held < 4)
    assert replaced.any()
    np.testing.assert_array_equal(other.slots("logits")[:4], old[:4])
    np.testing.assert_array_equal(other.slots("has_logits"), (other.held() < 4))


@pytest.mark.parametrize("capacity", [24, 150])
@pytest.mark.parametrize("snapshot", ["eval", "train"])
def test_a_task_free_boundary_refreshes_exactly_the_slots_without_logits(capacity, snapshot):
    """24 is less than a part of 64; 150 is three parts, the last one padded with slot 0."""
    learner = drive(**FREE, memory_size=capacity, snapshot=snapshot)
    learner.begin(task_of(0))
    for start in range(0, capacity, 50):
        learner.step(0, np.arange(start, min(start + 50, capacity)) % 256)
    assert not learner.slots("has_logits").any()
    before = learner.begin(task_of(1))
    assert learner.slots("has_logits").all()
    names = learner.held().tolist()
    if snapshot == "train":
        assert shown(before, learner.state) == {name: names.count(name) for name in names}
    else:
        np.testing.assert_allclose(learner.slots("logits"), answers(learner), rtol=1e-4, atol=1e-5)
        chex.assert_trees_all_equal(learner.state.slow, before.slow)
    for slot_0 in (False, True):  # with and without soft targets of its own
        lacking = np.arange(capacity) % 7 == (0 if slot_0 else 3)
        has = learner.state.memory.slots["has_logits"] & ~lacking
        slots = {**learner.state.memory.slots, "has_logits": has}
        marked = jnp.full_like(slots["logits"], 77.0)
        memory = learner.state.memory.replace(slots={**slots, "logits": marked})
        learner.state = learner.state.replace(memory=memory)
        before = learner.begin(task_of(2))
        assert learner.slots("has_logits").all()
        np.testing.assert_array_equal((learner.slots("logits") == 77).all(1), ~lacking)
        if snapshot == "train":
            wanted = learner.held()[lacking].tolist()
            assert shown(before, learner.state) == {name: wanted.count(name) for name in wanted}
        else:
            np.testing.assert_allclose(
                learner.slots("logits")[lacking], answers(learner)[lacking], rtol=1e-4, atol=1e-5
            )


# --- semi-supervised ------------------------------------------------------------------------------

SEMI = {"semi_supervised": True}


def test_an_unlabelled_batch_moves_the_slow_tree_alone():
    learner, _, _ = in_second_task(**SEMI)
    other = drive(**SEMI)
    other.state, other.clock = learner.state, learner.clock
    assert other.method.needs.unlabelled
    before = other.state
    other.step(1, [110, 111, 112, 113], labelled=[False] * 4)
    chex.assert_trees_all_equal(other.state.fast, before.fast)
    chex.assert_trees_all_equal(other.state.memory, before.memory)
    assert shown(before, other.state) == {}
    assert not np.array_equal(
        other.state.slow.vars.params["trunk"], before.slow.vars.params["trunk"]
    )
    embedded = shown(before, other.state, "embedded")
    assert embedded.keys() >= {110, 111, 112, 113}


def test_semi_supervised_views_are_the_stream_and_the_memory():
    learner, before, _ = in_second_task(**SEMI)
    embedded = shown(before, learner.state, "embedded")
    stream = [embedded.pop(name) for name in (100, 101, 102, 103)]
    assert stream == [2] * 4
    assert len(embedded) == SMALL["ssl_size"]
    assert set(embedded) <= set(range(8))
    first = drive(**SEMI)
    first.begin(task_of(0))
    before = first.state
    first.step(0, [0, 1, 2, 3])
    assert shown(before, first.state, "embedded") == dict.fromkeys(range(4), 2)


def test_rows_without_label_are_not_stored_in_a_mixed_batch():
    learner = drive(**SEMI)
    learner.begin(task_of(0))
    before = learner.state
    learner.step(0, [0, 1, 2, 3], labelled=[True, False, True, False])
    np.testing.assert_array_equal(learner.state.memory.seen, [2, 0, 0])
    assert shown(before, learner.state) == {0: 1, 2: 1}
    assert shown(before, learner.state, "embedded") == dict.fromkeys(range(4), 2)


@pytest.mark.parametrize("semi", [False, True, None])
def test_label_fraction_through_the_runner(semi):
    """All images reach the semi-supervised slow learner, labelled ones alone reach the rest.

    Not told whether it is one, it is where the stream has images without a label.
    """
    y = np.repeat(np.arange(CLASSES), 10).astype(np.int32)
    examples = Split(np.asarray(pictures(np.arange(60))), y)
    stream = class_il(
        Dataset("named", examples, examples, tuple("abcdef")),
        tasks=TASKS,
        batch_size=BATCH,
        label_fraction=0.5,
    )
    method = small_dualnet(unlabelled=stream.unlabelled, **FREE, semi_supervised=semi)
    state = run(method, stream).states[0]
    table = stream.schedule(jax.random.fold_in(jax.random.key(0), 0)).rows()
    labelled = set(table.index[table.labelled & (table.index >= 0)].tolist())
    assert 20 <= len(labelled) <= 40
    assert int(state.memory.seen) == len(labelled)
    stats = state.slow.vars.stats
    embedded = set(np.flatnonzero(stats["embedded"]).tolist())
    assert embedded == set(range(60)) if semi is not False else embedded <= labelled
    assert set(np.flatnonzero(stats["shown"]).tolist()) == labelled
