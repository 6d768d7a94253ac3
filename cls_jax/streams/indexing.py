"""Pieces that the scenarios share: shuffles, rows of a table, splits of the classes, checks.

All of it runs on the host in NumPy; randomness comes from JAX keys, so it is the same everywhere.
"""

from collections.abc import Sequence
from typing import Literal

import jax
import numpy as np

from cls_jax.core.checks import whole_or_wholes
from cls_jax.core.errors import InputError
from cls_jax.core.types import Array
from cls_jax.data.dataset import Dataset

_bits = jax.jit(jax.random.bits, static_argnums=1)


def random_bits(key: Array, shape: tuple[int, ...]) -> np.ndarray:
    """uint32[shape]: those of ``jax.random.bits``, by one program a shape in place of its four."""
    return np.asarray(_bits(key, shape))


def argsort(key: Array, shape: tuple[int, ...]) -> np.ndarray:
    """Independent uniform permutations along the last axis, int[shape].

    Leading rows do not depend on how many follow. It is the stable order of random bits; whole
    numbers, the bits above and their place below, sort ten times faster than NumPy's argsort.
    """
    bits = random_bits(key, shape)
    both = bits.astype(np.uint64) << 32 | np.arange(shape[-1], dtype=np.uint64)
    both.sort(axis=-1)
    return (both & 0xFFFFFFFF).astype(np.int64)


def num_rows(n: int, batch_size: int, drop_last: bool) -> int:
    """Batches that ``n`` examples make."""
    return n // batch_size if drop_last else -(-n // batch_size)


def table(index: np.ndarray, rows: int, batch_size: int, drop_last: bool) -> np.ndarray:
    """int32[rows, batch_size]: the numbers in order, then -1."""
    if drop_last:
        index = index[: index.size // batch_size * batch_size]
    filled = np.full(rows * batch_size, -1, np.int32)
    filled[: index.size] = index
    return filled.reshape(rows, batch_size)


def epochs_of(rows: Sequence[int], passes: Sequence[int]) -> np.ndarray:
    """int32[num_steps]: the pass of each row; task t has ``passes[t]`` of ``rows[t]`` rows."""
    pairs = zip(rows, passes, strict=True)
    return np.concatenate([np.repeat(np.arange(n, dtype=np.int32), some) for some, n in pairs])


def members(labels: np.ndarray, classes: np.ndarray, width: int) -> np.ndarray:
    """int32[num_tasks, width]: the examples of each row of ``classes`` bool[num_tasks, C], -1."""
    numbers = [np.flatnonzero(row[labels]) for row in classes]
    return np.concatenate([table(n, 1, width, False) for n in numbers])


def class_groups(
    key: Array, sizes: tuple[int, ...], order: Literal["shuffled", "label", "1993"]
) -> np.ndarray:
    """bool[num_tasks, num_classes]: so many a task, in an order of the key, of labels, or fixed.

    Source of "1993": iCaRL's and UCIR's class order, NumPy's legacy generator with that seed.
    """
    num_classes = sum(sizes)
    if order == "shuffled":
        place = argsort(key, (num_classes,))
    elif order == "1993":
        place = np.random.RandomState(1993).permutation(num_classes)
    else:
        place = np.arange(num_classes)
    task_of_class = np.empty(num_classes, int)
    task_of_class[place] = np.repeat(np.arange(len(sizes)), sizes)
    return task_of_class == np.arange(len(sizes))[:, None]


def totals(
    of_class: np.ndarray, sizes: tuple[int, ...], shuffled: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Sum of ``of_class`` over each task, int[num_tasks] twice: the least and the most.

    They are equal in the order of the labels; else some order of the classes reaches either.
    """
    if shuffled:
        rising = np.sort(of_class)
        ends = rising, rising[::-1]
        least, most = (np.array([end[:size].sum() for size in sizes]) for end in ends)
        return least, most
    exact = np.array([part.sum() for part in np.split(of_class, np.cumsum(sizes)[:-1])])
    return exact, exact


def class_counts(source: Dataset) -> tuple[np.ndarray, np.ndarray]:
    """Training and test examples of each class, int[num_classes] each."""
    train, test = (np.bincount(y, minlength=source.num_classes) for _, y in source[1:3])
    return train, test


def task_sizes(
    source: Dataset, tasks: int | tuple[int, ...], base_classes: int | None = None
) -> tuple[int, ...]:
    """Number of classes of each task.

    Args:
      source: the data.
      tasks: how many, or the classes of each.
      base_classes: of the first task, beside which the others have equally many.

    Raises:
      InputError: if the classes cannot be split so.
    """
    num_classes, tasks = source.num_classes, whole_or_wholes("tasks", tasks)
    if base_classes is not None:
        if not isinstance(tasks, int):
            raise InputError(
                f"base_classes={base_classes} and tasks={tasks} both say how many classes "
                "the first task has; give tasks as one number"
            )
        rest, more = num_classes - base_classes, tasks - 1
        if base_classes < 1 or more < 1 or rest < 1 or rest % more:
            fits = [t + 1 for t in range(1, rest + 1) if rest % t == 0]
            remedy = f"use tasks from {fits}" if base_classes > 0 and fits else "give other numbers"
            raise InputError(
                f"base_classes={base_classes} leaves {rest} of the {num_classes} classes of "
                f"{source.name} to {more} further tasks, which is no equal split; {remedy}"
            )
        return (base_classes,) + (rest // more,) * more
    if isinstance(tasks, int):
        if tasks < 1 or num_classes % tasks:
            fits = [t for t in range(1, num_classes + 1) if num_classes % t == 0]
            raise InputError(
                f"tasks={tasks} does not divide the {num_classes} classes of {source.name}; "
                f"use one of {fits} or list the classes of each task"
            )
        return (num_classes // tasks,) * tasks
    if any(size < 1 for size in tasks) or sum(tasks) != num_classes:
        raise InputError(
            f"tasks={tasks} adds up to {sum(tasks)} classes but {source.name} has "
            f"{num_classes}; give positive sizes that add up to {num_classes}"
        )
    return tasks


def check_batch(
    batch_size: int,
    least: np.ndarray | int,
    most: np.ndarray | int,
    drop_last: bool,
    what: str = "a task",
) -> None:
    """A task smaller than a batch is padded; a batch that no task fills is refused.

    Args:
      batch_size: as asked for.
      least, most: examples of each task, the fewest and the most that a key can make.
      drop_last: nothing is padded, so the smallest task must fill a batch.
      what: the user calls a task.

    Raises:
      InputError: naming the largest size that fits.
    """
    fits = int(np.min(least) if drop_last else np.max(most))
    if batch_size > fits:
        nothing = ", of which drop_last would leave nothing" if drop_last else ""
        raise InputError(
            f"batch_size={batch_size} is larger than {what} of {fits} examples{nothing}; "
            f"use at most {fits}"
        )
