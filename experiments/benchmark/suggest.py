"""Defaults of the plan that the numbers of a table speak for."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

NEAR = 1.03
"""Times within this factor count as equal."""


class Choice(NamedTuple):
    """Defaults of the plan for one kind of step; None: not measured."""

    over_seeds: Literal["vmap", "sequential"] | None
    seeds_why: str
    chunk: int | None
    chunk_why: str


def suggest(known: Sequence[Mapping[str, Any]]) -> dict[str, Choice]:
    """ "convolutional" and "dense" steps -> the plan's defaults that the numbers speak for.

    Seeds go side by side where that makes more seed-steps a second than one after another, in the
    geometric mean over workloads and dtypes; where it is a draw they go one after another, which
    gives the bits of single runs. The chunk is the shortest that costs nothing in any workload,
    what Python does between two chunks counted in: short ones save, log and stop sooner.

    Args:
      known: numbers of run.py with the fields of Cell; failed ones count for nothing.
    """
    kinds: dict[str, list[Mapping[str, Any]]] = {}
    for n in known:
        if "error" not in n:
            kind = "dense" if n["workload"].split("/")[1] == "mlp" else "convolutional"
            kinds.setdefault(kind, []).append(n)
    return {kind: Choice(*_over_seeds(some), *_chunk(some)) for kind, some in kinds.items()}


def _over_seeds(some: Sequence[Mapping[str, Any]]) -> tuple[str | None, str]:
    by = {(n["workload"], n["dtype"], n["over_seeds"], n["chunk"]): n for n in some}
    gains = []
    for (*pair, over, chunk), n in by.items():
        rival = by.get((*pair, "sequential", chunk), by.get((*pair, "one", chunk)))
        if over == "vmap" and rival is not None:
            gains.append(rival["seconds_per_step"] / n["seconds_per_step"])
    if not gains:
        return None, "not measured"
    mean = math.exp(sum(map(math.log, gains)) / len(gains))
    why = f"vmapped seeds make {min(gains):.2f} to {max(gains):.2f} times the seed-steps a second"
    return ("vmap" if mean > NEAR else "sequential"), why


def _chunk(some: Sequence[Mapping[str, Any]]) -> tuple[int | None, str]:
    lengths: dict[tuple[str, str], dict[int, float]] = {}
    for n in some:
        if n["over_seeds"] == "one":
            seconds = n.get("wall_seconds_per_step") or n["seconds_per_step"]
            lengths.setdefault((n["workload"], n["dtype"]), {})[n["chunk"]] = seconds
    lengths = {pair: times for pair, times in lengths.items() if len(times) > 1}
    if not lengths:
        return None, "not measured"
    good = [
        min(chunk for chunk, seconds in times.items() if seconds <= NEAR * min(times.values()))
        for times in lengths.values()
    ]
    shortest = min(min(times) for times in lengths.values())
    loss = max(
        times[shortest] / min(times.values()) for times in lengths.values() if shortest in times
    )
    return max(good), f"chunks of {shortest} cost up to {loss:.2f} times the fastest's time"


def advice(known: Sequence[Mapping[str, Any]]) -> list[str]:
    """The suggestion in sentences, after what failed."""
    lines = []
    for n in known:
        name = f"{n['workload']} {n['dtype']} {n['over_seeds']} chunk {n['chunk']}"
        if "error" in n:
            lines.append(f"{name} failed: {n['error'].rstrip('.')}.")
        if n.get("torch_compiled_why_not") is not None:
            lines.append(f"{name}: {n['torch_compiled_why_not'].rstrip('.')}.")
    for kind, choice in suggest(known).items():
        over, chunk = choice.over_seeds or "as it is", choice.chunk or "as it is"
        lines.append(
            f"Plan for {kind} steps: over_seeds {over} ({choice.seeds_why}); chunk {chunk} "
            f"({choice.chunk_why})."
        )
    return lines
