"""A validation split: what hyper-parameters are chosen on, so that the test set is never seen."""

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
    fraction, seed = real("validation_fraction", validation_fraction), validation_seed
    check_range("validation_fraction", fraction, 0, 1, above=True, below=True)
    seed = whole("validation_seed", seed, 0, 2**32 - 1)
    x, y = source.train
    counts = np.bincount(y, minlength=source.num_classes)
    held = np.maximum(1, np.rint(fraction * counts).astype(int))
    if (few := np.flatnonzero(held >= counts)).size:
        raise InputError(
            f"validation_fraction is {fraction:g}, which leaves no training example of class "
            f"{source.label_names[few[0]]}, that has {counts[few[0]]}; give a smaller fraction"
        )
    check_bytes(
        f"validation_fraction {fraction:g} of {len(y)} examples",
        x.nbytes,
        "leave it out, or split the data into files of your own",
    )
    bits = np.asarray(jax.random.bits(jax.random.key(seed), y.shape))
    order = np.lexsort((bits, y))  # class by class, each shuffled
    rank = np.arange(y.size) - np.repeat(np.cumsum(counts) - counts, counts)
    mask = np.zeros(y.size, bool)
    mask[order] = rank < np.repeat(held, counts)
    return source._replace(
        name=f"{source.name} (scored on {100 * fraction:g} % of its training set)",
        train=Split(x[~mask], y[~mask]),
        test=Split(x[mask], y[mask]),
    )
