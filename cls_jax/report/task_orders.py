"""One method on the same tasks in several orders: how much the order decides, as table and files.

Accuracies are those with the task told; host only.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from cls_jax.core.errors import InputError
from cls_jax.core.files import json_text, safe_names
from cls_jax.core.metrics import (
    average_accuracy,
    by_given_task,
    forgetting_clipped,
    learning_accuracy,
    order_disparity,
    summarise,
)
from cls_jax.report import figures
from cls_jax.report.canvas import DEFAULT_FORMATS, FigureFormat, figure_files
from cls_jax.report.matrices import Label, labelled, matrices_csv, order_text
from cls_jax.report.summary import write
from cls_jax.report.tables import TextTable, markdown_page, percent, rich_table, show
from cls_jax.training.events import Result

_TOLD = 1  # of axis 2 of a matrix: the score with the task told


class Ordered(NamedTuple):
    """A method on one stream in several orders.

    Attributes:
      label: of the method.
      orders: tuples of task numbers, one an order.
      results: one an order, all with the same seeds.
    """

    label: str
    orders: tuple[tuple[int, ...], ...]
    results: tuple[Result, ...]


def scores_of_orders(one: Ordered) -> dict[str, np.ndarray]:
    """ACC, clipped forgetting and LA, means over orders, AOPD and MOPD: float64[seeds] each.

    Then "OPD", float64[seeds, T], by the numbers that the tasks were given.
    """
    matrices = np.stack([r.matrix[:, 0, _TOLD, 1:] for r in one.results], 1)  # [seeds, R, T, T]
    final = by_given_task(matrices[..., -1, :], np.asarray(one.orders))
    disparity = order_disparity(final)
    return {
        "ACC": average_accuracy(matrices).mean(-1),
        "clipped forgetting": forgetting_clipped(matrices).mean(-1),
        "LA": learning_accuracy(matrices).mean(-1),
        "AOPD": disparity.average,
        "MOPD": disparity.largest,
        "OPD": disparity.of_task,
    }


def capacity_of_orders(one: Ordered) -> dict[str, np.ndarray]:
    """What must be kept after each task, float64[orders * seeds, T] by name."""
    return {
        name: np.concatenate([result.capacity[name] for result in one.results])
        for name in one.results[0].capacity
    }


def orders_table(title: str, every: Sequence[Ordered]) -> TextTable:
    """A row a method: accuracy, forgetting, order disparity, what is kept in the end.

    What a method counts in percent has a column of its own, with "-" for methods that do not.

    Args:
      title: what all of them learned.
      every: on the same stream, in the same orders.
    """
    names = "ACC", "clipped forgetting", "LA", "AOPD", "MOPD"
    each = [{n: v[:, -1].mean() for n, v in capacity_of_orders(one).items()} for one in every]
    counts = tuple(dict.fromkeys(n for kept in each for n in kept if n.startswith("percent")))
    rows = []
    for one, kept in zip(every, each, strict=True):
        scores = scores_of_orders(one)
        cells = [percent(summarise(scores[name])) for name in names]
        cells += [f"{kept['bits'] / 8192:,.1f}"]
        cells += [f"{kept[name]:.1f}" if name in kept else "-" for name in counts]
        seconds = sum(result.seconds for result in one.results)
        rows.append((one.label, *cells, f"{seconds:,.0f}"))
    seeds, orders = len(every[0].results[0].seeds), len(every[0].orders)
    over = f"mean ± sample std over {seeds} seeds" if seeds > 1 else "one seed"
    note = f"percent with the task told, {over}, each in {orders} orders; OPD of a task: best minus"
    note += " worst order; KiB: kept to answer all tasks"
    if counts:
        note += "; percent: of that, by the counts that the method's docstring names"
    return TextTable(title, ("method", *names, "KiB", *counts, "seconds"), tuple(rows), note)


def read_orders(texts: Sequence[str]) -> tuple[tuple[int, ...], ...]:
    """Orders as tuples of task numbers, "2-0-1" is (2, 0, 1).

    Raises:
      InputError: for text that is no order, fewer than two orders, or one of them twice.
    """
    try:
        orders = tuple(tuple(map(int, text.split("-"))) for text in texts)
    except ValueError:
        raise InputError(f"orders has {texts}; write each as task numbers, e.g. 2-0-1") from None
    if len(set(orders)) < max(2, len(orders)):
        raise InputError(f"orders has {texts}; give at least two, each once")
    return orders


def report_orders(
    labels: Sequence[str],
    orders: Sequence[str],
    results: Sequence[Result],
    folder: str | Path | None = None,
    formats: Sequence[FigureFormat] = DEFAULT_FORMATS,
) -> None:
    """Prints the table, and writes all files if there is a workdir.

    Args:
      labels: of the methods.
      orders: for ``read_orders``.
      results: those of the first method in all orders, then the second's, and so on; in each
        order one for each value of a sweep.
      folder: the workdir that this process has claimed; None writes nothing.
      formats: of the figure.
    """
    each, parsed = len(orders), read_orders(orders)
    values, every = len(results) // (each * len(labels)), []
    for i, label in enumerate(labels):
        mine = results[i * each * values : (i + 1) * each * values]
        for value in range(values):
            facts = mine[value].method.removeprefix(f"{label} {orders[0]}") if values > 1 else ""
            every.append(Ordered(f"{label}{facts}", parsed, tuple(mine[value::values])))
    table = orders_table(results[0].stream_name.split(", in order")[0], every)
    show(rich_table(table))
    if folder is not None:
        write(folder, render_orders(table, every, formats))


def render_orders(
    table: TextTable,
    every: Sequence[Ordered],
    formats: Sequence[FigureFormat] = DEFAULT_FORMATS,
) -> dict[str, str | bytes]:
    """Every file of a table: name -> content.

    comparison.md, the figure capacity, accuracy_<label>.csv (the matrix of every order and seed,
    columns by the numbers that the tasks were given, counted from 1), order_disparity.json.

    Args:
      table: of ``orders_table``.
      every: the same.
      formats: of the figure.
    """
    facts = {"stream": {"name": table.title}}
    merged = [
        one.results[0]._replace(method=one.label, capacity=capacity_of_orders(one), details=facts)
        for one in every
    ]
    files: dict[str, str | bytes] = {"comparison.md": markdown_page(table)}
    files |= figure_files({"capacity": figures.capacity(merged)}, formats)
    for one, name in zip(every, safe_names([one.label for one in every]), strict=True):
        files[f"accuracy_{name}.csv"] = matrices_csv(_matrices(one))
    return {**files, "order_disparity.json": json_text([_order_json(one) for one in every])}


def _order_json(one: Ordered) -> Mapping[str, Any]:
    scores = scores_of_orders(one)
    opd = scores.pop("OPD")
    return {
        "label": one.label,
        "orders": one.orders,
        "seeds": one.results[0].seeds,
        **{name: {**summarise(v)._asdict(), "values": v} for name, v in scores.items()},
        "OPD of each seed and task": opd,
        "capacity after each task": {
            name: rows.mean(0) for name, rows in capacity_of_orders(one).items()
        },
        "seconds": [result.seconds for result in one.results],
    }


def _matrices(one: Ordered) -> dict[Label, np.ndarray]:
    """Every matrix with the task told, its columns by the numbers that the tasks were given."""
    return {
        of._replace(order=order_text(order)): by_given_task(result.matrix[place], np.asarray(order))
        for order, result in zip(one.orders, one.results, strict=True)
        for of, place in labelled(result)
        if place[1:] == (0, _TOLD)
    }
