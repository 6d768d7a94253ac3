#!/usr/bin/env python
"""Scores what is saved in a workdir, finished or not, and redraws its figures.

E.g. runs/first, or runs/first --data npz:other.npz for other examples of the same classes. Every
method, seed and network is scored on every task; nothing but the figures is changed.
"""

import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from cls_jax.cli import run_main


@dataclass(frozen=True)
class Config:
    """What to score, on what."""

    workdir: Positional[Annotated[str, arg(help="of a run that was saved.")]] = "runs/first"
    data: Annotated[str | None, arg(help="another data set; that of the run if not given.")] = None
    data_dir: Annotated[str | None, arg(help="where tfds data sets lie.")] = None
    figures: Annotated[bool, arg(help="redraw the figures in the workdir.")] = True


def main(config: Config) -> None:
    """Loads every saved run, scores it, prints a table, redraws the figures."""
    from cls_jax.errors import InputError
    from cls_jax.evaluate import view_names
    from cls_jax.events import scenario_names
    from cls_jax.experiment import make_stream
    from cls_jax.files import safe_names
    from cls_jax.paths import check_place, writing
    from cls_jax.report import redraw
    from cls_jax.sheet import Sheet, rich_table, show
    from cls_jax.trained import load_all, results, score

    workdir = check_place(config.workdir) if config.figures else Path(config.workdir)
    found = load_all(workdir)
    changes = {"data": config.data, "data_dir": config.data_dir}
    changes = {name: value for name, value in changes.items() if value is not None}
    asked = replace(found[0].stream, **changes)
    if config.data is None:  # they may be a stranger's words
        where = f" in {asked.data_dir}" if asked.data_dir is not None else ""
        print(f"data {asked.data}{where}, as {workdir} says", file=sys.stderr)
    try:
        stream = make_stream(asked, read_only=config.data_dir is None)
    except InputError as error:
        told = "; --data and --data-dir say where the data are now" * (not changes)
        raise InputError(f"{error}{told}") from error
    rows = []
    for one in found:
        accuracy = 100 * score(one, stream)
        for view, of_view in zip(view_names(one.method), accuracy, strict=True):
            for name, row in zip(scenario_names(stream.describe), of_view, strict=False):
                cells = (f"{value:.2f}" for value in (row.mean(), *row))
                rows.append((one.name, str(one.seed), view, name, *cells))
    tasks = (f"task {j + 1}" for j in range(stream.num_tasks))
    header = ("method", "seed", "network", "scenario", "mean", *tasks)
    unfinished = sum(not one.over for one in found)
    note = "percent" + (f"; {unfinished} of {len(found)} runs are not finished" * bool(unfinished))
    show(rich_table(Sheet(f"{config.workdir} on {stream.name}", header, tuple(rows), note)))
    if config.figures:
        made = results(found, stream)
        names = safe_names([result.method for result in made])
        for result, name in zip(made, names, strict=True):
            with writing(workdir):
                print("redrawn:", *redraw(workdir, result, f"{name}_" * (len(made) > 1)))


if __name__ == "__main__":
    run_main(main, Config, {"saved": Config()}, default_preset="saved", description=__doc__)
