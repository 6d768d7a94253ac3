"""Finished results as files of a workdir, and back; no JAX is needed for it.

One run is results.json and accuracy.csv, several side by side are comparison.json and
accuracy_<method>.csv of each (format: ``matrices``). The JSON, which says what there is, comes
last: where it stands everything stands. Accuracies are read from the CSV alone; the scores in the
JSON are made from them, for whoever looks.
"""

import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cls_jax.core.errors import InputError
from cls_jax.core.files import NoJson, json_text, read_json, safe_names
from cls_jax.core.metrics import scores, summarise
from cls_jax.core.paths import check_readable, resolved
from cls_jax.report.columns import phased
from cls_jax.report.matrices import labelled, matrices_csv, read_matrices, scenario_key
from cls_jax.report.record import Unlike, result_of
from cls_jax.training.events import Result

RUN, COMPARISON, ACCURACY = "results.json", "comparison.json", "accuracy.csv"


def run_files(result: Result) -> dict[str, str]:
    """accuracy.csv and results.json of one run, name -> text."""
    return {ACCURACY: _matrices(result), RUN: json_text(_record(result))}


def comparison_files(results: Sequence[Result]) -> dict[str, str]:
    """accuracy_<method>.csv of each and comparison.json of several runs, name -> text."""
    files = dict(zip(_names(results), map(_matrices, results), strict=True))
    return {**files, COMPARISON: json_text([_record(result) for result in results])}


def read(workdir: str | Path) -> list[Result]:
    """The results whose ``run_files`` or ``comparison_files`` are in a folder.

    Args:
      workdir: of a finished run.

    Returns:
      One Result for each method, in the order written. Accuracies are float32 values, as they were
      measured; ``states`` is empty; a score that the scenario does not have is NaN in ``matrix``.

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
        reason = str(error) if isinstance(error, Unlike | NoJson) else "not a record of cls_jax"
        raise InputError(
            f"{path} is damaged ({reason}); run the command of that workdir again"
        ) from None
    names = [ACCURACY] if path.name == RUN else _names([bare for bare, _ in found])
    return [
        _whole(workdir / name, bare, num_tasks)
        for (bare, num_tasks), name in zip(found, names, strict=True)
    ]


def collect(workdirs: Sequence[str | Path]) -> list[Result]:
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
    if any(result.details.get("told_at_test") for _, result in found):
        found = [(workdir, _beside_told(result)) for workdir, result in found]
    _check_alike(found)
    short = [place.name for place in places]
    names = short if len(set(short)) == len(short) else list(map(str, workdirs))
    name_of = dict(zip(map(str, workdirs), names, strict=True))
    methods = Counter(result.method for _, result in found)
    one_stream = len({result.stream_name for _, result in found}) == 1
    collected = []
    for workdir, result in found:
        alone = one_stream and methods[result.method] == 1
        label = result.method if alone else f"{result.method} ({name_of[workdir]})"
        details = {"workdir": workdir, **result.details}
        collected.append(result._replace(method=label, details=details))
    return collected


def _beside_told(result: Result) -> Result:
    """Where there is one score, the other too: of a method that is not told its task, the same."""
    if len(result.scenarios) == 2:
        return result
    matrix = result.matrix.copy()
    matrix[:, :, 1] = matrix[:, :, 0]
    return result._replace(matrix=matrix, details={**result.details, "told_at_test": True})


def _names(results: Sequence[Result]) -> list[str]:
    """The file of each one's matrices where several stand side by side."""
    return [f"accuracy_{name}.csv" for name in safe_names([result.method for result in results])]


def _matrices(result: Result) -> str:
    return matrices_csv({of: result.matrix[place] for of, place in labelled(result)})


def _whole(path: Path, bare: Result, num_tasks: int) -> Result:
    """``bare`` with its matrix from a file, which must hold these networks, scores and seeds."""
    if not os.path.exists(path):
        raise InputError(f"{path} is missing; run the command of that workdir again")
    try:
        found = read_matrices(path)
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from None
    places = dict(labelled(bare))
    for of in sorted(places.keys() ^ found.keys()):
        raise InputError(
            f"{path} is damaged: {'no' if of in places else 'an unknown'} matrix {of.network} "
            f"{of.scenario} seed {of.seed}; run the command of that workdir again"
        )
    if next(iter(found.values())).shape[1] != num_tasks:
        raise InputError(
            f"{path} is damaged: not {num_tasks} tasks; run the command of that workdir again"
        )
    shape = (len(bare.seeds), len(bare.views), 2, num_tasks + 1, num_tasks)
    matrix = np.full(shape, np.nan)
    for of, place in places.items():
        matrix[place] = found[of]
    return bare._replace(matrix=matrix)


def _record(result: Result) -> dict[str, Any]:
    """All but the matrices and the states; scores from them."""
    by_view: dict[str, Any] = {}
    for v, view in enumerate(result.views):
        by_view[view] = {
            scenario_key(scenario): {
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

    def reason(workdir: str, result: Result) -> str:
        tasks, of = result.matrix.shape[-1], "base classes and phases, " * phased(result)
        return f"{workdir} has {of}{' and '.join(result.scenarios)} over {tasks} tasks"

    kinds = [(phased(r), r.scenarios, r.matrix.shape[-1]) for _, r in found]
    for kind, other in zip(kinds, found, strict=True):
        if kind != kinds[0]:
            raise InputError(f"{reason(*found[0])}, {reason(*other)}; compare runs of one kind")
