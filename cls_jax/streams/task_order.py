"""The tasks of a stream in another order, or some of them alone, as data."""

from collections.abc import Callable, Sequence

import jax
import numpy as np

from cls_jax.core.checks import wholes
from cls_jax.core.choices import TaskOrder as TaskOrder
from cls_jax.core.errors import InputError
from cls_jax.core.keys import ScheduleKey
from cls_jax.core.types import Array
from cls_jax.streams.indexing import argsort
from cls_jax.streams.stream import Rows, Schedule, Stream


def in_order(stream: Stream, order: TaskOrder) -> Stream:
    """The same tasks, one after another in ``order``; the task that comes first is number 0.

    Args:
      stream: any with several tasks.
      order: "given" leaves the stream as it is; "shuffled" draws an order from the key, so that
        seeds side by side learn in orders of their own; (2, 0, 1) begins with the task that was
        number 2.

    Raises:
      InputError: unless every task stands in ``order`` once.
    """
    if not isinstance(order, str):
        order = wholes("task_order", order)
    if order == "given":
        return stream
    if order != "shuffled":
        _check_order(order, stream.num_tasks)
    description = "shuffled" if order == "shuffled" else "in order " + "-".join(map(str, order))
    return _moved(stream, lambda key: order_of(key, order, stream.num_tasks))._replace(
        name=f"{stream.name}, {description}", describe={**stream.describe, "task_order": order}
    )


def only_tasks(stream: Stream, tasks: Sequence[int]) -> Stream:
    """Some tasks of ``stream``, in the order in which they are named; the others are left out.

    What a task holds is the same as in the whole stream, so that one process may learn the first
    tasks and a later one, which goes on from there, the others. Labels are not renumbered.

    Args:
      stream: any with several tasks.
      tasks: their numbers, from 0.

    Raises:
      InputError: for none, for a number that there is not, or one named twice.
    """
    tasks = wholes("only_tasks", tasks)
    if not tasks or len({*tasks} & {*range(stream.num_tasks)}) < len(tasks):
        raise InputError(
            f"only_tasks is {tasks}; name some of the tasks 0 to {stream.num_tasks - 1}, each once"
        )
    named = "-".join(map(str, tasks))
    return _moved(stream, lambda key: np.asarray(tasks))._replace(
        name=f"{stream.name}, only {named}",
        num_tasks=len(tasks),
        describe={**stream.describe, "only_tasks": tasks},
    )


def _moved(stream: Stream, tasks_of: Callable[[Array], np.ndarray]) -> Stream:
    """``stream`` with the tasks that ``tasks_of`` gives for the key of a schedule."""

    def schedule(key: Array, *, epochs: int | None = None, shuffle: int = 0) -> Schedule:
        given = stream.schedule(key, epochs=epochs, shuffle=shuffle)
        tasks = tasks_of(key)

        def make_rows(task: int) -> Rows:
            rows = given.rows(int(tasks[task]))
            return rows.replace(task=np.full_like(rows.task, task))

        moved = ("num_seen", "num_labelled", "task_classes", "test_index", "test_context")
        of_task = {
            name: jax.tree.map(lambda leaf: leaf[tasks], getattr(given, name)) for name in moved
        }
        return given.replace(make_rows=make_rows, **of_task)

    return stream._replace(schedule=schedule)


def order_of(key: Array, order: TaskOrder, num_tasks: int) -> np.ndarray:
    """int[num_tasks]: which task of the given stream comes first, second, …

    Args:
      key: of the schedule.
      order: as for ``in_order``.
      num_tasks: of the stream.
    """
    if order == "given":
        return np.arange(num_tasks)
    if order == "shuffled":
        return argsort(jax.random.fold_in(key, ScheduleKey.TASK_ORDER), (num_tasks,))
    return np.asarray(order)


def _check_order(order: Sequence[int], num_tasks: int) -> None:
    if sorted(order) != list(range(num_tasks)):
        raise InputError(
            f"task_order is {tuple(order)}; name each of the tasks 0 to {num_tasks - 1} once, or "
            "give 'given' or 'shuffled'"
        )
