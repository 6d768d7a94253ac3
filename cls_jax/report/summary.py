"""What a run leaves for people: ``render`` makes every file, ``report`` prints and writes.

Host only. Accuracies are percent in tables and figures, fractions in files. Tasks are counted from
1 in everything printed.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

from cls_jax.core.files import write_all
from cls_jax.core.paths import writing
from cls_jax.report import figures
from cls_jax.report.canvas import DEFAULT_FORMATS, FigureFormat, figure_files
from cls_jax.report.latex import latex_page
from cls_jax.report.result_tables import (
    comparison_csv,
    comparison_table,
    paired_table,
    result_table,
)
from cls_jax.report.results import comparison_files, run_files
from cls_jax.report.tables import TextTable, markdown_page, rich_table, show, visible
from cls_jax.training.events import Result


def table_of(results: Sequence[Result]) -> TextTable:
    """The table of one result, or of several beside each other.

    Raises:
      InputError: two of one name, or none.
    """
    return result_table(results[0]) if len(results) == 1 else comparison_table(results)


def tables_of(results: Sequence[Result]) -> list[TextTable]:
    """That table, and of several methods their paired differences, where seeds are common to all.

    Raises:
      InputError: two of one name, or none.
    """
    return [table_of(results), *_paired(results)]


def _paired(results: Sequence[Result]) -> list[TextTable]:
    paired = paired_table(results)
    return [] if paired is None else [paired]


def show_tables(results: Sequence[Result]) -> None:
    """Prints ``tables_of`` on stdout."""
    for number, table in enumerate(tables_of(results)):
        print(end="\n" if number else "")
        show(rich_table(table))


def report(
    results: Sequence[Result],
    folder: str | Path | None = None,
    formats: Sequence[FigureFormat] = DEFAULT_FORMATS,
) -> None:
    """Prints the table of one result, or of several beside each other, and writes all files.

    Args:
      results: of ``execute``.
      folder: the workdir that this process has claimed; None writes nothing.
      formats: of the figures.

    Raises:
      InputError: two of one name, or the disk cannot be written.
    """
    show_tables(results)
    if folder is not None:
        write(folder, render(results, formats))


def write(folder: str | Path, files: Mapping[str, str | bytes], flag: str = "workdir") -> None:
    """Writes what was rendered into a folder that is there, and says so on stdout.

    Args:
      folder: where to.
      files: name -> content.
      flag: where the folder was given.

    Raises:
      InputError: the disk is full or cannot be written; then no file has changed.
    """
    with writing(folder, flag):
        write_all(Path(folder), files)
    print(visible(f"results in {folder}"))


def render(
    results: Sequence[Result], formats: Sequence[FigureFormat] = DEFAULT_FORMATS
) -> dict[str, str | bytes]:
    """Every file of one run, or of several beside each other: name -> content, the JSON last.

    Args:
      results: one, or several with different names.
      formats: of the figures.

    Raises:
      InputError: two of one name, or none.
    """
    if len(results) == 1:
        return render_run(results[0], formats)
    return render_comparison(results, formats)


def render_run(
    result: Result, formats: Sequence[FigureFormat] = DEFAULT_FORMATS
) -> dict[str, str | bytes]:
    """summary.md, the figures, accuracy.csv and results.json."""
    page = {"summary.md": markdown_page(result_table(result))}
    return {**page, **render_figures(result, formats=formats), **run_files(result)}


def render_figures(
    result: Result, prefix: str = "", formats: Sequence[FigureFormat] = DEFAULT_FORMATS
) -> dict[str, bytes]:
    """accuracy_matrix, accuracy_over_tasks, and capacity where it grows, each in every format.

    Args:
      result: of one run.
      prefix: before each name.
      formats: of the figures.
    """
    drawn = {"accuracy_matrix": figures.accuracy_matrix(result)}
    drawn["accuracy_over_tasks"] = figures.accuracy_over_tasks(result)
    if figures.grows(result):
        drawn["capacity"] = figures.capacity([result])
    return figure_files({f"{prefix}{name}": figure for name, figure in drawn.items()}, formats)


def render_comparison(
    results: Sequence[Result],
    formats: Sequence[FigureFormat] = DEFAULT_FORMATS,
    latex: bool = False,
) -> dict[str, str | bytes]:
    """Several methods beside each other, or one as if it were several.

    comparison.csv (a row a method, network, scenario and seed), comparison.md and, if asked for,
    comparison.tex, the figures comparison_over_tasks and, where one grows, capacity and
    accuracy_by_capacity, accuracy_<method>.csv of each and comparison.json.

    Args:
      results: with different names.
      formats: of the figures.
      latex: the table as LaTeX too.

    Raises:
      InputError: two of one name, or none.
    """
    table = comparison_table(results)
    files: dict[str, str | bytes] = {
        "comparison.csv": comparison_csv(results),
        "comparison.md": markdown_page(table, *_paired(results)),
    }
    if latex:
        files["comparison.tex"] = latex_page(table)
    drawn = {"comparison_over_tasks": figures.comparison_over_tasks(results)}
    if any(map(figures.grows, results)) and all("bits" in result.capacity for result in results):
        drawn["capacity"] = figures.capacity(results)
        drawn["accuracy_by_capacity"] = figures.accuracy_by_capacity(results)
    return {**files, **figure_files(drawn, formats), **comparison_files(results)}
