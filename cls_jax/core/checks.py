"""Checks of what the user gave; each says the argument, the value and the remedy."""

import dataclasses
import math
import operator
import types
import typing
from collections.abc import Callable, Hashable, Iterable, Mapping, Set
from typing import Any

import numpy as np

from cls_jax.core.errors import InputError


def whole(name: str, value: Any, low: float = -math.inf, high: float = math.inf) -> int:
    """``value`` as a Python int.

    Args:
      name: of the argument, as the user knows it.
      value: an integer of Python, NumPy or JAX, or an array of integers without axes.
      low, high: the ends, allowed themselves; infinite: no bound.

    Raises:
      InputError: for anything else (2.0, True, "2", an array of several), or outside the ends.
    """
    try:
        if isinstance(value, bool):
            raise TypeError
        number = operator.index(value)
    except TypeError:
        raise InputError(f"{name} is {short_repr(value)}; give a whole number") from None
    check_range(name, number, low, high)
    return number


def wholes(name: str, values: Any) -> tuple[int, ...]:
    """A sequence or array [n] of integers as a tuple of Python ints; else InputError."""
    sequence = isinstance(values, Iterable) and not isinstance(values, str | bytes | Mapping | Set)
    if sequence and getattr(values, "ndim", 1) == 1:
        return tuple(whole(f"{name}[{i}]", value) for i, value in enumerate(values))
    raise InputError(
        f"{name} is {short_repr(values)}; give a sequence of whole numbers, e.g. (2, 3)"
    )


def whole_or_none(name: str, value: Any, low: float = -math.inf) -> int | None:
    """An integer as ``whole`` takes it, at least ``low``, or None."""
    return None if value is None else whole(name, value, low)


def whole_or_wholes(name: str, value: Any) -> int | tuple[int, ...]:
    """An integer as ``whole`` takes it, or several as ``wholes`` does."""
    if isinstance(value, Iterable) and getattr(value, "ndim", 1) > 0:
        return wholes(name, value)
    return whole(name, value)


def real(name: str, value: Any) -> float:
    """A number of Python, NumPy or JAX as a Python float; InputError for anything else."""
    try:
        array = np.asarray(value)
        if array.ndim == 0 and (array.dtype.kind in "iuf" or array.dtype.name == "bfloat16"):
            return float(array)
    except (TypeError, ValueError, OverflowError):
        pass
    raise InputError(f"{name} is {short_repr(value)}; give a number")


def yes_no(name: str, value: Any) -> bool:
    """Python's or NumPy's True or False as Python's; InputError for anything else."""
    if isinstance(value, bool | np.bool_):
        return bool(value)
    raise InputError(f"{name} is {short_repr(value)}; give True or False")


def plain(config: Any) -> Any:
    """A dataclass of settings whose numbers are Python's own, as its annotations say.

    Args:
      config: fields annotated int, float, bool, tuple[int, ...] or a union of these and others.

    Returns:
      The config with NumPy's and JAX's numbers, lists and arrays converted exactly.

    Raises:
      InputError: naming the field that holds something else.
    """
    hints = typing.get_type_hints(type(config))
    found = {f.name: getattr(config, f.name) for f in dataclasses.fields(config)}
    changed = {name: plain_value(name, hints[name], value) for name, value in found.items()}
    return dataclasses.replace(config, **changed)


def plain_value(name: str, kind: Any, value: Any) -> Any:
    """``value`` as its annotation ``kind`` says; see ``plain``."""
    union = typing.get_origin(kind) in (typing.Union, types.UnionType)
    kinds = typing.get_args(kind) if union else (kind,)
    if value is None and type(None) in kinds:
        return None
    several = any(typing.get_args(k) == (int, ...) for k in kinds)
    if several and not (union and isinstance(value, str)):
        return whole_or_wholes(name, value) if int in kinds else wholes(name, value)
    if int in kinds:
        return whole(name, value)
    if float in kinds:
        return value if type(value) is int else real(name, value)
    return yes_no(name, value) if bool in kinds else value


def check_literal(
    name: str, value: Any, kind: Any, sentence: str = "{name} is {value!r}; use one of {listed}"
) -> None:
    """Raises InputError if ``kind`` is a Literal, or one or None, and ``value`` not of its values.

    Args:
      name: of the argument, as the user knows it.
      value: what was given.
      kind: its annotation; whatever holds no Literal passes.
      sentence: what is said; it may name the values as {choices} (a tuple), {either} ('a' or
        'b') and {listed} (a, b).
    """
    union = typing.get_origin(kind) in (typing.Union, types.UnionType)
    kinds = typing.get_args(kind) if union else (kind,)
    literals = [k for k in kinds if k is not types.NoneType]
    if len(literals) != 1 or typing.get_origin(literals[0]) is not typing.Literal:
        return
    choices = typing.get_args(literals[0])
    if (value is None and types.NoneType in kinds) or (
        isinstance(value, Hashable) and value in choices
    ):
        return
    either, listed = " or ".join(map(repr, choices)), ", ".join(map(str, choices))
    raise InputError(
        sentence.format(name=name, value=value, choices=choices, either=either, listed=listed)
    )


def check_literals(of: Callable[..., Any], arguments: Mapping[str, Any], sentence: str) -> None:
    """``check_literal`` of some arguments of a function or class, by its annotations."""
    hints = typing.get_type_hints(of)
    for name, value in arguments.items():
        check_literal(name, value, hints[name], sentence)


def short_repr(value: Any) -> str:
    """What was given, on one short line."""
    text = " ".join(repr(value).split())
    return text if len(text) <= 80 else f"{text[:77]}..."


def check_seeds(seeds: Any) -> tuple[int, ...]:
    """The seeds as Python ints, from any sequence or array [n] of integers.

    Raises:
      InputError: unless there is at least one, none negative, none twice.
    """
    numbers = wholes("seeds", seeds)
    if not numbers:
        raise InputError("seeds is empty; give at least one, e.g. --seeds 0")
    for seed in numbers:
        if not 0 <= seed < 2**32:
            raise InputError(f"seeds holds {seed}; a seed is a number from 0 to 2**32 - 1")
    twice = sorted({seed for seed in numbers if numbers.count(seed) > 1})
    if twice:
        raise InputError(
            f"seeds holds {', '.join(map(str, twice))} more than once, and equal seeds give equal "
            "runs; name each seed once"
        )
    return numbers


def check_finite(name: str, value: float) -> None:
    """Raises InputError if ``value`` is infinite or not a number."""
    try:
        finite = math.isfinite(value)
    except OverflowError:  # an integer beyond float64 is finite
        finite = True
    except TypeError:
        raise InputError(f"{name} is {short_repr(value)}; give a number") from None
    if not finite:
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


def check_hyper(hyper: Mapping[str, Any]) -> None:
    """Raises InputError unless every hyper-parameter is finite and lies where its name says.

    The name tells the range: ``temperature`` and ``damping`` above 0; ``step_size`` in [0, 1];
    ``momentum`` and ``decay`` in [0, 1); rates (probabilities) in [0, 1]; learning rates, weights
    of loss terms, factors, gaps, margins, thresholds, radii and ``weight_decay`` at least 0. So
    must the float32 that it becomes within a run: neither infinite, nor 0 where the number is not.
    """
    for name, value in hyper.items():
        bounds = next((b for ending, b in _RANGES.items() if name.endswith(ending)), {})
        number = real(name, value)
        check_range(name, number, **bounds)
        with np.errstate(over="ignore", under="ignore"):
            rounded = float(np.float32(number))
        try:
            check_range(name, rounded, **bounds)
            lost = rounded == 0 != number
        except InputError:
            lost = True
        if lost:
            raise InputError(
                f"{name} is {number}, which is {rounded:g} in float32; give a number that "
                "float32 can tell from that"
            )


_RANGES: dict[str, dict[str, Any]] = {
    "learning_rate": {"low": 0},
    "weight_decay": {"low": 0},
    "weight": {"low": 0},
    "factor": {"low": 0},
    "gap": {"low": 0},
    "margin": {"low": 0},
    "temperature": {"low": 0, "above": True},
    "damping": {"low": 0, "above": True},
    "threshold": {"low": 0},
    "radius": {"low": 0},
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
