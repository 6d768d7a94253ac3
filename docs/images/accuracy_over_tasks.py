#!/usr/bin/env python
"""Draws accuracy_over_tasks.png beside it: four methods on one stream, from one record."""

from pathlib import Path

from cls_jax.report.canvas import encode
from cls_jax.report.figures import comparison_over_tasks
from cls_jax.report.results import read

RECORD = Path(__file__).resolve().parents[2] / "records" / "2026-11-26_compare_digits_four"
NAMES = {"dualnet": "DualNet", "clser": "CLS-ER", "er": "ER", "sgd": "SGD"}


def draw() -> bytes:
    """The PNG, with the names that the papers use."""
    found = {result.method: result for result in read(RECORD)}
    shown = [found[m]._replace(method=name) for m, name in NAMES.items()]
    return encode(comparison_over_tasks(shown), "png")


if __name__ == "__main__":
    Path(__file__).with_suffix(".png").write_bytes(draw())
