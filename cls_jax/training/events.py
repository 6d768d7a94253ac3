"""What a run tells its observers between chunks, and what it leaves behind; host values only."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np

SCENARIOS = ("class-IL", "task-IL")
"""Axis 2 of ``Result.matrix``, as tables and figures print it."""

_ONE_SCORE = {"domain_il": ("domain-IL",), "general": ("accuracy",), "gcil": ("class-IL",)}
"""Scenarios whose tasks have no classes of their own: there a task-IL score says nothing more,
unless a method asks for the task at test."""


def scenario_names(stream: Mapping[str, object], told_at_test: bool = False) -> tuple[str, ...]:
    """The front of axis 2 of ``Result.matrix`` that means something.

    Args:
      stream: ``Stream.describe``.
      told_at_test: the second score is taken with the task told to the method.
    """
    names = _ONE_SCORE.get(str(stream.get("scenario")), SCENARIOS)
    return (names[0], SCENARIOS[1]) if told_at_test else names


def task_aware(task_info: Mapping[str, object]) -> bool:
    """Whether the method is made for tasks that are told.

    It is if it is told them, in training or at test, unless it is made to tell all classes apart
    all the same (ER-MIR, iCaRL, UCIR, SPB, HopSupSup).

    Args:
      task_info: "told_task", "told_at_test" and "class_il" of ``Result.details``; absent is False.
    """
    within = task_info.get("told_task") and not task_info.get("class_il")
    return bool(within or task_info.get("told_at_test"))


def leading(scenarios: Sequence[str], task_info: Mapping[str, object]) -> int:
    """The place in ``scenarios`` of the score that the method is made for: tables lead with it."""
    return len(scenarios) - 1 if task_aware(task_info) else 0


class Since(NamedTuple):
    """Where a trial goes on.

    Attributes:
      value: number of its value in a sweep, from 0.
      seed: of the trial.
      step: updates that were made before.
      rows: of its accuracy matrix that were measured before, that before training counted.
    """

    value: int
    seed: int
    step: int
    rows: int


class Started(NamedTuple):
    """Sent once, before any compute.

    Attributes:
      headline: what data, how many classes, tasks and examples.
      method: its name.
      seeds: all of them.
      num_tasks: T.
      num_steps: updates of the first seed in all.
      mode: "loop" or "scan".
      scenarios: names of the scores worth showing, in the order of ``Evaluated.matrix``'s axis 2.
      leads: which of them the method is made for, see ``leading``.
      views: names of the networks evaluated, in the order of its axis 1.
      labels: of the values of a sweep, by their number; "" is no sweep.
      since: of every trial, where it goes on; what was told of it beyond that is told again.
    """

    headline: str
    method: str
    seeds: tuple[int, ...]
    num_tasks: int
    num_steps: int
    mode: str
    scenarios: tuple[str, ...] = SCENARIOS
    leads: int = 0
    views: tuple[str, ...] = ("answer",)
    labels: tuple[str, ...] = ("",)
    since: tuple[Since, ...] = ()


class Progress(NamedTuple):
    """Sent after each chunk; everything is already on the host.

    Attributes:
      seeds: the trials that this chunk advanced (one, or all of them when vmapped).
      task, phase: where it was.
      step: updates made so far in this run; num_steps: in all (for one seed).
      examples: stream examples of this chunk, all trials together.
      seconds: wall time of this chunk.
      metrics: mean over the chunk's steps and trials.
      values: of each trial the number of its value in a sweep; () is the first for all.
      of_trial: mean over the chunk's steps, one a trial; () where it is ``metrics`` for all.
    """

    seeds: tuple[int, ...]
    task: int
    phase: str
    step: int
    num_steps: int
    examples: int
    seconds: float
    metrics: Mapping[str, float]
    values: tuple[int, ...] = ()
    of_trial: tuple[Mapping[str, float], ...] = ()


class Evaluated(NamedTuple):
    """Sent after each task, and once before training with ``task = -1``.

    Attributes:
      seeds: the trials of ``matrix``.
      task: the task that was just learned.
      matrix: float64[trials, views, 2, T + 1, T], see Result; rows not reached are NaN.
      seconds: wall time of this evaluation.
      values: as of Progress.
    """

    seeds: tuple[int, ...]
    task: int
    matrix: np.ndarray
    seconds: float
    values: tuple[int, ...] = ()


class Ended(NamedTuple):
    """Sent last, also where the training stops or diverges; a killed process does not.

    Attributes:
      whole: whether all tasks were learned.
    """

    whole: bool


Event = Started | Progress | Evaluated | Ended


class Logger(Protocol):
    """Whatever is told what happens in a run, event by event: a console, a file, your function."""

    def __call__(self, event: Event, /) -> None:
        """Takes one event; what it opened when Started came it closes when Ended comes."""
        ...


def untold(event: Event) -> None:
    """The Logger that does nothing."""
    del event


class Result(NamedTuple):
    """What a run leaves behind.

    Attributes:
      method: its name.
      seeds: the trials, in order.
      views: networks evaluated; views[0] is "answer", the method's own.
      matrix: float64[seeds, views, 2, T + 1, T] accuracy in [0, 1]; axis 2 is (class-IL, task-IL);
        row 0 is before training, row i + 1 after task i; NaN where not measured (j > i + 1).
      states: the final state of each seed.
      seconds: wall time of the whole, compile and evaluation included.
      steps_per_second: updates a second in the chunks after the first, all trials together.
      details: mode, over_seeds, chunk and the stream's settings, for the record; "told_task": the
        method is told the task in training; "told_at_test": a method compared here is told it at
        test; "class_il": it is made to tell all classes apart; "test_examples": of each seed, of
        each task.
      capacity: what must be kept to answer, by name (see types.CapacityFn), float64[seeds, T].
      trained: of each seed what a further run goes on from, a ``start.Trained``; () where the
        result was read from its files.
    """

    method: str
    seeds: tuple[int, ...]
    views: tuple[str, ...]
    matrix: np.ndarray
    states: tuple[Any, ...]
    seconds: float
    steps_per_second: float
    details: Mapping[str, Any]
    capacity: Mapping[str, np.ndarray] = {}
    trained: tuple[Any, ...] = ()

    @property
    def scenarios(self) -> tuple[str, ...]:
        """Names of the scores worth showing, in the order of axis 2."""
        stream = self.details.get("stream")
        task_info = bool(self.details.get("told_at_test"))
        return scenario_names(stream if isinstance(stream, Mapping) else {}, task_info)

    @property
    def stream_name(self) -> str:
        """What the run was on, "" if its details do not say."""
        stream = self.details.get("stream", "")
        return str(stream.get("name", "") if isinstance(stream, Mapping) else stream)
