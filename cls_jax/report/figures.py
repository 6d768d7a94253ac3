"""Figures of results, as PNG bytes; matplotlib is imported here alone, and only when drawing.

Figures are made with ``Figure`` and the Agg canvas, never pyplot, so no global state, backend or
display is touched. Colours: cividis and Okabe-Ito, both safe for the colour-blind.
"""

import io
import itertools
import textwrap
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from cls_jax.core.metrics import accuracy_by_phase, accuracy_by_task
from cls_jax.report.columns import in_order, phased
from cls_jax.report.tables import visible
from cls_jax.training.events import Result

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.text import Text

OKABE_ITO = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = "osD^vPX"
LINES = "-", "--", ":", "-."
DPI = 150
_LEGIBLE = 25
"""Up to so many tasks the matrix has a number in each cell, and grows with them."""


def accuracy_matrix(result: Result) -> bytes:
    """Heat maps of the answer's accuracy in percent, mean over seeds: a panel a scenario."""
    matrix = 100 * result.matrix[:, 0, :, 1:, :].mean(0)  # [2, T, T]
    num_tasks = matrix.shape[-1]
    side = max(3.0, 0.36 * min(num_tasks, _LEGIBLE))
    panels = in_order([result])
    figure = _figure(len(panels) * side + 1.4, side + 0.9)
    all_axes = figure.subplots(1, len(panels), squeeze=False)[0]
    for axes, (place, scenario) in zip(all_axes, panels, strict=True):
        a = matrix[place]
        cells = {"cmap": "cividis", "vmin": 0, "vmax": 100, "interpolation": "nearest"}
        image = axes.imshow(np.ma.masked_invalid(a), **cells)
        axes.set_title(scenario)
        axes.set_xlabel("accuracy on task")
        axes.set_ylabel("after training task")
        step = -(-num_tasks // _LEGIBLE)
        ticks = np.arange(step - 1, num_tasks, step)
        axes.set_xticks(ticks, ticks + 1, fontsize=8)
        axes.set_yticks(ticks, ticks + 1, fontsize=8)
        axes.spines[:].set_visible(False)
        for i, j in np.argwhere(np.isfinite(a) & (num_tasks <= _LEGIBLE)):
            axes.text(
                j,
                i,
                f"{a[i, j]:.1f}" if num_tasks <= 10 else f"{a[i, j]:.0f}",
                ha="center",
                va="center",
                fontsize=8,
                color="white" if a[i, j] < 55 else "black",
            )
    figure.colorbar(image, ax=all_axes, label="accuracy (%)", shrink=0.8, pad=0.02)
    figure.suptitle(_title(result, figure), fontsize=11)
    return _png(figure)


def accuracy_over_tasks(result: Result) -> bytes:
    """The answer's accuracy on the tasks seen so far: mean over seeds, band of one sample std.

    Where only the end was scored, the accuracy on each task then.
    """
    figure = _figure(6.4, 4.2)
    axes = figure.subplots()
    at_end = not np.isfinite(result.matrix[:, 0, :, 1:-1]).any()
    for place, scenario in in_order([result]):
        if at_end:
            last = 100 * result.matrix[:, 0, place, -1]
            _line(axes, last, label=scenario, style=place)
        else:
            _curve(axes, result, place, label=scenario, style=place)
    _dress(axes, result.matrix.shape[-1])
    if at_end:
        axes.set(xlabel="task", ylabel="accuracy after the last task (%)")
    axes.legend(frameon=False)
    axes.set_title(_title(result, figure), fontsize=11)
    return _png(figure)


def comparison_over_tasks(results: Sequence[Result]) -> bytes:
    """The same curves for several methods, one panel a scenario."""
    panels, names = in_order(results), _short(result.method for result in results)
    width, longest = 1.6 + 4.2 * len(panels), max(map(len, names))
    columns = min(max(1, int(width / (0.7 + longest / 12))), len(results), 6)  # 12 letters an inch
    figure = _figure(width, 4.4 + 0.2 * -(-len(results) // columns))
    all_axes = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    for axes, (place, scenario) in zip(all_axes, panels, strict=True):
        for style, (name, result) in enumerate(zip(names, results, strict=True)):
            _curve(axes, result, place, label=name, style=style)
        _dress(axes, max(result.matrix.shape[-1] for result in results))
        axes.set_title(scenario)
    for axes in all_axes[1:]:
        axes.set_ylabel("")
    handles, labels = all_axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=columns, frameon=False)
    figure.suptitle(_wrapped(stream_names(results) or "average accuracy", figure), fontsize=11)
    return _png(figure)


def capacity(results: Sequence[Result]) -> bytes:
    """What must be kept to answer after each task, mean over seeds: a line a method.

    One method alone also shows whatever else of it grows, units of layers for example.
    """
    alone = results[0].capacity if len(results) == 1 else {}
    others = {n: rows for n, rows in alone.items() if n != "bits" and np.ptp(rows, axis=1).any()}
    figure = _figure(6.4 + 4.6 * bool(others), 4.2)
    all_axes = figure.subplots(1, 1 + bool(others), squeeze=False)[0]
    names = _short(result.method for result in results)
    bits = {n: r.capacity["bits"] / 8192 for n, r in zip(names, results, strict=True)}
    lines = [bits, dict(zip(_short(others), others.values(), strict=True))]
    for axes, panel in zip(all_axes, lines, strict=False):
        for style, (name, rows) in enumerate(panel.items()):
            tasks = np.arange(1, rows.shape[1] + 1)
            axes.plot(tasks, rows.mean(0), label=name, markersize=3, **_look(style))
        axes.set_xlabel("tasks learned")
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.set_ylim(bottom=0)
        axes.grid(axis="y", alpha=0.3, linewidth=0.6)
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False)
    all_axes[0].set_ylabel("kept to answer (KiB)")
    title = _title(results[0], figure) if len(results) == 1 else stream_names(results)
    figure.suptitle(_wrapped(title or "capacity", figure), fontsize=11)
    return _png(figure)


def grows(result: Result) -> bool:
    """Whether what must be kept to answer is more after one task than after another."""
    return "bits" in result.capacity and bool(np.ptp(result.capacity["bits"], axis=1).any())


def _curve(axes: "Axes", result: Result, scenario: int, *, label: str, style: int) -> None:
    """One line with its band; a score that exists only at the end (joint training) is a dot.

    On base classes and phases a task weighs as much as it has images, as in the tables.
    """
    a = result.matrix[:, 0, scenario, 1:, :]
    sizes = result.details["test_examples"] if phased(result) else None
    curves = 100 * (accuracy_by_task(a) if sizes is None else accuracy_by_phase(a, sizes))
    _line(axes, curves, label=label, style=style)


def _line(axes: "Axes", curves: np.ndarray, *, label: str, style: int) -> None:
    """The mean of float[seeds, T], with a band of one sample std."""
    tasks, mean = np.arange(1, curves.shape[1] + 1), curves.mean(0)
    line, size = _look(style), 4.5 if len(tasks) <= _LEGIBLE else 2
    axes.plot(tasks, mean, label=label, markersize=size, **line)
    if len(curves) > 1:
        std = curves.std(0, ddof=1)
        axes.fill_between(
            tasks, mean - std, mean + std, color=line["color"], alpha=0.18, linewidth=0
        )


def _dress(axes: "Axes", num_tasks: int) -> None:
    step = -(-num_tasks // 20)  # at most 20 ticks
    axes.set_xticks(np.arange(step, num_tasks + 1, step))
    axes.set_xlim(0.8 - 0.02 * num_tasks, 1.02 * num_tasks + 0.2)
    axes.set_ylim(0, 102)
    axes.set_xlabel("tasks learned")
    axes.set_ylabel("accuracy on tasks seen so far (%)")
    axes.grid(axis="y", alpha=0.3, linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)


def stream_names(results: Sequence[Result]) -> str:
    """What the runs were on, each stream once; "" if their details do not say."""
    return "; ".join(dict.fromkeys(filter(None, (result.stream_name for result in results))))


def _title(result: Result, figure: "Figure") -> str:
    n = len(result.seeds)
    parts = [
        result.method,
        result.stream_name,
        f"{n} seeds" if n > 1 else f"seed {result.seeds[0]}",
    ]
    return _wrapped(" · ".join(part for part in parts if part), figure)


def _wrapped(title: str, figure: "Figure") -> str:
    """In at most four lines: 10 letters an inch at the size of a title."""
    width = int(10 * figure.get_figwidth())
    return textwrap.fill(_cut(_drawable(title), 3 * width), width, break_on_hyphens=False)


def _cut(text: str, most: int) -> str:
    """``text``, without its middle where it is longer than ``most``."""
    return text if len(text) <= most else f"{text[: most // 2]}…{text[-(most // 2) :]}"


def _short(names: Iterable[str]) -> list[str]:
    """Names for a legend, no two alike: on one line each, long ones without their middle.

    One that begins with "_" has a space before it: matplotlib leaves such names out.
    """
    names_so_far: list[str] = []
    for name in map(_drawable, names):
        short = _cut(f" {name}" if name.startswith("_") else name, 60)
        copies = (f"{short} ({n})" for n in itertools.count(2))
        names_so_far.append(
            next(label for label in itertools.chain([short], copies) if label not in names_so_far)
        )
    return names_so_far


def _figure(width: float, height: float) -> "Figure":
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=DPI, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _png(figure: "Figure") -> bytes:
    from matplotlib.text import Text

    for text in figure.findobj(Text):
        _literal(text)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()


def _literal(text: "Text") -> None:
    """Has ``text`` drawn as it is: "$", "_", "^" and "\\" are no mathematics, whatever a user's
    matplotlibrc says.
    """
    text.set_parse_math(False)
    text.set_usetex(False)


def _drawable(name: str) -> str:
    """``name`` on one line; what the font cannot draw (Chinese, say) is shown by its code."""
    from matplotlib.font_manager import FontProperties, findfont, get_font

    font = get_font(findfont(FontProperties()))

    def names_so_far(c: str) -> str:
        known = font.get_char_index(ord(c))
        return c if known else c.encode("ascii", "backslashreplace").decode()

    return "".join(map(names_so_far, visible(name)))


def _look(style: int) -> dict[str, str]:
    """Colour, marker and line of the method with this number; the first 196 differ."""
    again = style // len(OKABE_ITO)
    return {
        "color": OKABE_ITO[style % len(OKABE_ITO)],
        "marker": MARKERS[(style + again) % len(MARKERS)],
        "linestyle": LINES[again % len(LINES)],
    }
