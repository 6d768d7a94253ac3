"""Accuracy matrix in, continual-learning scores out; NumPy, pure.

``a[..., i, j]`` is the accuracy on task j after training task i, float[..., T, T] in [0, 1];
leading axes (seeds, views, ...) stay. Every score but the forward transfer reads only the lower
triangle ``j <= i``, so what lies above may be NaN; a NaN inside it makes the scores that need it
NaN. With one task there is nothing to forget or transfer: those scores are then 0.
"""

from typing import NamedTuple

import numpy as np

from cls_jax.core.errors import InputError


class Summary(NamedTuple):
    """Several runs in one line; ``std`` and ``standard_error`` are NaN for a single run.

    Attributes:
      mean: of the runs.
      std: sample standard deviation (n - 1 in the denominator).
      standard_error: std / sqrt(n).
      n: how many runs.
    """

    mean: float
    std: float
    standard_error: float
    n: int


def average_accuracy(a: np.ndarray) -> np.ndarray:
    """Final accuracy, float64[...]: ``ACC = mean_j a[T-1, j]``."""
    return _checked(a)[..., -1, :].mean(-1)


def accuracy_by_task(a: np.ndarray) -> np.ndarray:
    """Accuracy on the tasks seen so far, float64[..., T]: ``A_i = mean_{j<=i} a[i, j]``."""
    a = _checked(a)
    seen = np.tri(a.shape[-1], dtype=bool)
    return np.where(seen, a, 0.0).sum(-1) / seen.sum(-1)


def average_incremental_accuracy(a: np.ndarray) -> np.ndarray:
    """The curve of ``accuracy_by_task`` in one number, float64[...]: ``AIA = mean_i A_i``."""
    return accuracy_by_task(a).mean(-1)


class OldNew(NamedTuple):
    """Accuracy on the images of all tasks but the newest, and on the newest's, float64[...]."""

    old: np.ndarray
    new: np.ndarray


def accuracy_by_phase(a: np.ndarray, test_examples: np.ndarray) -> np.ndarray:
    """Share of right answers among all test images of the tasks seen so far, float64[..., T].

    ``A_i = sum_{j<=i} n_j a[i, j] / sum_{j<=i} n_j``: with unequal tasks (50 + 10 + ...)
    not the mean over tasks. Its mean over i is the "average incremental accuracy" of UCIR and of
    SPB, its first entry how good the start was.

    Args:
      a: the accuracy matrix.
      test_examples: [..., T], how many test images each task has.

    Raises:
      InputError: shapes that do not fit.
    """
    a, n = _checked(a), np.asarray(test_examples, np.float64)
    if n.shape[-1:] != a.shape[-1:]:
        raise InputError(f"test_examples must be [..., {a.shape[-1]}]; got shape {n.shape}")
    weight = np.tri(a.shape[-1]) * n[..., None, :]
    return np.where(weight > 0, weight * a, 0.0).sum(-1) / weight.sum(-1)


def old_and_new(a: np.ndarray, test_examples: np.ndarray) -> OldNew:
    """After the last task: how well earlier classes are told, and how well the newest.

    Args:
      a, test_examples: as for ``accuracy_by_phase``; with one task the old accuracy is NaN.
    """
    a, n = _checked(a), np.asarray(test_examples, np.float64)
    with np.errstate(invalid="ignore"):
        old = (n * a[..., -1, :])[..., :-1].sum(-1) / n[..., :-1].sum(-1)
    return OldNew(old, a[..., -1, -1])


def learning_accuracy(a: np.ndarray) -> np.ndarray:
    """Accuracy on each task when just learned, float64[...]: ``LA = mean_j a[j, j]``."""
    return np.diagonal(_checked(a), axis1=-2, axis2=-1).mean(-1)


def forgetting(a: np.ndarray) -> np.ndarray:
    """What was lost since the best moment before the end, float64[...]; below 0 is a gain.

    ``FM = mean_{j<T-1} (max_{j<=i<T-1} a[i, j] - a[T-1, j])``

    Source: Chaudhry et al. 2018 (ECCV; arXiv 1801.10112). It is **not** what aimagelab/mammoth
    calls forgetting (utils/metrics.py): there the best moment may be the end, as in
    ``forgetting_clipped``, or just before the task was learned, where that was scored.
    """
    a = _checked(a)
    best = np.where(np.tri(a.shape[-1], dtype=bool), a, -np.inf)[..., :-1, :-1].max(-2, initial=-1)
    return _mean_or_zero(best - a[..., -1, :-1])


def forgetting_clipped(a: np.ndarray) -> np.ndarray:
    """Forgetting whose best moment may be the end, so never negative, float64[...].

    ``FM' = mean_{j<T-1} (max_{j<=i<=T-1} a[i, j] - a[T-1, j])``: 0 for a task that was best at the
    end, otherwise what ``forgetting`` averages. "Clipped forgetting" in tables.

    Source: the official DualNet script (phquang/DualNet, main.py, ``best_acc``).
    """
    a = _checked(a)
    best = np.where(np.tri(a.shape[-1], dtype=bool), a, -np.inf).max(-2)
    return _mean_or_zero((best - a[..., -1, :])[..., :-1])


def backward_transfer(a: np.ndarray) -> np.ndarray:
    """What later tasks did to earlier ones, float64[...].

    ``BWT = mean_{j<T-1} (a[T-1, j] - a[j, j])``
    """
    a = _checked(a)
    return _mean_or_zero((a[..., -1, :] - np.diagonal(a, axis1=-2, axis2=-1))[..., :-1])


def forward_transfer(a: np.ndarray, initial: np.ndarray) -> np.ndarray:
    """What earlier tasks did for later ones, float64[...].

    ``FWT = mean_{j>=1} (a[j-1, j] - b_j)``

    Args:
      a: the accuracy matrix; its first superdiagonal must be measured.
      initial: float[..., T], ``b``: accuracy of the untrained network on each task.

    Raises:
      InputError: shapes that do not fit.
    """
    a, initial = _checked(a), np.asarray(initial, np.float64)
    if initial.shape[-1:] != a.shape[-1:]:
        raise InputError(
            f"initial must be float[..., {a.shape[-1]}], one accuracy a task; "
            f"got shape {initial.shape}"
        )
    return _mean_or_zero(np.diagonal(a, offset=1, axis1=-2, axis2=-1) - initial[..., 1:])


class OrderDisparity(NamedTuple):
    """How much the order of the tasks matters: OPD of each task, their mean and their maximum."""

    of_task: np.ndarray
    average: np.ndarray
    largest: np.ndarray


def order_disparity(final: np.ndarray) -> OrderDisparity:
    """What the best order of the tasks gives a task over the worst.

    ``OPD_t = max_r P_rt - min_r P_rt``, ``AOPD = mean_t OPD_t``, ``MOPD = max_t OPD_t``.

    Args:
      final: float[..., R, T], ``P``: accuracy at the end on task t, numbered alike in all R orders.

    Raises:
      InputError: fewer than two orders.

    Source: Yoon et al. 2020 (ICLR; arXiv 1902.09432), order-normalised performance disparity.
    """
    final = np.asarray(final, np.float64)
    if final.ndim < 2 or final.shape[-2] < 2:
        raise InputError(
            f"final must be float[..., R, T] of at least two orders; got shape {final.shape}"
        )
    of_task = final.max(-2) - final.min(-2)
    return OrderDisparity(of_task, of_task.mean(-1), of_task.max(-1))


def by_given_task(values: np.ndarray, order: np.ndarray) -> np.ndarray:
    """Values by place in an order, [..., T], as values by the number that each task was given.

    Args:
      values: [..., T]; entry i belongs to the i-th task learned.
      order: int[T] or int[..., T], which task that is.
    """
    values, place = np.asarray(values), np.argsort(order)
    return np.take_along_axis(values, np.broadcast_to(place, values.shape), -1)


def scores(matrix: np.ndarray) -> dict[str, np.ndarray]:
    """Every score by its function's name, float64[...] each.

    Args:
      matrix: float64[..., T + 1, T] as ``Result`` has it: row 0 is before training. The first tasks
        of a run that goes on may be untested; then the scores are of the others, as if these were
        all, and what was before them is before training.

    Raises:
      InputError: another shape.
    """
    matrix = np.asarray(matrix, np.float64)
    if matrix.ndim < 2 or matrix.shape[-2] != matrix.shape[-1] + 1:
        raise InputError(
            f"matrix must be float[..., T + 1, T], row 0 before training; got shape {matrix.shape}"
        )
    first = num_untested(matrix)
    initial, a = matrix[..., first, first:], matrix[..., first + 1 :, first:]
    return {
        "average_accuracy": average_accuracy(a),
        "average_incremental_accuracy": average_incremental_accuracy(a),
        "forgetting": forgetting(a),
        "forgetting_clipped": forgetting_clipped(a),
        "backward_transfer": backward_transfer(a),
        "forward_transfer": forward_transfer(a, initial),
        "learning_accuracy": learning_accuracy(a),
    }


def num_untested(matrix: np.ndarray) -> int:
    """How many of the first tasks have no test examples at hand, in a run that goes on from others.

    Args:
      matrix: float64[..., T + 1, T] as ``Result`` has it.
    """
    last = np.isfinite(np.asarray(matrix, np.float64)[..., -1, :])
    tested = last.any(axis=tuple(range(last.ndim - 1)))
    return int(np.argmax(tested))


def summarise(values: np.ndarray) -> Summary:
    """Mean, sample standard deviation and standard error of one value a run, float[n]."""
    values = _one_a_run(values)
    n = len(values)
    std = float(values.std(ddof=1)) if n > 1 else float("nan")
    return Summary(float(values.mean()), std, std / n**0.5, n)


def _checked(a: np.ndarray) -> np.ndarray:
    a = np.asarray(a, np.float64)
    if a.ndim < 2 or a.shape[-1] != a.shape[-2] or a.shape[-1] == 0:
        raise InputError(
            f"a must be an accuracy matrix, float[..., T, T]; got shape {a.shape} "
            "(from a Result, leave out the row before training: matrix[..., 1:, :])"
        )
    return a


def _one_a_run(values: np.ndarray) -> np.ndarray:
    values = np.asarray(values, np.float64)
    if values.ndim != 1 or not len(values):
        raise InputError(f"values must be float[n], one a run, n >= 1; got shape {values.shape}")
    return values


def _mean_or_zero(x: np.ndarray) -> np.ndarray:
    """Mean over the last axis; 0 where it is empty."""
    return x.mean(-1) if x.shape[-1] else np.zeros(x.shape[:-1])
