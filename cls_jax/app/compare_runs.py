"""Finished runs set side by side: ``python -m cls_jax.app.compare_runs WORKDIR ...``."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cls_jax.app.flags import positional, run_main
from cls_jax.core.errors import InputError
from cls_jax.core.paths import check_place, resolved
from cls_jax.report.result_tables import check_distinct
from cls_jax.report.results import COMPARISON, gather
from cls_jax.report.summary import comparison_table, tables, write_side_by_side
from cls_jax.report.tables import show, visible
from cls_jax.runtime.workdir import CONFIG, writing

COMMAND = """Finished runs in one table and one figure.

python -m cls_jax.app.compare_runs runs/a runs/b --out runs/both
"""


@dataclass(frozen=True, kw_only=True)
class Config:
    """What ``python -m cls_jax.app.compare_runs`` compares.

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
    check_distinct(results)
    if out is not None:
        _check_out(out, config.workdirs)
    show(tables(results[0]) if len(results) == 1 else comparison_table(results))
    if out is not None:
        with writing(out, "out"):
            out.mkdir(parents=True, exist_ok=True)
            write_side_by_side(out, results)
        print(visible(f"results in {out}"))


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
