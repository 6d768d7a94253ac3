"""recipe.json, the words from which a saved method is built again: its schema, written and read.

A workdir may be a stranger's, so the whole is checked before any of it is used.
"""

import math
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any, NamedTuple

from cls_jax.core.errors import InputError
from cls_jax.core.files import NoJson, read_json, write_json

RECIPE = "recipe.json"
VERSION = 2
_LARGEST = 2**31 - 1  # of any whole number, int32's
_EXAMPLE = 2**28  # numbers in one example
_WORDS = (
    *("version", "name", "method", "arguments", "net", "optimizer", "inputs", "stream"),
    *("sweep", "seeds", "batch_size", "shape", "dtype", "num_classes", "num_tasks"),
)
_LATER = {
    **{"label_names": None, "max_tasks": None, "first_task": 0, "task_classes": None},
    "unlabelled": False,
}
_LATER_FLAGS = {
    **{"max_classes": None, "max_tasks": None, "first_class": None, "only_tasks": []},
    **{"validation_fraction": 0.0, "validation_seed": 0, "label_noise": 0.0, "imbalance": 1.0},
}
"""Fields that recipes of this version have had from some time on, and what stood there before."""


class Kinds(NamedTuple):
    """What a recipe may fill.

    Attributes:
      arguments: name of a method -> the annotations of its arguments, or None if there is none.
      net, optimizer, inputs, stream: NetConfig, OptimizerConfig, InputConfig and StreamConfig.
    """

    arguments: Callable[[str], Mapping[str, Any] | None]
    net: type
    optimizer: type
    inputs: type
    stream: type


class Recipe(NamedTuple):
    """What a recipe.json says, all of it checked.

    Attributes:
      name, method, sweep, seeds: the method's label, its name among METHODS, labels of the sweep's
        values, seeds of the runs.
      arguments, net, optimizer, inputs, stream: what the method and the configs are given, of the
        right types; stream None: it was made in Python, not by flags.
      batch_size: of the stream.
      shape, dtype: of one example.
      num_classes, num_tasks: of the stream, tasks learned before included.
      label_names: one a class; the numbers where a recipe has none, as before they were kept.
      max_tasks: for which the method keeps room.
      first_task: how many were learned before, by the run that it goes on from.
      task_classes: of each seed the classes of each task; None: it is not known.
      unlabelled: whether the stream has examples without labels.
    """

    name: str
    method: str
    arguments: dict[str, Any]
    net: dict[str, Any]
    optimizer: dict[str, Any]
    inputs: dict[str, Any]
    stream: dict[str, Any] | None
    sweep: tuple[str, ...]
    seeds: tuple[int, ...]
    batch_size: int
    shape: tuple[int, ...]
    dtype: typing.Literal["uint8", "float32"]
    num_classes: int
    num_tasks: int
    label_names: tuple[str, ...]
    max_tasks: int
    first_task: int
    task_classes: tuple[tuple[tuple[int, ...], ...], ...] | None
    unlabelled: bool


def write_recipe(folder: Path, words: Mapping[str, Any]) -> None:
    """Writes recipe.json into a folder that is there; ``words`` are the fields of a Recipe."""
    write_json(folder / RECIPE, {"version": VERSION, **words})


def read_recipe(path: Path, kinds: Kinds) -> Recipe:
    """The recipe in a file that may be a stranger's.

    Args:
      path: of a recipe.json.
      kinds: what it may fill.

    Raises:
      InputError: it is no recipe, one of a later version, or a field of it does not fit.
    """
    try:
        given = read_json(path)
        return _recipe(given, kinds)
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror or error})") from None
    except (ValueError, TypeError, RecursionError, OverflowError) as error:
        reason = str(error) if isinstance(error, _Misfit | NoJson) else "no JSON of cls_jax"
        raise InputError(
            f"{path} is no recipe that this cls_jax can use ({reason}); run the command of that "
            "workdir again in another --workdir, or read it with the cls_jax that wrote it"
        ) from None


class _Misfit(ValueError):
    """What does not fit, in a few words."""


def _recipe(given: Any, kinds: Kinds) -> Recipe:
    if not isinstance(given, dict):
        raise _Misfit("it is no JSON object")
    version = given.get("version")
    if type(version) is not int or version != VERSION:
        later = type(version) is int and version > VERSION
        raise _Misfit(
            f"its version is {_short(version)}, {'later than' if later else 'not'} {VERSION}"
        )
    given = {"optimizer": asdict(kinds.optimizer()), **_LATER, **given}  # plain SGD alone before
    _same_names(given, (*_WORDS, *_LATER), "it")
    method = given["method"]
    known = kinds.arguments(method) if isinstance(method, str) else None
    if known is None:
        raise _Misfit(
            f"method is {_short(method)}, which is none that is known; if it is yours, import its "
            "file first: --import FILE, or cls_jax.import_file"
        )
    sweep = _check(given["sweep"], tuple[str, ...], "sweep")
    seeds = _check(given["seeds"], tuple[int, ...], "seeds", largest=2**32 - 1)
    for name, values in (("sweep", sweep), ("seeds", seeds)):
        if not 1 <= len(values) <= 10_000 or len(set(values)) < len(values):
            raise _Misfit(f"{name} holds {len(values)} values; 1 to 10000, each once, are right")
    if min(seeds) < 0:
        raise _Misfit(f"seeds holds {min(seeds)}")
    shape = _check(given["shape"], tuple[int, ...], "shape")
    if len(shape) not in (1, 3) or min(shape) < 1 or math.prod(shape) > _EXAMPLE:
        raise _Misfit(f"shape is {_short([*shape])}, not that of an example")
    for name in ("batch_size", "num_classes", "num_tasks"):
        if _check(given[name], int, name) < 1:
            raise _Misfit(f"{name} is {given[name]}")
    names = _check(given["label_names"], tuple[str, ...] | None, "label_names")
    if names is None:
        names = tuple(map(str, range(given["num_classes"])))
    elif len(names) != given["num_classes"]:
        raise _Misfit(f"label_names holds {len(names)} for {given['num_classes']} classes")
    num_tasks = given["num_tasks"]
    max_tasks = num_tasks if given["max_tasks"] is None else given["max_tasks"]
    for name, value, low, high in (
        ("max_tasks", max_tasks, 1, _LARGEST),
        ("first_task", given["first_task"], 0, num_tasks - 1),
    ):
        if not low <= _check(value, int, name) <= high:
            raise _Misfit(f"{name} is {value}")
    return Recipe(
        name=_label(given["name"], "name"),
        method=method,
        arguments=_fields(given["arguments"], known, "arguments"),
        net=_fields(given["net"], _hints(kinds.net), "net"),
        optimizer=_fields(given["optimizer"], _hints(kinds.optimizer), "optimizer"),
        inputs=_fields(given["inputs"], _hints(kinds.inputs), "inputs"),
        stream=stream_flags(given["stream"], kinds.stream),
        sweep=tuple(_label(label, "sweep") if label else "" for label in sweep),
        seeds=seeds,
        batch_size=given["batch_size"],
        shape=shape,
        dtype=_check(given["dtype"], typing.Literal["uint8", "float32"], "dtype"),
        num_classes=given["num_classes"],
        num_tasks=num_tasks,
        label_names=names,
        max_tasks=max_tasks,
        first_task=given["first_task"],
        task_classes=_classes(given, len(seeds)),
        unlabelled=_check(given["unlabelled"], bool, "unlabelled"),
    )


def stream_flags(given: Any, kind: type) -> dict[str, Any] | None:
    """The flags of a stream as a file has them; None: it was made in Python.

    Args:
      given: what was read.
      kind: StreamConfig.

    Raises:
      ValueError: a flag does not fit.
    """
    if isinstance(given, dict):
        given = {**_LATER_FLAGS, **given}
    return None if given is None else _fields(given, _hints(kind), "stream")


def _classes(given: Mapping[str, Any], num_seeds: int) -> tuple | None:
    """Of each seed the classes of each task, or None."""
    if given["task_classes"] is None:
        return None
    found = _check(given["task_classes"], tuple[tuple[tuple[int, ...], ...], ...], "task_classes")
    every = {one for tasks in found for classes in tasks for one in classes}
    if [*map(len, found)] != num_seeds * [given["num_tasks"]]:
        raise _Misfit("task_classes is not that of every seed and task")
    if every and not 0 <= min(every) <= max(every) < given["num_classes"]:
        raise _Misfit(f"task_classes holds {max(every)}, of {given['num_classes']} classes")
    return found


def _label(text: Any, name: str) -> str:
    """A text of one line that a terminal can show."""
    if not isinstance(text, str) or not 1 <= len(text) <= 200 or not text.isprintable():
        raise _Misfit(f"{name} is {_short(text)}, no label")
    return text


def _hints(kind: type) -> dict[str, Any]:
    """Field -> annotation of a dataclass."""
    hints = typing.get_type_hints(kind)
    return {field.name: hints[field.name] for field in fields(kind) if field.init}


def _fields(given: Any, kinds: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Every one of ``kinds``, checked by its annotation."""
    if not isinstance(given, dict):
        raise _Misfit(f"{where} is {_short(given)}, no JSON object")
    _same_names(given, list(kinds), where)
    return {name: _check(value, kinds[name], f"{where}.{name}") for name, value in given.items()}


def _same_names(given: Mapping[str, Any], wanted: Sequence[str], where: str) -> None:
    if unknown := [name for name in given if name not in wanted]:
        raise _Misfit(f"{where} has a field {_short(unknown[0])}, which is not known")
    if missing := [name for name in wanted if name not in given]:
        raise _Misfit(f"{where} has no {missing[0]}")


def _check(value: Any, kind: Any, where: str, *, largest: int = _LARGEST) -> Any:
    """``value`` as ``kind``, which lists become tuples for; whole numbers are never too large."""
    origin, inner = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        for one in inner:
            try:
                return _check(value, one, where, largest=largest)
            except _Misfit:
                continue
    elif origin is typing.Literal:
        if any(type(value) is type(one) and value == one for one in inner):
            return value
    elif origin is tuple and inner[1:] == (...,):
        if isinstance(value, list) and len(value) <= 100_000:
            return tuple(_check(one, inner[0], where, largest=largest) for one in value)
    elif kind is float:
        if type(value) in (int, float) and math.isfinite(float(value)):
            return value
    elif kind is int:
        if type(value) is int and abs(value) <= largest:
            return value
    elif kind is str:
        if isinstance(value, str) and len(value) <= 5000 and "\0" not in value:
            return value
    elif type(value) is (type(None) if kind is None else kind):  # bool, None
        return value
    what = " | ".join(map(str, inner)) if origin is typing.Literal else str(kind)
    raise _Misfit(f"{where} is {_short(value)}, not {what.removeprefix('typing.')[:100]}")


def _short(value: Any) -> str:
    text = ascii(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
