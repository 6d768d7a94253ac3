"""Finished runs set side by side: ``cls-jax report WORKDIR ...``."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from cls_jax.app.flags import Positional, arg, run_main
from cls_jax.core.errors import InputError
from cls_jax.core.paths import check_place, resolved, writing
from cls_jax.report.canvas import DEFAULT_FORMATS, FigureFormat, check_formats
from cls_jax.report.latex import show_latex
from cls_jax.report.result_tables import check_distinct
from cls_jax.report.results import COMPARISON, collect
from cls_jax.report.summary import render_comparison, show_tables, table_of, write
from cls_jax.training.runtime.workdir import CONFIG

DESCRIPTION = """Finished runs in one table and one figure, e.g. runs/a runs/b --out runs/both.

For a paper: runs/a runs/b --latex > table.tex
"""


@dataclass(frozen=True, kw_only=True)
class Config:
    """What stands side by side.

    Attributes:
      workdirs: folders of finished runs, one or more.
      out: folder for the table, the matrices and the figure; nothing is written if not given.
      latex: the table as LaTeX too, comparison.tex in the folder of --out; without one it is
        printed, in place of the table for the terminal.
      figure_format: what the figure is written as, one or several of png, svg and pdf.
    """

    workdirs: Annotated[
        Positional[tuple[str, ...]], arg(metavar="WORKDIR ...", help_behavior_hint="")
    ] = ()
    out: str | None = None
    latex: bool = False
    figure_format: tuple[FigureFormat, ...] = DEFAULT_FORMATS


def start(argv: Sequence[str] | None = None, *, prog: str | None = None) -> None:
    """Prints finished runs side by side, one table for all, and writes them with their figure.

    Exit codes as ``flags.run_main``.

    Args:
      argv: the arguments; those of the process if None.
      prog: how the help calls the command.
    """
    how = {"argv": argv, "description": DESCRIPTION, "prog": prog}
    run_main(main, Config, {"": Config()}, default_preset="", **how)


def main(config: Config) -> None:
    """Collects finished runs, prints their table, writes it with its figure."""
    check_formats(config.figure_format, config.out is not None, "--out")
    out = None if config.out is None else check_place(config.out, "out")
    results = collect(config.workdirs)
    check_distinct(results)
    if out is not None:
        _check_out(out, config.workdirs)
    if config.latex and out is None:
        show_latex(table_of(results))
        return
    show_tables(results)
    if out is not None:
        files = render_comparison(results, config.figure_format, config.latex)
        with writing(out, "out"):
            out.mkdir(parents=True, exist_ok=True)
        write(out, files, "out")


def _check_out(out: Path, workdirs: Sequence[str]) -> None:
    """Raises InputError unless a comparison may be written there."""
    own = resolved(out, "out") in [resolved(workdir, "workdir") for workdir in workdirs]
    if own or (out / CONFIG).exists():
        raise InputError(f"out {out} is the workdir of an experiment; give another --out")
    there = sorted(os.listdir(out)) if out.exists() else []
    if there and COMPARISON not in there:
        raise InputError(
            f"out {out} holds {there[0]!a} and no {COMPARISON}, so it is not ours to write over; "
            "give another --out, new or empty"
        )
