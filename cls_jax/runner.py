"""Runs a method over a stream, for several seeds; Python looks in between chunks.

``run`` is the whole story: schedules, initial states, boundaries, chunks, evaluations, events.
"""

import time
from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from cls_jax.checks import check_hyper, check_seeds
from cls_jax.evaluate import make_evaluate, view_names
from cls_jax.events import Evaluated, Observer, Progress, Result, Started
from cls_jax.methods.base import Method
from cls_jax.program import (
    Rows,
    Run,
    Tally,
    distinct_rows,
    live_rows,
    make_advance,
    make_boundary,
    pad_rows,
    slice_rows,
    stack_rows,
)
from cls_jax.streams.stream import Examples, Schedule, Stream, headline, pooled
from cls_jax.types import Batch, InputError, PyTree, Task

_SCHEDULE, _INIT = 0, 1  # purposes of a seed's key; program.py has the others


class Diverged(ArithmeticError):
    """A metric stopped being finite; the message tells when, and the last metrics before."""


class Plan(NamedTuple):
    """How to execute a run; no choice here changes what is learned, beyond rounding.

    Attributes:
      chunk: steps between two looks of Python; None is 20 in mode "loop" and 500 in mode "scan".
      mode: "loop", "scan", or "auto": loop for convolutional steps on a CPU, else scan.
      over_seeds: "sequential" (bitwise the single runs), "vmap" (one program for all seeds, equal
        to rounding), or "auto": vmap where the mode is scan.
    """

    chunk: int | None = None
    mode: Literal["auto", "loop", "scan"] = "auto"
    over_seeds: Literal["auto", "sequential", "vmap"] = "auto"


def resolve(plan: Plan, method: Method, num_seeds: int) -> Plan:
    """The plan with every "auto" decided.

    Args:
      plan: as the user gave it.
      method: whose steps may be convolutional.
      num_seeds: a single seed is never vmapped.

    Raises:
      InputError: for a chunk below 1 or an unknown choice.
    """
    if plan.chunk is not None and plan.chunk < 1:
        raise InputError(f"chunk must be at least 1 step, got {plan.chunk}")
    for name, choices in (
        ("mode", ("auto", "loop", "scan")),
        ("over_seeds", ("auto", "sequential", "vmap")),
    ):
        if getattr(plan, name) not in choices:
            raise InputError(f"{name} must be one of {choices}, got {getattr(plan, name)!r}")
    mode, over_seeds = plan.mode, plan.over_seeds
    if mode == "auto":
        slow_in_loops = method.convolutional and jax.default_backend() == "cpu"
        mode = "loop" if slow_in_loops else "scan"
    if num_seeds == 1:
        over_seeds = "sequential"
    elif over_seeds == "auto":
        over_seeds = "vmap" if mode == "scan" else "sequential"
    chunk = plan.chunk or (20 if mode == "loop" else 500)
    return Plan(chunk=chunk, mode=mode, over_seeds=over_seeds)


def check_run(method: Method, hyper: PyTree, seeds: Sequence[int], plan: Plan) -> Plan:
    """The plan with every "auto" decided, once seeds, hyper-parameters and plan are found good.

    Args:
      method, hyper, seeds, plan: as for ``run``.

    Raises:
      InputError: naming the first that is not.
    """
    check_seeds(seeds)
    check_hyper(hyper)
    return resolve(plan, method, len(seeds))


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
    plan = check_run(method, hyper, seeds, plan)
    hyper = jax.tree.map(lambda value: jnp.asarray(value, jnp.float32), hyper)
    if method.needs.pooled:
        stream = pooled(stream)
    lanes = plan.over_seeds == "vmap"
    groups = [tuple(seeds)] if lanes else [(seed,) for seed in seeds]
    began = time.perf_counter()
    one_group = _make_run(method, stream, plan, lanes=lanes)
    pace: list[tuple[int, float]] = []
    finished = []
    for group in groups:
        schedules = [_schedules(method, stream, seed) for seed in group]
        if not finished:
            observe(_started(method, stream, seeds, schedules[0], plan))
        finished.append(one_group(hyper, group, schedules, observe, pace))
    if lanes:
        finished = [jax.tree.map(lambda leaf, i=i: leaf[i], finished[0]) for i in range(len(seeds))]
    return Result(
        method=method.name,
        seeds=tuple(seeds),
        views=view_names(method),
        matrix=np.stack([np.asarray(done.matrix, np.float64) for done in finished]),
        states=tuple(done.state for done in finished),
        seconds=time.perf_counter() - began,
        steps_per_second=_rate(pace),
        details={**plan._asdict(), "stream": {"name": stream.name, **stream.describe}},
    )


def _make_run(method: Method, stream: Stream, plan: Plan, *, lanes: bool) -> Callable:
    """Compiles once; the function it gives runs one group of seeds from birth to the last task."""
    data = Examples(*map(jnp.asarray, stream.source.train))
    kinds = {"mode": plan.mode, "lanes": lanes}
    advance = [make_advance(method, stream, phase, data, **kinds) for phase in method.phases]
    boundary = make_boundary(method, stream, data, lanes=lanes)
    evaluate = make_evaluate(method, stream, lanes=lanes)
    num_tasks, num_phases = stream.num_tasks, len(method.phases)
    shape = (len(view_names(method)), 2, num_tasks + 1, num_tasks)

    def born(seed, hyper) -> Run:
        key = jax.random.key(seed)
        state = method.init(jax.random.fold_in(key, _INIT), _example(stream, data), hyper)
        return Run(state=state, key=key, step=jnp.int32(0), matrix=jnp.full(shape, jnp.nan))

    born = jax.jit(jax.vmap(born, in_axes=(0, None)) if lanes else born)

    def one_group(hyper, seeds, schedules, observe, pace) -> Run:
        def score(now: Run, task: int) -> Run:
            start = time.perf_counter()
            upto = num_tasks - 1 if task < 0 else min(task + 1, num_tasks - 1)
            accuracy = evaluate(now.state, first, upto)
            now = now.replace(matrix=now.matrix.at[..., task + 1, :].set(accuracy))
            matrix = np.asarray(now.matrix, np.float64)
            matrix = matrix if lanes else matrix[None]
            observe(Evaluated(tuple(seeds), task, matrix, time.perf_counter() - start))
            return now

        first = _stack([s[0] for s in schedules]) if lanes else schedules[0][0]
        now = born(np.asarray(seeds, np.uint32) if lanes else np.uint32(seeds[0]), hyper)
        now = jax.tree.map(jnp.copy, now)  # no two leaves may share a buffer that is donated
        now = score(now, -1)
        plans = [[_rows_of(method, s, p) for s in schedules] for p in range(num_phases)]
        total = sum(max(lane[t].live.size for lane in ph) for ph in plans for t in range(num_tasks))
        begin_data = end_data = [None] * num_tasks
        if method.needs.begin_data or method.needs.end_data:
            whole = _whole_tasks(method, schedules, lanes)
            begin_data = whole if method.needs.begin_data else begin_data
            end_data = whole if method.needs.end_data else end_data
        done, metrics = 0, {}
        for task in range(num_tasks):
            told = _told(first, task, lanes)
            number = task * (num_phases + 2)
            if method.needs.boundaries:
                now = boundary(method.begin_task, now, number, told, begin_data[task])
            for p, phase in enumerate(method.phases):
                now = boundary(phase.enter, now, number + 1 + p, told)
                rows = stack_rows([lane[task] for lane in plans[p]]) if lanes else plans[p][0][task]
                length = rows.live.shape[-1]
                for start in range(0, length, plan.chunk):
                    num_steps = min(plan.chunk, length - start)
                    part = slice_rows(rows, start, plan.chunk, lanes=lanes)
                    began = time.perf_counter()
                    now, tally = advance[p](now, part, told, num_steps)
                    metrics = _collect(tally, part, seeds, task, metrics)
                    seconds = time.perf_counter() - began
                    done += num_steps
                    pace.append((int(part.live.sum()), seconds))
                    examples = int((part.index >= 0).sum())
                    observe(
                        Progress(
                            tuple(seeds), task, phase.name, done, total, examples, seconds, metrics
                        )
                    )
            if method.needs.boundaries:
                last = number + num_phases + 1
                now = boundary(method.end_task, now, last, told, end_data[task])
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


def _rows_of(method: Method, schedules: list[Schedule], number: int):
    """The live rows of every task in one phase, for one seed."""
    schedule, phase = schedules[number], method.phases[number]
    unlabelled = method.needs.unlabelled
    return [
        live_rows(schedule, task, phase, unlabelled=unlabelled)
        for task in range(len(schedule.task_classes))
    ]


def _whole_tasks(method: Method, schedules: list[list[Schedule]], lanes: bool) -> list[Rows]:
    """Every example of each task once, in equally many rows for all tasks (and seeds)."""
    plans = [[distinct_rows(rows) for rows in _rows_of(method, s, 0)] for s in schedules]
    longest = max(rows.live.size for plan in plans for rows in plan)
    tasks = [[pad_rows(rows, longest) for rows in task] for task in zip(*plans, strict=True)]
    return [stack_rows(task) if lanes else task[0] for task in tasks]


def _stack(schedules: list[Schedule]) -> Schedule:
    return jax.tree.map(lambda *leaves: np.stack(leaves), *schedules)


def _told(schedule: Schedule, task: int, lanes: bool) -> Task:
    classes = schedule.task_classes if lanes else schedule.task_classes[None]
    told = Task(
        index=np.full(len(classes), task, np.int32),
        classes=classes[:, task],
        seen=classes[:, : task + 1].any(axis=1),
    )
    return told if lanes else jax.tree.map(lambda leaf: leaf[0], told)


def _example(stream: Stream, data: Examples) -> Batch:
    """One batch of the stream's shape, for ``init``."""
    b = stream.batch_size
    yes = jnp.ones((b,), bool)
    index = jnp.zeros((b,), jnp.int32)
    x = data.x[index]
    return Batch(x=x, y=index, task=index, valid=yes, labelled=yes)


def _collect(tally: Tally, part, seeds, task: int, before: dict[str, float]) -> dict[str, float]:
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
    steps = max(int(part.live.sum()), 1)
    return {name: float(np.sum(value)) / steps for name, value in tally.sums.items()}


def _rate(pace: list[tuple[int, float]]) -> float:
    """Steps a second, the first chunk left out because it compiles."""
    rest = pace[1:] or pace
    return sum(steps for steps, _ in rest) / max(sum(seconds for _, seconds in rest), 1e-9)


def _started(method, stream, seeds, schedules, plan) -> Started:
    rows = [r for p in range(len(method.phases)) for r in _rows_of(method, schedules, p)]
    return Started(
        headline=headline(stream),
        method=method.name,
        seeds=tuple(seeds),
        num_tasks=stream.num_tasks,
        num_steps=sum(r.live.size for r in rows),
        mode=plan.mode,
    )
