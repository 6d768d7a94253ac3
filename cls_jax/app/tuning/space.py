"""Where Optuna looks: for each argument a range or some values, read from the words of a flag."""

import itertools
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from cls_jax.app.grid import axis
from cls_jax.core.checks import check_finite
from cls_jax.core.errors import InputError
from cls_jax.methods import signature

_FORMS = "NAME log LOW HIGH, NAME uniform LOW HIGH, or NAME choice V1 V2 ..."


class Dimension(NamedTuple):
    """One argument: its name, "log", "uniform" or "choice", and the two ends, or the values."""

    name: str
    scale: str
    values: tuple[Any, ...]


def read_space(method: str, rows: Sequence[Sequence[str]]) -> list[Dimension]:
    """The dimensions that ``--space`` names.

    Args:
      method: of METHODS, whose arguments they are.
      rows: the words of each.

    Raises:
      InputError: for an unknown argument, one named twice, words of another form, a range that is
        empty, or one of an argument that is no FLOAT.
    """
    kinds = {name: one.kind for name, one in signature(method).arguments.items()}
    found = [_dimension(row, kinds) for row in rows]
    names = [one.name for one in found]
    if len(set(names)) < len(names):
        raise InputError(f"space names {', '.join(names)}; name each argument once")
    return found


def _dimension(words: Sequence[str], kinds: Mapping[str, Any]) -> Dimension:
    name, scale, *texts = (*words, "", "")[: max(len(words), 2)]
    if scale == "choice":
        return Dimension(name, scale, tuple(axis((name, *texts), kinds, "space").values.values()))
    if scale not in ("log", "uniform") or len(texts) != 2:
        raise InputError(f"space is {' '.join(words)!r}; give {_FORMS}")
    if kinds.get(name) is not float:
        axis((name, *texts), kinds, "space")  # names the arguments that there are
        raise InputError(
            f"space has a range of {name}, whose every value is compiled anew; give some of them: "
            f"{name} choice {' '.join(texts)}"
        )
    try:
        low, high = map(float, texts)
    except ValueError:
        raise InputError(f"space of {name} has the ends {texts}; give two numbers") from None
    for end in (low, high):
        check_finite(f"space of {name}", end)
    if low >= high or (scale == "log" and low <= 0):
        above = ", both above 0" if scale == "log" else ""
        raise InputError(
            f"space of {name} is from {low:g} to {high:g}; give the lower end first{above}"
        )
    return Dimension(name, scale, (low, high))


def grid_points(space: Sequence[Dimension]) -> list[dict[str, Any]]:
    """Every combination of the choices.

    Raises:
      InputError: for a range, which no grid goes through.
    """
    for one in space:
        if one.scale != "choice":
            raise InputError(
                f"space of {one.name} is a range, and sampler grid needs values; give --space "
                f"{one.name} choice V1 V2 ..., or --sampler tpe"
            )
    names = [one.name for one in space]
    every = itertools.product(*(one.values for one in space))
    return [dict(zip(names, values, strict=True)) for values in every]


def corners(space: Sequence[Dimension]) -> list[dict[str, Any]]:
    """Values that show whether all others can work: each end or choice of an argument alone."""
    return [{one.name: value} for one in space for value in one.values]
