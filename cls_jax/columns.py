"""What a comparison of methods compares: a column is a header and a score of a Result."""

from collections.abc import Callable, Mapping, Sequence

from cls_jax.events import Result
from cls_jax.metrics import Summary, accuracy_by_phase, old_and_new, scores, summarise

Columns = Mapping[str, tuple[int, Callable[[Result, int], Summary]]]
"""Header -> whether the highest (1) or the lowest (-1) is best, and (result, number of the network)
-> its score over the seeds."""


def summaries(result: Result, view: int, scenario: int) -> dict[str, Summary]:
    """Every score of ``metrics.scores`` over the seeds, of one network and one scenario."""
    every = scores(result.matrix[:, view, scenario])
    return {name: summarise(values) for name, values in every.items()}


def columns_of(results: Sequence[Result]) -> tuple[Columns, str]:
    """The columns that fit the stream of ``results``, and what must be said of them.

    Streams of base classes and equal phases have those of UCIR's and SPB's tables.
    """
    return _of_phases() if phased(results[0]) else _of_tasks(results[0])


def phased(result: Result) -> bool:
    """Whether it ran on base classes and equal phases."""
    stream = result.details.get("stream")
    return isinstance(stream, Mapping) and stream.get("base_classes") is not None


def _of_tasks(first: Result) -> tuple[Columns, str]:
    names = first.scenarios
    of = len(names) - 1 if first.details.get("told_at_test") else 0
    columns: Columns = {
        **{
            f"{scenario} ACC": (1, lambda r, v, s=s: summaries(r, v, s)["average_accuracy"])
            for s, scenario in enumerate(names)
        },
        "forgetting": (-1, lambda r, v: summaries(r, v, of)["forgetting"]),
        "LA": (1, lambda r, v: summaries(r, v, of)["learning_accuracy"]),
    }
    return columns, f"forgetting and LA are {names[of]}"


def _of_phases() -> tuple[Columns, str]:
    def by_phase(r: Result, v: int):
        return accuracy_by_phase(r.matrix[:, v, 0, 1:], r.details["test_examples"])

    def last(r: Result, v: int):
        return old_and_new(r.matrix[:, v, 0, 1:], r.details["test_examples"])

    columns: Columns = {
        "average": (1, lambda r, v: summarise(by_phase(r, v).mean(-1))),
        "phase 1": (1, lambda r, v: summarise(by_phase(r, v)[:, 0])),
        "last": (1, lambda r, v: summarise(by_phase(r, v)[:, -1])),
        "old classes": (1, lambda r, v: summarise(last(r, v).old)),
        "new classes": (1, lambda r, v: summarise(last(r, v).new)),
    }
    told = "class-IL, over all test images of the classes seen; average: over all phases"
    return columns, f"{told}; old and new: after the last"
