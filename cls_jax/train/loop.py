"""The train loop: a group of trials from its first state to its last score, by segments."""

import contextlib
import itertools
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import lru_cache, partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from cls_jax.core.sharding import data_mesh
from cls_jax.core.types import Array, PyTree
from cls_jax.methods.base import Method
from cls_jax.streams.stream import Schedule, Stream
from cls_jax.train.batches import (
    BatchTable,
    slice_rows,
    stack_rows,
    task_rows,
    told_task,
    whole_tasks,
)
from cls_jax.train.evaluate import EvaluateFn, make_evaluate
from cls_jax.train.events import Evaluated, Observer, Progress
from cls_jax.train.parallel import Parallelism
from cls_jax.train.plan import Plan
from cls_jax.train.prefetch import Loader, make_loader, prefetch
from cls_jax.train.segments import (
    START,
    Checkpointer,
    Cost,
    Position,
    Segment,
    end,
    remaining_segments,
)
from cls_jax.train.steps import (
    AdvanceFn,
    Run,
    abstract_run,
    init_run,
    make_advance,
    make_boundary,
    shapes_of,
)

_SCHEDULE = 0  # a purpose of a seed's key; steps.py has the others


class Diverged(ArithmeticError):
    """A metric stopped being finite; the message tells when, and the last metrics before."""


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


class TrainLoop(NamedTuple):
    """What is compiled once for all groups of trials, and for later calls with equal arguments.

    Attributes:
      method, stream, plan: what learns what, and how; every choice of the plan is made.
      parallelism: of the trials.
      start: (hyper, seed) -> a Run.
      advance: the compiled chunk of each phase.
      boundary: see steps.make_boundary.
      evaluate: see evaluate.make_evaluate.
      write: (matrix, accuracy, row) -> the matrix with that row.
      loaders: number of trials -> those of the training and of the test split.
      counter: of all chunks so far; the first one compiles, so its time does not count.
    """

    method: Method
    stream: Stream
    plan: Plan
    parallelism: Parallelism
    start: Callable[..., Run]
    advance: Sequence[AdvanceFn]
    boundary: Callable[..., Run]
    evaluate: EvaluateFn
    write: Callable[..., Array]
    loaders: Callable[[int], list[Loader]]
    counter: Iterator[int]

    def abstract(self) -> Run:
        """One trial's Run, as shapes, dtypes and shardings."""
        where = self.parallelism.sharding()

        def placed(leaf: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
            return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=where)

        return jax.tree.map(placed, abstract_run(self.method, shapes_of(self.stream)))


_LOOPS: dict[tuple, TrainLoop] = {}
_MOST_LOOPS = 4
"""Programs of so many (method, stream, plan) are kept for the next call."""


def make_train_loop(method: Method, stream: Stream, plan: Plan) -> TrainLoop:
    """The loop of equal arguments, if there was one, or a new one.

    Methods that differ in hyper-parameters alone share a loop, since these are data. A loop holds
    the stream, so its identity stays its own as long as it is a key.

    Args:
      method, stream: what learns what.
      plan: with every choice made.
    """
    key = (method.at, id(stream.schedule), id(stream.source), stream.batch_size, plan)
    if key not in _LOOPS or plan.profile is not None:
        _LOOPS[key] = _compiled(method, stream, plan)
    loop = _LOOPS[key] = _LOOPS.pop(key)  # the newest last
    while len(_LOOPS) > _MOST_LOOPS:
        del _LOOPS[next(iter(_LOOPS))]
    return loop


def _compiled(method: Method, stream: Stream, plan: Plan) -> TrainLoop:
    split = plan.over_seeds == "sequential" and plan.devices > 1
    parallelism = Parallelism(
        {"sequential": "one", "vmap": "vmap", "devices": "devices"}[plan.over_seeds],
        data_mesh(plan.devices) if split else None,
    )

    @lru_cache(maxsize=1)
    def loaders(num_trials: int) -> list[Loader]:
        splits, on_host = (stream.source.train, stream.source.test), plan.data == "host"
        return [make_loader(split, parallelism, num_trials, on_host=on_host) for split in splits]

    def write(matrix: Array, accuracy: Array, row: Array) -> Array:
        return matrix.at[:, :, row].set(accuracy)

    return TrainLoop(
        method=method,
        stream=stream,
        plan=plan,
        parallelism=parallelism,
        start=parallelism.compile(partial(init_run, method, shapes_of(stream)), (0, 0)),
        advance=[
            make_advance(method, stream, number, parallelism, mode=plan.mode)
            for number in range(len(method.phases))
        ],
        boundary=make_boundary(method, stream, parallelism),
        evaluate=make_evaluate(method, stream, parallelism),
        write=parallelism.compile(write, (0, 0, None)),
        loaders=loaders,
        counter=itertools.count(),
    )


class _Group(NamedTuple):
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


def _group(loop: TrainLoop, trials: Sequence[Trial]) -> _Group:
    method, stacked = loop.method, loop.parallelism.stacked
    schedules, num_tasks = [list(trial.schedules) for trial in trials], loop.stream.num_tasks
    firsts = [each[0] for each in schedules]
    phases = range(len(method.phases))
    tables = [[task_rows(method, each, phase) for each in schedules] for phase in phases]
    needs = method.needs
    asks = needs.begin_data or needs.end_data or any(p.enter_data for p in method.phases)
    return _Group(
        seeds=tuple(trial.seed for trial in trials),
        values=tuple(trial.value for trial in trials),
        schedule=_stack(firsts) if stacked else firsts[0],
        tables=tables,
        sizes=[
            [[rows[task].active.size for rows in phase] for task in range(num_tasks)]
            for phase in tables
        ],
        whole=whole_tasks(method, schedules, trials=stacked) if asks else [None] * num_tasks,
        training=loop.loaders(len(trials))[0],
        testing=loop.loaders(len(trials))[1],
    )


def train_group(
    loop: TrainLoop,
    trials: Sequence[Trial],
    past: Sequence[Run],
    position: Position | None,
    observe: Observer,
    keep: Checkpointer,
    cost: Cost,
) -> tuple[Run, Cost]:
    """Trains a group to the end.

    Args:
      loop: compiled for it.
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
    group = _group(loop, trials)
    run, position = _first(loop, trials, past, position)
    plan, num_tasks = loop.plan, loop.stream.num_tasks
    todo = list(remaining_segments(loop.method, group.sizes, plan.chunk, position, plan.score))
    chunks = _Chunks(loop, group, todo)
    for segment in todo:
        if segment.kind == "steps":
            run, cost = chunks.advance(run, segment, observe, cost)
        elif segment.kind == "score":
            run = _score(loop, group, run, segment.task, observe)
        else:
            run = _boundary(loop, group, run, segment)
        lap, clock = time.perf_counter() - clock, time.perf_counter()
        cost = cost._replace(seconds=cost.seconds + lap)
        keep.maybe_save(names, run, end(num_tasks) if segment is todo[-1] else segment.done, cost)
    return run, cost


def _first(
    loop: TrainLoop, trials: Sequence[Trial], past: Sequence[Run], position: Position | None
) -> tuple[Run, Position]:
    """The group's Run, new or as it was kept, and its position."""
    if position is None:
        given = [(dict(trial.hyper), np.uint32(trial.seed)) for trial in trials]
        run = loop.start(*(_stack(given) if loop.parallelism.stacked else given[0]))
    else:
        run = loop.parallelism.stack(past)
    # No two leaves may share a buffer that is donated.
    return jax.tree.map(jnp.copy, run), position or START


def _boundary(loop: TrainLoop, group: _Group, run: Run, segment: Segment) -> Run:
    """The beginning or end of a task, or the entry of a phase."""
    needs, phases = loop.method.needs, loop.method.phases
    asks, number = {
        "begin": lambda: (needs.begin_data, 0),
        "enter": lambda: (phases[segment.phase].enter_data, 1 + segment.phase),
        "end": lambda: (needs.end_data, len(phases) + 1),
    }[segment.kind]()
    number += segment.task * (len(phases) + 2)
    told = told_task(group.schedule, segment.task, trials=loop.parallelism.stacked)
    which = segment.kind, segment.phase
    if not asks:
        return loop.boundary(which, run, None, number, told)
    whole = group.whole[segment.task]
    examples, index = group.training.fetch(whole.index)
    return loop.boundary(which, run, examples, number, told, whole.replace(index=index))


def _score(loop: TrainLoop, group: _Group, run: Run, task: int, observe: Observer) -> Run:
    """The accuracy after ``task`` in the matrix; -1: before training."""
    start, last = time.perf_counter(), loop.stream.num_tasks - 1
    upto = last if task < 0 else min(task + 1, last)
    accuracy = loop.evaluate(run.state, run.hyper, group.schedule, group.testing, upto)
    matrix = loop.write(run.matrix, accuracy, np.int32(task + 1))
    seen = np.asarray(matrix, np.float64)
    seen = seen if loop.parallelism.stacked else seen[None]
    observe(Evaluated(group.seeds, task, seen, time.perf_counter() - start, group.values))
    return run.replace(matrix=matrix)


class _Chunks:
    """The chunks of a group, one after another; a class because each continues the one before."""

    def __init__(self, loop: TrainLoop, group: _Group, todo: Sequence[Segment]) -> None:
        self.loop, self.group = loop, group
        self.coming = prefetch(group.training, _parts(loop, group, todo))
        self.timed = min(1, sum(segment.kind == "steps" for segment in todo) - 1)
        """The first chunk whose time counts, since the one before compiles; or the only one."""
        self.metrics: dict[str, float] = {}

    def advance(
        self, run: Run, segment: Segment, observe: Observer, cost: Cost
    ) -> tuple[Run, Cost]:
        """One chunk: the Run after it, and what all has cost."""
        loop, group, plan = self.loop, self.group, self.loop.plan
        examples, part = next(self.coming)
        told = told_task(group.schedule, segment.task, trials=loop.parallelism.stacked)
        number, num_steps = next(loop.counter), segment.stop - segment.start
        start = time.perf_counter()
        with _profiled(plan.profile if number == self.timed else None):
            run, found = loop.advance[segment.phase](run, examples, part, told, num_steps)
            found = jax.device_get(found)
        self.metrics, each = _collect(found, part, group.seeds, segment.task, self.metrics)
        seconds = time.perf_counter() - start
        if number >= self.timed:
            active = int(part.active[..., :num_steps].sum())
            cost = cost._replace(steps=cost.steps + active, stepping=cost.stepping + seconds)
        served = int((part.index[..., :num_steps, :] >= 0).sum())
        made, total = _updates(group.sizes, segment), _updates(group.sizes, None)
        name = loop.method.phases[segment.phase].name
        counted = segment.task, name, made, total, served, seconds
        observe(Progress(group.seeds, *counted, self.metrics, group.values, each))
        return run, cost


def _parts(loop: TrainLoop, group: _Group, todo: Sequence[Segment]) -> Iterator[BatchTable]:
    """The rows of every segment of steps, all padded to one length."""
    at, stacked = None, loop.parallelism.stacked
    for segment in todo:
        if segment.kind == "steps":
            if at != (segment.task, segment.phase):
                at = (segment.task, segment.phase)
                mine = [tasks[segment.task] for tasks in group.tables[segment.phase]]
                rows = stack_rows(mine) if stacked else mine[0]
            yield slice_rows(rows, segment.start, loop.plan.chunk, trials=stacked)


def _updates(sizes: Sequence, segment: Segment | None) -> int:
    """Updates that the longest trials have made when ``segment`` is done; None: in all."""
    longest = [[max(trials) for trials in phase] for phase in sizes]
    if segment is None:
        return sum(map(sum, longest))
    before = sum(sum(phase[: segment.task]) for phase in longest)
    return before + sum(phase[segment.task] for phase in longest[: segment.phase]) + segment.stop


@contextlib.contextmanager
def _profiled(folder: str | None) -> Iterator[None]:
    """Writes a JAX profiler trace of what happens inside into ``folder``; None writes nothing."""
    if folder is None:
        yield
        return
    with jax.profiler.trace(folder):
        yield


def schedule_key(seed: int) -> Array:
    """The key that fixes what a seed sees."""
    return jax.random.fold_in(jax.random.key(seed), _SCHEDULE)


def schedules_of(method: Method, stream: Stream, seed: int) -> list[Schedule]:
    """One schedule a phase; all have the same class order."""
    return [
        stream.schedule(schedule_key(seed), epochs=phase.epochs, shuffle=number)
        for number, phase in enumerate(method.phases)
    ]


def _stack(trees: Sequence[PyTree]) -> PyTree:
    return jax.tree.map(lambda *leaves: np.stack(leaves), *trees)


def _collect(
    found: PyTree, part: BatchTable, seeds: Sequence[int], task: int, before: dict[str, float]
) -> tuple[dict[str, float], tuple[dict[str, float], ...]]:
    """Mean metrics of a chunk, and of each trial; ``before`` are those of the chunk before.

    Raises:
      Diverged: if a step of it was not finite.
    """
    bad = np.atleast_1d(found.bad_step)
    if (bad >= 0).any():
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
