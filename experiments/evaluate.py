#!/usr/bin/env python
"""Scores what is saved in a workdir, finished or not, and redraws its figures.

E.g. runs/first, or runs/first --data npz:other.npz for other examples of the same classes. Every
method, seed and network is scored on every task; nothing but the figures is changed.
"""

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
    from cls_jax.evaluate import view_names
    from cls_jax.events import scenario_names
    from cls_jax.experiment import make_stream, without_dir
    from cls_jax.report import redraw
    from cls_jax.sheet import Sheet, rich_table, show
    from cls_jax.trained import load_all, results, score

    found = load_all(config.workdir)
    changes = {"data": config.data, "data_dir": config.data_dir}
    changes = {name: value for name, value in changes.items() if value is not None}
    if config.data is not None and without_dir(config.data):
        changes.setdefault("data_dir", None)
    stream = make_stream(replace(found[0].stream, **changes))
    rows = []
    for one in found:
        accuracy = 100 * score(one, stream)
        names = scenario_names(stream.describe, one.method.needs.told_task_at_test)
        for view, of_view in zip(view_names(one.method), accuracy, strict=True):
            for name, row in zip(names, of_view, strict=False):
                cells = (f"{value:.2f}" for value in (row.mean(), *row))
                rows.append((one.name, str(one.seed), view, name, *cells))
    tasks = (f"task {j + 1}" for j in range(stream.num_tasks))
    header = ("method", "seed", "network", "scenario", "mean", *tasks)
    unfinished = sum(not one.over for one in found)
    note = "percent" + (f"; {unfinished} of {len(found)} runs are not finished" * bool(unfinished))
    show(rich_table(Sheet(f"{config.workdir} on {stream.name}", header, tuple(rows), note)))
    if config.figures:
        made = results(found, stream)
        for result in made:
            prefix = f"{result.method}_".replace(" ", "_") if len(made) > 1 else ""
            print("redrawn:", *redraw(Path(config.workdir), result, prefix))


if __name__ == "__main__":
    run_main(main, Config, {"saved": Config()}, default_preset="saved", description=__doc__)
