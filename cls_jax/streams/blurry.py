"""Blurry boundaries: each task has its major classes, and a few examples of all the others."""

from typing import Literal

import jax
import numpy as np

from cls_jax.core.checks import check_literals, check_range, real, whole, yes_no
from cls_jax.core.errors import InputError
from cls_jax.core.keys import ScheduleKey
from cls_jax.core.types import Array
from cls_jax.data.checked import checked
from cls_jax.data.dataset import Dataset
from cls_jax.streams.indexing import (
    argsort,
    check_batch,
    class_counts,
    class_groups,
    epochs_of,
    members,
    num_rows,
    table,
    task_sizes,
    totals,
)
from cls_jax.streams.stream import Rows, Schedule, Stream, schedule_of


def blurry(
    source: Dataset,
    *,
    tasks: int | tuple[int, ...],
    batch_size: int,
    epochs: int = 1,
    blur: float = 0.1,
    class_order: Literal["shuffled", "label"] = "shuffled",
    drop_last: bool = False,
) -> Stream:
    """The classes split into tasks as in ``class_il``, but a share of each is spread over the rest.

    Of the n examples of a class, floor(blur n) drawn at random are minor: they are dealt out to the
    other tasks, equally many to each, what is left over to tasks drawn at random. Every example is
    seen once in every epoch, always in the same task.

    Args:
      source: the data.
      tasks: number of equal tasks, or the number of major classes of each task.
      batch_size: stream examples a step.
      epochs: passes over each task.
      blur: share of each class that is minor, in [0, 1); 0 is class-IL.
      class_order: "shuffled" draws the order of the classes from the key; "label" keeps 0, 1, 2, …
      drop_last: drop an epoch's incomplete last batch instead of padding it.

    Returns:
      The stream. ``task_classes`` and the test sets are those of the major classes. Steps a task
      are counted for the largest task that the key can make.

    Raises:
      InputError: if the data is not sound, the classes cannot be split so, blur is outside [0, 1)
        or has only one task to blur, or a batch is larger than every task (with ``drop_last``: than
        any, which would then teach nothing).

    Source: Bang et al. 2021 (Rainbow Memory), Blurry-M with M = 100 blur;
      clovaai/rainbow-memory, collections/.
    Departs: exactly floor(blur n) of each class leave its task. The published lists of CIFAR-10
      return a part of the minor examples to their own task: at M = 10 and five tasks about 8 % of
      a task are foreign, not 10 %.
    """
    source, drop_last = checked(source), yes_no("drop_last", drop_last)
    sizes = task_sizes(source, tasks)
    num_tasks, shuffled = len(sizes), class_order == "shuffled"
    batch_size, epochs = whole("batch_size", batch_size, 1), whole("epochs", epochs, 1)
    blur = real("blur", blur)
    check_range("blur", blur, 0, 1, below=True)
    check_literals(blurry, {"class_order": class_order}, "{name} must be {either}, got {value!r}")
    if blur > 0 and num_tasks == 1:
        raise InputError(f"blur is {blur} but there is only one task; give tasks at least 2")
    counts, test_counts = class_counts(source)
    minor = np.floor(np.round(blur * counts, 6)).astype(int)  # 0.29 of 100 is 29
    others = max(num_tasks - 1, 1)
    share, most_share = minor // others, -(-minor // others)  # of a class in each other task
    least = share.sum() + totals(counts - minor - share, sizes, shuffled)[0]
    most = most_share.sum() + totals(counts - minor - most_share, sizes, shuffled)[1]
    check_batch(batch_size, least, most, drop_last)
    rows_of = [num_rows(int(n), batch_size, drop_last) for n in most]
    test_width = int(totals(test_counts, sizes, shuffled)[1].max())
    labels, default_epochs = source.train.y, epochs

    def task_of_example(key: Array, classes: np.ndarray) -> np.ndarray:
        """int[n]"""
        own = classes.argmax(0)
        turns = argsort(jax.random.fold_in(key, ScheduleKey.TURNS), classes.shape[::-1])
        turns = np.stack([turn[turn != t] for turn, t in zip(turns, own, strict=True)])
        task = own[labels]
        shuffled_numbers = argsort(jax.random.fold_in(key, ScheduleKey.MINOR), (labels.size,))
        for label in range(source.num_classes):
            dealt = shuffled_numbers[labels[shuffled_numbers] == label][: minor[label]]
            task[dealt] = np.resize(turns[label], dealt.size)  # one to each, again and again
        return task

    def schedule(key: Array, *, epochs: int | None = None, shuffle: int = 0) -> Schedule:
        passes = default_epochs if epochs is None else epochs
        classes = class_groups(jax.random.fold_in(key, ScheduleKey.CLASS_ORDER), sizes, class_order)
        task = task_of_example(key, classes)
        key_shuffle = jax.random.fold_in(jax.random.fold_in(key, ScheduleKey.SHUFFLE), shuffle)
        place = argsort(key_shuffle, (passes, labels.size))
        index = np.concatenate(
            [
                table(order[task[order] == t], rows, batch_size, drop_last)
                for t, rows in enumerate(rows_of)
                for order in place
            ]
        )
        return schedule_of(
            Rows(
                index=index,
                task=np.repeat(np.arange(num_tasks, dtype=np.int32), np.multiply(rows_of, passes)),
                epoch=epochs_of(rows_of, [passes] * num_tasks),
                labelled=np.ones(index.shape, bool),
            ),
            task_classes=classes,
            test_index=members(source.test.y, classes, test_width),
        )

    per_task = str(sizes[0]) if len(set(sizes)) == 1 else "+".join(map(str, sizes))
    return Stream(
        name=f"{source.name}, {num_tasks} tasks blurred by {blur:g} x {per_task} classes",
        source=source,
        num_tasks=num_tasks,
        batch_size=batch_size,
        schedule=schedule,
        describe={
            "scenario": "blurry",
            "tasks": sizes,
            "batch_size": batch_size,
            "epochs": epochs,
            "blur": blur,
            "class_order": class_order,
            "drop_last": drop_last,
        },
    )
