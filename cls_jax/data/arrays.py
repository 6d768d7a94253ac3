"""A data set from arrays in memory, with a test part of its own or one that is held out."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from cls_jax.core.checks import real, whole
from cls_jax.core.errors import InputError
from cls_jax.data.checked import checked, examples
from cls_jax.data.dataset import Dataset, Split


def from_arrays(
    x: Any,
    y: Any,
    x_test: Any = None,
    y_test: Any = None,
    *,
    test_fraction: float | None = None,
    seed: int = 0,
    name: str = "arrays",
    label_names: Sequence[str] | None = None,
) -> Dataset:
    """See ``Dataset.from_arrays``."""
    if (x_test is None) != (y_test is None):
        given, lacks = ("y_test", "x_test") if x_test is None else ("x_test", "y_test")
        raise InputError(f"{given} is given and {lacks} is not; give both, or test_fraction")
    train = examples(name, ("x", "y"), x, y)
    if x_test is not None and test_fraction is None:
        test = examples(name, ("x_test", "y_test"), x_test, y_test)
    elif x_test is None and test_fraction is not None:
        mask = held_out_fraction(name, train.y, test_fraction, seed)
        train, test = Split(train.x[~mask], train.y[~mask]), Split(train.x[mask], train.y[mask])
    else:
        both = "both test examples and" if x_test is not None else "neither test examples nor"
        raise InputError(
            f"{name} has {both} test_fraction; give one of them, the fraction where a part of each "
            "class is to be held out"
        )
    if label_names is None:
        label_names = tuple(map(str, range(1 + int(max(train.y.max(), test.y.max())))))
    return checked(Dataset(name, train, test, tuple(label_names)))


def held_out_fraction(name: str, y: np.ndarray, fraction: float, seed: int) -> np.ndarray:
    """bool[n], True for the test part: the same fraction of every class, drawn by the seed.

    Args:
      name: of the data set.
      y: int32[n] labels.
      fraction: of each class, rounded, at least one example, above 0 and below 1.
      seed: of the draw.

    Raises:
      InputError: no such fraction or seed, or a class of one example, which cannot be on both
        sides.
    """
    fraction, seed = real("test_fraction", fraction), whole("seed", seed, 0)
    if not 0 < fraction < 1:
        raise InputError(f"test_fraction is {fraction}; give a number above 0 and below 1")
    rng, mask = np.random.default_rng(seed), np.zeros(len(y), bool)
    for label in np.unique(y):
        of_class = rng.permutation(np.flatnonzero(y == label))
        if len(of_class) < 2:
            raise InputError(
                f"{name} has one example of class {label}, which cannot be in both splits; give "
                "more, or leave the class out"
            )
        number = round(fraction * len(of_class))
        mask[of_class[: min(max(number, 1), len(of_class) - 1)]] = True
    return mask
