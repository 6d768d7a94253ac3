"""Runs a method over a stream, for several seeds; Python looks in between chunks.

``run`` is the whole story: schedules, initial states, boundaries, chunks, evaluations, events.
"""

import itertools
import time
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from cls_jax.evaluate import make_evaluate, view_names
from cls_jax.events import Evaluated, Observer, Progress, Result, Started, scenario_names
from cls_jax.methods.base import Method
from cls_jax.plan import Plan, check_run
from cls_jax.program import Run, make_advance, make_boundary
from cls_jax.rows import Rows, slice_rows, stack_rows, task_rows, told_task, whole_tasks
from cls_jax.streams.stream import Examples, Schedule, Stream, headline, pooled
from cls_jax.types import Batch, InputError, PyTree

_SCHEDULE, _INIT = 0, 1  # purposes of a seed's key; program.py has the others


class Diverged(ArithmeticError):
    """A metric stopped being finite; the message tells when, and the last metrics before."""


def run(
    method: Method,
    stream: Stream,
    hyper: PyTree,
    *,
    seeds: Sequence[int] = (0,),
    plan: Plan = Plan(),  # noqa: B008
    observe: Observer = lambda event: None,
) -> Result:
    """Trains ``method`` on ``stream`` once for each seed, and evaluates after every task.

    Args:
      method: what learns.
      stream: what is seen when.
      hyper: the method's Hyper; its floats become float32 arrays.
      seeds: one run each; a seed fixes class order, initial weights and every draw.
      plan: how to execute.
      observe: called between chunks with Started, Progress and Evaluated.

    Returns:
      Accuracy matrices, final states and timings.

    Raises:
      InputError: for bad seeds, hyper-parameters or plan, before any compute.
      Diverged: when a metric is not finite.
    """
    return sweep(method, stream, [hyper], seeds=seeds, plan=plan, observe=observe)[0]


def sweep(
    method: Method,
    stream: Stream,
    hypers: Sequence[PyTree],
    *,
    seeds: Sequence[int] = (0,),
    plan: Plan = Plan(),  # noqa: B008
    observe: Observer = lambda event: None,
) -> list[Result]:
    """``run`` for several values of the hyper-parameters, which are data: one compilation.

    Args:
      method, stream, plan, observe: as for ``run``; each (value, seed) is a lane.
      hypers: Hypers of one structure.
      seeds: each value gets all of them.

    Returns:
      One Result for each of ``hypers``; ``seconds`` and ``steps_per_second`` are the whole sweep's.

    Raises:
      InputError: for bad seeds, hyper-parameters or plan, before any compute.
      Diverged: when a metric is not finite.
    """
    if not hypers:
        raise InputError("hypers is empty; give at least one Hyper")
    for hyper in hypers:
        decided = check_run(method, hyper, seeds, plan, num_lanes=len(hypers) * len(seeds))
    plan = decided
    if method.needs.pooled:
        stream = pooled(stream)
    as_arrays = lambda hyper: jax.tree.map(lambda v: jnp.asarray(v, jnp.float32), hyper)  # noqa: E731
    lanes = [(as_arrays(hyper), seed) for hyper in hypers for seed in seeds]
    together = plan.over_seeds == "vmap"
    began = time.perf_counter()
    one_group = _make_run(method, stream, plan, lanes=together)
    pace: list[tuple[int, float]] = []
    finished: list[Run] = []
    for group in [lanes] if together else [[lane] for lane in lanes]:
        schedules = {seed: _schedules(method, stream, seed) for _, seed in group}
        if not finished:
            observe(_started(method, stream, seeds, schedules[seeds[0]], plan))
        done = one_group(group, [schedules[seed] for _, seed in group], observe, pace)
        finished += _unstack(done, len(group)) if together else [done]
    seconds = time.perf_counter() - began
    n = len(seeds)
    return [
        Result(
            method=method.name,
            seeds=tuple(seeds),
            views=view_names(method),
            matrix=np.stack([np.asarray(done.matrix, np.float64) for done in mine]),
            states=tuple(done.state for done in mine),
            seconds=seconds,
            steps_per_second=_rate(pace),
            details={**plan._asdict(), "stream": {"name": stream.name, **stream.describe}},
        )
        for mine in (finished[i * n : (i + 1) * n] for i in range(len(hypers)))
    ]


def _make_run(method: Method, stream: Stream, plan: Plan, *, lanes: bool) -> Callable:
    """Compiles once; the function it gives runs one group of lanes from birth to the last task."""
    data = Examples(*map(jnp.asarray, stream.source.train))
    kinds = {"mode": plan.mode, "lanes": lanes}
    advance = [make_advance(method, stream, phase, data, **kinds) for phase in method.phases]
    boundary = make_boundary(method, stream, data, lanes=lanes)
    evaluate = make_evaluate(method, stream, lanes=lanes)
    num_tasks, num_phases = stream.num_tasks, len(method.phases)
    shape = (len(view_names(method)), 2, num_tasks + 1, num_tasks)

    def born(hyper, seed) -> Run:
        key = jax.random.key(seed)
        state = method.init(jax.random.fold_in(key, _INIT), _example(stream, data), hyper)
        return Run(state=state, key=key, step=jnp.int32(0), matrix=jnp.full(shape, jnp.nan))

    born = jax.jit(jax.vmap(born) if lanes else born)

    def one_group(group, schedules, observe, pace) -> Run:
        seeds = tuple(seed for _, seed in group)

        def score(now: Run, task: int) -> Run:
            start = time.perf_counter()
            upto = num_tasks - 1 if task < 0 else min(task + 1, num_tasks - 1)
            accuracy = evaluate(now.state, first, upto)
            now = now.replace(matrix=now.matrix.at[..., task + 1, :].set(accuracy))
            matrix = np.asarray(now.matrix, np.float64)
            matrix = matrix if lanes else matrix[None]
            observe(Evaluated(seeds, task, matrix, time.perf_counter() - start))
            return now

        first = _stack([s[0] for s in schedules]) if lanes else schedules[0][0]
        given = [(hyper, np.uint32(seed)) for hyper, seed in group]
        now = born(*(_stack(given) if lanes else given[0]))
        now = jax.tree.map(jnp.copy, now)  # no two leaves may share a buffer that is donated
        now = score(now, -1)
        plans = [[task_rows(method, s, p) for s in schedules] for p in range(num_phases)]
        total = sum(max(lane[t].live.size for lane in ph) for ph in plans for t in range(num_tasks))
        handed = [None] * num_tasks
        if method.needs.begin_data or method.needs.end_data:
            handed = whole_tasks(method, schedules, lanes=lanes)
        done, metrics = 0, {}
        for task in range(num_tasks):
            told = told_task(first, task, lanes=lanes)
            number = task * (num_phases + 2)
            if method.needs.boundaries:
                rows = handed[task] if method.needs.begin_data else None
                now = boundary(method.begin_task, now, number, told, rows)
            for p, phase in enumerate(method.phases):
                now = boundary(phase.enter, now, number + 1 + p, told)
                mine = [lane[task] for lane in plans[p]]
                rows = stack_rows(mine) if lanes else mine[0]
                for start, stop in _chunks(mine, plan.chunk):
                    part = slice_rows(rows, start, plan.chunk, lanes=lanes)
                    began = time.perf_counter()
                    now, tally = advance[p](now, part, told, stop - start)
                    metrics = _collect(tally, part, seeds, task, metrics, stop - start)
                    seconds = time.perf_counter() - began
                    done += stop - start
                    live = part.live[..., : stop - start]
                    pace.append((int(live.sum()), seconds))
                    examples = int((part.index[..., : stop - start, :] >= 0).sum())
                    observe(
                        Progress(seeds, task, phase.name, done, total, examples, seconds, metrics)
                    )
            if method.needs.boundaries:
                rows = handed[task] if method.needs.end_data else None
                now = boundary(method.end_task, now, number + num_phases + 1, told, rows)
            if task == num_tasks - 1 or not method.needs.pooled:
                now = score(now, task)
        return now

    return one_group


def _schedules(method: Method, stream: Stream, seed: int) -> list[Schedule]:
    """One schedule a phase; all have the same class order."""
    key = jax.random.fold_in(jax.random.key(seed), _SCHEDULE)
    return [
        stream.schedule(key, epochs=phase.epochs, shuffle=number)
        for number, phase in enumerate(method.phases)
    ]


def _chunks(lanes: list[Rows], chunk: int) -> list[tuple[int, int]]:
    """(start, stop) of every chunk; none crosses the row at which the first lane ends."""
    sizes = [rows.live.size for rows in lanes]
    cuts = [*range(0, min(sizes), chunk), *range(min(sizes), max(sizes), chunk), max(sizes)]
    return list(itertools.pairwise(cuts))


def _stack(trees: Sequence[PyTree]) -> PyTree:
    return jax.tree.map(lambda *leaves: np.stack(leaves), *trees)


def _unstack(run: Run, num_lanes: int) -> list[Run]:
    return [jax.tree.map(lambda leaf, i=i: leaf[i], run) for i in range(num_lanes)]


def _example(stream: Stream, data: Examples) -> Batch:
    """One batch of the stream's shape, for ``init``."""
    b = stream.batch_size
    yes = jnp.ones((b,), bool)
    index = jnp.zeros((b,), jnp.int32)
    x = data.x[index]
    return Batch(x=x, y=index, task=index, valid=yes, labelled=yes)


def _collect(tally, part, seeds, task: int, before: dict[str, float], num_steps: int):
    """Mean metrics of a chunk, on the host; ``before`` are those of the chunk before.

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
    steps = max(int(part.live[..., :num_steps].sum()), 1)
    return {name: float(np.sum(value)) / steps for name, value in tally.sums.items()}


def _rate(pace: list[tuple[int, float]]) -> float:
    """Steps a second, the first chunk left out because it compiles."""
    rest = pace[1:] or pace
    return sum(steps for steps, _ in rest) / max(sum(seconds for _, seconds in rest), 1e-9)


def _started(method, stream, seeds, schedules, plan) -> Started:
    rows = [r for p in range(len(method.phases)) for r in task_rows(method, schedules, p)]
    return Started(
        headline=headline(stream),
        method=method.name,
        seeds=tuple(seeds),
        num_tasks=stream.num_tasks,
        num_steps=sum(r.live.size for r in rows),
        mode=plan.mode,
        scenarios=scenario_names(stream.describe),
    )
