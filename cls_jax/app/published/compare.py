"""Published tables beside ours: what was published, what we got, how far apart, and the record."""

import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from cls_jax.core.files import json_text, safe_names
from cls_jax.core.metrics import Summary, scores, summarise
from cls_jax.report.canvas import DEFAULT_FORMATS, FigureFormat, figure_files
from cls_jax.report.figures import comparison_over_tasks
from cls_jax.report.matrices import labelled, matrices_csv
from cls_jax.report.tables import TextTable, markdown_page
from cls_jax.training.events import Result


class Published(NamedTuple):
    """One published cell; accuracies in percent.

    Attributes:
      table, method, memory_size, view: which cell; view is "answer" or another network's name.
      class_il, task_il: (mean, standard deviation), (mean,) where no deviation could be read, or
        None.
      average, last: class-IL of all classes seen, mean of the tasks and after the last, where no
        deviation was printed; or None.
      n: runs behind it.
      source: where it was read.
      trust: "read at the source" or "second hand".
    """

    table: str
    method: str
    memory_size: int
    n: int
    source: str
    trust: str
    view: str = "answer"
    class_il: Sequence[float] | None = None
    task_il: Sequence[float] | None = None
    average: float | None = None
    last: float | None = None


class Cell(NamedTuple):
    """One cell as we ran it.

    Attributes:
      label: the row's name; the method's unless the table varies one method.
      memory_size: slots, 0 for none.
      settings: everything it was run with, and where each number comes from.
      result: of the run.
    """

    label: str
    memory_size: int
    settings: Mapping[str, Any]
    result: Result


RESULTS = Path(__file__).with_name("results.toml")
"""The published numbers that the library knows, each with its source."""


def read_published(path: str | Path = RESULTS) -> list[Published]:
    """Every ``[[result]]`` of a TOML file."""
    entries = tomllib.loads(Path(path).read_text(encoding="utf-8"))["result"]
    return [Published(**entry) for entry in entries]


def standard_errors(ours: Summary, mean: float, std: float, n: int) -> float:
    """The difference ``ours - published`` in units of its own standard error.

    Args:
      ours: of our runs, in the unit of the published numbers.
      mean, std, n: as published.

    Returns:
      dimensionless; NaN for a single run of ours.
    """
    return (ours.mean - mean) / (ours.standard_error**2 + std**2 / n) ** 0.5


def reproduction_table(
    title: str, cells: Sequence[Cell], published: Sequence[Published], note: str = ""
) -> TextTable:
    """A row for each cell and score: published, ours, and the difference.

    Args:
      title: of the table.
      cells: as run.
      published: those of this table; a cell without one has empty columns.
      note: what else a reader must know.
    """
    rows = []
    for cell in cells:
        for s, scenario in enumerate(cell.result.scenarios):
            ours = summarise(100 * scores(cell.result.matrix[:, 0, s])["average_accuracy"])
            found = _published(cell, s, published)
            theirs = distance = ""
            if found is not None:
                (mean, *std), n = found
                theirs = " ± ".join(f"{one:.2f}" for one in (mean, *std))
                error = standard_errors(ours, mean, std[0], n) if std else np.nan
                distance = f"{ours.mean - mean:+.2f}"
                distance += f" ({error:+.1f} SE)" if np.isfinite(error) else ""
            mine = f"{ours.mean:.2f}" + (f" ± {ours.std:.2f}" if ours.n > 1 else "")
            size = str(cell.memory_size) if cell.memory_size else ""
            row = (cell.label, size, scenario, theirs, mine, distance)
            rows.append((*row, f"{cell.result.seconds:.0f}" if s == 0 else ""))
    seeds = sorted({len(cell.result.seeds) for cell in cells})
    legend = f"final average accuracy in percent, mean ± sample std over {_and(seeds)} seeds"
    legend += "; SE: standard errors of the difference; seconds: all seeds of a cell together"
    header = ("method", "buffer", "score", "published", "ours", "difference", "seconds")
    return TextTable(title, header, tuple(rows), f"{legend}{'; ' if note else ''}{note}")


def render_reproduction(
    table: TextTable, cells: Sequence[Cell], formats: Sequence[FigureFormat] = DEFAULT_FORMATS
) -> dict[str, str | bytes]:
    """Every file of a table: name -> content.

    comparison.md, the figure comparison_over_tasks, accuracy_<cell>.csv (the matrix of every
    network, score and seed), cells.json (settings with their sources, scores, timings).

    Args:
      table: of ``reproduction_table``.
      cells: the same.
      formats: of the figure.
    """
    drawn = {"comparison_over_tasks": comparison_over_tasks([cell.result for cell in cells])}
    files: dict[str, str | bytes] = {"comparison.md": markdown_page(table)}
    files |= figure_files(drawn, formats)
    names = safe_names([f"{cell.label} {cell.memory_size}" for cell in cells])
    for cell, name in zip(cells, names, strict=True):
        matrices = {of: cell.result.matrix[place] for of, place in labelled(cell.result)}
        files[f"accuracy_{name}.csv"] = matrices_csv(matrices)
    return {**files, "cells.json": json_text([_cell_json(cell) for cell in cells])}


def _published(
    cell: Cell, scenario: int, published: Sequence[Published]
) -> tuple[Sequence[float], int] | None:
    for entry in published:
        same = (entry.method, entry.memory_size) == (cell.label, cell.memory_size)
        value = (entry.class_il, entry.task_il)[scenario]
        if same and entry.view == "answer" and value is not None:
            return value, entry.n
    return None


def _cell_json(cell: Cell) -> dict[str, Any]:
    result = cell.result
    by_view = {
        view: {
            scenario: {
                name: {**summarise(values)._asdict(), "values": values}
                for name, values in scores(result.matrix[:, v, s]).items()
            }
            for s, scenario in enumerate(result.scenarios)
        }
        for v, view in enumerate(result.views)
    }
    return {
        "label": cell.label,
        "memory_size": cell.memory_size,
        "settings": cell.settings,
        "seeds": result.seeds,
        "seconds": result.seconds,
        "steps_per_second": result.steps_per_second,
        "details": result.details,
        "scores": by_view,
    }


def _and(numbers: Sequence[int]) -> str:
    return " or ".join(map(str, numbers))
