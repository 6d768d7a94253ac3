"""What every scenario must do, whatever it shows."""

import jax
import numpy as np

from cls_jax.methods import METHODS
from cls_jax.streams.stream import Schedule, Stream
from cls_jax.training.runner import Plan, run
from tests.conftest import small_problem


def assert_same(one: Schedule, two: Schedule) -> None:
    """Every number of two schedules is equal."""
    everything = ((each.replace(make_rows=None), each.rows()) for each in (one, two))
    for a, b in zip(*map(jax.tree.leaves, everything), strict=True):
        np.testing.assert_array_equal(a, b)


def check_schedules(stream: Stream, key: int = 3) -> None:
    """Pure in the key, stackable over keys; shuffles and epochs change the order alone."""
    table = stream.schedule(jax.random.key(key))
    assert_same(table, stream.schedule(jax.random.key(key)))
    for seed in range(8):
        other = stream.schedule(jax.random.key(100 + seed))
        assert not np.array_equal(other.rows().index, table.rows().index)
        both = (jax.tree.leaves((each, each.rows())) for each in (table, other))
        for a, b in zip(*both, strict=True):
            assert (a.shape, a.dtype) == (b.shape, b.dtype)
    assert table.rows().index.dtype == table.rows().task.dtype == table.test_index.dtype == np.int32
    assert (np.diff(table.rows().task) >= 0).all()
    assert table.rows().labelled.all()
    assert table.task_classes.shape == (stream.num_tasks, stream.num_classes)
    assert len(table.test_index) == stream.num_tasks
    check_rows(table)
    assert (stream.transform is None) == (table.test_context is None)
    if stream.transform is not None:
        assert table.test_context.shape == (stream.num_tasks,)

    once = stream.schedule(jax.random.key(key), epochs=1)
    twice = stream.schedule(jax.random.key(key), epochs=2)
    second = stream.schedule(jax.random.key(key), epochs=1, shuffle=1)
    assert len(twice.rows().index) == 2 * len(once.rows().index)
    assert not np.array_equal(second.rows().index, once.rows().index)
    for changed in (twice, second):
        np.testing.assert_array_equal(changed.task_classes, once.task_classes)
        np.testing.assert_array_equal(changed.test_index, once.test_index)
        for name in ("contexts", "test_context"):
            np.testing.assert_array_equal(getattr(changed, name), getattr(once, name))
    for task in range(stream.num_tasks):
        first, whole = (rows_of(t, task) for t in (once, twice))
        np.testing.assert_array_equal(whole[: len(first)], first)  # more epochs only go on
        if (first >= 0).sum() > 8:
            assert not np.array_equal(whole[len(first) :], first)


def check_rows(table: Schedule) -> None:
    """Rows come task by task, as many as were counted, and number what there is."""
    every = table.rows()
    for task in range(len(table.task_classes)):
        rows = table.rows(task)
        for mine, leaf in zip(jax.tree.leaves(rows), jax.tree.leaves(every), strict=True):
            np.testing.assert_array_equal(mine, leaf[every.task == task])
        assert (rows.index >= 0).any(axis=1).sum() == table.num_seen[task]
        labelled = rows.labelled & (rows.index >= 0)
        assert labelled.any(axis=1).sum() == table.num_labelled[task]
    for leaf in jax.tree.leaves(table.contexts):
        assert every.context.shape[:1] == every.index.shape[:1]
        assert every.context.dtype == table.test_context.dtype == np.int32
        used = np.concatenate([every.context.ravel(), table.test_context])
        assert 0 <= used.min() <= used.max() < len(leaf)


def rows_of(table: Schedule, task: int) -> np.ndarray:
    """int32[rows, b]: the rows of one task."""
    return table.rows(task).index


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
    sizes = {"num_classes": stream.num_classes, "num_tasks": stream.num_tasks}
    method = METHODS["er"](small_problem()._replace(**sizes), memory_size=24, replay_size=6)
    assert not method.needs.told_task
    both = run(method, stream, seeds=(0, 1), plan=Plan(over_seeds="vmap", mode="scan"))
    for trial in range(2):
        alone = run(method, stream, seeds=(trial,), plan=Plan(mode="scan"))
        np.testing.assert_allclose(both.matrix[trial], alone.matrix[0], atol=0.03)
        for a, b in zip(
            *map(jax.tree.leaves, (both.states[trial].model, alone.states[0].model)), strict=True
        ):
            np.testing.assert_allclose(a, b, atol=1e-4)
        np.testing.assert_array_equal(both.states[trial].memory.seen, alone.states[0].memory.seen)
    matrix = both.matrix[:, 0, 0]
    assert np.isfinite(matrix[:, -1]).all()
    return matrix
