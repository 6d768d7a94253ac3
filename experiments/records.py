#!/usr/bin/env python
"""Puts the tables of records/ into README.md; a test holds the two equal.

A record is the workdir of reproduce.py, compare.py or a method's script, JSON files of
benchmark/run.py or the folder of benchmark/table.py, with a NOTE.md that says what it is.
Records of survival and of schedules have no table: the README quotes their numbers.
"""

from dataclasses import dataclass
from pathlib import Path

from cls_jax.app.flags import run_main
from cls_jax.core.errors import InputError
from cls_jax.report.records import BEGIN, END, block, speed, with_block

__all__ = ["block", "speed", "with_block"]

ROOT = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class Config:
    """What is written where.

    Attributes:
      readme: the page whose tables are replaced.
      records: folder of the records.
      check: write nothing, and end with code 2 if the page is not up to date.
    """

    readme: str = str(ROOT / "README.md")
    records: str = str(ROOT / "records")
    check: bool = False


def main(config: Config) -> None:
    """Writes the page, or says whether it is up to date."""
    page = Path(config.readme)
    if not page.is_file() or not Path(config.records).is_dir():
        raise InputError(f"{page} must be a file and {config.records} a folder; give others")
    text = page.read_text(encoding="utf-8")
    if BEGIN not in text or END not in text:
        raise InputError(f"readme {page} has no lines {BEGIN!r} and {END!r}; add them")
    new = with_block(text, block(Path(config.records)))
    if config.check and new != text:
        raise InputError(f"readme {page} differs from {config.records}; run it without --check")
    if new != text:
        page.write_text(new, encoding="utf-8")


if __name__ == "__main__":
    run_main(main, Config, {"": Config()}, default_preset="", description=__doc__)
