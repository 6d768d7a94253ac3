"""The trials that are computed together, and the tables of what they see."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

import jax
import numpy as np

from cls_jax.core.keys import RunKey
from cls_jax.core.types import Array, PyTree
from cls_jax.methods.base import Method
from cls_jax.streams.stream import Schedule, Stream
from cls_jax.training.batches import (
    BatchTable,
    num_active,
    slice_rows,
    stack_rows,
    stack_schedules,
    task_rows,
    whole_tasks,
)
from cls_jax.training.prefetch import Loader, with_contexts
from cls_jax.training.programs import Programs
from cls_jax.training.segments import Segment


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
      schedules: of each [trial][phase]; rows are made of a task when its turn comes.
      schedule: of the first phase, stacked where the trials are; without rows.
      sizes: numbers of rows, [phase][task][trial].
      whole: number of a task -> every example of it once; None where no boundary asks for it.
      training, testing: loaders of the two splits, with the contexts of these trials.
    """

    seeds: tuple[int, ...]
    values: tuple[int, ...]
    schedules: list[list[Schedule]]
    schedule: Schedule
    sizes: list[list[tuple[int, ...]]]
    whole: Callable[[int], BatchTable] | None
    training: Loader
    testing: Loader


def make_group(programs: Programs, trials: Sequence[Trial]) -> Group:
    """What these trials see, and where their examples come from."""
    method, parallelism = programs.method, programs.parallelism
    schedules, stacked = [list(trial.schedules) for trial in trials], parallelism.stacked
    firsts, needs = [each[0] for each in schedules], method.needs
    asks = needs.begin_data or needs.end_data or any(p.enter_data for p in method.phases)
    contexts = parallelism.put_contexts([first.contexts for first in firsts])
    training, testing = (
        with_contexts(loader, contexts) for loader in programs.loaders(len(trials))
    )
    return Group(
        seeds=tuple(trial.seed for trial in trials),
        values=tuple(trial.value for trial in trials),
        schedules=schedules,
        schedule=stack_schedules(firsts) if stacked else firsts[0],
        sizes=[
            list(zip(*(num_active(method, each, phase) for each in schedules), strict=True))
            for phase in range(len(method.phases))
        ],
        whole=whole_tasks(method, schedules, trials=stacked) if asks else None,
        training=training,
        testing=testing,
    )


def chunk_tables(programs: Programs, group: Group, todo: Sequence[Segment]) -> Iterator[BatchTable]:
    """The rows of every segment of steps, all padded to one length; a task's are made once, when
    its turn comes."""
    at, chunk, stacked = None, programs.plan.chunk, programs.parallelism.stacked
    assert chunk is not None  # resolve
    for segment in todo:
        if segment.kind == "steps":
            if at != (segment.task, segment.phase):
                at = (segment.task, segment.phase)
                where = segment.phase, segment.task
                mine = [task_rows(programs.method, each, *where) for each in group.schedules]
                rows = stack_rows(mine) if stacked else mine[0]
            yield slice_rows(rows, segment.start, chunk, trials=stacked)


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


def task_classes(stream: Stream, seed: int) -> np.ndarray:
    """bool[T, C]: which classes each task has, in the order that this seed gives them.

    Args:
      stream: of the run.
      seed: of the run.
    """
    return np.asarray(stream.schedule(schedule_key(seed), epochs=1).task_classes)


def schedules_of(method: Method, stream: Stream, seed: int) -> list[Schedule]:
    """One schedule a phase; all have the same class order."""
    return [
        stream.schedule(schedule_key(seed), epochs=phase.epochs, shuffle=number)
        for number, phase in enumerate(method.phases)
    ]


def stack_trials(trees: Sequence[PyTree]) -> PyTree:
    """Trees of NumPy arrays side by side, a leading axis for the trials."""
    return jax.tree.map(lambda *leaves: np.stack(leaves), *trees)
