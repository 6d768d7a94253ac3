"""The trials that are computed together, and the tables of what they see."""

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import jax
import numpy as np

from cls_jax.core.keys import RunKey
from cls_jax.core.types import Array, PyTree
from cls_jax.methods.base import Method
from cls_jax.streams.stream import Schedule, Stream
from cls_jax.train.batches import BatchTable, slice_rows, stack_rows, task_rows, whole_tasks
from cls_jax.train.prefetch import Loader
from cls_jax.train.programs import Programs
from cls_jax.train.segments import Segment


class Trial(NamedTuple):
    """One run among those that are made together; its name is unique.

    Attributes:
      hyper: hyper-parameters by name, float32[] each.
      schedules: what its seed sees, one a phase.
      value: the number of its hyper-parameters among those of a sweep.
    """

    name: str
    hyper: Mapping[str, Array]
    seed: int
    schedules: Sequence[Schedule]
    value: int = 0


class Group(NamedTuple):
    """The trials that are computed together, and what they see.

    Attributes:
      seeds, values: of the trials.
      schedule: of the first phase, stacked where the trials are.
      tables: rows of each [phase][trial][task].
      sizes: numbers of them, [phase][task][trial].
      whole: for each task every example once, or None where no boundary asks for it.
      training, testing: loaders of the two splits.
    """

    seeds: tuple[int, ...]
    values: tuple[int, ...]
    schedule: Schedule
    tables: list[list[list[BatchTable]]]
    sizes: list[list[list[int]]]
    whole: Sequence[BatchTable | None]
    training: Loader
    testing: Loader


def make_group(programs: Programs, trials: Sequence[Trial]) -> Group:
    method, stacked = programs.method, programs.parallelism.stacked
    schedules, num_tasks = [list(trial.schedules) for trial in trials], programs.stream.num_tasks
    firsts = [each[0] for each in schedules]
    phases = range(len(method.phases))
    tables = [[task_rows(method, each, phase) for each in schedules] for phase in phases]
    needs = method.needs
    asks = needs.begin_data or needs.end_data or any(p.enter_data for p in method.phases)
    return Group(
        seeds=tuple(trial.seed for trial in trials),
        values=tuple(trial.value for trial in trials),
        schedule=stack_trials(firsts) if stacked else firsts[0],
        tables=tables,
        sizes=[
            [[rows[task].active.size for rows in phase] for task in range(num_tasks)]
            for phase in tables
        ],
        whole=whole_tasks(method, schedules, trials=stacked) if asks else [None] * num_tasks,
        training=programs.loaders(len(trials))[0],
        testing=programs.loaders(len(trials))[1],
    )


def chunk_tables(programs: Programs, group: Group, todo: Sequence[Segment]) -> Iterator[BatchTable]:
    """The rows of every segment of steps, all padded to one length."""
    at, stacked = None, programs.parallelism.stacked
    for segment in todo:
        if segment.kind == "steps":
            if at != (segment.task, segment.phase):
                at = (segment.task, segment.phase)
                mine = [tasks[segment.task] for tasks in group.tables[segment.phase]]
                rows = stack_rows(mine) if stacked else mine[0]
            yield slice_rows(rows, segment.start, programs.plan.chunk, trials=stacked)


def updates_made(sizes: Sequence, segment: Segment | None) -> int:
    """Updates that the longest trials have made when ``segment`` is done; None: in all."""
    longest = [[max(trials) for trials in phase] for phase in sizes]
    if segment is None:
        return sum(map(sum, longest))
    before = sum(sum(phase[: segment.task]) for phase in longest)
    return before + sum(phase[segment.task] for phase in longest[: segment.phase]) + segment.stop


def schedule_key(seed: int) -> Array:
    """The key that fixes what a seed sees."""
    return jax.random.fold_in(jax.random.key(seed), RunKey.SCHEDULE)


def schedules_of(method: Method, stream: Stream, seed: int) -> list[Schedule]:
    """One schedule a phase; all have the same class order."""
    return [
        stream.schedule(schedule_key(seed), epochs=phase.epochs, shuffle=number)
        for number, phase in enumerate(method.phases)
    ]


def stack_trials(trees: Sequence[PyTree]) -> PyTree:
    return jax.tree.map(lambda *leaves: np.stack(leaves), *trees)
