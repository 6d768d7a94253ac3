"""What a run leaves for people: tables, a workdir of JSON, CSV, Markdown and figures.

Host only. Accuracies are percent in tables and figures, fractions in files. Tasks are counted from
1 in everything printed.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.table import Table

from cls_jax.report import figures
from cls_jax.report.result_tables import (
    check_distinct,
    comparison_csv,
    comparison_sheet,
    result_sheet,
)
from cls_jax.report.results import write_run, write_runs
from cls_jax.report.tables import page, rich_table, show, visible
from cls_jax.runtime.workdir import check_workdir, write_config, write_file, writing
from cls_jax.train.events import Result


def tables(result: Result) -> Table:
    """The scores of one run for the terminal: a row a view and scenario, mean ± sample std."""
    return rich_table(result_sheet(result))


def comparison_table(results: Sequence[Result]) -> Table:
    """Several methods for the terminal: a row a method, the best of each column in bold."""
    return rich_table(comparison_sheet(results))


def finish(workdir: str | None, config: Mapping[str, Any], results: Sequence[Result]) -> None:
    """Prints the table of one result, or the comparison of several, and writes the workdir.

    Args:
      workdir: None writes nothing.
      config: every field of the experiment, as ``prepare_workdir`` was given.
      results: of ``execute``.
    """
    one = len(results) == 1
    show(tables(results[0]) if one else comparison_table(results))
    if workdir is not None:
        with writing(workdir):
            made = write(workdir, config, results[0]) if one else None
            made = made or write_comparison(workdir, config, results)
        print(visible(f"results in {made}"))


def write(workdir: str | Path, config: Mapping[str, Any], result: Result) -> Path:
    """Writes everything about one run into ``workdir`` and returns it; each file whole or not.

    config.json, results.json, summary.md, accuracy_<view>_<scenario>_seed<k>.csv,
    accuracy_matrix.png, accuracy_over_tasks.png, and capacity.png where it grows.

    Args:
      workdir: made if absent.
      config: every field of the experiment, as ``prepare_workdir`` was given.
      result: of the run.

    Raises:
      InputError: the folder holds another experiment.
    """
    if not check_workdir(workdir, config):
        write_config(workdir, config)
    workdir = Path(workdir)
    write_run(workdir, result)
    redraw(workdir, result)
    write_file(workdir / "summary.md", page(result_sheet(result)))
    return workdir


def redraw(workdir: Path, result: Result, prefix: str = "") -> list[Path]:
    """Draws the figures of one run into ``workdir`` and returns their paths."""
    drawn = {"accuracy_matrix": figures.accuracy_matrix(result)}
    drawn["accuracy_over_tasks"] = figures.accuracy_over_tasks(result)
    if figures.grows(result):
        drawn["capacity"] = figures.capacity([result])
    paths = [workdir / f"{prefix}{name}.png" for name in drawn]
    for path, content in zip(paths, drawn.values(), strict=True):
        write_file(path, content)
    return paths


def write_comparison(
    workdir: str | Path, config: Mapping[str, Any], results: Sequence[Result]
) -> Path:
    """Writes several methods side by side into ``workdir`` and returns it.

    config.json, comparison.json, comparison.csv (a row a method, network, scenario and seed),
    comparison.md, comparison_over_tasks.png, accuracy_<method>_<view>_<scenario>_seed<k>.csv.
    """
    check_distinct(results)
    if not check_workdir(workdir, config):
        write_config(workdir, config)
    return write_side_by_side(Path(workdir), results)


def write_side_by_side(workdir: Path, results: Sequence[Result]) -> Path:
    """All of ``write_comparison`` but config.json, into a folder that is there."""
    write_file(workdir / "comparison.csv", comparison_csv(results))
    write_file(workdir / "comparison.md", page(comparison_sheet(results)))
    write_file(workdir / "comparison_over_tasks.png", figures.comparison_over_tasks(results))
    if any(map(figures.grows, results)) and all("bits" in result.capacity for result in results):
        write_file(workdir / "capacity.png", figures.capacity(results))
    write_runs(workdir, results)
    return workdir
