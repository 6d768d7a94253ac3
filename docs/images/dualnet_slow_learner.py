#!/usr/bin/env python
"""Draws dualnet_slow_learner.png beside it: paired differences, from two records."""

from pathlib import Path

import numpy as np

from cls_jax.report.canvas import encode, new_figure
from cls_jax.report.results import read

RECORDS = Path(__file__).resolve().parents[2] / "records"
ON, OFF = "dualnet lookahead_step_size=0.05", "dualnet lookahead_step_size=0"
PAIRS = {
    "slow learner on - off": (ON, OFF),
    "DualNet - ER": (ON, "er_own"),
    "slow learner off - ER": (OFF, "er_own"),
    "DualNet - DER++": (ON, "derpp_own"),
    "DualNet - CLS-ER": (ON, "clser"),
}
COLOURS = {"tenth": ("C0", "labels of one batch in ten"), "all_labels": ("C1", "all labels")}


def differences(record: str, one: str, other: str) -> np.ndarray | None:
    """float64[seeds that both have]: task-IL accuracy, one minus other, points; None: not run."""
    results = read(RECORDS / f"2026-11-26_dualnet_{record}")
    found = {result.method.removesuffix(" (two_updates)"): result for result in results}
    if one not in found or other not in found:
        return None
    seeds = [seed for seed in found[one].seeds if seed in found[other].seeds]
    ends = [
        [100 * r.matrix[r.seeds.index(seed), 0, 1, -1].mean() for seed in seeds]
        for r in (found[one], found[other])
    ]
    return np.subtract(*ends)


def draw() -> bytes:
    """The PNG: means, two standard errors, and every seed."""
    figure = new_figure(7, 3.2)
    axes = figure.subplots()
    axes.axvline(0, color="black", linewidth=0.8)
    for row, (one, other) in enumerate(PAIRS.values()):
        for place, (record, (colour, label)) in enumerate(COLOURS.items()):
            found = differences(record, one, other)
            if found is None:
                continue
            y = row + 0.16 * (2 * place - 1)
            error = 2 * found.std(ddof=1) / len(found) ** 0.5
            axes.errorbar(
                *(found.mean(), y), xerr=error, fmt="o", color=colour, capsize=3,
                label=label if row == 0 else None,
            )  # fmt: skip
            axes.plot(found, np.full(len(found), y), "|", color=colour, alpha=0.4)
    axes.set_yticks(range(len(PAIRS)), list(PAIRS))
    axes.set_ylim(len(PAIRS) - 0.5, -0.5)
    axes.set_xlabel("points of task-IL accuracy, mean ± two standard errors; a mark a seed")
    figure.legend(loc="outside upper center", ncols=2, frameon=False)
    return encode(figure, "png")


if __name__ == "__main__":
    Path(__file__).with_suffix(".png").write_bytes(draw())
