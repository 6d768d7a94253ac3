"""Axes of curves: what each line looks like, how far the axis goes, where the names stand.

Colours are Okabe-Ito's, which the colour-blind tell apart; no two methods share colour, marker and
line.
"""

import itertools
import math
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from cls_jax.report.canvas import SMALL, TITLE, cut, drawable, new_figure, width_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

OKABE_ITO = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = "osD^vPX"
LINES = "-", "--", ":", "-."
LEAST_SPAN = 5.0
"""No axis of percent shows less than so many points: what differs by noise should look alike."""

_MARGIN = 0.04
_MARKED = 25
_HANDLE = 0.55
"""Inches that a legend needs beside each name."""


class Curve(NamedTuple):
    """One line of an axis of percent, and its band.

    Attributes:
      label: of the legend.
      style: number of its look, see ``look``.
      mean: float[T] over the seeds; NaN where not measured.
      low, high: one sample standard deviation below and above, float[T], cut at 0 and 100, which
        no accuracy passes; equal to the mean for a single seed.
    """

    label: str
    style: int
    mean: np.ndarray
    low: np.ndarray
    high: np.ndarray


def curve(label: str, style: int, values: np.ndarray) -> Curve:
    """The mean and the band of percent float[seeds, T]."""
    mean = values.mean(0)
    std = values.std(0, ddof=1) if len(values) > 1 else np.zeros_like(mean)
    low, high = (np.clip(mean + way * std, 0, 100) for way in (-1, 1))
    return Curve(label, style, mean, np.minimum(low, mean), np.maximum(high, mean))


def limits(curves: Iterable[Curve]) -> tuple[float, float]:
    """Bottom and top of an axis that holds every point and band of ``curves``, and a margin.

    It starts at 0 where that costs at most a third of the height, else at a round number.
    """
    edges = np.concatenate([np.ravel((one.low, one.high)) for one in curves])
    edges = edges[np.isfinite(edges)]
    low, high = (edges.min(), edges.max()) if len(edges) else (0.0, 100.0)
    if high - low < LEAST_SPAN:
        low = min(max(0.0, (low + high - LEAST_SPAN) / 2), 100 - LEAST_SPAN)
        high = low + LEAST_SPAN
    bottom = 0.0
    if 3 * low > high:
        step = _round_step((high - low) / 10)
        bottom = max(0.0, math.floor((low - _MARGIN * (high - low)) / step) * step)
    margin = _MARGIN * (high - bottom)
    return (-margin if low < margin and bottom == 0 else bottom), high + margin


def draw(axes: "Axes", curves: Sequence[Curve]) -> None:
    """The lines and bands; what was measured once alone (joint training) is a dot with a bar."""
    alpha = 0.18 if len(curves) <= 4 else 0.14
    for one in curves:
        tasks, color = np.arange(1, len(one.mean) + 1), look(one.style)["color"]
        spread = int((one.high > one.low).sum())
        if spread and np.isfinite(one.mean).sum() == 1:
            axes.vlines(tasks, one.low, one.high, color=color, alpha=0.5, linewidth=3)
        elif spread:
            axes.fill_between(tasks, one.low, one.high, color=color, alpha=alpha, linewidth=0)
        line(axes, one.mean, one.label, one.style)


def line(axes: "Axes", mean: np.ndarray, label: str, style: int) -> None:
    """One line over the tasks; over many a marker at every few of them, not all at the same."""
    measured = int(np.isfinite(mean).sum())
    every = max(1, -(-measured // _MARKED))
    marks = {"markersize": 4, "markevery": 1 if every == 1 else (style % every, every)}
    axes.plot(np.arange(1, len(mean) + 1), mean, label=label, **marks, **look(style))


def dress(axes: "Axes", num_tasks: int) -> None:
    """Whole tasks below, a light grid, no box."""
    ticks = round_tasks(num_tasks)
    axes.set_xticks(ticks, map(str, ticks))
    axes.set_xlim(0.8 - 0.02 * num_tasks, 1.02 * num_tasks + 0.2)
    axes.grid(axis="y", alpha=0.3, linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)


def round_tasks(num_tasks: int, at_most: int = 10) -> np.ndarray:
    """The numbers of the tasks that an axis names: all of few, round ones of many."""
    step = int(_round_step(num_tasks / at_most)) if num_tasks > at_most else 1
    return np.arange(step, num_tasks + 1, step)


def starts_at(bottom: float) -> str:
    """What the label of an axis must say where it does not start at 0; "" where it does."""
    return f"\n(the axis starts at {bottom:g}, not at 0)" if bottom > 0 else ""


def framed(size: tuple[float, float], title: str, names: Sequence[str]) -> "Figure":
    """A figure with its title, and room below for a legend of ``names``.

    Args:
      size: width in inches, and height without title and legend.
      title: at most three lines of it are shown.
      names: of ``short``; none for no legend.
    """
    width, height = size
    lines = _lines(title, width)
    rows = 1 - (-len(names) // _columns(names, width)) if names else 0
    figure = new_figure(width, height + 0.19 * (len(lines) + rows) + 0.1)
    figure.suptitle("\n".join(lines))
    return figure


def legend_below(figure: "Figure", axes: "Axes", note: str) -> None:
    """The names of the lines of ``axes`` under all axes, in as many columns as fit, and a note."""
    handles, labels = axes.get_legend_handles_labels()
    columns = _columns(labels, figure.get_figwidth())
    how = {"loc": "outside lower center", "ncols": columns, "frameon": False}
    legend = figure.legend(handles, labels, title=note, handlelength=2.6, columnspacing=1.2, **how)
    legend.get_title().set_color("0.35")


def short(names: Iterable[str], inches: float) -> list[str]:
    """Names for a legend, no two alike: on one line each, long ones without their middle.

    One that begins with "_" has a space before it: matplotlib leaves such names out.

    Args:
      names: as the user gave them.
      inches: of the figure; more than four names have half of it each, in two columns.
    """
    given, shortened = [drawable(name) for name in names], []
    room = (inches - 0.3) / (1 if len(given) <= 4 else 2) - _HANDLE - 0.4  # 0.4: " (10)"
    for name in given:
        label = cut(f" {name}" if name.startswith("_") else name, room, SMALL)
        copies = (f"{label} ({n})" for n in itertools.count(2))
        shortened.append(
            next(one for one in itertools.chain([label], copies) if one not in shortened)
        )
    return shortened


def look(style: int) -> dict[str, Any]:
    """Colour, marker and line of the method with this number; the first 196 differ."""
    again = style // len(OKABE_ITO)
    return {
        "color": OKABE_ITO[style % len(OKABE_ITO)],
        "marker": MARKERS[(style + again) % len(MARKERS)],
        "linestyle": LINES[again % len(LINES)],
    }


def _columns(names: Sequence[str], inches: float) -> int:
    """In how many columns a legend of that width stands, none of them left short."""
    widest = _HANDLE + max(width_of(name, SMALL) for name in names)
    most = min(max(1, int((inches - 0.2) / widest)), len(names), 5)
    return -(-len(names) // -(-len(names) // most))


def _lines(title: str, inches: float) -> list[str]:
    """A title in at most three lines, broken at spaces where there are any."""
    room = inches - 0.3
    lines, rest = [], cut(drawable(title).strip(), 2.6 * room, TITLE)
    while rest:
        most = len(rest)
        while most > 1 and width_of(rest[:most], TITLE) > room:
            most -= max(1, most // 20)
        space = rest.rfind(" ", 1, most + 1) if most < len(rest) else -1
        most = space if space > most // 2 else most
        lines.append(rest[:most].strip())
        rest = rest[most:].strip()
    return lines


def _round_step(least: float) -> float:
    """The smallest of 1, 2 and 5 times a power of ten that is not below ``least``."""
    power = 10.0 ** math.floor(math.log10(least))
    return next(k * power for k in (1, 2, 5, 10) if k * power >= least * (1 - 1e-9))
