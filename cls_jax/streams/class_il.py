"""Split streams: the classes arrive a few at a time (class-IL and task-IL alike).

One stream serves both scenarios. What makes the difference is whether the answer may use the task:
``evaluate`` takes both scores, and a method says in its Needs whether training tells it the task.
"""

from typing import Literal

import jax
import numpy as np

from cls_jax.checks import check_range
from cls_jax.streams.stream import Examples, Schedule, Source, Stream
from cls_jax.types import Array, InputError

_ORDER, _SHUFFLE, _LABELS = range(3)  # purposes of the key


def class_il(
    source: Source,
    *,
    tasks: int | tuple[int, ...],
    batch_size: int,
    epochs: int = 1,
    class_order: Literal["shuffled", "label"] = "shuffled",
    drop_last: bool = False,
    label_fraction: float = 1.0,
) -> Stream:
    """The classes of ``source`` split into tasks; each task is shuffled and seen ``epochs`` times.

    Args:
      source: the data.
      tasks: number of equal tasks, or the number of classes of each task, e.g. (50, 10, 10).
      batch_size: stream examples a step.
      epochs: passes over each task; 1 is the online protocol.
      class_order: "shuffled" draws the order of the classes from the key; "label" keeps 0, 1, 2, …
      drop_last: drop an epoch's incomplete last batch instead of padding it.
      label_fraction: probability that a batch keeps its labels, in (0, 1].

    Returns:
      The stream. Steps a task are counted for the largest task that the class order can make, so
      shapes do not depend on the key; a smaller task ends with empty batches.

    Raises:
      InputError: if the classes cannot be split so, or a batch is larger than a task.

    Source: van de Ven and Tolias 2019 (class-IL, task-IL); batch-wise label loss as in
    phquang/DualNet (semi-supervised script).
    """
    sizes = _task_sizes(source, tasks)
    _check(source, sizes, batch_size, epochs, class_order, label_fraction)
    num_tasks, num_classes = len(sizes), source.num_classes
    shuffled = class_order == "shuffled"
    rows_of = [_rows(n, batch_size, drop_last) for n in _largest(source.train, sizes, shuffled)]
    test_width = max(_largest(source.test, sizes, shuffled))
    labels, test_labels = source.train.y, source.test.y
    default_epochs = epochs

    def schedule(key: Array, *, epochs: int | None = None, shuffle: int = 0) -> Schedule:
        passes = default_epochs if epochs is None else epochs
        order = np.arange(num_classes)
        if shuffled:
            order = _argsort(jax.random.fold_in(key, _ORDER), (num_classes,))
        groups = np.split(order, np.cumsum(sizes)[:-1])
        key_shuffle = jax.random.fold_in(jax.random.fold_in(key, _SHUFFLE), shuffle)
        place = _argsort(key_shuffle, (passes, labels.size))  # a fresh permutation for each epoch
        tables = []
        for group, rows in zip(groups, rows_of, strict=True):
            member = np.isin(labels, group)
            for permutation in place:
                tables.append(_table(permutation[member[permutation]], rows, batch_size, drop_last))
        index = np.concatenate(tables)
        bits = jax.random.uniform(jax.random.fold_in(key_shuffle, _LABELS), (len(index), 1))
        tests = [np.flatnonzero(np.isin(test_labels, group)) for group in groups]
        return Schedule(
            index=index,
            task=np.repeat(np.arange(num_tasks, dtype=np.int32), np.multiply(rows_of, passes)),
            labelled=np.broadcast_to(np.asarray(bits) < label_fraction, index.shape).copy(),
            task_classes=np.stack([np.isin(np.arange(num_classes), group) for group in groups]),
            test_index=np.concatenate([_table(t, 1, test_width, False) for t in tests]),
        )

    per_task = str(sizes[0]) if len(set(sizes)) == 1 else "+".join(map(str, sizes))
    return Stream(
        name=f"{source.name}, {num_tasks} tasks x {per_task} classes",
        source=source,
        num_tasks=num_tasks,
        batch_size=batch_size,
        schedule=schedule,
        describe={
            "scenario": "class_il",
            "tasks": sizes,
            "batch_size": batch_size,
            "epochs": epochs,
            "class_order": class_order,
            "drop_last": drop_last,
            "label_fraction": label_fraction,
        },
    )


def _argsort(key: Array, shape: tuple[int, ...]) -> np.ndarray:
    """Independent uniform permutations along the last axis."""
    return np.argsort(np.asarray(jax.random.bits(key, shape)), axis=-1, kind="stable")


def _rows(n: int, batch_size: int, drop_last: bool) -> int:
    return n // batch_size if drop_last else -(-n // batch_size)


def _table(index: np.ndarray, rows: int, batch_size: int, drop_last: bool) -> np.ndarray:
    """int32[rows, batch_size]: the numbers in order, then -1."""
    if drop_last:
        index = index[: index.size // batch_size * batch_size]
    table = np.full(rows * batch_size, -1, np.int32)
    table[: index.size] = index
    return table.reshape(rows, batch_size)


def _counts(examples: Examples, num_classes: int) -> np.ndarray:
    return np.bincount(examples.y, minlength=num_classes)


def _largest(examples: Examples, sizes: tuple[int, ...], shuffled: bool) -> list[int]:
    """Examples of each task: exactly in label order, else the most that any order can give."""
    counts = _counts(examples, sum(sizes))
    if shuffled:
        counts = np.sort(counts)[::-1]
        return [int(counts[:size].sum()) for size in sizes]
    return [int(part.sum()) for part in np.split(counts, np.cumsum(sizes)[:-1])]


def _task_sizes(source: Source, tasks: int | tuple[int, ...]) -> tuple[int, ...]:
    num_classes = source.num_classes
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
            f"tasks={tuple(tasks)} adds up to {sum(tasks)} classes but {source.name} has "
            f"{num_classes}; give positive sizes that add up to {num_classes}"
        )
    return tuple(tasks)


def _check(source, sizes, batch_size, epochs, class_order, label_fraction) -> None:
    check_range("batch_size", batch_size, 1)
    check_range("epochs", epochs, 1)
    check_range("label_fraction", label_fraction, 0, 1, above=True)
    if class_order not in ("shuffled", "label"):
        raise InputError(f"class_order must be 'shuffled' or 'label', got {class_order!r}")
    for split, examples in (("train", source.train), ("test", source.test)):
        empty = np.flatnonzero(_counts(examples, source.num_classes) == 0)
        if empty.size:
            raise InputError(
                f"the {split} split of {source.name} has no example of class {empty[0]} "
                f"({source.label_names[empty[0]]}); every class needs one in both splits"
            )
    counts = _counts(source.train, source.num_classes)
    if class_order == "shuffled":
        smallest = int(np.sort(counts)[: min(sizes)].sum())
    else:
        smallest = min(int(part.sum()) for part in np.split(counts, np.cumsum(sizes)[:-1]))
    if batch_size > smallest:
        raise InputError(
            f"batch_size={batch_size} is larger than a task of {smallest} examples; "
            f"use at most {smallest}"
        )
