"""Checks of what the user gave; each says the argument, the value and the remedy."""

import math
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from cls_jax.types import InputError


def check_seeds(seeds: Sequence[int]) -> None:
    """Raises InputError unless there is at least one seed, none negative, none twice."""
    if not seeds:
        raise InputError("seeds is empty; give at least one, e.g. --seeds 0")
    for seed in seeds:
        if not 0 <= seed < 2**32:
            raise InputError(f"seeds holds {seed}; a seed is a number from 0 to 2**32 - 1")
    twice = sorted({seed for seed in seeds if list(seeds).count(seed) > 1})
    if twice:
        raise InputError(
            f"seeds holds {', '.join(map(str, twice))} more than once, and equal seeds give equal "
            "runs; name each seed once"
        )


def check_finite(name: str, value: float) -> None:
    """Raises InputError if ``value`` is infinite or not a number."""
    if not math.isfinite(value):
        raise InputError(f"{name} is {value}; give a finite number")


def check_range(
    name: str,
    value: float,
    low: float = -math.inf,
    high: float = math.inf,
    *,
    above: bool = False,
    below: bool = False,
) -> None:
    """Raises InputError unless ``value`` is finite and lies in [low, high].

    Args:
      name: of the argument, as the user knows it.
      value: what was given.
      low, high: the ends, allowed themselves; infinite: no bound.
      above: ``low`` itself is not allowed.
      below: ``high`` itself is not allowed.
    """
    check_finite(name, value)
    if (value > low or (value == low and not above)) and (
        value < high or (value == high and not below)
    ):
        return
    bounds = []
    if low > -math.inf:
        bounds.append(f"{'above' if above else 'at least'} {low}")
    if high < math.inf:
        bounds.append(f"{'below' if below else 'at most'} {high}")
    raise InputError(f"{name} is {value}; give a value {' and '.join(bounds)}")


def check_hyper(hyper: Any) -> None:
    """Raises InputError unless every leaf of a Hyper is finite and lies where its name says.

    The name tells the range: ``temperature`` and ``damping`` above 0; ``step_size`` in [0, 1];
    ``momentum`` and ``decay`` in [0, 1); rates (probabilities) in [0, 1]; learning rates, weights
    of loss terms, gaps, thresholds and ``weight_decay`` at least 0. Arrays (a sweep) are checked
    number by number.
    """
    for path, leaf in jax.tree_util.tree_leaves_with_path(hyper):
        name = jax.tree_util.keystr(path, simple=True, separator=".")
        bounds = next((b for ending, b in _RANGES.items() if name.endswith(ending)), {})
        for number in np.ravel(np.asarray(leaf, np.float64)):
            check_range(name, float(number), **bounds)


_RANGES: dict[str, dict[str, Any]] = {
    "learning_rate": {"low": 0},
    "weight_decay": {"low": 0},
    "weight": {"low": 0},
    "gap": {"low": 0},
    "temperature": {"low": 0, "above": True},
    "damping": {"low": 0, "above": True},
    "threshold": {"low": 0},
    "step_size": {"low": 0, "high": 1},
    "momentum": {"low": 0, "high": 1, "below": True},
    "decay": {"low": 0, "high": 1, "below": True},
    "rate": {"low": 0, "high": 1},
}
"""Ending of a field's name -> arguments of ``check_range``; the first that fits counts."""


def as_trained_on(x: Any, shape: tuple[int, ...], dtype: str, whose: str) -> np.ndarray:
    """Raw examples in the dtype that a run was trained on, each number as it is.

    Args:
      x: integers of any width in 0 .. 255 for uint8, finite floats of any width for float32.
      shape: of one example.
      dtype: that the run was trained on.
      whose: name of the run.

    Raises:
      InputError: for another shape, kind of number or range.
    """
    wanted = f"[n, {', '.join(map(str, shape))}]"
    wanted += " integers from 0 to 255" if dtype == "uint8" else " floats"
    wanted += ", as the data set has them"
    try:
        x = np.asarray(x)
    except (ValueError, TypeError) as error:
        raise InputError(f"x is no array of numbers ({error}); give {wanted}") from None
    if x.ndim == 0 or x.shape[1:] != shape:
        raise InputError(f"x has shape {x.shape}; give {wanted}")
    if not np.issubdtype(x.dtype, np.integer if dtype == "uint8" else np.floating):
        raise InputError(
            f"x is {x.dtype}, and {whose} was trained on {dtype}; give {wanted}: "
            f"x.astype({dtype!r}) if these are the same numbers"
        )
    if dtype == "uint8":
        if x.size and not 0 <= x.min() <= x.max() <= 255:
            raise InputError(f"x has values from {x.min()} to {x.max()}; give {wanted}")
        return x.astype(np.uint8)
    with np.errstate(over="ignore"):
        x = x.astype(dtype)
    if not np.isfinite(x).all():
        raise InputError(f"x has values that are not finite in {dtype}; give {wanted}, all finite")
    return x
