"""Losses and scores of a run as CSV files, complete whenever the process dies."""

import contextlib
import csv as csv_format
import io
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TextIO

from cls_jax.core.errors import InputError, SaveFailed
from cls_jax.core.files import write_file
from cls_jax.core.paths import check_no_links, check_place, writing
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
            with writing(folder, "folder"):
                folder.mkdir(parents=True, exist_ok=True)
                for name, header in FILES.items():
                    files[name] = _opened(folder / name, header, event)
        elif isinstance(event, Ended):
            for file in files.values():
                with contextlib.suppress(OSError):  # each event was flushed
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
        try:
            found, *rows = csv_format.reader(io.StringIO(text, newline="")) if text else [header]
            if tuple(found) != tuple(header):
                raise ValueError("another table")
            kept = _told_before(rows, header, started)
        except (ValueError, csv_format.Error) as error:
            message = f"{path} is no log of cls_jax; move it away, or give another folder"
            raise InputError(message) from error
    write_file(path, _text([header, *kept]))
    return open(path, "a", encoding="utf-8", newline="")


def _told_before(
    rows: Sequence[Sequence[str]], header: Sequence[str], started: Started
) -> list[Sequence[str]]:
    """The rows but for those of this run that will be told again."""
    by_updates = "step" in header  # else by tasks learned
    when = header.index("step" if by_updates else "after_task")
    last: dict[tuple[str, ...], int] = {}
    for one in started.since:
        trial = started.method, started.labels[one.value], str(one.seed)
        last[trial] = one.step if by_updates else one.rows - 1
    if any(len(row) != len(header) for row in rows):
        raise ValueError("torn rows")
    return [row for row in rows if int(row[when]) <= last.get((*row[:3],), math.inf)]


def _text(rows: Sequence[Sequence[Any]]) -> str:
    file = io.StringIO()
    csv_format.writer(file, lineterminator="\n").writerows(rows)
    return file.getvalue()
