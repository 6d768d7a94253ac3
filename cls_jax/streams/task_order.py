"""The tasks of a stream in another order, or some of them, as data: shapes and programs do not
depend on which."""

from collections.abc import Sequence

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

    def schedule(key: Array, *, epochs: int | None = None, shuffle: int = 0) -> Schedule:
        given = stream.schedule(key, epochs=epochs, shuffle=shuffle)
        return _picked(given, order_of(key, order, stream.num_tasks))

    description = "shuffled" if order == "shuffled" else "in order " + "-".join(map(str, order))
    return stream._replace(
        name=f"{stream.name}, {description}",
        schedule=schedule,
        describe={**stream.describe, "task_order": order},
    )


def only_tasks(stream: Stream, tasks: Sequence[int]) -> Stream:
    """Some tasks of a stream, and nothing of the others: no training or test example.

    Hyper-parameters may be chosen on the first ones and the rest be learned with them. The label
    space stays that of all tasks.

    Args:
      stream: any with several tasks.
      tasks: their numbers, from 0 in the stream's order; they are learned in the order given here.

    Raises:
      InputError: for none, one twice, or one that there is not.

    Source: Chaudhry et al. 2019 (A-GEM), section 2: T^CV tasks for cross-validation, the rest for
      training and evaluation.
    """
    tasks = wholes("only_tasks", tasks)
    if not tasks or len({*tasks} & {*range(stream.num_tasks)}) < len(tasks):
        raise InputError(
            f"only_tasks is {tasks}; name one or more of the tasks 0 to {stream.num_tasks - 1}, "
            "each once"
        )

    def schedule(key: Array, *, epochs: int | None = None, shuffle: int = 0) -> Schedule:
        return _picked(stream.schedule(key, epochs=epochs, shuffle=shuffle), np.array(tasks))

    describe = {**stream.describe, "only_tasks": tasks}
    if tasks[0] > 0:
        describe.pop("base_classes", None)  # its phases begin at a base that is not learned here
    return stream._replace(
        name=f"{stream.name}, only tasks {'-'.join(map(str, tasks))}",
        num_tasks=len(tasks),
        schedule=schedule,
        describe=describe,
    )


def _picked(given: Schedule, tasks: np.ndarray) -> Schedule:
    """The schedule of ``tasks``, int[n], numbered from 0 in this order."""

    def make_rows(task: int) -> Rows:
        rows = given.rows(int(tasks[task]))
        return rows.replace(task=np.full_like(rows.task, task))

    moved = ("num_seen", "num_labelled", "task_classes", "test_index", "test_context")
    of_task = {name: jax.tree.map(lambda leaf: leaf[tasks], getattr(given, name)) for name in moved}
    return given.replace(make_rows=make_rows, **of_task)


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
