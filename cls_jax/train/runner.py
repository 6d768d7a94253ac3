"""Runs a method over a stream, for several seeds and values; what was kept of them goes on.

``loop.py`` has the way of one group of trials from its start to the last task.
"""

from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from cls_jax.core.checks import check_seeds, shown
from cls_jax.core.errors import InputError
from cls_jax.core.types import PyTree
from cls_jax.methods.base import Method
from cls_jax.streams.stream import Stream, headline, pooled
from cls_jax.train.batches import num_active
from cls_jax.train.evaluate import view_names
from cls_jax.train.events import Observer, Result, Started, leading, scenario_names
from cls_jax.train.loop import Diverged, Trial, make_train_loop, schedule_key, schedules_of
from cls_jax.train.plan import Plan, check_run
from cls_jax.train.segments import Checkpointer, NoCheckpoints, Position, Restored, end, trial_name

__all__ = ["Diverged", "Plan", "check_run", "run", "sweep"]


def run(
    method: Method,
    stream: Stream,
    hyper: PyTree,
    *,
    seeds: Sequence[int] = (0,),
    plan: Plan = Plan(),  # noqa: B008
    observe: Observer = lambda event: None,
    keep: Checkpointer = NoCheckpoints(),  # noqa: B008
) -> Result:
    """Trains ``method`` on ``stream`` once for each seed, and evaluates after every task.

    Args:
      method: what learns.
      stream: what is seen when.
      hyper: the method's Hyper; its floats become float32 arrays.
      seeds: one run each; a seed fixes class order, initial weights and every draw.
      plan: how to execute.
      observe: called between chunks with Started, Progress and Evaluated.
      keep: saves the run between chunks and gives back what an earlier process saved.

    Returns:
      Accuracy matrices, final states and timings.

    Raises:
      InputError: for bad seeds, hyper-parameters or plan, before any compute.
      Diverged: when a metric is not finite.
    """
    return sweep(method, stream, [hyper], seeds=seeds, plan=plan, observe=observe, keep=keep)[0]


def sweep(
    method: Method,
    stream: Stream,
    hypers: Sequence[PyTree],
    *,
    seeds: Sequence[int] = (0,),
    plan: Plan = Plan(),  # noqa: B008
    observe: Observer = lambda event: None,
    keep: Checkpointer = NoCheckpoints(),  # noqa: B008
) -> list[Result]:
    """``run`` for several values of the hyper-parameters, which are data: one compilation.

    Args:
      method, stream, plan, observe, keep: as for ``run``; each (value, seed) is a trial.
      hypers: Hypers of one structure.
      seeds: each value gets all of them.

    Returns:
      One Result for each of ``hypers``; ``seconds`` and ``steps_per_second`` are the whole sweep's.

    Raises:
      InputError: for bad seeds, hyper-parameters or plan, before any compute.
      Diverged: when a metric is not finite.
    """
    if not isinstance(hypers, Sequence | np.ndarray):
        raise InputError(f"hypers is {shown(hypers)}; give a sequence of Hypers")
    hypers, seeds = tuple(hypers), check_seeds(seeds)
    if not hypers:
        raise InputError("hypers is empty; give at least one Hyper")
    for hyper in hypers[1:]:
        if jax.tree.structure(hyper) != jax.tree.structure(hypers[0]):
            raise InputError(
                f"hypers holds {shown(hypers[0])} and {shown(hyper)}; give Hypers of one structure"
            )
    for hyper in hypers:
        decided = check_run(method, stream, hyper, seeds, plan, len(hypers) * len(seeds))
    plan = decided
    if method.needs.pooled:
        stream = pooled(stream)
    as_arrays = lambda hyper: jax.tree.map(lambda v: jnp.asarray(v, jnp.float32), hyper)  # noqa: E731
    trials = [
        Trial(trial_name(seed, number, len(hypers)), value, seed, number)
        for number, value in enumerate(map(as_arrays, hypers))
        for seed in seeds
    ]
    journey = make_train_loop(method, stream, plan)
    kept, meter = keep.restore([trial.name for trial in trials], journey.abstract(trials[0]))
    over = end(stream.num_tasks)
    finished = {name: one.run for name, one in kept.items() if one.place == over}
    first = trials[0]
    observe(_started(method, stream, seeds, schedules_of(method, stream, first.seed), plan))
    for group, place in _groups(trials, kept, over, plan):
        past = [kept[trial.name].run for trial in group if trial.name in kept]
        now, meter = journey.run(group, past, place, observe, keep, meter)
        parts = journey.parallelism.unstack(now, len(group))
        finished |= {trial.name: part for trial, part in zip(group, parts, strict=True)}
    n = len(seeds)
    results = []
    for i in range(len(hypers)):
        mine = [finished[trial.name] for trial in trials[i * n : (i + 1) * n]]
        results.append(
            Result(
                method=method.name,
                seeds=seeds,
                views=view_names(method),
                matrix=np.stack([np.asarray(done.matrix, np.float64) for done in mine]),
                states=tuple(done.state for done in mine),
                seconds=meter.seconds,
                steps_per_second=meter.steps / max(meter.stepping, 1e-9),
                details={
                    "chunk": plan.chunk,
                    "mode": plan.mode,
                    "over_seeds": plan.over_seeds,
                    "devices": plan.devices,
                    "data": plan.data,
                    "stream": {"name": stream.name, **stream.describe},
                    **method.told,
                    "test_examples": test_examples(stream, seeds),
                },
                capacity=capacities(method, stream, [done.state for done in mine]),
            )
        )
    return results


def test_examples(stream: Stream, seeds: Sequence[int]) -> list[list[int]]:
    """How many test examples each task has, for each seed: its class order is its own."""
    tables = [stream.schedule(schedule_key(seed), epochs=1).test_index for seed in seeds]
    return [(table >= 0).sum(axis=1).tolist() for table in tables]


def capacities(method: Method, stream: Stream, states: Sequence[PyTree]) -> dict[str, np.ndarray]:
    """What each state must keep after each task, float64[states, T], by name.

    Args:
      method: whose states they are; {} unless it says what it keeps.
      stream: has the tasks.
      states: the last of each run.
    """
    if method.capacity is None:
        return {}
    every = [jax.device_get(jax.jit(method.capacity)(state)) for state in states]
    after_each = lambda value: np.broadcast_to(np.float64(value), (stream.num_tasks,))  # noqa: E731
    return {name: np.stack([after_each(one[name]) for one in every]) for name in every[0]}


def _groups(
    trials: list[Trial], kept: Mapping[str, Restored], over: Position, plan: Plan
) -> list[tuple[list[Trial], Position | None]]:
    """Trials to compute together, all at one place; None: not yet born."""
    at: dict[Position | None, list[Trial]] = {}
    for trial in trials:
        place = kept[trial.name].place if trial.name in kept else None
        if place != over:
            at.setdefault(place, []).append(trial)
    width = {"sequential": 1, "devices": plan.devices, "vmap": len(trials)}[plan.over_seeds]
    return [
        (some[i : i + width], place)
        for place, some in at.items()
        for i in range(0, len(some), width)
    ]


def _started(method, stream, seeds, schedules, plan) -> Started:
    names = scenario_names(stream.describe, method.needs.told_task_at_test)
    return Started(
        headline=headline(stream),
        method=method.name,
        seeds=tuple(seeds),
        num_tasks=stream.num_tasks,
        num_steps=sum(sum(num_active(method, schedules, p)) for p in range(len(method.phases))),
        mode=plan.mode,
        scenarios=names,
        leads=leading(names, method.told),
        views=view_names(method),
    )
