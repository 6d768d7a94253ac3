"""Classes that are rare: a long tail of training examples.

Which examples stay is drawn from the seed's key and is part of the schedule; how many of each class
stay is not, so the shapes of a schedule depend on no key. Test sets stay as they are.
"""

import jax
import numpy as np

from cls_jax.core.checks import check_range, real
from cls_jax.core.keys import ScheduleKey
from cls_jax.core.types import Array
from cls_jax.streams.indexing import argsort


def kept_counts(counts: np.ndarray, imbalance: float) -> np.ndarray:
    """int[num_classes]: how many examples of each class stay, of n at least one, if there are any.

    Of class c of C it is ``floor(n imbalance^(-c / (C - 1)))``: all of class 0, one in
    ``imbalance`` of the last.

    Args:
      counts: int[num_classes], n of each class.
      imbalance: 1 or more; 1 keeps all.

    Raises:
      InputError: for another number.

    Source: Cui et al. 2019, long-tailed CIFAR; jaehong31/OCS has a factor of 10 for CIFAR-100, its
      classes in an order of its own.
    """
    imbalance = real("imbalance", imbalance)
    check_range("imbalance", imbalance, 1)
    place = np.arange(counts.size) / max(counts.size - 1, 1)
    kept = np.floor(np.round(counts * imbalance**-place, 6)).astype(counts.dtype)
    return np.minimum(np.maximum(kept, 1), counts)


def kept_examples(key: Array, labels: np.ndarray, kept: np.ndarray) -> np.ndarray:
    """bool[n]: so many of each class, drawn from a schedule's key.

    Args:
      key: of the schedule.
      labels: int[n].
      kept: int[num_classes], of each class.
    """
    counts = np.bincount(labels, minlength=kept.size)
    if (kept == counts).all():
        return np.ones(labels.size, bool)
    order = argsort(jax.random.fold_in(key, ScheduleKey.RARE), (labels.size,))
    order = order[np.argsort(labels[order], kind="stable")]  # class by class, each shuffled
    rank = np.arange(labels.size) - np.repeat(np.cumsum(counts) - counts, counts)
    mask = np.zeros(labels.size, bool)
    mask[order] = rank < np.repeat(kept, counts)
    return mask


def told(kept: np.ndarray, imbalance: float) -> str:
    """What the name of a stream says of it; "" where all examples are kept."""
    return f", imbalance {imbalance:g}: {kept.sum()} examples are kept" if imbalance != 1 else ""
