"""Which columns of one head an example's softmax runs over: all, or those of its own task.

A learner that is told the task may train on its own columns alone, as a network with a head a task
does: classes of other tasks neither compete nor are pushed down. Rivals of a task-aware method get
the same by it.
"""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax.numpy as jnp

from cls_jax.core.types import Array, Batch, BoundaryFn, PyTree, Task
from cls_jax.methods.base import Needs, unchanged
from cls_jax.methods.problem import Problem


class Columns(NamedTuple):
    """How a method with a replay memory treats the columns of its head.

    Attributes:
      init: what ``state.task_classes`` starts as: bool[num_tasks, num_classes], or ().
      of: (task_classes, items) -> bool[b, num_classes] of rows that ``items`` tells, or None: all.
      learnable: (task_classes, batch) -> bool[b]: the rows to learn from and to store.
      items: batch -> what the memory holds of it, less what else the method adds.
      begin_task: notes the new task's classes.
      needs: of the method.
    """

    init: PyTree
    of: Callable[[PyTree, Mapping[str, Array]], Array | None]
    learnable: Callable[[PyTree, Batch], Array]
    items: Callable[[Batch], dict[str, Array]]
    begin_task: BoundaryFn
    needs: Needs


def classes_of(task_classes: Array, task: Array) -> Array:
    """bool[b, num_classes]: the classes of each example's task, int32[b]; of -1 those of task 0."""
    return task_classes[jnp.maximum(task, 0)]


def own_label(task_classes: Array, batch: Batch) -> Array:
    """bool[b]: the valid rows whose label is one of their task's; others count as padding."""
    return batch.valid & task_classes[jnp.maximum(batch.task, 0), batch.y]


def place_of(classes: Array) -> Array:
    """int32[num_classes]: the place of each class among ``classes`` bool[num_classes], from 0."""
    return jnp.maximum(jnp.cumsum(classes) - 1, 0).astype(jnp.int32)


def all_columns() -> Columns:
    """Every class competes with every other; the task is not told."""
    return Columns(
        init=(),
        of=lambda task_classes, items: None,
        learnable=lambda task_classes, batch: batch.valid,
        items=lambda batch: {"x": batch.x, "y": batch.y},
        begin_task=unchanged,
        needs=Needs(),
    )


def own_columns(problem: Problem) -> Columns:
    """The columns of each example's own task; an example whose label is none of them is padding."""

    def begin_task(key: Array, state: PyTree, task: Task, data: Batch | None) -> PyTree:
        return state.replace(task_classes=state.task_classes.at[task.index].set(task.classes))

    return Columns(
        init=jnp.zeros((problem.num_tasks, problem.num_classes), bool),
        of=lambda task_classes, items: classes_of(task_classes, items["task"]),
        learnable=own_label,
        items=lambda batch: {"x": batch.x, "y": batch.y, "task": batch.task},
        begin_task=begin_task,
        needs=Needs(told_task=True, boundaries=True),
    )
