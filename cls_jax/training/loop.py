"""The train loop: a group of trials from its first state to its last score, by segments."""

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Literal

import jax
import numpy as np

from cls_jax.core.errors import Diverged
from cls_jax.core.types import PyTree, Task
from cls_jax.training.batches import BatchTable, tests_so_far, told_task
from cls_jax.training.events import Evaluated, Logger, Progress
from cls_jax.training.group import (
    Group,
    Trial,
    chunk_tables,
    make_group,
    stack_trials,
    updates_made,
)
from cls_jax.training.parallel import Examples
from cls_jax.training.prefetch import prefetch
from cls_jax.training.programs import Programs
from cls_jax.training.run import Run, copied
from cls_jax.training.segments import (
    START,
    Checkpointer,
    Cost,
    Position,
    Segment,
    asks_data,
    boundary_number,
    end,
    remaining_segments,
)


def train_group(
    programs: Programs,
    trials: Sequence[Trial],
    past: Sequence[Run],
    position: Position | None,
    observe: Logger,
    keep: Checkpointer,
    cost: Cost,
) -> tuple[Run, Cost]:
    """Trains a group to the end.

    Args:
      programs: compiled for it.
      trials: all at one position.
      past: their Runs there.
      position: None: they have not started.
      observe: called between chunks.
      keep: saves between segments.
      cost: of all groups before.

    Returns:
      The group's final Run, and what all have cost.

    Raises:
      Diverged: when a metric is not finite.
    """
    clock, names = time.perf_counter(), [trial.name for trial in trials]
    group = make_group(programs, trials)
    run, position = _first(programs, trials, past, position)
    plan, num_tasks = programs.plan, programs.stream.num_tasks
    stacked = programs.parallelism.stacked
    assert plan.chunk is not None  # resolve
    todo = list(remaining_segments(programs.method, group.sizes, plan.chunk, position, plan.score))
    chunks = _Chunks(programs, group, todo)
    for segment in todo:
        if segment.kind == "steps":
            run, cost = chunks.advance(run, segment, observe, cost)
        elif segment.kind == "score":
            run = _score(programs, group, run, segment.task, observe)
        else:
            known = told_task(group.schedule.task_classes, segment.task, trials=stacked)
            run = cross_boundary(programs, run, segment, known, partial(_handed, programs, group))
        lap, clock = time.perf_counter() - clock, time.perf_counter()
        cost = cost._replace(seconds=cost.seconds + lap)
        keep.maybe_save(names, run, end(num_tasks) if segment is todo[-1] else segment.done, cost)
    return run, cost


def _first(
    programs: Programs, trials: Sequence[Trial], past: Sequence[Run], position: Position | None
) -> tuple[Run, Position]:
    """The group's Run, new or as it was kept, and its position."""
    if position is None:
        given = [(dict(trial.hyper), np.uint32(trial.seed)) for trial in trials]
        run = programs.start(*(stack_trials(given) if programs.parallelism.stacked else given[0]))
    else:
        run = programs.parallelism.stack(past)
    return copied(run), position or START


def cross_boundary(
    programs: Programs,
    run: Run,
    segment: Segment,
    known_task: Task,
    handed: Callable[[Segment], tuple[Examples, BatchTable]],
) -> Run:
    """The Run after the beginning or end of a task, or the entry of a phase.

    Args:
      programs: of the run.
      run: is donated.
      segment: which boundary.
      known_task: what a method that is told learns about the task.
      handed: the segment -> the examples that the method gets there, and the rows that number them;
        called where it asks for some.
    """
    number = boundary_number(programs.method, segment)
    which = segment.kind, segment.phase
    if not asks_data(programs.method, segment):
        return programs.boundary(which, run, None, number, known_task)
    examples, rows = handed(segment)
    return programs.boundary(which, run, examples, number, known_task, rows)


def _handed(programs: Programs, group: Group, segment: Segment) -> tuple[Examples, BatchTable]:
    """Every example of a task, or the test examples so far, and the rows that number them."""
    if asks_data(programs.method, segment) == "test":
        rows, loader = tests_so_far(group.schedule, segment.task), group.testing
    else:
        assert group.whole is not None  # make_group
        rows, loader = group.whole(segment.task), group.training
    examples, index = loader.fetch(rows.index)
    return examples, rows.replace(index=index)


def _score(programs: Programs, group: Group, run: Run, task: int, observe: Logger) -> Run:
    """The accuracy after ``task`` in the matrix; -1: before training."""
    start, last = time.perf_counter(), programs.stream.num_tasks - 1
    upto = last if task < 0 else min(task + 1, last)
    accuracy = programs.evaluate(run.state, run.hyper, group.schedule, group.testing, upto)
    matrix = programs.write(run.matrix, accuracy, np.int32(task + 1))
    seen = np.asarray(matrix, np.float64)
    seen = seen if programs.parallelism.stacked else seen[None]
    observe(Evaluated(group.seeds, task, seen, time.perf_counter() - start, group.values))
    return run.replace(matrix=matrix)


class _Chunks:
    """The chunks of a group, one after another; a class because each continues the one before."""

    def __init__(self, programs: Programs, group: Group, todo: Sequence[Segment]) -> None:
        self.programs, self.group = programs, group
        self.coming = prefetch(group.training, chunk_tables(programs, group, todo))
        self.timed = min(1, sum(segment.kind == "steps" for segment in todo) - 1)
        """The first chunk whose time counts, since the one before compiles; or the only one."""
        self.metrics: dict[str, float] = {}

    def advance(self, run: Run, segment: Segment, observe: Logger, cost: Cost) -> tuple[Run, Cost]:
        """One chunk: the Run after it, and what all has cost."""
        programs, group, plan = self.programs, self.group, self.programs.plan
        examples, part = next(self.coming)
        classes, stacked = group.schedule.task_classes, programs.parallelism.stacked
        known_task = told_task(classes, segment.task, trials=stacked)
        number, num_steps = next(programs.counter), segment.stop - segment.start
        start = time.perf_counter()
        with _profiled(plan.profile if number == self.timed else None):
            run, found = programs.advance[segment.phase](run, examples, part, known_task, num_steps)
            found = jax.device_get(found)
        self.metrics, each = collect(
            found, part, group.seeds, segment.task, self.metrics, plan.diverged
        )
        seconds = time.perf_counter() - start
        if number >= self.timed:
            active = int(part.active[..., :num_steps].sum())
            cost = cost._replace(steps=cost.steps + active, stepping=cost.stepping + seconds)
        served = int((part.index[..., :num_steps, :] >= 0).sum())
        made, total = updates_made(group.sizes, segment), updates_made(group.sizes, None)
        name = programs.method.phases[segment.phase].name
        counted = segment.task, name, made, total, served, seconds
        observe(Progress(group.seeds, *counted, self.metrics, group.values, each))
        return run, cost


@contextlib.contextmanager
def _profiled(folder: str | None) -> Iterator[None]:
    """Writes a JAX profiler trace of what happens inside into ``folder``; None writes nothing."""
    if folder is None:
        yield
        return
    with jax.profiler.trace(folder):
        yield


def collect(
    found: PyTree,
    part: BatchTable,
    seeds: Sequence[int],
    task: int,
    before: dict[str, float],
    diverged: Literal["raise", "keep"] = "raise",
) -> tuple[dict[str, float], tuple[dict[str, float], ...]]:
    """Mean metrics of a chunk, and of each trial.

    Args:
      found: the chunk's ChunkMetrics, on the host.
      part: its rows.
      seeds, task: of the trials, for the message.
      before: mean metrics of the chunk before.
      diverged: see Plan.

    Raises:
      Diverged: if a step of it was not finite, and that matters.
    """
    bad = np.atleast_1d(found.bad_step)
    if diverged == "raise" and (bad >= 0).any():
        trial = int(np.argmax(bad >= 0))
        good = {k: float(np.atleast_1d(v)[trial]) for k, v in found.last_good.items()}
        good = before if np.isnan(list(good.values())).any() else good
        listed = ", ".join(f"{k} {v:.4g}" for k, v in good.items()) or "none"
        raise Diverged(
            f"training stopped being finite at step {bad[trial]} (task {task + 1}, seed "
            f"{seeds[trial]}); last finite metrics: {listed}; lower the learning rate"
        )
    steps = np.atleast_1d(part.active.sum(-1))
    sums = {name: np.atleast_1d(value) for name, value in found.sums.items()}
    mean = {name: float(np.sum(value)) / max(int(steps.sum()), 1) for name, value in sums.items()}
    each = tuple(
        {name: float(value[trial]) / max(int(steps[trial]), 1) for name, value in sums.items()}
        for trial in range(len(seeds))
    )
    return mean, each
