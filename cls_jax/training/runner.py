"""Runs a method over a stream, for several seeds and values; what was kept of them goes on.

``loop.py`` trains one group of trials from its start to the last task.
"""

from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from cls_jax.core.checks import check_hyper, check_seeds, short_repr
from cls_jax.core.errors import InputError
from cls_jax.core.types import Array
from cls_jax.methods.base import Method
from cls_jax.streams.continued import continued
from cls_jax.streams.stream import Schedule, Stream, headline
from cls_jax.training.batches import num_active
from cls_jax.training.capacity import capacities
from cls_jax.training.evaluate import view_names
from cls_jax.training.events import (
    Ended,
    Logger,
    Result,
    Since,
    Started,
    leading,
    scenario_names,
    untold,
)
from cls_jax.training.group import Trial, schedules_of
from cls_jax.training.loop import train_group
from cls_jax.training.plan import Plan, check_run
from cls_jax.training.programs import Programs, make_programs
from cls_jax.training.run import Run, shapes_of
from cls_jax.training.segments import (
    Checkpointer,
    Cost,
    NoCheckpoints,
    Position,
    Restored,
    end,
    learned,
    trial_name,
)
from cls_jax.training.start import Start, Trained, check_start, first_run, with_classes

__all__ = ["Plan", "check_run", "run", "sweep"]


def run(
    method: Method,
    stream: Stream,
    *,
    seeds: Sequence[int] = (0,),
    plan: Plan = Plan(),  # noqa: B008
    observe: Logger = untold,
    keep: Checkpointer = NoCheckpoints(),  # noqa: B008
) -> Result:
    """Trains ``method`` on ``stream`` once for each seed, and evaluates after every task.

    Args:
      method: what learns.
      stream: what is seen when.
      seeds: one run each; a seed fixes class order, initial weights and every draw.
      plan: how to execute.
      observe: called between chunks with Started, Progress, Evaluated and Ended.
      keep: saves the run between chunks and gives back what an earlier process saved.

    Returns:
      Accuracy matrices, final states and timings.

    Raises:
      InputError: for bad seeds or plan, before any compute.
      Diverged: when a metric is not finite.
    """
    every = [method.hyper]
    return sweep(method, stream, every, seeds=seeds, plan=plan, observe=observe, keep=keep)[0]


def sweep(
    method: Method,
    stream: Stream,
    hypers: Sequence[Mapping[str, float]],
    *,
    labels: Sequence[str] = ("",),
    seeds: Sequence[int] = (0,),
    plan: Plan = Plan(),  # noqa: B008
    observe: Logger = untold,
    keep: Checkpointer = NoCheckpoints(),  # noqa: B008
    start: Start | None = None,
) -> list[Result]:
    """``run`` for several values of the hyper-parameters, which are data: one compilation.

    Called again with a method and a stream that differ from before in hyper-parameters alone, it
    compiles nothing.

    Args:
      method, stream, plan, observe, keep: as for ``run``; each (value, seed) is a trial.
      hypers: for each value the hyper-parameters by name; those left out are the method's.
      labels: of the values, for loggers.
      seeds: each value gets all of them.
      start: where each seed goes on; ``stream`` then has the further tasks alone. None: anew.

    Returns:
      One Result for each of ``hypers``; ``seconds`` and ``steps_per_second`` are the whole sweep's.

    Raises:
      InputError: for bad seeds, hyper-parameters or plan, before any compute.
      Diverged: when a metric is not finite.
    """
    values, seeds = _hypers(method, hypers), check_seeds(seeds)
    if start is not None:
        check_start(start, method, stream, seeds)
        stream = continued(stream, start.num_past, start.earlier)
    plan = check_run(method, stream, seeds, plan, len(values) * len(seeds))
    programs = make_programs(method, stream, plan)
    stream = programs.stream
    schedules = {seed: _schedules(method, stream, seed, start) for seed in seeds}
    trials = [
        Trial(trial_name(seed, number, len(values)), value, seed, schedules[seed], number)
        for number, value in enumerate(values)
        for seed in seeds
    ]
    kept, cost = keep.restore([trial.name for trial in trials], programs.abstract())
    over = end(stream.num_tasks)
    finished = {name: one.run for name, one in kept.items() if one.place == over}
    begun = {} if start is None else _begun(start, programs, trials, kept)
    there = {**kept, **begun}
    groups = [
        (group, place, [there[trial.name].run for trial in group if trial.name in there])
        for group, place in _groups(trials, there, over, plan)
    ]
    started = _started(method, stream, seeds, trials[0].schedules, plan)
    since = tuple(_since(trial, there.get(trial.name)) for trial in trials)
    try:
        observe(started._replace(labels=tuple(labels), since=since))
        for group, place, past in groups:
            names = [trial.name for trial in group]
            if place is not None and begun.keys() & {*names}:
                # What it goes on from may be gone when this run is killed: it is copied first.
                run = programs.parallelism.stack(past)
                keep.maybe_save(names, run, place, cost, now=True)
        for group, place, past in groups:
            now, cost = train_group(programs, group, past, place, observe, keep, cost)
            parts = programs.parallelism.unstack(now, len(group))
            finished |= {trial.name: part for trial, part in zip(group, parts, strict=True)}
    finally:
        observe(Ended(len(finished) == len(trials)))
    n, tables = len(seeds), [schedules[seed] for seed in seeds]
    return [
        _result(method, stream, plan, seeds, [finished[t.name] for t in mine], cost, tables)
        for mine in (trials[i : i + n] for i in range(0, len(trials), n))
    ]


def _schedules(method: Method, stream: Stream, seed: int, start: Start | None) -> list[Schedule]:
    """One a phase, with the classes of the tasks that this seed learned before."""
    found = schedules_of(method, stream, seed)
    if start is None:
        return found
    past = start.trained[seed].task_classes
    return [with_classes(schedule, past) for schedule in found]


def _begun(
    start: Start, programs: Programs, trials: Sequence[Trial], kept: Mapping[str, Restored]
) -> dict[str, Restored]:
    """Where the trials begin of which nothing is kept yet.

    Raises:
      InputError: what they go on from is gone.
    """
    place, begun = learned(start.num_past, len(programs.method.phases)), {}
    where = programs.parallelism.sharding()
    for trial in trials:
        if trial.name in kept:
            continue
        run = start.trained[trial.seed].run
        if run is None:
            raise InputError(
                f"{trial.name} has not begun yet, and what it goes on from is gone; bring it back"
            )
        run = first_run(run, trial.hyper, programs.stream.num_tasks)
        begun[trial.name] = Restored(place, jax.device_put(run, where))
    return begun


def _hypers(method: Method, given: Sequence[Mapping[str, float]]) -> list[dict[str, Array]]:
    """Each value's hyper-parameters as float32[], once they are found good."""
    if not isinstance(given, Sequence | np.ndarray):
        raise InputError(f"hypers is {short_repr(given)}; give a sequence of mappings")
    if not len(given):
        raise InputError("hypers is empty; give at least one mapping, e.g. [{}]")
    found = []
    for hyper in given:
        if not isinstance(hyper, Mapping) or hyper.keys() - method.hyper.keys():
            names = ", ".join(method.hyper)
            raise InputError(f"hypers holds {short_repr(hyper)}; the method's are {names}")
        whole = {**method.hyper, **hyper}
        check_hyper(whole)
        found.append({name: jnp.asarray(value, jnp.float32) for name, value in whole.items()})
    return found


def _result(
    method: Method,
    stream: Stream,
    plan: Plan,
    seeds: tuple[int, ...],
    runs: Sequence[Run],
    cost: Cost,
    schedules: Sequence[Sequence[Schedule]],
) -> Result:
    return Result(
        method=method.name,
        seeds=seeds,
        views=view_names(method),
        matrix=np.stack([np.asarray(done.matrix, np.float64) for done in runs]),
        states=tuple(done.state for done in runs),
        seconds=cost.seconds,
        steps_per_second=cost.steps / max(cost.stepping, 1e-9),
        details={
            "chunk": plan.chunk,
            "mode": plan.mode,
            "over_seeds": plan.over_seeds,
            "devices": plan.devices,
            "data": plan.data,
            "stream": {"name": stream.name, **stream.describe},
            **method.task_info,
            "test_examples": test_examples(schedules),
        },
        capacity=capacities(method, stream, runs),
        trained=tuple(
            Trained(method, shapes_of(stream), each[0].task_classes, done, stream)
            for done, each in zip(runs, schedules, strict=True)
        ),
    )


def test_examples(schedules: Sequence[Sequence[Schedule]]) -> list[list[int]]:
    """How many test examples each task has, for each seed: its class order is its own."""
    return [(each[0].test_index >= 0).sum(axis=1).tolist() for each in schedules]


def _groups(
    trials: list[Trial], kept: Mapping[str, Restored], over: Position, plan: Plan
) -> list[tuple[list[Trial], Position | None]]:
    """Trials to compute together, all at one place; None: not yet grouped."""
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


def _since(trial: Trial, kept: Restored | None) -> Since:
    """Where a trial goes on."""
    if kept is None:
        return Since(trial.value, trial.seed, 0, 0)
    measured = np.isfinite(np.asarray(kept.run.matrix[0, 0])).any(axis=-1)
    rows = int(np.flatnonzero(measured).max(initial=-1)) + 1
    return Since(trial.value, trial.seed, int(kept.run.step), rows)


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
        leads=leading(names, method.task_info),
        views=view_names(method),
    )
