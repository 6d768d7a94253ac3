"""One result as JSON has it, read back: whatever does not fit is named before it is used.

The file may be damaged, or made by somebody else; only what is checked here goes on.
"""

import reprlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from cls_jax.report.columns import phased
from cls_jax.training.events import Result


class Unlike(ValueError):
    """It is no record of ours; says what is wrong with it."""


def result_of(record: Any) -> tuple[Result, int]:
    """The Result of a record, its matrix empty still, and the number of its tasks.

    Args:
      record: as ``files.read_json`` gave it, which bounds its depth; nothing else is sure.

    Raises:
      Unlike: something is missing, or is not what it should be.
    """
    _need(isinstance(record, Mapping), "it", record)
    method, seeds, num_tasks = (record.get(n) for n in ("method", "seeds", "num_tasks"))
    scores, details = record.get("scores"), record.get("details")
    _need(isinstance(method, str) and method.strip() != "", "method", method)
    _need(isinstance(seeds, list) and len(seeds) > 0 and all(map(_whole, seeds)), "seeds", seeds)
    _need(len(set(seeds)) == len(seeds) and max(seeds) < 2**32 and min(seeds) >= 0, "seeds", seeds)
    _need(_whole(num_tasks) and num_tasks > 0, "num_tasks", num_tasks)
    _need(isinstance(scores, Mapping) and len(scores) > 0, "scores", scores)
    _need(isinstance(details, Mapping), "details", details)
    stream = details.get("stream", "")
    _need(isinstance(stream, str | Mapping), "details.stream", stream)
    for name in ("name", "scenario") if isinstance(stream, Mapping) else ():
        _need(isinstance(stream.get(name, ""), str), f"details.stream.{name}", stream.get(name))
    for name in ("told_task", "told_at_test", "class_il"):
        _need(isinstance(details.get(name, False), bool), f"details.{name}", details.get(name))
    costs = {name: record.get(name) for name in ("seconds", "steps_per_second")}
    for name, value in costs.items():
        _need(name in record and (value is None or _number(value)), name, value)
    kept = record.get("capacity", {})
    _need(isinstance(kept, Mapping), "capacity", kept)
    shape = len(seeds), num_tasks
    result = Result(
        method=method,
        seeds=tuple(seeds),
        views=tuple(scores),
        matrix=np.empty(0),
        states=(),
        details=dict(details),
        trained=(),
        capacity={name: _table(rows, shape, f"capacity.{name}") for name, rows in kept.items()},
        **{name: float("nan" if value is None else value) for name, value in costs.items()},
    )
    if "test_examples" in details or phased(result):
        sizes = _table(details.get("test_examples"), shape, "details.test_examples")
        _need(bool((sizes > 0).any(1).all()), "details.test_examples", details["test_examples"])
    return result, num_tasks


def _table(rows: Any, shape: tuple[int, int], name: str) -> np.ndarray:
    """float64[shape] of a list of lists of numbers, none below 0."""
    lists = isinstance(rows, list) and all(isinstance(row, list) for row in rows)
    _need(lists and len(rows) == shape[0] and {*map(len, rows)} == {shape[1]}, name, rows)
    _need(all(_number(value) and value >= 0 for row in rows for value in row), name, rows)
    return np.array(rows, np.float64)


def _whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _number(value: Any) -> bool:
    """Whether it is a finite number that float64 holds."""
    return (_whole(value) and abs(value) < 2**1000) or (
        isinstance(value, float) and np.isfinite(value)
    )


def _need(fits: bool, name: str, value: object) -> None:
    if not fits:
        raise Unlike(f"{name} is {'missing' if value is None else reprlib.repr(value)}")
