"""A sweep's grid: every combination of the values of some arguments, each with its label.

Hyper-parameters are data, so their values share one program; other arguments of a method fix the
program, so each of their combinations is a learner of its own and is compiled.
"""

import itertools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, NamedTuple, get_args, get_origin

import numpy as np

from cls_jax.app.build import Learner, StreamConfig, make_learner
from cls_jax.core.checks import short_repr
from cls_jax.core.errors import InputError
from cls_jax.methods import signature
from cls_jax.methods.base import Method
from cls_jax.methods.optimizer import OptimizerConfig
from cls_jax.nets.config import NetConfig

Sweep = Sequence[Sequence[str]] | Sequence[str]
"""For each argument its name and its values, as words; a single one may stand alone."""


class Axis(NamedTuple):
    """One argument of a sweep: its name, whether it is data, and text -> value."""

    name: str
    of_hyper: bool
    values: Mapping[str, Any]


def grid(learner: Learner, sweep: Sweep) -> list[tuple[Learner, dict[str, dict[str, float]]]]:
    """Learners, one for each combination of values that fix a program, and of each label -> hyper.

    Args:
      learner: where everything else comes from.
      sweep: arguments of its method and their values; without one the learner as it is, its
        hyper-parameters labelled "".

    Raises:
      InputError: for an unknown argument, one named twice, a value that is none of its kind, equal
        values, or none.
    """
    rows = rows_of(sweep)
    known = signature(learner.recipe["method"]).arguments if rows else {}
    axes = [axis(words, {name: one.kind for name, one in known.items()}) for words in rows]
    names = [axis.name for axis in axes]
    if len(set(names)) < len(names):
        raise InputError(f"sweep names {', '.join(names)}; name each argument once")
    hypers = _hypers(learner.method, [axis for axis in axes if axis.of_hyper])
    return [
        (_changed(learner, values, label) if values else learner, dict(hypers))
        for label, values in _combinations([axis for axis in axes if not axis.of_hyper])
    ]


def rows_of(sweep: Sweep) -> list[Sequence[str]]:
    """The words of each argument of a sweep."""
    rows: list[Any] = [sweep] if sweep and isinstance(sweep[0], str) else list(sweep)
    return rows


def hyper_grid(method: Method, sweep: Mapping[str, Sequence[float]]) -> dict[str, dict[str, float]]:
    """Label -> hyper-parameters, one for each combination of their values.

    Args:
      method: where all other values come from.
      sweep: hyper-parameters and their values; without one the method's own, labelled "".

    Raises:
      InputError: for what is no hyper-parameter of the method, no number, equal values, or none.
    """
    if not isinstance(sweep, Mapping):
        raise InputError(
            f"sweep is {short_repr(sweep)}; give a mapping, e.g. {{'learning_rate': [0.1, 0.3]}}"
        )
    axes = []
    for name, values in sweep.items():
        if name not in method.hyper:
            raise InputError(
                f"sweep names {name!r}; the hyper-parameters of {method.name} are "
                f"{', '.join(method.hyper) or 'none'}; for what fixes its program make a method of "
                "each value"
            )
        if isinstance(values, str) or not isinstance(values, Iterable):
            raise InputError(
                f"sweep over {name} has the value {short_repr(values)}; give a list of numbers"
            )
        axes.append(axis((name, *map(str, values)), {name: float}))
    return _hypers(method, axes)


def _hypers(method: Method, axes: Sequence[Axis]) -> dict[str, dict[str, float]]:
    return {label: {**method.hyper, **values} for label, values in _combinations(axes)}


def axis(words: Sequence[str], known: Mapping[str, Any], flag: str = "sweep") -> Axis:
    """One argument with its values.

    Args:
      words: its name, then a word for each value.
      known: the arguments that there are, by name, and of what kind each is.
      flag: that gave the words.

    Raises:
      InputError: for another name, a value that is none of its kind, equal values, or none.
    """
    name, *texts = words or ("",)
    if name not in known:
        raise InputError(f"{flag} names {name!r}; the method has {', '.join(known)}")
    kind = known[name]
    try:
        values = {text: _value(text, kind) for text in texts}
    except (ValueError, KeyError):
        expected = "numbers" if kind is float else _expected(kind)
        raise InputError(f"{flag} over {name} has the values {texts}; give {expected}") from None
    with np.errstate(over="ignore"):
        distinct = {np.float32(v) if isinstance(v, float) else v for v in values.values()}
    if not texts or len(distinct) < len(texts):
        raise InputError(
            f"{flag} over {name} has the values {texts}; give each once, at least one, and none "
            "that equals another as a number"
        )
    return Axis(name, kind is float, values)


def _value(text: str, kind: Any) -> Any:
    """The value that ``text`` is; ValueError or KeyError if it is none of its kind."""
    if kind in (float, int, str):
        return kind(text)
    return _choices(kind)[text]


def _choices(kind: Any) -> dict[str, Any]:
    if kind is bool:
        return {"True": True, "False": False}
    return {str(one): one for one in get_args(kind)} if get_origin(kind) is Literal else {}


def _expected(kind: Any) -> str:
    names = {int: "whole numbers", str: "words"}
    choices = ", ".join(_choices(kind))
    return names.get(kind) or choices or "it as a flag, in a run for each: it cannot be swept"


def _combinations(axes: Sequence[Axis]) -> list[tuple[str, dict[str, Any]]]:
    """(label, name -> value) of the grid, the last argument fastest."""
    each = [[(axis.name, *pair) for pair in axis.values.items()] for axis in axes]
    return [
        (
            " ".join(f"{name}={text}" for name, text, _ in point),
            {name: value for name, _, value in point},
        )
        for point in itertools.product(*each)
    ]


def _changed(learner: Learner, values: Mapping[str, Any], label: str) -> Learner:
    words = learner.recipe
    return make_learner(
        words["method"],
        {**words["arguments"], **values},
        learner.stream,
        StreamConfig(**words["stream"]),
        NetConfig(**words["net"]),
        OptimizerConfig(**words["optimizer"]),
        label=f"{learner.method.name} {label}",
    )
