#!/usr/bin/env python
"""Evaluates what is saved in a workdir, finished or not, and redraws its figures.

E.g. runs/first, or runs/first --data npz:other.npz for other examples of the same classes. Each
method and seed is scored on every task of its stream; nothing in the workdir but its figures is
changed.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from cls_jax.cli import run_main


@dataclass(frozen=True)
class Config:
    """What to evaluate, on what."""

    workdir: Positional[Annotated[str, arg(help="of a run that was saved.")]]
    data: Annotated[str | None, arg(help="another data set; that of the run if not given.")] = None
    data_dir: Annotated[str | None, arg(help="where tfds data sets lie.")] = None
    figures: Annotated[bool, arg(help="redraw the figures in the workdir.")] = True


def main(config: Config) -> None:
    """Loads every saved run, scores it, prints a table, redraws the figures."""
    from cls_jax.experiment import make_stream
    from cls_jax.report import redraw, show
    from cls_jax.trained import evaluation, load_all, results

    found = load_all(config.workdir)
    changes = {"data": config.data, "data_dir": config.data_dir}
    changes = {name: value for name, value in changes.items() if value is not None}
    stream = make_stream(replace(found[0].stream, **changes))
    show(evaluation(found, stream))
    if config.figures:
        for result in results(found, stream):
            print("redrawn:", *redraw(Path(config.workdir), result))


if __name__ == "__main__":
    run_main(main, Config, {"saved": Config("")}, default_preset="saved", description=__doc__)
