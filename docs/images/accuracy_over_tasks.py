#!/usr/bin/env python
"""Draws accuracy_over_tasks.png beside it: DualNet, ER and SGD on one stream, from one record.

No record has CLS-ER on the same stream, so it is left out; streams are not mixed.
"""

from pathlib import Path

from cls_jax.report.canvas import encode
from cls_jax.report.figures import comparison_over_tasks
from cls_jax.report.results import read

RECORD = Path(__file__).resolve().parents[2] / "records" / "2026-11-21_compare_cifar10"
NAMES = {"dualnet": "DualNet", "clser": "CLS-ER", "er": "ER", "sgd": "SGD"}


def draw() -> bytes:
    """The PNG, with the names that the papers use; methods that the record lacks are left out."""
    found = {result.method: result for result in read(RECORD)}
    shown = [found[m]._replace(method=name) for m, name in NAMES.items() if m in found]
    return encode(comparison_over_tasks(shown), "png")


if __name__ == "__main__":
    Path(__file__).with_suffix(".png").write_bytes(draw())
