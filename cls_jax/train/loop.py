"""The way of one group of lanes: birth, boundaries, chunks, scores and events, leg by leg."""

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
from cls_jax.train.batches import Rows, slice_rows, stack_rows, task_rows, told_task, whole_tasks
from cls_jax.train.evaluate import make_evaluate
from cls_jax.train.events import Evaluated, Observer, Progress
from cls_jax.train.parallel import Placement
from cls_jax.train.plan import Plan
from cls_jax.train.prefetch import Road, feed, make_road
from cls_jax.train.segments import START, Keeper, Leg, Meter, Place, end, legs
from cls_jax.train.steps import Run, birth, make_advance, make_boundary

_SCHEDULE = 0  # a purpose of a seed's key; steps.py has the others


class Diverged(ArithmeticError):
    """A metric stopped being finite; the message tells when, and the last metrics before."""


class Lane(NamedTuple):
    """One run among those that are made together; its name is unique.

    ``value`` is the number of its Hyper among those of a sweep.
    """

    name: str
    hyper: PyTree
    seed: int
    value: int = 0


class Journey(NamedTuple):
    """What ``make_journey`` builds.

    Attributes:
      placement: of the lanes.
      abstract: a lane -> its Run, as shapes, dtypes and shardings.
      run: (group, past, place, observe, keep, spent) -> the group's final Run, and what all cost.
        ``past`` are the lanes' Runs at ``place``; ``place`` None: they are not yet born.
    """

    placement: Placement
    abstract: Callable[[Lane], Run]
    run: Callable[..., tuple[Run, Meter]]


def make_journey(method: Method, stream: Stream, plan: Plan) -> Journey:
    """Compiles everything once, for all groups of lanes.

    Args:
      method, stream: what learns what.
      plan: with every choice made.
    """
    split = plan.over_seeds == "sequential" and plan.devices > 1
    placement = Placement(
        {"sequential": "one", "vmap": "vmap", "devices": "devices"}[plan.over_seeds],
        data_mesh(plan.devices) if split else None,
    )
    stacked = placement.stacked
    advance = [make_advance(method, stream, p, placement, mode=plan.mode) for p in method.phases]
    boundary = make_boundary(method, stream, placement)
    evaluate = make_evaluate(method, stream, placement)
    num_tasks, num_phases = stream.num_tasks, len(method.phases)
    x = stream.source.train.x
    newborn = partial(
        birth, method, x.shape[1:], x.dtype.name, (stream.batch_size, stream.num_tasks)
    )
    chunks_timed = itertools.count()

    put = lambda matrix, accuracy, row: matrix.at[:, :, row].set(accuracy)  # noqa: E731
    born = placement.compile(newborn, (0, 0))
    written = placement.compile(put, (0, 0, None))

    def abstract(lane: Lane) -> Run:
        where = placement.sharding()
        made = jax.eval_shape(newborn, lane.hyper, np.uint32(lane.seed))
        to = lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=where)  # noqa: E731
        return jax.tree.map(to, made)

    @lru_cache(maxsize=1)
    def roads(num_lanes: int) -> list[Road]:
        splits, on_host = (stream.source.train, stream.source.test), plan.data == "host"
        return [make_road(split, placement, num_lanes, on_host=on_host) for split in splits]

    def run(
        group: Sequence[Lane],
        past: Sequence[Run],
        place: Place | None,
        observe: Observer,
        keep: Keeper,
        spent: Meter,
    ) -> tuple[Run, Meter]:
        clock = time.perf_counter()
        names, seeds = [lane.name for lane in group], tuple(lane.seed for lane in group)
        values = tuple(lane.value for lane in group)
        schedules = [schedules_of(method, stream, seed) for seed in seeds]
        first = _stack([s[0] for s in schedules]) if stacked else schedules[0][0]
        training, testing = roads(len(group))
        if place is None:
            given = [(lane.hyper, np.uint32(lane.seed)) for lane in group]
            now, place = born(*(_stack(given) if stacked else given[0])), START
        else:
            now = placement.stack(past)
        now = jax.tree.map(jnp.copy, now)  # no two leaves may share a buffer that is donated
        plans = [[task_rows(method, s, p) for s in schedules] for p in range(num_phases)]
        sizes = [[[r[task].live.size for r in ph] for task in range(num_tasks)] for ph in plans]
        handed = [None] * num_tasks
        needs = method.needs
        if needs.begin_data or needs.end_data or any(p.enter_data for p in method.phases):
            handed = whole_tasks(method, schedules, lanes=stacked)

        def edge(fn: Callable, task: int, number: int, *, data: bool = False) -> Run:
            told, number = told_task(first, task, lanes=stacked), number + task * (num_phases + 2)
            if not data:
                return boundary(fn, now, None, number, told)
            examples, index = training.look(handed[task].index)
            return boundary(fn, now, examples, number, told, handed[task].replace(index=index))

        def score(task: int) -> Run:
            start = time.perf_counter()
            upto = num_tasks - 1 if task < 0 else min(task + 1, num_tasks - 1)
            accuracy = evaluate(now.state, first, testing, upto)
            matrix = written(now.matrix, accuracy, np.int32(task + 1))
            shown = np.asarray(matrix, np.float64)
            shown = shown if stacked else shown[None]
            observe(Evaluated(seeds, task, shown, time.perf_counter() - start, values))
            return now.replace(matrix=matrix)

        def steps(leg: Leg) -> Run:
            nonlocal metrics, spent
            examples, part = next(fed)
            told, num_steps = told_task(first, leg.task, lanes=stacked), leg.stop - leg.start
            number, start = next(chunks_timed), time.perf_counter()
            with _profiled(plan.profile if number == second else None):
                then, tally = advance[leg.phase](now, examples, part, told, num_steps)
                metrics, each = _collect(tally, part, seeds, leg.task, metrics, num_steps)
            seconds = time.perf_counter() - start
            if number >= second:  # the first compiles
                live = int(part.live[..., :num_steps].sum())
                spent = spent._replace(steps=spent.steps + live, stepping=spent.stepping + seconds)
            served = int((part.index[..., :num_steps, :] >= 0).sum())
            made, total = _updates(sizes, leg), _updates(sizes, None)
            name = method.phases[leg.phase].name
            counted = leg.task, name, made, total, served, seconds
            observe(Progress(seeds, *counted, metrics, values, each))
            return then

        todo, metrics = list(legs(method, sizes, plan.chunk, place, plan.score)), {}
        second = min(1, sum(leg.kind == "steps" for leg in todo) - 1)  # chunk, or the only one
        fed = feed(training, _parts(todo, plans, plan.chunk, stacked))
        for leg in todo:
            if leg.kind == "begin":
                now = edge(method.begin_task, leg.task, 0, data=method.needs.begin_data)
            elif leg.kind == "enter":
                phase = method.phases[leg.phase]
                now = edge(phase.enter, leg.task, 1 + leg.phase, data=phase.enter_data)
            elif leg.kind == "steps":
                now = steps(leg)
            elif leg.kind == "end":
                now = edge(method.end_task, leg.task, num_phases + 1, data=method.needs.end_data)
            else:
                now = score(leg.task)
            lap, clock = time.perf_counter() - clock, time.perf_counter()
            spent = spent._replace(seconds=spent.seconds + lap)
            keep.offer(names, now, end(num_tasks) if leg is todo[-1] else leg.done, spent)
        return now, spent

    return Journey(placement, abstract, run)


def _updates(sizes: Sequence, leg: Leg | None) -> int:
    """Updates that the longest lanes have made when ``leg`` is done; None: in all."""
    longest = [[max(lanes) for lanes in phase] for phase in sizes]
    if leg is None:
        return sum(map(sum, longest))
    whole_tasks = sum(sum(phase[: leg.task]) for phase in longest)
    return whole_tasks + sum(phase[leg.task] for phase in longest[: leg.phase]) + leg.stop


def _parts(todo: Sequence[Leg], plans: Sequence, chunk: int, stacked: bool) -> Iterator[Rows]:
    """The rows of every leg of steps, all padded to one length."""
    at = None
    for leg in todo:
        if leg.kind == "steps":
            if at != (leg.task, leg.phase):
                at, mine = (leg.task, leg.phase), [lane[leg.task] for lane in plans[leg.phase]]
                rows = stack_rows(mine) if stacked else mine[0]
            yield slice_rows(rows, leg.start, chunk, lanes=stacked)


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


def _collect(tally, part, seeds, task: int, before: dict[str, float], num_steps: int):
    """Mean metrics of a chunk, and of each lane; ``before`` are those of the chunk before.

    Raises:
      Diverged: if a step of it was not finite.
    """
    tally = jax.device_get(tally)
    bad = np.atleast_1d(tally.bad_step)
    if (bad >= 0).any():
        lane = int(np.argmax(bad >= 0))
        good = {k: float(np.atleast_1d(v)[lane]) for k, v in tally.last_good.items()}
        good = before if np.isnan(list(good.values())).any() else good
        shown = ", ".join(f"{k} {v:.4g}" for k, v in good.items()) or "none"
        raise Diverged(
            f"training stopped being finite at step {bad[lane]} (task {task + 1}, seed "
            f"{seeds[lane]}); last finite metrics: {shown}; lower the learning rate"
        )
    steps = np.atleast_1d(part.live[..., :num_steps].sum(-1))
    sums = {name: np.atleast_1d(value) for name, value in tally.sums.items()}
    mean = {name: float(np.sum(value)) / max(int(steps.sum()), 1) for name, value in sums.items()}
    each = tuple(
        {name: float(value[lane]) / max(int(steps[lane]), 1) for name, value in sums.items()}
        for lane in range(len(seeds))
    )
    return mean, each
