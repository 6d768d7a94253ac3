"""Room for what comes later: a label space of more classes, and tasks, than a stream has now."""

from typing import Any

import jax
import numpy as np

from cls_jax.core.checks import whole
from cls_jax.core.errors import InputError
from cls_jax.core.types import Array
from cls_jax.data.dataset import Dataset, Split
from cls_jax.streams.stream import Rows, Schedule, Stream

MOST = 2**20
"""More classes or tasks than anybody keeps room for."""


def reserve(
    stream: Stream,
    *,
    max_classes: int | None = None,
    max_tasks: int | None = None,
    first_class: int = 0,
) -> Stream:
    """The same examples in a larger label space, in which a later run finds room for new classes.

    Outputs, memory tables and masks then have their final shapes from the start: more classes and
    tasks are other values, not another program.

    Args:
      stream: any.
      max_classes: classes of the label space; as many as are needed if not given.
      max_tasks: tasks in all, those of later runs included, for methods whose state grows with
        them (A-GEM, DualNet, APD, DEN, SupSup, L2-transfer); as many as there are if not given.
      first_class: the label that the stream's class 0 has there.

    Raises:
      InputError: for room that is less than what is there already.
    """
    first_class = whole("first_class", first_class, 0, MOST)
    needed = first_class + stream.num_classes
    most = needed if max_classes is None else whole("max_classes", max_classes, 1, MOST)
    if most < needed:
        raise InputError(
            f"max_classes is {most}, but {stream.source.name} has {stream.num_classes} classes"
            + f" from label {first_class} on" * bool(first_class)
            + f"; give at least {needed}"
        )
    if max_tasks is not None:
        max_tasks = whole("max_tasks", max_tasks, 1, MOST)
    if max_tasks is not None and max_tasks < stream.num_tasks:
        raise InputError(
            f"max_tasks is {max_tasks}, but the stream has {stream.num_tasks} tasks; give at least "
            "as many"
        )
    columns = (0, 0), (first_class, most - needed)

    def schedule(key: Array, **how: Any) -> Schedule:
        given = stream.schedule(key, **how)

        def make_rows(task: int) -> Rows:
            rows = given.rows(task)
            return rows.replace(y=jax.tree.map(lambda y: y + np.int32(first_class), rows.y))

        return given.replace(task_classes=np.pad(given.task_classes, columns), make_rows=make_rows)

    return stream._replace(
        source=_moved(stream.source, first_class, most),
        schedule=schedule,
        describe={**stream.describe, "first_class": first_class, "max_classes": most},
        first_class=(stream.first_class or 0) + first_class,
        max_tasks=stream.max_tasks if max_tasks is None else max_tasks,
    )


def _moved(source: Dataset, first: int, most: int) -> Dataset:
    """``source`` with its labels from ``first`` on, in a label space of ``most`` classes."""
    train, test = (Split(x, y + np.int32(first)) for x, y in source[1:3])
    names = [f"class {number}" for number in range(most)]
    names[first : first + source.num_classes] = source.label_names
    return source._replace(train=train, test=test, label_names=tuple(names))
