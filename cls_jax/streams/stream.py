"""A stream is a data set and a table of integers that says what is seen when."""

from collections.abc import Callable, Mapping
from typing import NamedTuple, Protocol

import jax
import numpy as np
from flax import struct

from cls_jax.core.errors import InputError
from cls_jax.core.keys import ScheduleKey
from cls_jax.core.types import Array, PyTree
from cls_jax.data.dataset import Dataset


@struct.dataclass
class Schedule:
    """What is seen when, for one seed; NumPy arrays, since the host slices them.

    Shapes depend on the stream and its sizes, never on the key, so the schedules of many seeds
    stack. The rows of a task stand together, in the order of the tasks.

    Attributes:
      index: int32[num_steps, b] numbers of training examples; -1 is padding.
      task: int32[num_steps] task of each row.
      epoch: int32[num_steps] pass over its task that each row belongs to, from 0.
      labelled: bool[num_steps, b]; False where the label is withheld.
      task_classes: bool[num_tasks, num_classes].
      test_index: int32[num_tasks, m] numbers of the test examples of each task; then -1.
      context: arguments of the stream's transform, one a step, leaves [num_steps, ...], or one an
        example, leaves [num_steps, b, ...]; () if none.
      test_context: the same for testing, one a task, leaves [num_tasks, ...].
    """

    index: np.ndarray
    task: np.ndarray
    epoch: np.ndarray
    labelled: np.ndarray
    task_classes: np.ndarray
    test_index: np.ndarray
    context: PyTree = ()
    test_context: PyTree = ()


class ScheduleFn(Protocol):
    """A pure function of the key: the same key gives the same table, on every machine.

    ``epochs`` overrides the stream's own number; ``shuffle`` numbers an independent shuffle of
    the same tasks (a method's second phase uses 1, and so on). The class order depends on neither.
    """

    def __call__(self, key: Array, *, epochs: int | None = None, shuffle: int = 0) -> Schedule: ...


class Stream(NamedTuple):
    """A scenario over a source.

    Attributes:
      name: e.g. "cifar10, 5 tasks x 2 classes, class-IL".
      source: the data.
      num_tasks: T.
      batch_size: b.
      schedule: key -> Schedule.
      describe: the settings behind the schedule, for the record.
      transform: (x, context) -> x, on the device, after the gather; None is the identity.
    """

    name: str
    source: Dataset
    num_tasks: int
    batch_size: int
    schedule: ScheduleFn
    describe: Mapping[str, object]
    transform: Callable[[Array, PyTree], Array] | None = None

    @property
    def num_classes(self) -> int:
        """How many classes the label space has."""
        return self.source.num_classes


def headline(stream: Stream) -> str:
    """What data, how many classes, tasks and examples: the first line that a run prints."""
    source = stream.source
    shape = "x".join(map(str, source.train.x.shape[1:]))
    return (
        f"{stream.name} ({source.num_classes} in all); {len(source.train.y)} training and "
        f"{len(source.test.y)} test examples of {shape} {source.train.x.dtype}"
    )


def pooled(stream: Stream) -> Stream:
    """The same examples without tasks: each epoch drawn from all tasks at once, shuffled.

    Every row carries the number of the last task, so that the last row of the accuracy matrix is
    the score of joint training, the usual upper bound. A context for each example (MNIST-360's
    angles) stays with its example; one served again within a pass counts for the next epoch.

    Raises:
      InputError: when a schedule is made of a stream that transforms whole batches differently.
    """

    def schedule(key: Array, *, epochs: int | None = None, shuffle: int = 0) -> Schedule:
        table = stream.schedule(key, epochs=epochs, shuffle=shuffle)
        contexts = zip(*map(jax.tree.leaves, (table.context, table.test_context)), strict=True)
        if any(leaf.ndim == of_task.ndim for leaf, of_task in contexts):
            raise InputError(
                f"stream {stream.name!r} transforms each task differently, so its tasks cannot be "
                "pooled; leave joint out"
            )
        flat = table.index.ravel()
        member = flat >= 0
        # How often each example came before: the number of its epoch.
        order = np.argsort(flat[member], kind="stable")
        number = flat[member][order]
        first = np.r_[True, number[1:] != number[:-1]]
        rank = np.arange(number.size) - np.maximum.accumulate(
            np.where(first, np.arange(number.size), 0)
        )
        epoch = np.empty(number.size, np.int64)
        epoch[order] = rank
        key_pool = jax.random.fold_in(key, ScheduleKey.POOL)
        noise = np.asarray(jax.random.bits(key_pool, flat.shape))[member]
        place = np.concatenate(
            [np.flatnonzero(member)[np.lexsort((noise, epoch))], np.flatnonzero(~member)]
        )

        of_row = np.zeros(flat.size, np.int32)  # its last example may be of the next pass
        of_row[: epoch.size] = np.sort(epoch)

        def move(leaf: np.ndarray) -> np.ndarray:
            return leaf.reshape(flat.size, *leaf.shape[2:])[place].reshape(leaf.shape)

        return table.replace(
            index=move(table.index),
            labelled=move(table.labelled),
            task=np.full_like(table.task, stream.num_tasks - 1),
            epoch=of_row.reshape(table.index.shape)[:, 0],
            context=jax.tree.map(move, table.context),
        )

    return stream._replace(name=f"{stream.name}, pooled", schedule=schedule)
