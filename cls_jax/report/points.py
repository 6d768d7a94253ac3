"""What a run tells as numbers, each under the name that every log gives it.

method/value/seed0/train/loss by updates, method/value/seed0/answer/class-IL/task_1 by tasks learned
(0: before training); the value of a sweep is left out where there is none.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from cls_jax.training.events import Evaluated, Progress, Started


class Point(NamedTuple):
    """One number of one trial.

    Attributes:
      value, seed: of the trial, the first as its number.
      names: (phase, metric), or (network, scenario, task).
      step: updates made, or tasks learned.
      number: a mean over the steps of a chunk, or an accuracy.
    """

    value: int
    seed: int
    names: tuple[str, ...]
    step: int
    number: float


def points(event: Progress | Evaluated, started: Started) -> Iterator[Point]:
    """Every number that an event tells, trial by trial."""
    values = event.values or (0,) * len(event.seeds)
    for trial, (value, seed) in enumerate(zip(values, event.seeds, strict=True)):
        if isinstance(event, Progress):
            metrics = event.of_trial[trial] if event.of_trial else event.metrics
            for name, number in metrics.items():
                yield Point(value, seed, (event.phase, name), event.step, float(number))
            continue
        for view, of_view in zip(started.views, event.matrix[trial], strict=False):
            for scenario, rows in zip(started.scenarios, of_view, strict=False):
                row = rows[event.task + 1]
                for task in np.flatnonzero(np.isfinite(row)):
                    names = view, scenario, f"task_{task + 1}"
                    yield Point(value, seed, names, event.task + 1, float(row[task]))


def trial_names(started: Started, value: int, seed: int) -> tuple[str, ...]:
    """(method, value, seed0), or (method, seed0) where there is no sweep."""
    return tuple(filter(None, (started.method, started.labels[value], f"seed{seed}")))
