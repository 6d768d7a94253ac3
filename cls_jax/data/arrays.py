"""A data set from arrays in memory, with a test part of its own or one that is held out."""

from collections.abc import Sequence
from typing import Any

from cls_jax.core.errors import InputError
from cls_jax.data.checked import checked, examples
from cls_jax.data.dataset import Dataset, Split
from cls_jax.data.hold_out import drawn


def from_arrays(
    x: Any,
    y: Any,
    x_test: Any,
    y_test: Any,
    *,
    test_fraction: float | None,
    seed: int,
    name: str,
    label_names: Sequence[str] | None,
) -> Dataset:
    """See ``Dataset.from_arrays``."""
    if (x_test is None) != (y_test is None):
        given, lacks = ("y_test", "x_test") if x_test is None else ("x_test", "y_test")
        raise InputError(f"{given} is given and {lacks} is not; give both, or test_fraction")
    train = examples(name, ("x", "y"), x, y)
    if (last := int(train.y.max())) >= len(train.y):  # before anything is made a class
        raise InputError(
            f"{name}: y has label {last} and {len(train.y)} examples, so not every class has one; "
            "number the classes from 0 on"
        )
    if x_test is not None and test_fraction is None:
        test = examples(name, ("x_test", "y_test"), x_test, y_test)
    elif x_test is None and test_fraction is not None:
        numbers = list(map(str, range(1 + last)))
        mask = drawn(train.y, numbers, test_fraction=test_fraction, seed=seed)
        train, test = Split(train.x[~mask], train.y[~mask]), Split(train.x[mask], train.y[mask])
    else:
        both = "both test examples and" if x_test is not None else "neither test examples nor"
        raise InputError(
            f"{name} has {both} test_fraction; give one of them, the fraction where a part of each "
            "class is to be held out"
        )
    if label_names is None:
        label_names = tuple(map(str, range(1 + last)))
    return checked(Dataset(name, train, test, tuple(label_names)))
