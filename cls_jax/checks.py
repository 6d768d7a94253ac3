"""Checks of what the user gave; each says the argument, the value and the remedy."""

import math
import os
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from cls_jax.types import InputError

ROW_BYTES = 13
"""At least so many for one example in a schedule: its number, its label's mask, its shuffle."""


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


def check_bytes(what: str, needed: int, remedy: str) -> None:
    """Raises InputError if ``needed`` bytes are more than the memory that this machine has.

    Args:
      what: needs them, as the user knows it with its value, e.g. "image_size 4096 on digits".
      needed: bytes, estimated before anything is made.
      remedy: what to give instead, e.g. "give a smaller image_size".
    """
    there = memory_bytes()
    if there is not None and needed > there:
        raise InputError(
            f"{what} needs {_told_bytes(needed)} of memory, but this machine has "
            f"{_told_bytes(there)}; {remedy}"
        )


def check_schedule(name: str, value: int, examples: int) -> None:
    """Raises InputError if the table of ``value`` passes over ``examples`` needs too much memory.

    Args:
      name, value: of the number of passes, as the user knows it.
      examples: of one pass over all tasks.
    """
    needed = ROW_BYTES * examples * value
    check_bytes(f"{name} {value} of {examples} examples", needed, f"give a smaller {name}")


def memory_bytes() -> int | None:
    """Physical memory of this machine in bytes; None where the system does not tell."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):  # Windows has no sysconf
        return None


def _told_bytes(number: int) -> str:
    for unit, name in ((2**40, "TiB"), (2**30, "GiB"), (2**20, "MiB")):
        if number >= unit:
            return f"{number / unit:.1f} {name}"
    return f"{number} bytes"


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
