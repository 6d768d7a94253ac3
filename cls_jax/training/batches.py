"""What each seed sees, row by row: a run's tables on the host, cut out of its schedules."""

from collections.abc import Callable

import jax
import numpy as np
from flax import struct

from cls_jax.core.types import Task
from cls_jax.methods.base import Method, Phase
from cls_jax.streams.stream import Schedule


class BatchTable(struct.PyTreeNode):
    """A stretch of a schedule without its empty rows, leaves [n, ...] (trials: [seeds, n, ...]).

    Trials of unequal length end with rows that are not ``active``: there the run stands still.
    """

    index: np.ndarray
    labelled: np.ndarray
    active: np.ndarray
    epoch: np.ndarray
    context: np.ndarray | None
    y: np.ndarray | None = None


def live_rows(schedule: Schedule, number: int, phase: Phase, *, unlabelled: bool) -> BatchTable:
    """The rows of one task as a method gets them, empty ones left out.

    Args:
      schedule: of one seed.
      number: of the task.
      phase: one on memory alone has its own number of rows, every example of them padding.
      unlabelled: keep examples without labels; otherwise they become padding.
    """
    mine = schedule.rows(number)
    num_steps = phase.num_steps
    if num_steps is not None:
        shape = (num_steps, *mine.index.shape[1:])

        def blank(leaf: np.ndarray) -> np.ndarray:
            return np.zeros((num_steps, *leaf.shape[1:]), leaf.dtype)

        return BatchTable(
            index=np.full(shape, -1, np.int32),
            labelled=np.zeros(shape, bool),
            active=np.ones(num_steps, bool),
            epoch=np.zeros(num_steps, np.int32),
            context=jax.tree.map(blank, mine.context),
            y=jax.tree.map(blank, mine.y),
        )
    index = mine.index if unlabelled else np.where(mine.labelled, mine.index, -1)
    keep = (index >= 0).any(axis=1)
    return BatchTable(
        index=index[keep],
        labelled=mine.labelled[keep],
        active=np.ones(int(keep.sum()), bool),
        epoch=mine.epoch[keep],
        context=jax.tree.map(lambda leaf: leaf[keep], mine.context),
        y=jax.tree.map(lambda leaf: leaf[keep], mine.y),
    )


def distinct_rows(rows: BatchTable) -> BatchTable:
    """``rows`` (not stacked) with every example once: where it comes first."""
    first = np.zeros(rows.index.size, bool)
    first[np.unique(rows.index, return_index=True)[1]] = True
    first = first.reshape(rows.index.shape) & (rows.index >= 0)
    some = first.any(axis=1)
    rows = rows.replace(index=np.where(first, rows.index, -1))
    return jax.tree.map(lambda leaf: leaf[some], rows)


def stack_rows(trials: list[BatchTable]) -> BatchTable:
    """Several seeds side by side; the shorter ones are padded with rows that are not active."""
    longest = max(rows.active.size for rows in trials)
    return jax.tree.map(lambda *leaves: np.stack(leaves), *[pad_rows(r, longest) for r in trials])


def pad_rows(rows: BatchTable, length: int) -> BatchTable:
    """``rows`` (not stacked) with dead rows behind, ``length`` in all."""

    def pad(leaf: np.ndarray) -> np.ndarray:
        return np.pad(leaf, [(0, length - len(leaf))] + [(0, 0)] * (leaf.ndim - 1))

    dead = rows.active.size
    padded = jax.tree.map(pad, rows)
    padded.index[dead:] = -1
    return padded


def slice_rows(rows: BatchTable, start: int, chunk: int, *, trials: bool) -> BatchTable:
    """Rows ``start .. start + chunk``, padded to ``chunk``: every chunk has the same shape."""
    if trials:
        parts = [jax.tree.map(lambda leaf, s=s: leaf[s], rows) for s in range(len(rows.active))]
        parts = [slice_rows(part, start, chunk, trials=False) for part in parts]
        return jax.tree.map(lambda *leaves: np.stack(leaves), *parts)
    return pad_rows(jax.tree.map(lambda leaf: leaf[start : start + chunk], rows), chunk)


def task_rows(method: Method, schedules: list[Schedule], number: int, task: int) -> BatchTable:
    """The active rows of one task in phase ``number``, for one seed's schedules, one a phase."""
    unlabelled = method.needs.unlabelled
    return live_rows(schedules[number], task, method.phases[number], unlabelled=unlabelled)


def num_active(method: Method, schedules: list[Schedule], number: int) -> list[int]:
    """How many rows ``task_rows`` has for each task, without making them."""
    schedule, num_steps = schedules[number], method.phases[number].num_steps
    if num_steps is not None:  # a task that was learned before has none
        return [num_steps * bool(rows) for rows in schedule.num_seen]
    return (schedule.num_seen if method.needs.unlabelled else schedule.num_labelled).tolist()


def whole_tasks(
    method: Method, schedules: list[list[Schedule]], *, trials: bool
) -> Callable[[int], BatchTable]:
    """Number of a task -> every example of it once, in equally many rows for all tasks (and seeds).

    The rows are made when asked for; the number of them takes one look at every task.
    """

    def plans(task: int) -> list[BatchTable]:
        return [distinct_rows(task_rows(method, each, 0, task)) for each in schedules]

    num_tasks = len(schedules[0][0].task_classes)
    longest = max(rows.active.size for task in range(num_tasks) for rows in plans(task))

    def whole(task: int) -> BatchTable:
        padded = [pad_rows(rows, longest) for rows in plans(task)]
        return stack_rows(padded) if trials else padded[0]

    return whole


def tests_so_far(schedule: Schedule, task: int) -> BatchTable:
    """The test examples of all tasks up to ``task``: a row a task, those of later ones padding.

    Args:
      schedule: of one trial, or stacked.
      task: its number.
    """
    later = np.arange(schedule.test_index.shape[-2]) > task
    index = np.where(later[:, None], np.int32(-1), schedule.test_index)
    return BatchTable(
        index=index,
        labelled=index >= 0,
        active=np.ones(index.shape[:-1], bool),
        epoch=np.zeros(index.shape[:-1], np.int32),
        context=schedule.test_context,
    )


def stack_schedules(schedules: list[Schedule]) -> Schedule:
    """What several seeds are told and tested on, side by side; rows are made of each one alone."""
    tables = [schedule.replace(make_rows=None) for schedule in schedules]
    return jax.tree.map(lambda *leaves: np.stack(leaves), *tables)


def told_task(task_classes: np.ndarray, task: int, *, trials: bool) -> Task:
    """What a method that is told learns about task number ``task``.

    Args:
      task_classes: bool[num_tasks, num_classes], of several trials with an axis before these.
      task: its number.
      trials: whether there is that axis.
    """
    classes = task_classes if trials else task_classes[None]
    index, seen = np.full(len(classes), task, np.int32), classes[:, : task + 1].any(axis=1)
    # NumPy's until a program takes them: a Task of arrays, as methods see it.
    known = Task(index, classes[:, task], seen)  # pyright: ignore[reportArgumentType]
    return known if trials else jax.tree.map(lambda leaf: leaf[0], known)
