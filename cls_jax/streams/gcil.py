"""Generalised class-IL: phases with random classes that come back, in random proportions."""

from typing import Literal

import jax
import numpy as np

from cls_jax.core.checks import check_literals, whole, yes_no
from cls_jax.core.errors import InputError
from cls_jax.core.keys import PhaseKey, ScheduleKey
from cls_jax.core.types import Array
from cls_jax.data.checked import checked
from cls_jax.data.dataset import Dataset
from cls_jax.streams.indexing import (
    argsort,
    check_batch,
    class_counts,
    epochs_of,
    members,
    num_rows,
    random_bits,
    table,
)
from cls_jax.streams.stream import Rows, Schedule, Stream, schedule_of

_LONGTAIL = 0.984  # weight of a class over that of the class before


def gcil(
    source: Dataset,
    *,
    tasks: int = 20,
    batch_size: int = 32,
    samples_per_phase: int = 1000,
    max_classes: int = 50,
    distribution: Literal["uniform", "longtail"] = "uniform",
    epochs: int = 1,
    drop_last: bool = True,
) -> Stream:
    """Each phase draws how many classes it has, then which, then how many examples of each.

    The number is uniform from 1 to max_classes (or to the classes that have examples left), the
    classes are uniform without replacement, and ``samples_per_phase`` draws among them have weights
    1 (uniform) or 0.984^class (longtail); they are redrawn until every class occurs. A class gives
    what it has left when more is asked. No image is used in two phases.

    Args:
      source: the data.
      tasks: number of phases, as the paper calls its tasks.
      batch_size: stream examples a step.
      samples_per_phase: examples of a phase, unless a class runs out.
      max_classes: most classes of a phase; never more than there are.
      distribution: "uniform" or "longtail".
      epochs: passes over each phase; the papers use 100.
      drop_last: drop an epoch's incomplete last batch instead of padding it.

    Returns:
      The stream. ``task_classes[k]`` are the classes of phase k. Its test set is that of all
      classes met so far, so the published score, the mean over these nested sets, is the mean of
      the last row of the accuracy matrix; its last entry is the accuracy on all classes met. The
      task-IL accuracy means nothing here. A phase whose classes ran out ends with empty batches.

    Raises:
      InputError: if the data is not sound, the phases ask for more examples than there are, a
        batch is larger than a phase, or draws would seldom reach every class.

    Source: Mi et al. 2020 (GCIL); NeurAI-Lab/CLS-ER, datasets/gcil_cifar100.py.
    Departs: labels are not renumbered in order of appearance, which only renames them. Every seed
      has its own phases; the official data seed is 1993 for all runs.
    """
    source, drop_last = checked(source), yes_no("drop_last", drop_last)
    tasks, batch_size = whole("tasks", tasks, 1), whole("batch_size", batch_size, 1)
    samples_per_phase = whole("samples_per_phase", samples_per_phase, 1)
    max_classes, epochs = whole("max_classes", max_classes, 1), whole("epochs", epochs, 1)
    check_literals(gcil, {"distribution": distribution}, "{name} must be {either}, got {value!r}")
    check_batch(batch_size, samples_per_phase, samples_per_phase, drop_last, "a phase")
    counts, _ = class_counts(source)
    labels, num_classes, default_epochs = source.train.y, source.num_classes, epochs
    if tasks * samples_per_phase > labels.size:
        raise InputError(
            f"tasks={tasks} of samples_per_phase={samples_per_phase} ask for more than the "
            f"{labels.size} training examples of {source.name}; use at most "
            f"{labels.size // tasks} samples or fewer tasks"
        )
    max_classes = min(max_classes, num_classes)
    weights = (_LONGTAIL if distribution == "longtail" else 1.0) ** np.arange(num_classes)
    _check_reach(weights, samples_per_phase, max_classes)
    rows = num_rows(samples_per_phase, batch_size, drop_last)

    def phase_counts(key: Array, left: np.ndarray) -> np.ndarray:
        """Examples of each class in one phase, int[num_classes]."""
        filled = np.flatnonzero(left)
        most = min(filled.size, max_classes)
        number = int(jax.random.randint(jax.random.fold_in(key, PhaseKey.NUMBER), (), 1, most + 1))
        order = argsort(jax.random.fold_in(key, PhaseKey.CLASSES), (num_classes,))
        chosen = order[left[order] > 0][:number]
        edges = np.cumsum(weights[chosen])
        taken = np.zeros(num_classes, int)
        attempt = 0
        while np.count_nonzero(taken) < number:
            key_draws = jax.random.fold_in(jax.random.fold_in(key, PhaseKey.DRAWS), attempt)
            share = random_bits(key_draws, (samples_per_phase,)) / 2.0**32
            draws = chosen[np.searchsorted(edges / edges[-1], share, side="right")]
            taken = np.bincount(draws, minlength=num_classes)
            attempt += 1
        return np.minimum(taken, left)

    def draw(key: Array) -> tuple[np.ndarray, np.ndarray]:
        """Classes of each phase, bool[tasks, C], and the phase of each example, -1 for unused."""
        images = argsort(jax.random.fold_in(key, ScheduleKey.IMAGES), (labels.size,))
        of_class = [images[labels[images] == label] for label in range(num_classes)]
        used = np.zeros(num_classes, int)
        classes, phase = np.zeros((tasks, num_classes), bool), np.full(labels.size, -1)
        for k in range(tasks):
            key_phase = jax.random.fold_in(jax.random.fold_in(key, ScheduleKey.PHASES), k)
            taken = phase_counts(key_phase, counts - used)
            for label in np.flatnonzero(taken):
                phase[of_class[label][used[label] :][: taken[label]]] = k
            classes[k] = taken > 0
            used += taken
        return classes, phase

    def schedule(key: Array, *, epochs: int | None = None, shuffle: int = 0) -> Schedule:
        passes = default_epochs if epochs is None else epochs
        classes, phase = draw(key)
        key_shuffle = jax.random.fold_in(key, ScheduleKey.PHASE_SHUFFLE)
        key_shuffle = jax.random.fold_in(key_shuffle, shuffle)
        tables = []
        for k in range(tasks):
            mine = np.flatnonzero(phase == k)
            place = argsort(jax.random.fold_in(key_shuffle, k), (passes, samples_per_phase))
            tables += [
                table(mine[order[order < mine.size]], rows, batch_size, drop_last)
                for order in place
            ]
        index = np.concatenate(tables)
        met = np.logical_or.accumulate(classes, axis=0)
        return schedule_of(
            Rows(
                index=index,
                task=np.repeat(np.arange(tasks, dtype=np.int32), passes * rows),
                epoch=epochs_of([rows] * tasks, [passes] * tasks),
                labelled=np.ones(index.shape, bool),
            ),
            task_classes=classes,
            test_index=members(source.test.y, met, source.test.y.size),
        )

    return Stream(
        name=f"{source.name}, {tasks} phases x 1 to {max_classes} classes",
        source=source,
        num_tasks=tasks,
        batch_size=batch_size,
        schedule=schedule,
        describe={
            "scenario": "gcil",
            "tasks": tasks,
            "batch_size": batch_size,
            "samples_per_phase": samples_per_phase,
            "max_classes": max_classes,
            "distribution": distribution,
            "epochs": epochs,
            "drop_last": drop_last,
        },
    )


def _check_reach(weights: np.ndarray, samples: int, max_classes: int) -> None:
    """Raises InputError unless a phase's draws reach all its classes with probability 0.1 or more.

    By the union bound, for the worst set of classes: the lightest with the heaviest.
    """
    heavy = np.sort(weights)[::-1]
    rarest = heavy[-1] / (heavy[-1] + heavy[: max_classes - 1].sum())
    if max_classes * (1 - rarest) ** samples > 0.9:
        raise InputError(
            f"samples_per_phase={samples} would seldom reach every one of {max_classes} classes; "
            "use more samples or a smaller max_classes"
        )
