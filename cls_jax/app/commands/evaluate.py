"""What is saved in a workdir, scored again: ``cls-jax evaluate WORKDIR``."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from cls_jax.app.flags import Positional, Repeated, arg, run_main
from cls_jax.report.canvas import DEFAULT_FORMATS, FigureFormat, check_formats

DESCRIPTION = """Scores what is saved in a workdir, finished or not, and redraws its figures.

E.g. runs/first, or runs/first --data npz:other.npz for other examples of the same classes. Every
method, seed and network is scored on every task; nothing but the figures is changed.
"""


@dataclass(frozen=True)
class Config:
    """What to score, on what.

    Attributes:
      workdir: of a run that was saved.
      data: another data set; that of the run if not given.
      data_dir: where tfds data sets lie.
      figures: redraw the figures in the workdir.
      figure_format: what they are written as; several may be given.
      imports: a Python file that brought methods, networks or data sets of your own.
    """

    workdir: Positional[Annotated[str, arg(help="of a run that was saved.")]] = "runs/first"
    data: str | None = None
    data_dir: str | None = None
    figures: bool = True
    figure_format: tuple[FigureFormat, ...] = DEFAULT_FORMATS
    imports: Annotated[Repeated[str], arg(name="import")] = ()


def main(config: Config) -> None:
    """Loads every saved run, scores it, prints a table, redraws the figures."""
    from cls_jax.app.restore import read_all, warn
    from cls_jax.app.saved_scores import results, score_table, streams_of
    from cls_jax.core.errors import InputError
    from cls_jax.core.files import safe_names, write_all
    from cls_jax.core.paths import check_place, writing
    from cls_jax.report.summary import render_figures
    from cls_jax.report.tables import rich_table, show

    check_formats(config.figure_format, config.figures, "--figures")
    workdir = check_place(config.workdir) if config.figures else Path(config.workdir)
    found, left = read_all(workdir)
    warn(left)
    changes = {"data": config.data, "data_dir": config.data_dir}
    changes = {name: value for name, value in changes.items() if value is not None}
    streams = streams_of(found, changes, workdir)
    trained_on = streams  # the figures show what was measured in training
    if config.data is not None and config.figures:
        try:
            trained_on = streams_of(found, {}, workdir)
        except InputError as error:
            print(f"warning: no figure is redrawn: {error}", file=sys.stderr)
            trained_on = {}
    show(rich_table(score_table(workdir, found, streams, len(left))))
    if not config.figures:
        return
    of_stream = ([one for one in found if one.stream == flags] for flags in trained_on)
    made = [r for of, s in zip(of_stream, trained_on.values(), strict=True) for r in results(of, s)]
    for result, name in zip(made, safe_names([result.method for result in made]), strict=True):
        files = render_figures(result, f"{name}_" * (len(made) > 1), config.figure_format)
        with writing(workdir):
            write_all(workdir, files)
        print("redrawn:", *(workdir / file for file in files))


def start(argv: Sequence[str] | None = None, *, prog: str | None = None) -> None:
    """Parses ``argv`` (those of the process if None), and runs it; ``prog`` is for the help."""
    how = {"argv": argv, "description": DESCRIPTION, "prog": prog}
    run_main(main, Config, {"saved": Config()}, default_preset="saved", **how)
