"""What every scenario must do, whatever it shows."""

import jax
import numpy as np

from cls_jax.methods import METHODS
from cls_jax.streams.stream import Schedule, Stream
from cls_jax.train.runner import Plan, run
from tests.conftest import small_setting


def assert_same(one: Schedule, two: Schedule) -> None:
    """Every number of two schedules is equal."""
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(two), strict=True):
        np.testing.assert_array_equal(a, b)


def check_schedules(stream: Stream, key: int = 3) -> None:
    """Pure in the key, stackable over keys; shuffles and epochs change the order alone."""
    table = stream.schedule(jax.random.key(key))
    assert_same(table, stream.schedule(jax.random.key(key)))
    for seed in range(8):
        other = stream.schedule(jax.random.key(100 + seed))
        assert not np.array_equal(other.index, table.index)
        for a, b in zip(jax.tree.leaves(table), jax.tree.leaves(other), strict=True):
            assert (a.shape, a.dtype) == (b.shape, b.dtype)
    assert table.index.dtype == table.task.dtype == table.test_index.dtype == np.int32
    assert (np.diff(table.task) >= 0).all()
    assert table.labelled.all()
    assert table.task_classes.shape == (stream.num_tasks, stream.num_classes)
    assert len(table.test_index) == stream.num_tasks
    for context, of_task in zip(
        *map(jax.tree.leaves, (table.context, table.test_context)), strict=True
    ):
        assert len(context) == len(table.index)
        assert len(of_task) == stream.num_tasks

    once = stream.schedule(jax.random.key(key), epochs=1)
    twice = stream.schedule(jax.random.key(key), epochs=2)
    second = stream.schedule(jax.random.key(key), epochs=1, shuffle=1)
    assert len(twice.index) == 2 * len(once.index)
    assert not np.array_equal(second.index, once.index)
    for changed in (twice, second):
        np.testing.assert_array_equal(changed.task_classes, once.task_classes)
        np.testing.assert_array_equal(changed.test_index, once.test_index)
        assert jax.tree.all(jax.tree.map(np.array_equal, changed.test_context, once.test_context))
    for task in range(stream.num_tasks):
        first, whole = (rows_of(t, task) for t in (once, twice))
        np.testing.assert_array_equal(whole[: len(first)], first)  # more epochs only go on
        if (first >= 0).sum() > 8:
            assert not np.array_equal(whole[len(first) :], first)


def rows_of(table: Schedule, task: int) -> np.ndarray:
    """int32[rows, b]: the rows of one task."""
    return table.index[table.task == task]


def examples_of(table: Schedule, task: int) -> np.ndarray:
    """The numbers of the examples of one task, in their order."""
    rows = rows_of(table, task)
    return rows[rows >= 0]


def check_runs(stream: Stream) -> np.ndarray:
    """ER and an mlp: two seeds in one program equal the two alone; ER is never told the task.

    Returns the class-IL accuracy matrices, float64[seeds, T + 1, T].
    """
    shape = stream.source.train.x.shape[1:]
    assert shape == (8, 8, 3)
    setting = small_setting(num_classes=stream.num_classes, num_tasks=stream.num_tasks)
    row = METHODS["er"]
    method, hyper = row.build(row.config(memory_size=24, replay_size=6), setting), row.hyper()
    assert not method.needs.told_task
    both = run(method, stream, hyper, seeds=(0, 1), plan=Plan(over_seeds="vmap", mode="scan"))
    for trial in range(2):
        alone = run(method, stream, hyper, seeds=(trial,), plan=Plan(mode="scan"))
        np.testing.assert_allclose(both.matrix[trial], alone.matrix[0], atol=0.03)
        for a, b in zip(
            *map(jax.tree.leaves, (both.states[trial].model, alone.states[0].model)), strict=True
        ):
            np.testing.assert_allclose(a, b, atol=1e-4)
        np.testing.assert_array_equal(both.states[trial].memory.seen, alone.states[0].memory.seen)
    matrix = both.matrix[:, 0, 0]
    assert np.isfinite(matrix[:, -1]).all()
    return matrix
