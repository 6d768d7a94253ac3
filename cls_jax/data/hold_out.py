"""A validation split: what hyper-parameters are chosen on, so that the test set is never seen."""

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from cls_jax.core.checks import check_range, real, whole
from cls_jax.core.errors import InputError
from cls_jax.core.host_memory import check_bytes
from cls_jax.data.checked import checked
from cls_jax.data.dataset import Dataset, Split


def hold_out(source: Dataset, validation_fraction: float, validation_seed: int = 0) -> Dataset:
    """The data set with a share of its training examples in the place of its test split.

    Whatever is trained on it is scored on examples that it never sees, and the test split is not in
    it at all. Of the n examples of a class, round(validation_fraction n) are held out, at least
    one, drawn by ``validation_seed`` alone: every method, seed and process gets the same ones.

    Args:
      source: the whole data set.
      validation_fraction: share of each class that is held out, in (0, 1); 0.1 is usual.
      validation_seed: which examples they are.

    Returns:
      The data set; both splits keep the order of the training split.

    Raises:
      InputError: for a fraction outside (0, 1), a class that would have no example left to train
        on, or more pixels than this machine's memory holds.

    Example:
      >>> from cls_jax.data.load import load
      >>> held = hold_out(load("digits"), 0.1)
      >>> len(held.train.y), len(held.test.y)
      (1294, 141)
    """
    source = checked(source)
    x, y = source.train
    given = {"validation_fraction": validation_fraction, "validation_seed": validation_seed}
    mask, fraction = drawn(y, source.label_names, **given), float(validation_fraction)
    check_bytes(
        f"validation_fraction {fraction:g} of {len(y)} examples",
        x.nbytes,
        "leave it out, or split the data into files of your own",
    )
    return source._replace(
        name=f"{source.name} (scored on {100 * fraction:g} % of its training set)",
        train=Split(x[~mask], y[~mask]),
        test=Split(x[mask], y[mask]),
    )


def drawn(y: np.ndarray, label_names: Sequence[str], **given: Any) -> np.ndarray:
    """bool[n], True for what is held out: of n examples of a class round(fraction n), at least one.

    Args:
      y: int32[n] labels.
      label_names: one a class, for messages.
      given: the fraction, in (0, 1), and then the seed, under the names that the user knows.

    Raises:
      InputError: for a fraction or seed that is none, or a class that would have no example left.
    """
    (name, share), (seed_name, seed) = given.items()
    fraction, seed = real(name, share), whole(seed_name, seed, 0, 2**32 - 1)
    check_range(name, fraction, 0, 1, above=True, below=True)
    counts = np.bincount(y, minlength=len(label_names))
    held = np.maximum(1, np.rint(fraction * counts).astype(int))
    if (few := np.flatnonzero((held >= counts) & (counts > 0))).size:
        raise InputError(
            f"{name} is {fraction:g}, which leaves no training example of class "
            f"{label_names[few[0]]}, that has {counts[few[0]]}; give a smaller fraction"
        )
    bits = np.asarray(jax.random.bits(jax.random.key(seed), y.shape))
    order = np.lexsort((bits, y))  # class by class, each shuffled
    rank = np.arange(y.size) - np.repeat(np.cumsum(counts) - counts, counts)
    mask = np.zeros(y.size, bool)
    mask[order] = rank < np.repeat(held, counts)
    return mask
