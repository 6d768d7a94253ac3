"""Labels that are wrong: a share of the training labels of a stream is drawn anew.

Which ones and into what is drawn from the seed's key and is part of the schedule, as the order of
examples is: so every method, every pass, both ways that examples reach the device and a run that
goes on see the same labels. Test labels, also of a validation split, stay as they are.
"""

from typing import Any

import jax
import numpy as np

from cls_jax.core.checks import check_range, real
from cls_jax.core.keys import ScheduleKey
from cls_jax.core.types import Array
from cls_jax.streams.stream import Rows, Schedule, Stream


def with_label_noise(stream: Stream, label_noise: float) -> Stream:
    """The same examples, each of whose labels is drawn anew with probability ``label_noise``.

    It becomes any class of its task, its own among them: of k classes (1 - 1/k) of those drawn are
    wrong. An example that comes in several tasks is drawn in all of them or in none.

    Args:
      stream: any without noise.
      label_noise: in [0, 1].

    Raises:
      InputError: for another number.

    Source: Sarfraz et al. 2023 (ESMER), its noisy CIFAR sets: after the split into tasks, among the
      task's classes.
    Departs: drawn from the seed's key; the code's noise is the same for all seeds.
    """
    label_noise = real("label_noise", label_noise)
    check_range("label_noise", label_noise, 0, 1)
    if label_noise == 0:
        return stream
    labels = stream.source.train.y

    def schedule(key: Array, **how: Any) -> Schedule:
        given = stream.schedule(key, **how)
        key_noise = jax.random.fold_in(key, ScheduleKey.LABEL_NOISE)
        share, place = np.asarray(jax.random.uniform(key_noise, (2, labels.size)))

        def make_rows(task: int) -> Rows:
            rows, classes = given.rows(task), np.flatnonzero(given.task_classes[task])
            other = classes[(place * np.float32(classes.size)).astype(int)]
            y = np.where(share < label_noise, other, labels).astype(np.int32)
            return rows.replace(y=y[rows.index])

        return given.replace(make_rows=make_rows)

    return stream._replace(
        name=f"{stream.name}, {100 * label_noise:g} % of the labels drawn anew",
        schedule=schedule,
        describe={**stream.describe, "label_noise": label_noise},
    )
