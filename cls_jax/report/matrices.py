"""Accuracy matrices as CSV, written and read here alone; one format for every file that has any.

``network,scenario,order,seed,after_task,task_1,...,task_T``: a row for each moment of each matrix,
"before" (training), 1, ..., T, with the accuracy on each task then; empty where not measured.
Tasks are counted from 1. ``scenario`` is class_il, task_il, domain_il or accuracy, as in
results.json; ``order`` is the tasks in the order learned, e.g. 3-1-2, where a table has several
orders, and empty elsewhere. Files of several runs can be joined line by line.
"""

import csv
import io
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from cls_jax.core.errors import InputError
from cls_jax.report.tables import visible
from cls_jax.training.events import Result

BEFORE = "before"
"""The moment of a matrix's first row."""


class Label(NamedTuple):
    """Whose matrix it is: the columns before ``after_task``.

    Attributes:
      network: "answer" or the name of another network that was scored.
      scenario: which score, see ``scenario_key``.
      seed: of the run.
      order: the tasks in the order learned, see ``order_text``; "" in the order that they have.
    """

    network: str
    scenario: str
    seed: int
    order: str = ""


_COLUMNS = "network", "scenario", "order", "seed", "after_task"


def labelled(result: Result) -> list[tuple[Label, tuple[int, int, int]]]:
    """Whose each matrix of a result is, and where it stands in ``result.matrix``."""
    return [
        (Label(visible(network), scenario_key(scenario), seed), (trial, n, s))
        for n, network in enumerate(result.views)
        for s, scenario in enumerate(result.scenarios)
        for trial, seed in enumerate(result.seeds)
    ]


def scenario_key(scenario: str) -> str:
    """ "class_il" of "class-IL": for file names, CSV and JSON."""
    return scenario.lower().replace("-", "_")


def order_text(order: tuple[int, ...]) -> str:
    """ "3-1-2" of (2, 0, 1): tasks are numbered from 1 in files."""
    return "-".join(str(task + 1) for task in order)


def matrices_csv(matrices: Mapping[Label, np.ndarray]) -> str:
    """The text of a file of matrices, float64[T + 1, T] each, the row before training first.

    An accuracy has the fewest digits that give its float32 back, so a float32 is read as it was.
    """
    num_tasks = next(iter(matrices.values())).shape[-1]
    text = io.StringIO()
    lines = csv.writer(text, lineterminator="\n")
    lines.writerow(_header(num_tasks))
    for label, matrix in matrices.items():
        whose = label.network, label.scenario, label.order, label.seed
        for moment, row in zip(_moments(num_tasks), matrix, strict=True):
            lines.writerow([*whose, moment, *map(_digits, row)])
    return text.getvalue()


def read_matrices(path: str | Path) -> dict[Label, np.ndarray]:
    """The matrices of a file, float64[T + 1, T] of float32 values, NaN where not measured.

    Raises:
      OSError: it cannot be read.
      InputError: it is no file of ``matrices_csv``.
    """
    path = Path(path)
    try:
        if not path.is_file():  # a pipe would be waited for without an end
            raise ValueError("not a file")
        text = path.read_text(encoding="utf-8")
        if not text:
            raise ValueError("it is empty")
        header, *lines = csv.reader(io.StringIO(text, newline=""))
        num_tasks = len(header) - len(_COLUMNS)
        if num_tasks < 1 or header != _header(num_tasks):
            raise ValueError("another header")
        if not lines or len(lines) % (num_tasks + 1):
            raise ValueError(f"not {num_tasks + 1} rows for each matrix")
        found: dict[Label, np.ndarray] = {}
        for start in range(0, len(lines), num_tasks + 1):
            label, matrix = _matrix(lines[start : start + num_tasks + 1], num_tasks)
            if label in found:
                raise ValueError("a matrix twice")
            found[label] = matrix
    except (ValueError, csv.Error) as error:
        why = "not text" if isinstance(error, UnicodeDecodeError) else error
        raise InputError(
            f"{path} is damaged: {why}; it must hold accuracies in [0, 1] under "
            f"{','.join(_COLUMNS)},task_1,...; run the command of that workdir again"
        ) from None
    return found


def _header(num_tasks: int) -> list[str]:
    return [*_COLUMNS, *(f"task_{j + 1}" for j in range(num_tasks))]


def _moments(num_tasks: int) -> list[str]:
    """When each row of a matrix was scored: before training, after task 1, ..."""
    return [BEFORE, *map(str, range(1, num_tasks + 1))]


def _digits(accuracy: float) -> str:
    """The shortest decimal that is this float32 again; empty where not measured."""
    if not np.isfinite(accuracy):
        return ""
    return np.format_float_positional(np.float32(accuracy), unique=True, trim="-")


def _matrix(rows: list[list[str]], num_tasks: int) -> tuple[Label, np.ndarray]:
    """One matrix and whose it is, from its rows.

    Raises:
      ValueError: they are not the rows of one matrix.
    """
    if {*map(len, rows)} != {num_tasks + len(_COLUMNS)}:
        raise ValueError(f"not {num_tasks} accuracies in each row")
    network, scenario, order, seed = rows[0][:4]
    if any(row[:4] != rows[0][:4] for row in rows):
        raise ValueError("rows of two matrices are mixed")
    if [row[4] for row in rows] != _moments(num_tasks):
        raise ValueError(f"after_task is not {BEFORE}, 1, ..., {num_tasks}")
    a = np.array([[np.nan if x == "" else float(x) for x in row[5:]] for row in rows])
    if ((a < 0) | (a > 1)).any() or np.isinf(a).any():
        raise ValueError("an accuracy that is none")
    return Label(network, scenario, int(seed), order), a.astype(np.float32).astype(np.float64)
