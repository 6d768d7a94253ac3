"""What a run leaves for people: tables, a workdir of JSON, CSV, Markdown and figures.

``python -m cls_jax.report WORKDIR ...`` sets finished runs side by side. Host only. Accuracies are
percent in tables and figures, fractions in files. Tasks are counted from 1 in everything printed.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.table import Table

from cls_jax import figures
from cls_jax.cli import positional, run_main
from cls_jax.columns import columns_of, phased, summaries
from cls_jax.console import console, fan_out, tensorboard
from cls_jax.errors import InputError
from cls_jax.events import Result
from cls_jax.metrics import scores
from cls_jax.paths import check_place, resolved
from cls_jax.sheet import Sheet, page, percent, rich_table, show
from cls_jax.stored import COMPARISON, gather, number, score_key, write_run, write_runs
from cls_jax.workdir import (
    CONFIG,
    check_workdir,
    prepare_workdir,
    write_config,
    write_file,
    writing,
)

__all__ = [
    "check_workdir",
    "comparison_table",
    "console",
    "fan_out",
    "finish",
    "main",
    "prepare_workdir",
    "show",
    "tables",
    "tensorboard",
    "write",
    "write_comparison",
]

COLUMNS = {
    "ACC": "average_accuracy",
    "forgetting": "forgetting",
    "BWT": "backward_transfer",
    "FWT": "forward_transfer",
    "LA": "learning_accuracy",
}
"""Column of a table -> score of ``metrics``."""


KIB = "KiB: what must be kept to answer"


def tables(result: Result) -> Table:
    """The scores of one run for the terminal: a row a view and scenario, mean ± sample std."""
    return rich_table(_sheet(result))


def comparison_table(results: Sequence[Result]) -> Table:
    """Several methods for the terminal: a row a method, the best of each column in bold."""
    return rich_table(_comparison_sheet(results))


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
        print(f"results in {made}")


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
    write_file(workdir / "summary.md", page(_sheet(result)))
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

    config.json, comparison.json, comparison.csv (a row a method, seed and scenario),
    comparison.md, comparison_over_tasks.png, accuracy_<method>_<view>_<scenario>_seed<k>.csv.
    """
    _distinct(results)
    if not check_workdir(workdir, config):
        write_config(workdir, config)
    return _write_side_by_side(Path(workdir), results)


def _write_side_by_side(workdir: Path, results: Sequence[Result]) -> Path:
    """All of ``write_comparison`` but config.json, into a folder that is there."""
    write_file(workdir / "comparison.csv", _comparison_csv(results))
    write_file(workdir / "comparison.md", page(_comparison_sheet(results)))
    write_file(workdir / "comparison_over_tasks.png", figures.comparison_over_tasks(results))
    if any(map(figures.grows, results)) and all(result.capacity for result in results):
        write_file(workdir / "capacity.png", figures.capacity(results))
    write_runs(workdir, results)
    return workdir


def _comparison_csv(results: Sequence[Result]) -> str:
    lines = []
    for result in results:
        for s, scenario in enumerate(result.scenarios):
            every = scores(result.matrix[:, 0, s])
            if not lines:
                lines.append(",".join(["method", "scenario", "seed", *every]))
            for lane, seed in enumerate(result.seeds):
                cells = (number(values[lane]) for values in every.values())
                lines.append(",".join([result.method, score_key(scenario), str(seed), *cells]))
    return "\n".join(lines) + "\n"


def _seconds(seconds: float) -> str:
    if not np.isfinite(seconds):
        return "-"
    return f"{seconds:,.1f}" if seconds < 100 else f"{seconds:,.0f}"


def _sheet(result: Result) -> Sheet:
    columns, told = columns_of([result])
    header, rows = ("network", "scenario", *COLUMNS), []
    for v, view in enumerate(result.views):
        if phased(result):
            header = ("network", *columns)
            rows.append((view, *(percent(value(result, v)) for _, value in columns.values())))
            continue
        for s, scenario in enumerate(result.scenarios):
            found = summaries(result, v, s)
            cells = (percent(found[name]) for name in COLUMNS.values())
            rows.append((view, scenario, *cells))
    stream = result.stream_name
    speed = f"{_seconds(result.seconds)} s, {result.steps_per_second:,.0f} steps/s"
    if "bits" in result.capacity:
        size = result.capacity["bits"][:, -1].mean() / 8192
        speed += f"; {size:,.0f} KiB must be kept to answer"
    return Sheet(
        title=result.method + (f" on {stream}" if stream else ""),
        header=header,
        rows=tuple(rows),
        note=f"percent, {_over(result)}; {told + '; ' if phased(result) else ''}{speed}",
    )


def _comparison_sheet(results: Sequence[Result]) -> Sheet:
    _distinct(results)
    columns, told = columns_of(results)
    sized = all("bits" in result.capacity for result in results)
    bold = set()
    texts = [[result.method] for result in results]
    for column, (sign, value) in enumerate(columns.values(), start=1):
        values = [value(result, 0) for result in results]
        means = [sign * round(summary.mean, 4) for summary in values]  # as printed
        if not np.isnan(means).all():
            bold |= {(i, column) for i, mean in enumerate(means) if mean == np.nanmax(means)}
        for row, summary in zip(texts, values, strict=True):
            row.append(percent(summary))
    for row, result in zip(texts, results, strict=True):
        if sized:
            row.append(f"{result.capacity['bits'][:, -1].mean() / 8192:,.0f}")
        rate = result.steps_per_second
        row += [_seconds(result.seconds), f"{rate:,.0f}" if np.isfinite(rate) else "-"]
    note = "; ".join(dict.fromkeys(_over(result) for result in results))
    return Sheet(
        title=figures.stream_names(results) or "comparison",
        header=("method", *columns, *["KiB"] * sized, "seconds", "steps/s"),
        rows=tuple(map(tuple, texts)),
        note=f"percent, {note}; {told}; best in bold{'; ' + KIB if sized else ''}",
        bold=frozenset(bold),
    )


def _over(result: Result) -> str:
    n = len(result.seeds)
    return f"mean ± sample std over {n} seeds" if n > 1 else f"one seed ({result.seeds[0]})"


def _distinct(results: Sequence[Result]) -> None:
    names = [result.method for result in results]
    if not names or len(set(names)) < len(names):
        raise InputError(f"a comparison needs methods of different names; got {names}")


COMMAND = """Finished runs in one table and one figure.

python -m cls_jax.report runs/a runs/b --out runs/both
"""


@dataclass(frozen=True)
class Config:
    """What ``python -m cls_jax.report`` compares.

    Attributes:
      workdirs: folders of finished runs, one or more.
      out: folder for the table, the matrices and the figure; nothing is written if not given.
    """

    workdirs: positional(tuple[str, ...], "WORKDIR ...") = ()
    out: str | None = None


def main(argv: Sequence[str] | None = None) -> None:
    """Prints finished runs side by side, one table for all, and writes them with their figure.

    Exit codes as ``cli.run_main``.

    Args:
      argv: the arguments; those of the process if None.
    """
    run_main(_compare, Config, {"": Config()}, default_preset="", argv=argv, description=COMMAND)


def _compare(config: Config) -> None:
    out = None if config.out is None else check_place(config.out, "out")
    results = gather(config.workdirs)
    _distinct(results)
    if out is not None:
        _check_out(out, config.workdirs)
    show(tables(results[0]) if len(results) == 1 else comparison_table(results))
    if out is not None:
        with writing(out, "out"):
            out.mkdir(parents=True, exist_ok=True)
            _write_side_by_side(out, results)
        print(f"results in {out}")


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


if __name__ == "__main__":
    main()
