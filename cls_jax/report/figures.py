"""Figures of results: each function gives a matplotlib Figure, made of its arguments alone.

Nothing is written, and pyplot's global state is never touched. ``canvas.encode`` gives the bytes of
a file. Widths are those of a page: at 6 inches everything can be read.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from cls_jax.core.metrics import accuracy_by_phase, accuracy_by_task, num_untested
from cls_jax.report.axes import (
    Curve,
    curve,
    draw,
    dress,
    framed,
    legend_below,
    limits,
    line,
    look,
    round_tasks,
    short,
    starts_at,
)
from cls_jax.report.canvas import laid_out, plain_style
from cls_jax.report.columns import in_order, phased, stream_names
from cls_jax.training.events import Result

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

ONE, TWO = 6.0, 7.2
"""How wide a figure of one panel is, and of two, in inches."""

_WORDS = "tasks learned", "accuracy on tasks seen so far (%)"
_LEGIBLE = 25
"""Up to so many tasks the matrix has a number in each cell."""


@plain_style()
def accuracy_matrix(result: Result) -> "Figure":
    """Heat maps of the answer's accuracy in percent, mean over seeds: a panel a scenario.

    Up to 25 tasks each cell has its number; from 11 on the panels stand one below the other.
    """
    matrix = 100 * result.matrix[:, 0, :, 1:, :].mean(0)  # [2, T, T]
    num_tasks, panels = matrix.shape[-1], in_order([result])
    stacked = 10 < num_tasks <= _LEGIBLE
    shape = (len(panels), 1) if stacked else (1, len(panels))
    side = 4.9 if stacked else 2.75 if len(panels) > 1 else 3.6
    size = shape[1] * (side + 0.3) + 1.1, shape[0] * (side + 0.45) - 0.1
    figure = framed(size, _title(result), ())
    every = figure.subplots(*shape, squeeze=False).ravel()
    for axes, (place, scenario) in zip(every, panels, strict=True):
        cells = {"cmap": "cividis", "vmin": 0, "vmax": 100, "interpolation": "nearest"}
        image = axes.imshow(np.ma.masked_invalid(matrix[place]), **cells)
        axes.set(title=scenario, xlabel="accuracy on task", ylabel="after training task")
        ticks = round_tasks(num_tasks, at_most=_LEGIBLE if num_tasks <= _LEGIBLE else 8)
        axes.set_xticks(ticks - 1, ticks)
        axes.set_yticks(ticks - 1, ticks)
        axes.spines[:].set_visible(False)
        if num_tasks <= _LEGIBLE:
            size = 9 if num_tasks <= 5 else 7
            _numbers(axes, matrix[place], digits=1 if num_tasks <= 10 else 0, size=size)
    over = _over([result])
    figure.colorbar(image, ax=every, label=f"accuracy (%), {over}", shrink=0.8, pad=0.02, aspect=30)
    return laid_out(figure)


@plain_style()
def accuracy_over_tasks(result: Result) -> "Figure":
    """The answer's accuracy on the tasks seen so far: mean over seeds, band of one sample std.

    Where only the end was scored, the accuracy on each task then.
    """
    at_end = not np.isfinite(result.matrix[:, 0, :, 1:-1]).any()
    curves = []
    for place, scenario in in_order([result]):
        values = 100 * result.matrix[:, 0, place, -1] if at_end else _over_tasks(result, place)
        curves.append(curve(scenario, place, values))
    words = ("task", "accuracy after the last task (%)") if at_end else _WORDS
    return _curves(_title(result), {"": curves}, words, _band([result]))


@plain_style()
def comparison_over_tasks(results: Sequence[Result]) -> "Figure":
    """The same curves for several methods, one panel a scenario, all on one scale."""
    panels = in_order(results)
    names = short((result.method for result in results), ONE if len(panels) == 1 else TWO)
    curves = {
        scenario: [
            curve(name, style, _over_tasks(result, place))
            for style, (name, result) in enumerate(zip(names, results, strict=True))
        ]
        for place, scenario in panels
    }
    title = stream_names(results) or "average accuracy"
    return _curves(title, curves, _WORDS, _band(results))


@plain_style()
def capacity(results: Sequence[Result]) -> "Figure":
    """What must be kept to answer after each task, mean over seeds: a line a method.

    One method alone also shows whatever else of it grows, units of layers for example.
    """
    alone = results[0].capacity if len(results) == 1 else {}
    others = {n: rows for n, rows in alone.items() if n != "bits" and np.ptp(rows, axis=1).any()}
    width = TWO if others else ONE
    names = short((result.method for result in results), width)
    panels = [{n: r.capacity["bits"] / 8192 for n, r in zip(names, results, strict=True)}]
    panels += [dict(zip(short(others, width), others.values(), strict=True))] * bool(others)
    title = _title(results[0]) if len(results) == 1 else stream_names(results) or "capacity"
    figure = framed((width, 2.9), title, list(panels[-1]))
    every = figure.subplots(1, len(panels), squeeze=False)[0]
    for axes, lines in zip(every, panels, strict=True):
        for style, (name, rows) in enumerate(lines.items()):
            line(axes, rows.mean(0), name, style)
        dress(axes, max(rows.shape[1] for rows in lines.values()))
        axes.set_xlabel("tasks learned")
        axes.set_ylim(0, 1.05 * max(rows.mean(0).max() for rows in lines.values()) or 1)
    every[0].set_ylabel("kept to answer (KiB)")
    legend_below(figure, every[-1], _over(results))
    return laid_out(figure)


@plain_style()
def accuracy_by_capacity(results: Sequence[Result]) -> "Figure":
    """Accuracy after the last task over what must be kept to answer then: a point a method."""
    place, scenario = in_order(results)[0]
    names = short((result.method for result in results), ONE)
    figure = framed((ONE, 2.9), stream_names(results) or "accuracy by capacity", names)
    axes, points = figure.subplots(), []
    for style, (name, result) in enumerate(zip(names, results, strict=True)):
        points.append(curve(name, style, _over_tasks(result, place)[:, -1:]))
        kept, color = result.capacity["bits"][:, -1].mean() / 8192, look(style)["color"]
        axes.vlines(kept, points[-1].low, points[-1].high, color=color, alpha=0.5)
        axes.plot(kept, points[-1].mean, label=name, markersize=5, **look(style))
    bottom, top = limits(points)
    words = f"{scenario} after the last task (%)" + starts_at(bottom)
    axes.set(xlabel="kept to answer (KiB)", ylabel=words, ylim=(bottom, top))
    axes.set_xlim(left=0)
    axes.grid(alpha=0.3, linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    legend_below(figure, axes, _band(results).replace("band", "bar"))
    return laid_out(figure)


def grows(result: Result) -> bool:
    """Whether what must be kept to answer is more after one task than after another."""
    return "bits" in result.capacity and bool(np.ptp(result.capacity["bits"], axis=1).any())


def _curves(
    title: str, panels: dict[str, list[Curve]], words: tuple[str, str], note: str
) -> "Figure":
    """Panels of curves beside each other on one scale, their names below."""
    first = next(iter(panels.values()))
    width = ONE if len(panels) == 1 else TWO
    figure = framed((width, 2.9), title, [one.label for one in first])
    every = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    bottom, top = limits([one for curves in panels.values() for one in curves])
    for axes, (scenario, curves) in zip(every, panels.items(), strict=True):
        draw(axes, curves)
        dress(axes, max(len(one.mean) for one in curves))
        axes.set(title=scenario, xlabel=words[0], ylim=(bottom, top))
    every[0].set_ylabel(words[1] + starts_at(bottom))
    legend_below(figure, every[0], note)
    return laid_out(figure)


def _over_tasks(result: Result, scenario: int) -> np.ndarray:
    """Percent on the tasks seen so far, float64[seeds, T].

    On base classes and phases a task weighs as much as it has images, as in the tables. First tasks
    that are not tested do not count.
    """
    a = result.matrix[:, 0, scenario, 1:, :]
    if phased(result):
        return 100 * accuracy_by_phase(a, result.details["test_examples"])
    first = num_untested(result.matrix)
    found = np.full(a.shape[:-1], np.nan)
    found[:, first:] = accuracy_by_task(a[:, first:, first:])
    return 100 * found


def _numbers(axes: "Axes", a: np.ndarray, digits: int, size: float) -> None:
    """Each accuracy in its cell, in the letters that can be read on its colour."""
    for i, j in np.argwhere(np.isfinite(a)):
        color = "white" if a[i, j] < 55 else "black"
        how = {"ha": "center", "va": "center", "fontsize": size, "color": color}
        axes.text(j, i, f"{a[i, j]:.{digits}f}", **how)


def _over(results: Sequence[Result]) -> str:
    """ "mean over 3 seeds": what each point is."""
    counts = sorted({len(result.seeds) for result in results})
    if counts == [1]:
        seeds = {result.seeds for result in results}
        return f"one seed ({results[0].seeds[0]})" if len(seeds) == 1 else "one seed each"
    many = f"{counts[0]} to {counts[-1]}" if counts[1:] else counts[0]
    return f"mean over {many} seeds"


def _band(results: Sequence[Result]) -> str:
    """What the points and the bands are."""
    several = any(len(result.seeds) > 1 for result in results)
    return _over(results) + "; band: ± one sample standard deviation" * several


def _title(result: Result) -> str:
    return " · ".join(part for part in (result.method, result.stream_name) if part)
