"""A stream is a data set and tables of integers that say what is seen when."""

from collections.abc import Callable, Mapping
from typing import NamedTuple, Protocol

import jax
import numpy as np
from flax import struct

from cls_jax.core.errors import InputError
from cls_jax.core.keys import ScheduleKey
from cls_jax.core.types import Array, PyTree
from cls_jax.data.dataset import Dataset
from cls_jax.streams.indexing import random_bits


class Rows(struct.PyTreeNode):
    """Some steps of a schedule, one a row; NumPy arrays, since the host slices them.

    Attributes:
      index: int32[n, b] numbers of training examples; -1 is padding.
      task: int32[n] task of each row.
      epoch: int32[n] pass over its task that each row belongs to, from 0.
      labelled: bool[n, b]; False where the label is withheld.
      context: place in the schedule's ``contexts``, one a step, int32[n], or one an example,
        int32[n, b]; None where nothing is transformed.
      y: int32[n, b] labels in place of the data's, anything where there is padding; None: the
        data's own.
    """

    index: np.ndarray
    task: np.ndarray
    epoch: np.ndarray
    labelled: np.ndarray
    context: np.ndarray | None = None
    y: np.ndarray | None = None


class Schedule(struct.PyTreeNode):
    """What is seen when, for one seed: small arrays, and the rows of each task when asked for them.

    Shapes depend on the stream and its sizes, never on the key, so the schedules of many seeds
    stack. Rows of a long stream fill gigabytes, so a run makes those of one task at a time.

    Attributes:
      num_seen: int32[num_tasks] rows of each task in which there is an example.
      num_labelled: int32[num_tasks] rows of each task in which there is a label.
      task_classes: bool[num_tasks, num_classes].
      test_index: int32[num_tasks, m] numbers of the test examples of each task; then -1.
      contexts: arguments of the stream's transform, leaves [K, ...]; () if none.
      test_context: int32[num_tasks] place in ``contexts`` for testing each task; None if none.
      make_rows: number of a task -> its Rows, a pure function.
    """

    num_seen: np.ndarray
    num_labelled: np.ndarray
    task_classes: np.ndarray
    test_index: np.ndarray
    contexts: PyTree = ()
    test_context: np.ndarray | None = None
    make_rows: Callable[[int], Rows] | None = struct.field(pytree_node=False, default=None)

    def rows(self, task: int | None = None) -> Rows:
        """The rows of one task, or, without ``task``, of all of them, one task after another."""
        make_rows = self.make_rows
        assert make_rows is not None
        if task is not None:
            return make_rows(task)
        every = [make_rows(number) for number in range(len(self.task_classes))]
        return jax.tree.map(lambda *leaves: np.concatenate(leaves), *every)


def schedule_of(
    rows: Rows,
    *,
    task_classes: np.ndarray,
    test_index: np.ndarray,
    contexts: PyTree = (),
    test_context: np.ndarray | None = None,
) -> Schedule:
    """The schedule of rows that are made already, in the order of their tasks.

    Args:
      rows: of all tasks.
      task_classes, test_index, contexts, test_context: see Schedule.
    """
    num_tasks, seen = len(task_classes), rows.index >= 0
    edges = np.searchsorted(rows.task, np.arange(num_tasks + 1))

    def count(some: np.ndarray) -> np.ndarray:
        return np.bincount(rows.task[some.any(axis=1)], minlength=num_tasks).astype(np.int32)

    def make_rows(task: int) -> Rows:
        return jax.tree.map(lambda leaf: leaf[edges[task] : edges[task + 1]], rows)

    return Schedule(
        num_seen=count(seen),
        num_labelled=count(seen & rows.labelled),
        task_classes=task_classes,
        test_index=test_index,
        contexts=contexts,
        test_context=test_context,
        make_rows=make_rows,
    )


def look_up(contexts: PyTree, context: Array | np.ndarray | None) -> PyTree:
    """The rows of ``contexts``, leaves [K, ...], that ``context`` int32[...] numbers."""
    return jax.tree.map(lambda leaf: leaf[context], contexts)


class ScheduleFn(Protocol):
    """A pure function of the key: the same key gives the same rows, on every machine.

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
      transform: (x, context) -> x, on the device, after the gather, with what ``look_up`` found in
        the schedule's contexts; None is the identity.
      first_class: where its classes stand in the label space, once ``reserve`` has said it.
      max_tasks: tasks for which a method keeps room, if more than these.
    """

    name: str
    source: Dataset
    num_tasks: int
    batch_size: int
    schedule: ScheduleFn
    describe: Mapping[str, object]
    transform: Callable[[Array, PyTree], Array] | None = None
    first_class: int | None = None
    max_tasks: int | None = None

    @property
    def num_classes(self) -> int:
        """How many classes the label space has."""
        return self.source.num_classes

    @property
    def task_room(self) -> int:
        """For how many tasks a method keeps room."""
        return self.num_tasks if self.max_tasks is None else self.max_tasks

    @property
    def unlabelled(self) -> bool:
        """Whether some training examples come without their labels."""
        return self.describe.get("label_fraction", 1.0) != 1.0


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
        given = stream.schedule(key, epochs=epochs, shuffle=shuffle)
        if any(leaf.ndim == 1 for leaf in jax.tree.leaves(given.rows(0).context)):
            raise InputError(
                f"stream {stream.name!r} transforms each task differently, so its tasks cannot be "
                "pooled; leave joint out"
            )
        table = given.rows()
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
        noise = random_bits(key_pool, flat.shape)[member]
        place = np.concatenate(
            [np.flatnonzero(member)[np.lexsort((noise, epoch))], np.flatnonzero(~member)]
        )

        of_row = np.zeros(flat.size, np.int32)  # its last example may be of the next pass
        of_row[: epoch.size] = np.sort(epoch)

        def move(leaf: np.ndarray) -> np.ndarray:
            return leaf.reshape(flat.size, *leaf.shape[2:])[place].reshape(leaf.shape)

        rows = Rows(
            index=move(table.index),
            labelled=move(table.labelled),
            task=np.full_like(table.task, stream.num_tasks - 1),
            epoch=of_row.reshape(table.index.shape)[:, 0],
            context=jax.tree.map(move, table.context),
            y=jax.tree.map(move, table.y),
        )
        return schedule_of(
            rows,
            task_classes=given.task_classes,
            test_index=given.test_index,
            contexts=given.contexts,
            test_context=given.test_context,
        )

    return stream._replace(name=f"{stream.name}, pooled", schedule=schedule)
