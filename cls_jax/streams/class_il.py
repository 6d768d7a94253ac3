"""Split streams: the classes arrive a few at a time (class-IL and task-IL alike).

One stream serves both scenarios. What makes the difference is whether the answer may use the task:
``evaluate`` takes both scores, and a method says in its Needs whether training tells it the task.
"""

from typing import Literal

import jax
import numpy as np

from cls_jax.core.checks import check_literals, check_range, real, whole, whole_or_none, yes_no
from cls_jax.core.keys import ScheduleKey, ShuffleKey
from cls_jax.core.types import Array
from cls_jax.data.checked import checked
from cls_jax.data.dataset import Dataset
from cls_jax.streams.imbalance import kept_counts, kept_examples, told
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
from cls_jax.streams.label_noise import with_label_noise
from cls_jax.streams.stream import Rows, Schedule, Stream, schedule_of


def class_il(
    source: Dataset,
    *,
    tasks: int | tuple[int, ...],
    batch_size: int,
    epochs: int = 1,
    base_classes: int | None = None,
    base_epochs: int | None = None,
    class_order: Literal["shuffled", "label", "1993"] = "shuffled",
    drop_last: bool = False,
    label_fraction: float = 1.0,
    label_noise: float = 0.0,
    imbalance: float = 1.0,
) -> Stream:
    """The classes of ``source`` split into tasks; each task is shuffled and seen ``epochs`` times.

    Args:
      source: the data.
      tasks: number of equal tasks, or the number of classes of each task, e.g. (50, 10, 10).
      batch_size: stream examples a step.
      epochs: passes over each task; 1 is the online protocol.
      base_classes: of the first task; the other ``tasks - 1`` share the rest equally.
      base_epochs: passes over the first task; as many as over the others if not given.
      class_order: "shuffled" draws the order of the classes from the key; "label" keeps 0, 1, 2, …;
        "1993" is the fixed order of iCaRL's and UCIR's tables.
      drop_last: drop an epoch's incomplete last batch instead of padding it.
      label_fraction: probability that a batch keeps its labels, in (0, 1].
      label_noise: probability that a training label is drawn anew from the classes of its task, its
        own among them, in [0, 1].
      imbalance: how many times as many examples are kept of the class with label 0 as of the last
        one, falling exponentially between them, >= 1; 1 keeps all.

    Returns:
      The stream. Steps a task are counted for the largest task that the class order can make, so
      shapes do not depend on the key; a smaller task ends with empty batches.

    Raises:
      InputError: if the data is not sound, the classes cannot be split so, or a batch is larger
        than every task (with ``drop_last``: than any, which would then teach nothing).

    Source: van de Ven and Tolias 2019 (class-IL, task-IL); batch-wise label loss as in
    phquang/DualNet (semi-supervised script); label_noise.py, imbalance.py.
    """
    source, base_classes = checked(source), whole_or_none("base_classes", base_classes)
    sizes = task_sizes(source, tasks, base_classes)
    batch_size, epochs = whole("batch_size", batch_size, 1), whole("epochs", epochs, 1)
    base_epochs = whole_or_none("base_epochs", base_epochs, 1)
    label_fraction = real("label_fraction", label_fraction)
    check_range("label_fraction", label_fraction, 0, 1, above=True)
    drop_last = yes_no("drop_last", drop_last)
    check_literals(class_il, {"class_order": class_order}, "{name} must be {either}, got {value!r}")
    shuffled = class_order != "label"
    counts, test_counts = class_counts(source)
    kept = kept_counts(counts, imbalance)
    least, most = totals(kept, sizes, shuffled)
    check_batch(batch_size, least, most, drop_last)
    rows_of = [num_rows(int(n), batch_size, drop_last) for n in most]
    test_width = int(totals(test_counts, sizes, shuffled)[1].max())
    num_tasks, default_epochs = len(sizes), epochs

    def schedule(key: Array, *, epochs: int | None = None, shuffle: int = 0) -> Schedule:
        passes = [default_epochs if epochs is None else epochs] * num_tasks
        if epochs is None and base_epochs is not None:
            passes[0] = base_epochs
        classes = class_groups(jax.random.fold_in(key, ScheduleKey.CLASS_ORDER), sizes, class_order)
        key_shuffle = jax.random.fold_in(jax.random.fold_in(key, ScheduleKey.SHUFFLE), shuffle)
        place = argsort(key_shuffle, (max(passes), source.train.y.size))  # one for each epoch
        there = kept_examples(key, source.train.y, kept)
        tables = []
        for group, rows, number in zip(classes, rows_of, passes, strict=True):
            member = group[source.train.y] & there
            for permutation in place[:number]:
                tables.append(table(permutation[member[permutation]], rows, batch_size, drop_last))
        index = np.concatenate(tables)
        labelled = np.ones(index.shape, bool)
        if label_fraction < 1:
            key_labels = jax.random.fold_in(key_shuffle, ShuffleKey.LABELS)
            draws = np.asarray(jax.random.uniform(key_labels, (len(index), 1)))
            labelled = np.broadcast_to(draws < label_fraction, index.shape).copy()
        return schedule_of(
            Rows(
                index=index,
                task=np.repeat(np.arange(num_tasks, dtype=np.int32), np.multiply(rows_of, passes)),
                epoch=epochs_of(rows_of, passes),
                labelled=labelled,
            ),
            task_classes=classes,
            test_index=members(source.test.y, classes, test_width),
        )

    per_task = str(sizes[0]) if len(set(sizes)) == 1 else "+".join(map(str, sizes))
    description = f"{num_tasks} tasks x {per_task} classes"
    if base_classes is not None:
        description = f"{base_classes} + {num_tasks - 1} x {sizes[-1]} classes"
    stream = Stream(
        name=f"{source.name}, {description}" + told(kept, imbalance),
        source=source,
        num_tasks=num_tasks,
        batch_size=batch_size,
        schedule=schedule,
        describe={
            "scenario": "class_il",
            "tasks": sizes,
            "base_classes": base_classes,
            "batch_size": batch_size,
            "epochs": epochs,
            "base_epochs": base_epochs,
            "class_order": class_order,
            "drop_last": drop_last,
            "label_fraction": label_fraction,
            "imbalance": imbalance,
        },
    )
    return with_label_noise(stream, label_noise)
