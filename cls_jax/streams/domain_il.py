"""Domain-IL: every task holds all classes and all examples, seen through another transform.

The transform is applied on the device, so the data set lies there once, however many tasks.
"""

from collections.abc import Callable

import jax
import numpy as np

from cls_jax.core.checks import whole, yes_no
from cls_jax.core.keys import ScheduleKey
from cls_jax.core.types import Array
from cls_jax.data.checked import checked
from cls_jax.data.dataset import Dataset
from cls_jax.streams.imbalance import kept_counts, kept_examples, told
from cls_jax.streams.indexing import (
    argsort,
    check_batch,
    class_counts,
    epochs_of,
    num_rows,
    random_bits,
    table,
)
from cls_jax.streams.label_noise import with_label_noise
from cls_jax.streams.planted import check_planted, near_angles, near_permutations
from cls_jax.streams.rotation import check_square, rotate, rotation
from cls_jax.streams.stream import Rows, Schedule, Stream


def permuted(
    source: Dataset,
    *,
    tasks: int = 20,
    batch_size: int,
    epochs: int = 1,
    drop_last: bool = False,
    label_noise: float = 0.0,
    imbalance: float = 1.0,
    groups: int | None = None,
    group_spread: float = 0.5,
) -> Stream:
    """Each task shows the pixels in a random order of its own, the first task too.

    Args:
      source: the data: images, whose channels stay together, or vectors.
      tasks: number of domains.
      batch_size: stream examples a step.
      epochs: passes over each task.
      drop_last: drop an epoch's incomplete last batch instead of padding it.
      label_noise, imbalance: of training labels and classes, as for ``class_il``.
      groups: task t is of group t mod groups, and tasks of a group have permutations near each
        other; None: all are independent.
      group_spread: share of the positions that a task of a group permutes anew, in [0, 1].

    Returns:
      The stream; ``contexts`` are the permutations, uint16[tasks, h * w] (int32 for more than
      65536 positions): position i of what is seen comes from position permutation[i].

    Raises:
      InputError: if tasks or epochs is below 1, a batch is larger than the data, or it is not
        sound.

    Source: Kirkpatrick et al. 2017; aimagelab/mammoth, datasets/perm_mnist.py (20 tasks, batches of
      128, the last one kept).
    Departs: the permutations come from the stream's own key, not from a global generator that
      training shares; positions are permuted, not single channels (on MNIST the same).
    """
    source, tasks = checked(source), whole("tasks", tasks, 1)
    positions = int(np.prod(source.train.x.shape[1:3]))
    dtype = np.uint16 if positions <= 1 << 16 else np.int32

    known = check_planted(groups, group_spread, tasks)

    def domains(key: Array) -> np.ndarray:
        if known is None:
            return argsort(key, (tasks, positions)).astype(dtype)
        return near_permutations(key, tasks, known, positions, group_spread).astype(dtype)

    sizes = tasks, batch_size, epochs, drop_last, label_noise, imbalance
    stream = _domain_il(source, "permuted", domains, permute, *sizes)
    return _with_groups(stream, known, group_spread)


def permute(x: Array, permutation: Array) -> Array:
    """``x`` with position i taken from position permutation[i]; channels stay together.

    Args:
      x: [b, h, w, c], or [b, d].
      permutation: int[h * w].
    """
    return x.reshape(len(x), permutation.size, -1)[:, permutation].reshape(x.shape)


def rotated(
    source: Dataset,
    *,
    tasks: int = 20,
    batch_size: int,
    epochs: int = 1,
    drop_last: bool = False,
    label_noise: float = 0.0,
    imbalance: float = 1.0,
    groups: int | None = None,
    group_spread: float = 0.5,
) -> Stream:
    """Each task shows the images rotated by a random angle of its own, uniform in [0, 180) degrees.

    Args:
      source: the data: square images.
      tasks: number of domains.
      batch_size: stream examples a step.
      epochs: passes over each task.
      drop_last: drop an epoch's incomplete last batch instead of padding it.
      label_noise, imbalance: of training labels and classes, as for ``class_il``.
      groups: task t is of group t mod groups, and a group has angles about a centre of its own;
        None: all are independent.
      group_spread: largest distance from a centre, as a share of half the gap between two, in
        [0, 1].

    Returns:
      The stream; ``contexts`` are the fixed-point matrices of the rotations, int32[tasks, 6], see
      ``rotation``. Counter-clockwise, nearest neighbour, zero outside.

    Raises:
      InputError: if the examples are not square images, tasks or epochs is below 1, a batch is
        larger than the data, or it is not sound.

    Source: Lopez-Paz and Ranzato 2017; aimagelab/mammoth, datasets/rot_mnist.py and
      datasets/transforms/rotation.py (20 tasks, batches of 128, the last one kept).
    Departs: the angles come from the stream's own key, not from a global generator that training
      shares.
    """
    source, tasks = checked(source), whole("tasks", tasks, 1)
    side = check_square(source)

    known = check_planted(groups, group_spread, tasks)

    def domains(key: Array) -> np.ndarray:
        if known is None:
            share = random_bits(key, (tasks,)) / 2.0**32
            return rotation(180 * share, side)
        return rotation(near_angles(key, tasks, known, group_spread), side)

    sizes = tasks, batch_size, epochs, drop_last, label_noise, imbalance
    stream = _domain_il(source, "rotated", domains, rotate, *sizes)
    return _with_groups(stream, known, group_spread)


SYMMETRIES: tuple[Callable[[np.ndarray], np.ndarray], ...] = (
    lambda image: image,
    np.rot90,
    np.flipud,
    np.transpose,
    lambda image: np.rot90(image, 2),
    lambda image: np.rot90(image, 3),
    np.fliplr,
    lambda image: np.rot90(image, 2).T,
)
"""The eight symmetries of a square, in the order of the tasks of ``dihedral``."""


def dihedral(
    source: Dataset,
    *,
    tasks: int = 5,
    batch_size: int,
    epochs: int = 1,
    drop_last: bool = False,
    label_noise: float = 0.0,
    imbalance: float = 1.0,
) -> Stream:
    """Each task shows the images turned or mirrored in its own way, with no pixel lost.

    In order: as they are, a quarter turn to the left, upside down, transposed, half a turn, a
    quarter turn to the right, mirrored, transposed along the other diagonal.

    Args:
      source: the data: square images.
      tasks: number of domains, at most 8.
      batch_size: stream examples a step.
      epochs: passes over each task.
      drop_last: drop an epoch's incomplete last batch instead of padding it.
      label_noise, imbalance: of training labels and classes, as for ``class_il``.

    Returns:
      The stream; ``contexts`` are the permutations of the pixels, int32[tasks, h * w].

    Raises:
      InputError: if the examples are not square images, there are more than 8 tasks, tasks or
        epochs is below 1, a batch is larger than the data, or it is not sound.
    """
    source, tasks = checked(source), whole("tasks", tasks, 1, len(SYMMETRIES))
    side = check_square(source)
    pixels = np.arange(side**2, dtype=np.int32).reshape(side, side)
    contexts = np.stack([symmetry(pixels).ravel() for symmetry in SYMMETRIES[:tasks]])
    sizes = tasks, batch_size, epochs, drop_last, label_noise, imbalance
    return _domain_il(source, "dihedral", lambda key: contexts, permute, *sizes)


def _with_groups(stream: Stream, groups: int | None, spread: float) -> Stream:
    """The same, which says that its tasks are in groups, if they are."""
    if groups is None:
        return stream
    describe = {**stream.describe, "groups": groups, "group_spread": spread}
    return stream._replace(name=f"{stream.name}, {groups} groups", describe=describe)


def _domain_il(
    source: Dataset,
    domain: str,
    domains: Callable[[Array], np.ndarray],
    transform: Callable[[Array, Array], Array],
    tasks: int,
    batch_size: int,
    epochs: int,
    drop_last: bool,
    label_noise: float,
    imbalance: float,
) -> Stream:
    """``domains``: key -> the contexts of all tasks, [tasks, ...]."""
    batch_size, epochs = whole("batch_size", batch_size, 1), whole("epochs", epochs, 1)
    drop_last = yes_no("drop_last", drop_last)
    kept, default_epochs = kept_counts(class_counts(source)[0], imbalance), epochs
    n = int(kept.sum())
    check_batch(batch_size, n, n, drop_last)
    rows = num_rows(n, batch_size, drop_last)
    every = np.arange(source.test.y.size, dtype=np.int32)

    def schedule(key: Array, *, epochs: int | None = None, shuffle: int = 0) -> Schedule:
        passes = default_epochs if epochs is None else epochs
        key_shuffle = jax.random.fold_in(jax.random.fold_in(key, ScheduleKey.SHUFFLE), shuffle)
        num_steps = np.full(tasks, passes * rows, np.int32)
        there = kept_examples(key, source.train.y, kept)

        def make_rows(task: int) -> Rows:
            place = argsort(jax.random.fold_in(key_shuffle, task), (passes, there.size))
            index = np.concatenate(
                [table(order[there[order]], rows, batch_size, drop_last) for order in place]
            )
            of_task = np.full(len(index), task, np.int32)
            return Rows(
                index=index,
                task=of_task,
                epoch=epochs_of([rows], [passes]),
                labelled=np.ones(index.shape, bool),
                context=of_task,
            )

        return Schedule(
            num_seen=num_steps,
            num_labelled=num_steps,
            task_classes=np.ones((tasks, source.num_classes), bool),
            test_index=np.tile(every, (tasks, 1)),
            contexts=domains(jax.random.fold_in(key, ScheduleKey.DOMAINS)),
            test_context=np.arange(tasks, dtype=np.int32),
            make_rows=make_rows,
        )

    stream = Stream(
        name=f"{source.name}, {tasks} {domain} tasks x {source.num_classes} classes"
        + told(kept, imbalance),
        source=source,
        num_tasks=tasks,
        batch_size=batch_size,
        schedule=schedule,
        describe={
            "scenario": "domain_il",
            "domain": domain,
            "tasks": tasks,
            "batch_size": batch_size,
            "epochs": epochs,
            "drop_last": drop_last,
            "imbalance": imbalance,
        },
        transform=transform,
    )
    return with_label_noise(stream, label_noise)
