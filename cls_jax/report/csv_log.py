"""Losses and scores of a run as CSV files, complete whenever the process dies."""

import csv as csv_format
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TextIO

from cls_jax.core.errors import InputError, SaveFailed
from cls_jax.core.files import write_file
from cls_jax.core.paths import check_no_links, check_place
from cls_jax.report.points import points
from cls_jax.training.events import Ended, Evaluated, Event, Logger, Progress, Started

LOSSES = ("method", "value", "seed", "phase", "metric", "step", "mean")
SCORES = ("method", "value", "seed", "network", "scenario", "task", "after_task", "accuracy")
FILES = {"losses.csv": LOSSES, "scores.csv": SCORES}
"""The files of ``csv``, and their columns."""


def csv(folder: str | Path) -> Logger:
    """A logger that appends to losses.csv and scores.csv, a number a row.

    Each event is in the file before the run goes on. Where a run goes on, rows beyond its save are
    cut, since they are told again: every step stands there once, as if there had been no kill.

    Args:
      folder: of the files; made if it is not there.

    Raises:
      InputError: as the run starts, if the folder cannot be written or holds files of these names
        that are none of ours.
      SaveFailed: if the disk is full or broken.
    """
    folder, started, files = Path(folder), Started("", "", (), 0, 0, ""), {}

    def log(event: Event) -> None:
        nonlocal started
        if isinstance(event, Started):
            started = event
            check_no_links(check_place(folder, "folder"), *FILES, flag="folder")
            folder.mkdir(parents=True, exist_ok=True)
            for name, header in FILES.items():
                files[name] = _opened(folder / name, header, event)
        elif isinstance(event, Ended):
            for file in files.values():
                file.close()
            files.clear()
        else:
            file = files["losses.csv" if isinstance(event, Progress) else "scores.csv"]
            _append(file, event, started)

    return log


def _append(file: TextIO, event: Progress | Evaluated, started: Started) -> None:
    rows = [
        (started.method, started.labels[one.value], one.seed, *one.names, one.step, one.number)
        for one in points(event, started)
    ]
    try:
        file.write(_text(rows))
        file.flush()
    except OSError as error:
        raise SaveFailed(
            f"{file.name} could not be written ({error.strerror or error}); what was saved before "
            "is kept: free some space or mend the disk, and run the same command again"
        ) from error


def _opened(path: Path, header: Sequence[str], started: Started) -> TextIO:
    """The file, open to be appended to, without what will be told again."""
    kept = []
    if path.exists():
        text = path.read_text(encoding="utf-8", errors="replace")
        text = text[: text.rfind("\n") + 1]  # a kill may have torn the last line
        found, *rows = csv_format.reader(io.StringIO(text, newline="")) if text else [[*header]]
        if tuple(found) != tuple(header):
            raise InputError(f"{path} is no log of cls_jax; move it away, or give another folder")
        kept = [row for row in rows if not _again(row, header, started)]
    write_file(path, _text([header, *kept]))
    return open(path, "a", encoding="utf-8", newline="")


def _again(row: Sequence[str], header: Sequence[str], started: Started) -> bool:
    """Whether what a row says will be told again."""
    of = dict(zip(header, row, strict=True))
    for one in started.since:
        if [started.method, started.labels[one.value], str(one.seed)] == [*row[:3]]:
            return int(of["step"]) > one.step if "step" in of else int(of["after_task"]) >= one.rows
    return False


def _text(rows: Sequence[Sequence[Any]]) -> str:
    file = io.StringIO()
    csv_format.writer(file, lineterminator="\n").writerows(rows)
    return file.getvalue()
