"""Results as tables: one run with all its networks, or several methods side by side.

Accuracies are percent in tables, fractions in CSV.
"""

import csv
import io
from collections.abc import Sequence

import numpy as np

from cls_jax.core.errors import InputError
from cls_jax.core.metrics import num_untested, scores, summarise
from cls_jax.report.columns import (
    aware,
    columns_of,
    in_order,
    phased,
    stream_names,
    summaries,
)
from cls_jax.report.matrices import scenario_key
from cls_jax.report.tables import TextTable, percent, visible
from cls_jax.training.events import Result

COLUMNS = {
    "ACC": "average_accuracy",
    "forgetting": "forgetting",
    "BWT": "backward_transfer",
    "FWT": "forward_transfer",
    "LA": "learning_accuracy",
}
"""Column of a table -> score of ``metrics``."""

AWARE = {
    "ACC": "average_accuracy",
    "clipped forgetting": "forgetting_clipped",
    "LA": "learning_accuracy",
    "BWT": "backward_transfer",
    "FWT": "forward_transfer",
}
"""The same of a method that is told its task: what DualNet's tables have comes first."""


KIB = "KiB: what must be kept to answer"


def comparison_csv(results: Sequence[Result]) -> str:
    """A row a method, network, scenario and seed, with every score of ``metrics.scores``."""
    text = io.StringIO()
    lines = csv.writer(text, lineterminator="\n")
    names = list(scores(results[0].matrix[:, 0, 0]))
    lines.writerow(["method", "network", "scenario", "seed", *names])
    for result in results:
        for v, view in enumerate(result.views):
            for s, scenario in enumerate(result.scenarios):
                every = scores(result.matrix[:, v, s])
                whose = visible(result.method), visible(view), scenario_key(scenario)
                for trial, seed in enumerate(result.seeds):
                    lines.writerow(
                        [*whose, seed, *(_decimals(every[name][trial]) for name in names)]
                    )
    return text.getvalue()


def _decimals(score: float) -> str:
    """Six of them; empty where not measured."""
    return f"{score:.6f}" if np.isfinite(score) else ""


def _seconds(seconds: float) -> str:
    if not np.isfinite(seconds):
        return "-"
    return f"{seconds:,.1f}" if seconds < 100 else f"{seconds:,.0f}"


def _rate(result: Result) -> str:
    rate = result.steps_per_second
    return f"{rate:,.0f}" if np.isfinite(rate) else "-"


def result_table(result: Result) -> TextTable:
    """The scores of one run: a row a network and scenario, mean ± sample std over the seeds."""
    columns, legend = columns_of([result])
    names = AWARE if aware([result]) else COLUMNS
    header, rows = ("network", "scenario", *names), []
    for v, view in enumerate(result.views):
        if phased(result):
            header = ("network", *columns)
            found = (summarise(value(result, v)) for _, value in columns.values())
            rows.append((view, *map(percent, found)))
            continue
        for s, scenario in in_order([result]):
            found = summaries(result, v, s)
            cells = (percent(found[name]) for name in names.values())
            rows.append((view, scenario, *cells))
    stream = result.stream_name
    speed = f"{_seconds(result.seconds)} s, {_rate(result)} steps/s"
    if "bits" in result.capacity:
        size = result.capacity["bits"][:, -1].mean() / 8192
        speed += f"; {size:,.0f} KiB must be kept to answer"
    return TextTable(
        title=result.method + (f" on {stream}" if stream else ""),
        header=header,
        rows=tuple(rows),
        note=f"percent, {_over(result)}; {legend + '; ' if phased(result) else ''}{speed}",
    )


def comparison_table(results: Sequence[Result]) -> TextTable:
    """Several methods: a row a method, its own answer, the best of each column in bold.

    Raises:
      InputError: two of one name, or none.
    """
    check_distinct(results)
    columns, legend = columns_of(results)
    sized = all("bits" in result.capacity for result in results)
    bold = set()
    texts = [[result.method] for result in results]
    for column, (sign, value) in enumerate(columns.values(), start=1):
        values = [summarise(value(result, 0)) for result in results]
        means = [sign * round(summary.mean, 4) for summary in values]  # as printed
        if not np.isnan(means).all():
            bold |= {(i, column) for i, mean in enumerate(means) if mean == np.nanmax(means)}
        for row, summary in zip(texts, values, strict=True):
            row.append(percent(summary))
    for row, result in zip(texts, results, strict=True):
        if sized:
            row.append(f"{result.capacity['bits'][:, -1].mean() / 8192:,.0f}")
        row += [_seconds(result.seconds), _rate(result)]
    note = "; ".join(dict.fromkeys(_over(result) for result in results))
    return TextTable(
        title=stream_names(results) or "comparison",
        header=("method", *columns, *["KiB"] * sized, "seconds", "steps/s"),
        rows=tuple(map(tuple, texts)),
        note=f"percent, {note}; {legend}; best in bold{'; ' + KIB if sized else ''}",
        bold=frozenset(bold),
    )


def paired_table(results: Sequence[Result]) -> TextTable | None:
    """What each method leads by or lacks: its first column minus the best one's, seed by seed.

    Returns:
      The table; None where fewer than two seeds are common to all, or one was not scored.
    """
    seeds = [seed for seed in results[0].seeds if all(seed in r.seeds for r in results)]
    name, (_, value) = next(iter(columns_of(results)[0].items()))
    found = [value(r, 0)[[r.seeds.index(seed) for seed in seeds]] for r in results]
    if len(results) < 2 or len(seeds) < 2 or not np.isfinite(found).all():
        return None
    best = max(range(len(results)), key=lambda i: found[i].mean())
    rows = []
    for i, result in enumerate(results):
        if i != best:
            difference = 100 * (found[i] - found[best])
            mean, _, error, n = summarise(difference)
            wins = f"{(difference > 0).sum()} of {n}"
            mean = round(mean, 2) + 0.0  # no "-0.00"
            rows.append((result.method, f"{mean:+.2f} ± {error:.2f}", wins))
    return TextTable(
        title="Paired over the seeds that all have",
        header=("method", f"{name} minus {results[best].method}'s", "seeds above"),
        rows=tuple(rows),
        note=f"points, mean ± standard error over {len(seeds)} seeds",
    )


def _over(result: Result) -> str:
    n, untested = len(result.seeds), num_untested(result.matrix)
    text = f"mean ± sample std over {n} seeds" if n > 1 else f"one seed ({result.seeds[0]})"
    return text + f"; the first {untested} tasks, learned before, are not tested" * bool(untested)


def check_distinct(results: Sequence[Result]) -> None:
    """Raises InputError unless each of ``results`` has a name of its own, and there is one."""
    names = [result.method for result in results]
    if not names or len(set(names)) < len(names):
        raise InputError(f"a comparison needs methods of different names; got {names}")
