"""The segments of a run in their order, and the places between them where it can be saved.

A task is: its beginning, then every phase (its entry, then chunks of steps), its end, a score. All
that decides the order is here, on the host, so a run that was killed goes on from a place alone.
"""

import itertools
from collections.abc import Iterator, Sequence
from typing import Literal, NamedTuple, Protocol

from cls_jax.core.types import PyTree
from cls_jax.methods.base import Method


class Position(NamedTuple):
    """How far a run is: everything before it is done. Places are ordered.

    Attributes:
      task: from 0; -1 is before training, ``num_tasks`` the end.
      stage: within a task: 0 its beginning, 1 + 2p the entry of phase p, 2 + 2p its steps, then the
        task's end, then the score.
      row: how much of that stage is done: rows of the schedule, or 1 for all other stages.
    """

    task: int
    stage: int
    row: int

    @property
    def over(self) -> bool:
        """Whether nothing is left to do."""
        return self.task >= 0 and self.stage == 0 and self.row == 0


START = Position(-1, 0, 0)


def learned(num_tasks: int, num_phases: int) -> Position:
    """The place before the score of the last of so many tasks, where a longer run goes on: it also
    scores the task that comes next."""
    return Position(num_tasks - 1, 2 * num_phases + 1, 1)


def end(num_tasks: int) -> Position:
    """The place of a run that is over."""
    return Position(num_tasks, 0, 0)


class Segment(NamedTuple):
    """Something that is done whole; the run can be saved before and after.

    Attributes:
      kind: "begin", "enter", "steps", "end" (of a task) or "score".
      phase: number of the phase, of "enter" and "steps".
      start, stop: rows of "steps".
      done: the place behind it.
    """

    kind: str
    task: int
    phase: int
    start: int
    stop: int
    done: Position


def asks_data(method: Method, segment: Segment) -> bool | Literal["test"]:
    """Whether the method gets every example of the task at a "begin", "enter" or "end", or, where
    it says so, those that it is tested on."""
    if segment.kind == "enter":
        return method.phases[segment.phase].enter_data
    return method.needs.begin_data if segment.kind == "begin" else method.needs.end_data


def boundary_number(method: Method, segment: Segment) -> int:
    """The number that tells a "begin", "enter" or "end" apart from all others of a run."""
    places = {"begin": 0, "enter": 1 + segment.phase, "end": len(method.phases) + 1}
    return segment.task * (len(method.phases) + 2) + places[segment.kind]


def remaining_segments(
    method: Method,
    sizes: Sequence[Sequence[Sequence[int]]],
    chunk: int,
    since: Position,
    score: Literal["each", "end"] = "each",
) -> Iterator[Segment]:
    """What remains of a run, in order.

    Args:
      method: its boundaries and phases.
      sizes: rows of each [phase][task][trial].
      chunk: most rows of one segment; any number gives the same places in the end.
      since: where the run is.
      score: before training and after each task, or at the end alone.
    """
    num_phases, num_tasks = len(sizes), len(sizes[0])
    tail = 2 * num_phases + 1

    def segment(
        kind: str, task: int, stage: int, phase: int = 0, rows: tuple[int, int] = (0, 1)
    ) -> Segment:
        return Segment(kind, task, phase, *rows, Position(task, stage, rows[1]))

    def every() -> Iterator[Segment]:
        if score == "each":
            yield segment("score", -1, 0)
        for task in range(num_tasks):
            if method.needs.boundaries:
                yield segment("begin", task, 0)
            for p in range(num_phases):
                steps = 2 + 2 * p
                yield segment("enter", task, steps - 1, p)
                first = since.row if since[:2] == (task, steps) else 0
                for rows in chunks(sizes[p][task], chunk, first):
                    yield segment("steps", task, steps, p, rows)
            if method.needs.boundaries:
                yield segment("end", task, tail)
            if task == num_tasks - 1 or (score == "each" and not method.needs.pooled):
                yield segment("score", task, tail + 1)

    return (one for one in every() if one.done > since)


def chunks(trials: Sequence[int], chunk: int, first: int = 0) -> list[tuple[int, int]]:
    """(start, stop) of every chunk from row ``first``; none crosses the end of the first trial.

    Args:
      trials: rows of each trial.
      chunk: most rows of one.
      first: rows that are done.
    """
    low, high = max(min(trials), first), max(trials)
    cuts = [*range(first, low, chunk), *range(low, high, chunk), high]
    return [pair for pair in itertools.pairwise(cuts) if pair[0] < pair[1]]


class Cost(NamedTuple):
    """What a run has cost so far.

    Attributes:
      seconds: wall time, compile and evaluation included.
      steps: updates of all trials in chunks that were timed (the first of a process compiles).
      stepping: seconds of these chunks.
    """

    seconds: float = 0.0
    steps: int = 0
    stepping: float = 0.0


def trial_name(seed: int, value: int, num_values: int) -> str:
    """The name under which one run is kept: of a seed, and of a value of a sweep."""
    return f"value{value}_seed{seed}" if num_values > 1 else f"seed{seed}"


class Restored(NamedTuple):
    """One trial as it was saved: where it was, and its Run without a trial axis."""

    place: Position
    run: PyTree


class Checkpointer(Protocol):
    """Keeps runs over the death of a process; see checkpoint.py."""

    def restore(self, names: Sequence[str], like: PyTree) -> tuple[dict[str, Restored], Cost]:
        """Whatever is kept of the trials of these names, and what they have cost.

        ``like`` is one trial's Run, as shapes, dtypes and shardings.
        """
        ...

    def due(self, run: PyTree, place: Position) -> bool:
        """Whether ``maybe_save`` would save now."""
        ...

    def maybe_save(
        self,
        names: Sequence[str],
        run: PyTree,
        place: Position,
        meter: Cost,
        *,
        now: bool = False,
    ) -> None:
        """Between two segments: saves if it is time, or ``now``. May raise Stopped. The Run is not
        kept as it is, since its buffers will be donated."""
        ...


class NoCheckpoints:
    """A Checkpointer that keeps nothing."""

    def restore(self, names: Sequence[str], like: PyTree) -> tuple[dict[str, Restored], Cost]:
        """Nothing."""
        del names, like
        return {}, Cost()

    def due(self, run: PyTree, place: Position) -> bool:
        """Never."""
        del run, place
        return False

    def maybe_save(
        self,
        names: Sequence[str],
        run: PyTree,
        place: Position,
        meter: Cost,
        *,
        now: bool = False,
    ) -> None:
        """Does nothing."""
