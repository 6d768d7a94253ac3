"""Finished results as files of a workdir, and back; no JAX is needed for it.

One run is results.json and accuracy_<view>_<scenario>_seed<k>.csv, several side by side are
comparison.json and accuracy_<method>_<view>_<scenario>_seed<k>.csv. The JSON, which says what there
is, comes last: where it stands everything stands.
"""

import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cls_jax.core.errors import InputError
from cls_jax.core.files import NoJson, read_json, safe_names
from cls_jax.core.metrics import scores, summarise
from cls_jax.core.paths import check_readable, resolved
from cls_jax.report.columns import phased
from cls_jax.report.record import Unlike, result_of
from cls_jax.runtime.workdir import write_file, write_json
from cls_jax.train.events import Result

RUN, COMPARISON = "results.json", "comparison.json"
_LARGEST = 10**8  # accuracies of one method


def write_run(workdir: Path, result: Result) -> None:
    """Writes the matrices and results.json of one run into a folder that is there."""
    _write_matrices(workdir, result, "accuracy")
    write_json(workdir / RUN, _record(result))


def write_runs(workdir: Path, results: Sequence[Result]) -> None:
    """Writes the matrices and comparison.json of several runs into a folder that is there."""
    for result, prefix in zip(results, _prefixes(results), strict=True):
        _write_matrices(workdir, result, prefix)
    write_json(workdir / COMPARISON, [_record(result) for result in results])


def read(workdir: str | Path) -> list[Result]:
    """The results that ``write_run`` or ``write_runs`` left in a folder.

    Args:
      workdir: of a finished run.

    Returns:
      One Result for each method, in the order written. Accuracies have the six decimals of the
      files; ``states`` is empty; a score that the scenario does not have is NaN in ``matrix``.

    Raises:
      InputError: no such folder, nothing finished in it, or a file that is damaged or missing.
    """
    workdir = check_readable(workdir)
    try:
        inside = set(os.listdir(workdir))
    except OSError as error:
        raise InputError(f"workdir {workdir} cannot be read: {error.strerror}") from None
    path = next((workdir / name for name in (RUN, COMPARISON) if name in inside), None)
    if path is None and "cells.json" in inside:
        raise InputError(f"workdir {workdir} is a table of reproduce.py; see its comparison.md")
    if path is None:
        raise InputError(f"workdir {workdir} has no finished results; run its command to the end")
    try:
        records = read_json(path)
        if path.name == COMPARISON and not (isinstance(records, list) and records):
            raise ValueError("not a list of records")
        found = [result_of(record) for record in ([records] if path.name == RUN else records)]
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        told = str(error) if isinstance(error, Unlike | NoJson) else "not a record of cls_jax"
        raise InputError(
            f"{path} is damaged ({told}); run the command of that workdir again"
        ) from None
    prefixes = ["accuracy"] if path.name == RUN else _prefixes([bare for bare, _ in found])
    return [
        _whole(workdir, prefix, bare, num_tasks)
        for (bare, num_tasks), prefix in zip(found, prefixes, strict=True)
    ]


def gather(workdirs: Sequence[str | Path]) -> list[Result]:
    """The results of several workdirs, fit to stand side by side, in the order given.

    A method that is in several of them is labelled "er (a)" after its workdir, and so is every
    method where the streams have different names. ``details["workdir"]`` says where it was read.

    Raises:
      InputError: as ``read``; no workdir, one of them twice, or runs that have other scores or
        another number of tasks.
    """
    if not workdirs:
        raise InputError("no workdir is given; name at least one, e.g. runs/first")
    places = [resolved(workdir, "workdir") for workdir in workdirs]
    for n, place in enumerate(places):
        if place in places[:n]:
            raise InputError(f"workdir {workdirs[n]} is given twice; name each once")
    found = [(str(w), result) for w in workdirs for result in read(w)]
    _check_alike(found)
    short = [place.name for place in places]
    names = short if len(set(short)) == len(short) else list(map(str, workdirs))
    name_of = dict(zip(map(str, workdirs), names, strict=True))
    methods = Counter(result.method for _, result in found)
    one_stream = len({result.stream_name for _, result in found}) == 1
    gathered = []
    for workdir, result in found:
        alone = one_stream and methods[result.method] == 1
        label = result.method if alone else f"{result.method} ({name_of[workdir]})"
        details = {"workdir": workdir, **result.details}
        gathered.append(result._replace(method=label, details=details))
    return gathered


def score_key(scenario: str) -> str:
    """ "class_il" of "class-IL": for file names and JSON keys."""
    return scenario.lower().replace("-", "_")


def number(value: float) -> str:
    """Six decimals, as in every CSV file; empty where not measured."""
    return f"{value:.6f}" if np.isfinite(value) else ""


def _prefixes(results: Sequence[Result]) -> list[str]:
    return [f"accuracy_{name}" for name in safe_names([result.method for result in results])]


def _files(result: Result, prefix: str) -> list[tuple[str, tuple[int, int, int]]]:
    """Name of each matrix's file, and where the matrix stands in ``result.matrix``."""
    return [
        (f"{prefix}_{view}_{score_key(scenario)}_seed{seed}.csv", (trial, v, s))
        for trial, seed in enumerate(result.seeds)
        for v, view in enumerate(safe_names(result.views))
        for s, scenario in enumerate(result.scenarios)
    ]


def _write_matrices(workdir: Path, result: Result, prefix: str) -> None:
    for name, place in _files(result, prefix):
        write_file(workdir / name, _csv(result.matrix[place]))


def _header(num_tasks: int) -> str:
    return ",".join(["after_task", *(f"task_{j + 1}" for j in range(num_tasks))])


def _moments(num_tasks: int) -> list[str]:
    """When each row of a matrix was scored: before training, after task 1, ..."""
    return ["before", *map(str, range(1, num_tasks + 1))]


def _csv(matrix: np.ndarray) -> str:
    """One accuracy matrix [T + 1, T]; empty where not measured."""
    lines = [_header(matrix.shape[1])]
    for moment, row in zip(_moments(matrix.shape[1]), matrix, strict=True):
        lines.append(",".join([moment, *map(number, row)]))
    return "\n".join(lines) + "\n"


def _whole(workdir: Path, prefix: str, bare: Result, num_tasks: int) -> Result:
    """``bare`` with its matrix, read from as many files as it has seeds, views and scores."""
    found = {place: _read_matrix(workdir / name, num_tasks) for name, place in _files(bare, prefix)}
    shape = (len(bare.seeds), len(bare.views), 2, num_tasks + 1, num_tasks)
    matrix = np.full(shape, np.nan)
    for place, a in found.items():
        matrix[place] = a
    return bare._replace(matrix=matrix)


def _text(path: Path) -> str:
    """The text of a regular file; a pipe would be waited for without an end."""
    if not path.is_file():
        raise Unlike("not a file")
    return path.read_text(encoding="utf-8")


def _read_matrix(path: Path, num_tasks: int) -> np.ndarray:
    """float64[T + 1, T] of one file.

    Rounded to float32, as the accuracies were before they were written: so a quotient of six
    decimals or fewer is the same number again, and a table's last digit too.
    """
    if not os.path.exists(path):
        raise InputError(f"{path} is missing; run the command of that workdir again")
    try:
        header, *lines = (line.split(",") for line in _text(path).splitlines())
        whole = (len(header), len(lines)) == (num_tasks + 1, num_tasks + 1)
        whole = whole and ",".join(header) == _header(num_tasks)
        whole = whole and [line[0] for line in lines] == _moments(num_tasks)
        a = np.array([[float(x or "nan") for x in line[1:]] for line in lines if whole])
        whole = whole and a.shape == (num_tasks + 1, num_tasks)
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from None
    except ValueError:
        whole = False
    if not whole or ((a < 0) | (a > 1)).any():
        raise InputError(
            f"{path} is damaged: not {num_tasks + 1} rows of {num_tasks} accuracies in [0, 1]; "
            "run the command of that workdir again"
        )
    return a.astype(np.float32).astype(np.float64)


def _record(result: Result) -> dict[str, Any]:
    """All but the matrices and the states; scores from them."""
    by_view: dict[str, Any] = {}
    for v, view in enumerate(result.views):
        by_view[view] = {
            score_key(scenario): {
                name: {**summarise(values)._asdict(), "values": values}
                for name, values in scores(result.matrix[:, v, s]).items()
            }
            for s, scenario in enumerate(result.scenarios)
        }
    return {
        "method": result.method,
        "seeds": result.seeds,
        "num_tasks": result.matrix.shape[-1],
        "seconds": result.seconds,
        "steps_per_second": result.steps_per_second,
        "details": result.details,
        "capacity": result.capacity,
        "scores": by_view,
    }


def _check_alike(found: Sequence[tuple[str, Result]]) -> None:
    """Raises InputError unless all have the same scores over as many tasks."""

    def told(workdir: str, result: Result) -> str:
        tasks, of = result.matrix.shape[-1], "base classes and phases, " * phased(result)
        return f"{workdir} has {of}{' and '.join(result.scenarios)} over {tasks} tasks"

    kinds = [(phased(r), r.scenarios, r.matrix.shape[-1]) for _, r in found]
    for kind, other in zip(kinds, found, strict=True):
        if kind != kinds[0]:
            raise InputError(f"{told(*found[0])}, {told(*other)}; compare runs of one kind")
