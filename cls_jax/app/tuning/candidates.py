"""What was tried, how it did on the validation examples, and which won; needs no JAX."""

import csv
import io
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np

from cls_jax.core.errors import InputError
from cls_jax.core.metrics import summarise
from cls_jax.report.tables import TextTable, percent
from cls_jax.training.events import SCENARIOS, Result, leading


class Candidate(NamedTuple):
    """Values that were tried.

    Attributes:
      number: of the trial.
      values: by name of the argument.
      scores: validation accuracy of each seed after the last task; () if it was stopped before.
    """

    number: int
    values: Mapping[str, Any]
    scores: tuple[float, ...]

    @property
    def label(self) -> str:
        """As tables name it."""
        return label_of(self.values)


def label_of(values: Mapping[str, Any]) -> str:
    """ "learning_rate=0.1 memory_size=200"."""
    return " ".join(
        f"{name}={value:.6g}" if isinstance(value, float) else f"{name}={value}"
        for name, value in values.items()
    )


def scores_of(result: Result, place: int) -> tuple[float, ...]:
    """The mean accuracy on all tasks after the last, of each seed.

    Args:
      result: of a run.
      place: of the score, on axis 2 of its matrix.
    """
    return tuple(result.matrix[:, 0, place, -1].mean(axis=-1).tolist())


def metric_place(
    metric: Literal["auto", "class_il", "task_il"],
    scenarios: Sequence[str],
    task_info: Mapping[str, object],
) -> int:
    """The place in ``scenarios`` of the score that decides.

    Args:
      metric: its name; "auto" is the one that the method is made for, and that its paper has.
      scenarios: names of the scores that the stream has.
      task_info: of the method.

    Raises:
      InputError: the stream has no such score.
    """
    if metric == "auto":
        return leading(scenarios, task_info)
    name = metric.replace("_il", "-IL")
    if name in scenarios:
        return scenarios.index(name)
    raise InputError(f"metric is {metric}, but the stream is scored by {', '.join(scenarios)}")


def winner(candidates: Sequence[Candidate]) -> Candidate:
    """The one with the highest mean over the seeds; of equals the first."""
    return max((one for one in candidates if one.scores), key=lambda one: np.mean(one.scores))


def tuning_table(candidates: Sequence[Candidate], test: Result, place: int) -> TextTable:
    """All candidates, the best first; the winner alone has a test score.

    Args:
      candidates: all that were tried.
      test: of the winner, trained on the full training set.
      place: of the score that decided.
    """
    best, names = winner(candidates), list(candidates[0].values)
    order = sorted(candidates, key=lambda one: -np.mean(one.scores) if one.scores else 1)
    order.sort(key=lambda one: one is not best)
    rows = [
        (
            str(one.number),
            *(label_of({"": one.values[name]})[1:] for name in names),
            percent(summarise(np.array(one.scores))) if one.scores else "stopped",
            percent(summarise(np.array(scores_of(test, place)))) if one is best else "",
        )
        for one in order
    ]
    n = len(test.seeds)
    over = f"mean ± sample std over {n} seeds" if n > 1 else "one seed"
    return TextTable(
        title=f"{test.method.split()[0]} chosen by {[*test.scenarios, *SCENARIOS][place]}",
        header=("trial", *names, "validation", "test"),
        rows=tuple(rows),
        note=f"percent, {over}; the winner alone is trained on the full training set and tested",
        bold=frozenset((0, column) for column in range(len(names) + 3)),
    )


def tuning_csv(candidates: Sequence[Candidate], test: Result, place: int) -> str:
    """A row a candidate and seed, in the order of the trials; arguments as of ``tuning_table``."""
    text, best, tested = io.StringIO(), winner(candidates), scores_of(test, place)
    lines = csv.writer(text, lineterminator="\n")
    lines.writerow(["trial", *candidates[0].values, "state", "seed", "validation", "test"])
    for one in candidates:
        start = [one.number, *one.values.values()]
        if not one.scores:
            lines.writerow([*start, "stopped", "", "", ""])
            continue
        state = "winner" if one is best else "complete"
        for seed, score, last in zip(test.seeds, one.scores, tested, strict=True):
            told = f"{last:.6f}" if one is best else ""
            lines.writerow([*start, state, seed, f"{score:.6f}", told])
    return text.getvalue()
