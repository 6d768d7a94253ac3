"""A sweep's grid: every combination of the values of some fields, each told by its label.

Fields of a method's Hyper are data, so their values share one program; those of its Config fix the
program, so each of their combinations is a learner of its own and is compiled.
"""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from typing import Any, Literal, NamedTuple, get_args, get_origin, get_type_hints

import numpy as np

from cls_jax.app.build import Learner, StreamConfig, make_learner
from cls_jax.core.errors import InputError
from cls_jax.core.types import PyTree
from cls_jax.methods import METHODS
from cls_jax.nets.config import NetConfig

Asked = Sequence[Sequence[str]] | Sequence[str]
"""For each field its name and its values, as words; a single field may stand alone."""


class _Axis(NamedTuple):
    """One field of a sweep: which, of the Hyper or the Config, and label -> value."""

    name: str
    of_hyper: bool
    values: Mapping[str, Any]


def grid(learner: Learner, asked: Asked) -> list[tuple[Learner, dict[str, PyTree]]]:
    """Learners, one for each combination of Config values, and of each label -> Hyper.

    Args:
      learner: where everything else comes from.
      asked: fields of its method, with or without "hyper." or "method." before them, and their
        values; without one the learner as it is, its Hyper labelled "".

    Raises:
      InputError: for an unknown field, one named twice, a value that is none of its kind, equal
        values, or none.
    """
    if asked and isinstance(asked[0], str):
        asked = (asked,)
    config = METHODS[learner.recipe["row"]].config(**learner.recipe["method"])
    axes = [_axis(words, learner.hyper, config) for words in asked]
    names = [axis.name for axis in axes]
    if len(set(names)) < len(names):
        raise InputError(f"sweep names {', '.join(names)}; name each field once")
    hypers = {
        label: replace(learner.hyper, **values)
        for label, values in _combinations([axis for axis in axes if axis.of_hyper])
    }
    return [
        (_changed(learner, replace(config, **values), label) if values else learner, dict(hypers))
        for label, values in _combinations([axis for axis in axes if not axis.of_hyper])
    ]


def _axis(words: Sequence[str], hyper: PyTree, config: Any) -> _Axis:
    known = {field.name: True for field in fields(hyper)}
    known |= {field.name: False for field in fields(config)}
    asked, *texts = words or ("",)
    part, _, name = asked.rpartition(".")
    if name not in known or part not in ("", "hyper" if known[name] else "method"):
        raise InputError(f"sweep names {asked!r}; the method has {', '.join(known)}")
    kind = float if known[name] else get_type_hints(type(config))[name]
    try:
        values = {text: _value(text, kind) for text in texts}
    except (ValueError, KeyError):
        told = "numbers" if kind is float else _told(kind)
        raise InputError(f"sweep over {name} has the values {texts}; give {told}") from None
    with np.errstate(over="ignore"):
        distinct = {np.float32(v) if isinstance(v, float) else v for v in values.values()}
    if not texts or len(distinct) < len(texts):
        raise InputError(
            f"sweep over {name} has the values {texts}; give each once, at least one, and none "
            "that equals another as a number"
        )
    return _Axis(name, known[name], values)


def _value(text: str, kind: Any) -> Any:
    """The value that ``text`` is; ValueError or KeyError if it is none of its kind."""
    if kind in (float, int, str):
        return kind(text)
    return _choices(kind)[text]


def _choices(kind: Any) -> dict[str, Any]:
    if kind is bool:
        return {"True": True, "False": False}
    return {str(one): one for one in get_args(kind)} if get_origin(kind) is Literal else {}


def _told(kind: Any) -> str:
    names = {int: "whole numbers", str: "words"}
    choices = ", ".join(_choices(kind))
    return names.get(kind) or choices or "it as a flag, in a run for each: it cannot be swept"


def _combinations(axes: Sequence[_Axis]) -> list[tuple[str, dict[str, Any]]]:
    """(label, name -> value) of the grid, the last field fastest."""
    each = [[(axis.name, *pair) for pair in axis.values.items()] for axis in axes]
    return [
        (
            " ".join(f"{name}={text}" for name, text, _ in point),
            {name: value for name, _, value in point},
        )
        for point in itertools.product(*each)
    ]


def _changed(learner: Learner, config: Any, label: str) -> Learner:
    words = learner.recipe
    return make_learner(
        words["row"],
        config,
        learner.hyper,
        learner.stream,
        StreamConfig(**words["stream"]),
        NetConfig(**words["net"]),
        label=f"{learner.method.name} {label}",
    )
