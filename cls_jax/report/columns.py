"""What a comparison of methods compares: a column is a header and a score of a Result."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from cls_jax.core.metrics import Summary, accuracy_by_phase, old_and_new, scores, summarise
from cls_jax.training.events import SCENARIOS, Result, leading, task_aware

Columns = Mapping[str, tuple[int, Callable[[Result, int], np.ndarray]]]
"""Header -> whether the highest (1) or the lowest (-1) is best, and (result, number of the network)
-> its score, float64[seeds]. The first is what the results are compared by; its highest is best."""


def summaries(result: Result, view: int, scenario: int) -> dict[str, Summary]:
    """Every score of ``metrics.scores`` over the seeds, of one network and one scenario."""
    every = scores(result.matrix[:, view, scenario])
    return {name: summarise(values) for name, values in every.items()}


def columns_of(results: Sequence[Result]) -> tuple[Columns, str]:
    """The columns that fit the stream of ``results``, and what must be said of them.

    Streams of base classes and equal phases have those of UCIR's and SPB's tables.
    """
    return _of_phases() if phased(results[0]) else _of_tasks(results)


def leads(results: Sequence[Result]) -> int:
    """Which score the tables and figures of ``results`` lead with, a place in ``scenarios``.

    Where any method is told its task that is the score with the task told, for all of them.
    """
    return max(leading(result.scenarios, result.details) for result in results)


def in_order(results: Sequence[Result]) -> list[tuple[int, str]]:
    """(place on axis 2, name) of every score, the leading one first; it says if the task is told.

    Args:
      results: one run, or several of the same scores.
    """
    first, names = leads(results), results[0].scenarios
    note = " (task told)" if first and names[first] == SCENARIOS[1] else ""
    places = sorted(range(len(names)), key=lambda s: s != first)
    return [(s, names[s] + (note if s == first else "")) for s in places]


def aware(results: Sequence[Result]) -> bool:
    """Whether any method of ``results`` is told its task and made for that."""
    return any(task_aware(result.details) for result in results)


def phased(result: Result) -> bool:
    """Whether it ran on base classes and equal phases."""
    stream = result.details.get("stream")
    return isinstance(stream, Mapping) and stream.get("base_classes") is not None


def stream_names(results: Sequence[Result]) -> str:
    """What the runs were on, each stream once; "" if their details do not say."""
    return "; ".join(dict.fromkeys(filter(None, (result.stream_name for result in results))))


def _of_tasks(results: Sequence[Result]) -> tuple[Columns, str]:
    """ACC of every score, forgetting and LA of the leading one; with the task told, those three
    come first and forgetting is clipped, as in DualNet's tables.
    """
    names, of = results[0].scenarios, leads(results)
    acc: Columns = {
        f"{scenario} ACC": (1, lambda r, v, s=s: scores(r.matrix[:, v, s])["average_accuracy"])
        for s, scenario in enumerate(names)
    }
    learning = {"LA": (1, lambda r, v: scores(r.matrix[:, v, of])["learning_accuracy"])}
    if not aware(results):
        lost = {"forgetting": (-1, lambda r, v: scores(r.matrix[:, v, of])["forgetting"])}
        return {**acc, **lost, **learning}, f"forgetting and LA are {names[of]}"
    first, name = f"{names[of]} ACC", "clipped forgetting"
    lost = {name: (-1, lambda r, v: scores(r.matrix[:, v, of])["forgetting_clipped"])}
    note = f"{name} and LA are {names[of]}, clipped: never below 0"
    knowing = [result.method for result in results if result.details.get("told_task")]
    note += f"; told the task in training: {', '.join(knowing)}" if knowing else ""
    return {first: acc[first], **lost, **learning, **acc}, note


def _of_phases() -> tuple[Columns, str]:
    def by_phase(r: Result, v: int):
        return accuracy_by_phase(r.matrix[:, v, 0, 1:], r.details["test_examples"])

    def last(r: Result, v: int):
        return old_and_new(r.matrix[:, v, 0, 1:], r.details["test_examples"])

    columns: Columns = {
        "average": (1, lambda r, v: by_phase(r, v).mean(-1)),
        "phase 1": (1, lambda r, v: by_phase(r, v)[:, 0]),
        "last": (1, lambda r, v: by_phase(r, v)[:, -1]),
        "old classes": (1, lambda r, v: last(r, v).old),
        "new classes": (1, lambda r, v: last(r, v).new),
    }
    note = "class-IL, over all test images of the classes seen; average: over all phases"
    return columns, f"{note}; old and new: after the last"
