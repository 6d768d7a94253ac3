"""The training of one group of trials: start, boundaries, chunks and scores, segment by segment."""

import contextlib
import itertools
import time
from collections.abc import Callable, Iterator, Sequence
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
    num_active,
    slice_rows,
    stack_rows,
    stack_schedules,
    task_rows,
    told_task,
    whole_tasks,
)
from cls_jax.train.evaluate import make_evaluate
from cls_jax.train.events import Evaluated, Observer, Progress
from cls_jax.train.parallel import Parallelism
from cls_jax.train.plan import Plan
from cls_jax.train.prefetch import Loader, make_loader, prefetch, with_contexts
from cls_jax.train.segments import (
    START,
    Checkpointer,
    Cost,
    Position,
    Segment,
    end,
    remaining_segments,
)
from cls_jax.train.steps import Run, init_run, make_advance, make_boundary

_SCHEDULE = 0  # a purpose of a seed's key; steps.py has the others


class Diverged(ArithmeticError):
    """A metric stopped being finite; the message tells when, and the last metrics before."""


class Trial(NamedTuple):
    """One run among those that are made together; its name is unique.

    ``value`` is the number of its Hyper among those of a sweep.
    """

    name: str
    hyper: PyTree
    seed: int
    value: int = 0


class TrainLoop(NamedTuple):
    """What ``make_train_loop`` builds.

    Attributes:
      parallelism: of the trials.
      abstract: a trial -> its Run, as shapes, dtypes and shardings.
      run: (group, past, place, observe, keep, spent) -> the group's final Run, and what all cost.
        ``past`` are the trials' Runs at ``place``; ``place`` None: they are not yet born.
    """

    parallelism: Parallelism
    abstract: Callable[[Trial], Run]
    run: Callable[..., tuple[Run, Cost]]


def make_train_loop(method: Method, stream: Stream, plan: Plan) -> TrainLoop:
    """Compiles everything once, for all groups of trials.

    Args:
      method, stream: what learns what.
      plan: with every choice made.
    """
    split = plan.over_seeds == "sequential" and plan.devices > 1
    parallelism = Parallelism(
        {"sequential": "one", "vmap": "vmap", "devices": "devices"}[plan.over_seeds],
        data_mesh(plan.devices) if split else None,
    )
    stacked = parallelism.stacked
    advance = [make_advance(method, stream, p, parallelism, mode=plan.mode) for p in method.phases]
    boundary = make_boundary(method, stream, parallelism)
    evaluate = make_evaluate(method, stream, parallelism)
    num_tasks, num_phases = stream.num_tasks, len(method.phases)
    x = stream.source.train.x
    newborn = partial(
        init_run, method, x.shape[1:], x.dtype.name, (stream.batch_size, stream.num_tasks)
    )
    chunks_timed = itertools.count()

    put = lambda matrix, accuracy, row: matrix.at[:, :, row].set(accuracy)  # noqa: E731
    born = parallelism.compile(newborn, (0, 0))
    written = parallelism.compile(put, (0, 0, None))

    def abstract(trial: Trial) -> Run:
        where = parallelism.sharding()
        made = jax.eval_shape(newborn, trial.hyper, np.uint32(trial.seed))
        to = lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=where)  # noqa: E731
        return jax.tree.map(to, made)

    @lru_cache(maxsize=1)
    def loaders(num_trials: int) -> list[Loader]:
        splits, on_host = (stream.source.train, stream.source.test), plan.data == "host"
        return [make_loader(split, parallelism, num_trials, on_host=on_host) for split in splits]

    def run(
        group: Sequence[Trial],
        past: Sequence[Run],
        place: Position | None,
        observe: Observer,
        keep: Checkpointer,
        spent: Cost,
    ) -> tuple[Run, Cost]:
        clock = time.perf_counter()
        names, seeds = [trial.name for trial in group], tuple(trial.seed for trial in group)
        values = tuple(trial.value for trial in group)
        schedules = [schedules_of(method, stream, seed) for seed in seeds]
        first = stack_schedules([s[0] for s in schedules]) if stacked else schedules[0][0]
        contexts = parallelism.put_contexts([s[0].contexts for s in schedules])
        training, testing = (with_contexts(each, contexts) for each in loaders(len(group)))
        if place is None:
            given = [(trial.hyper, np.uint32(trial.seed)) for trial in group]
            now, place = born(*(_stack(given) if stacked else given[0])), START
        else:
            now = parallelism.stack(past)
        now = jax.tree.map(jnp.copy, now)  # no two leaves may share a buffer that is donated
        sizes = [
            list(zip(*(num_active(method, s, phase) for s in schedules), strict=True))
            for phase in range(num_phases)
        ]
        handed = None
        needs = method.needs
        if needs.begin_data or needs.end_data or any(p.enter_data for p in method.phases):
            handed = whole_tasks(method, schedules, trials=stacked)

        def edge(fn: Callable, task: int, number: int, *, data: bool = False) -> Run:
            told, number = told_task(first, task, trials=stacked), number + task * (num_phases + 2)
            if not data:
                return boundary(fn, now, None, number, told)
            rows = handed(task)
            examples, index = training.fetch(rows.index)
            return boundary(fn, now, examples, number, told, rows.replace(index=index))

        def score(task: int) -> Run:
            start = time.perf_counter()
            upto = num_tasks - 1 if task < 0 else min(task + 1, num_tasks - 1)
            accuracy = evaluate(now.state, first, testing, upto)
            matrix = written(now.matrix, accuracy, np.int32(task + 1))
            shown = np.asarray(matrix, np.float64)
            shown = shown if stacked else shown[None]
            observe(Evaluated(seeds, task, shown, time.perf_counter() - start, values))
            return now.replace(matrix=matrix)

        def steps(segment: Segment) -> Run:
            nonlocal metrics, spent
            examples, part = next(fed)
            told, num_steps = (
                told_task(first, segment.task, trials=stacked),
                segment.stop - segment.start,
            )
            number, start = next(chunks_timed), time.perf_counter()
            with _profiled(plan.profile if number == second else None):
                then, so_far = advance[segment.phase](now, examples, part, told, num_steps)
                metrics, each = _collect(so_far, part, seeds, segment.task, metrics, num_steps)
            seconds = time.perf_counter() - start
            if number >= second:  # the first compiles
                active = int(part.active[..., :num_steps].sum())
                spent = spent._replace(
                    steps=spent.steps + active, stepping=spent.stepping + seconds
                )
            served = int((part.index[..., :num_steps, :] >= 0).sum())
            made, total = _updates(sizes, segment), _updates(sizes, None)
            name = method.phases[segment.phase].name
            counted = segment.task, name, made, total, served, seconds
            observe(Progress(seeds, *counted, metrics, values, each))
            return then

        todo, metrics = list(remaining_segments(method, sizes, plan.chunk, place, plan.score)), {}
        second = min(1, sum(segment.kind == "steps" for segment in todo) - 1)  # or the only one
        fed = prefetch(training, _parts(method, schedules, todo, plan.chunk, trials=stacked))
        for segment in todo:
            if segment.kind == "begin":
                now = edge(method.begin_task, segment.task, 0, data=method.needs.begin_data)
            elif segment.kind == "enter":
                phase = method.phases[segment.phase]
                now = edge(phase.enter, segment.task, 1 + segment.phase, data=phase.enter_data)
            elif segment.kind == "steps":
                now = steps(segment)
            elif segment.kind == "end":
                now = edge(
                    method.end_task, segment.task, num_phases + 1, data=method.needs.end_data
                )
            else:
                now = score(segment.task)
            lap, clock = time.perf_counter() - clock, time.perf_counter()
            spent = spent._replace(seconds=spent.seconds + lap)
            keep.maybe_save(
                names, now, end(num_tasks) if segment is todo[-1] else segment.done, spent
            )
        return now, spent

    return TrainLoop(parallelism, abstract, run)


def _updates(sizes: Sequence, segment: Segment | None) -> int:
    """Updates that the longest trials have made when ``segment`` is done; None: in all."""
    longest = [[max(trials) for trials in phase] for phase in sizes]
    if segment is None:
        return sum(map(sum, longest))
    whole_tasks = sum(sum(phase[: segment.task]) for phase in longest)
    return (
        whole_tasks + sum(phase[segment.task] for phase in longest[: segment.phase]) + segment.stop
    )


def _parts(
    method: Method,
    schedules: list[list[Schedule]],
    todo: Sequence[Segment],
    chunk: int,
    *,
    trials: bool,
) -> Iterator[BatchTable]:
    """The rows of every segment of steps, all padded to one length; those of a task are made once,
    when its turn comes."""
    at = None
    for segment in todo:
        if segment.kind == "steps":
            if at != (segment.task, segment.phase):
                at = (segment.task, segment.phase)
                mine = [task_rows(method, s, segment.phase, segment.task) for s in schedules]
                rows = stack_rows(mine) if trials else mine[0]
            yield slice_rows(rows, segment.start, chunk, trials=trials)


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


def _collect(so_far, part, seeds, task: int, before: dict[str, float], num_steps: int):
    """Mean metrics of a chunk, and of each trial; ``before`` are those of the chunk before.

    Raises:
      Diverged: if a step of it was not finite.
    """
    so_far = jax.device_get(so_far)
    bad = np.atleast_1d(so_far.bad_step)
    if (bad >= 0).any():
        trial = int(np.argmax(bad >= 0))
        good = {k: float(np.atleast_1d(v)[trial]) for k, v in so_far.last_good.items()}
        good = before if np.isnan(list(good.values())).any() else good
        shown = ", ".join(f"{k} {v:.4g}" for k, v in good.items()) or "none"
        raise Diverged(
            f"training stopped being finite at step {bad[trial]} (task {task + 1}, seed "
            f"{seeds[trial]}); last finite metrics: {shown}; lower the learning rate"
        )
    steps = np.atleast_1d(part.active[..., :num_steps].sum(-1))
    sums = {name: np.atleast_1d(value) for name, value in so_far.sums.items()}
    mean = {name: float(np.sum(value)) / max(int(steps.sum()), 1) for name, value in sums.items()}
    each = tuple(
        {name: float(value[trial]) / max(int(steps[trial]), 1) for name, value in sums.items()}
        for trial in range(len(seeds))
    )
    return mean, each
