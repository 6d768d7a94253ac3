"""One call that trains, keeps and reports what a command asked for.

Scripts import from here, once their flags are parsed, all that their ``main`` calls.
"""

import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

import jax
import numpy as np

from cls_jax.app.build import Learner
from cls_jax.app.build import make_learner as make_learner
from cls_jax.app.build import make_stream as make_stream
from cls_jax.app.continuing import CONTINUES, start_from
from cls_jax.app.grid import grid
from cls_jax.app.label_space import in_label_space, with_earlier, with_room
from cls_jax.app.run_config import RunConfig as RunConfig
from cls_jax.app.run_config import check_outputs
from cls_jax.app.stored_recipe import RECIPE, write_recipe
from cls_jax.core.checks import check_hyper, check_seeds
from cls_jax.core.errors import InputError
from cls_jax.core.files import plain, safe_names
from cls_jax.core.paths import writing
from cls_jax.data.load import describe
from cls_jax.methods.base import no_advice
from cls_jax.methods.optimizer import OptimizerConfig
from cls_jax.report import summary
from cls_jax.report.logs import console, logger_of, several
from cls_jax.streams.open_stream import is_open
from cls_jax.streams.stream import Stream
from cls_jax.training.events import Logger, Result, untold
from cls_jax.training.group import schedule_key, task_classes
from cls_jax.training.plan import Plan, check_run
from cls_jax.training.runner import sweep
from cls_jax.training.runtime.checkpoint import Checkpoints, check_saves, interval
from cls_jax.training.runtime.distributed import cache_programs, fail_fast, initialize
from cls_jax.training.runtime.distributed import is_primary as is_primary
from cls_jax.training.runtime.heap import compute_on_calling_thread
from cls_jax.training.runtime.preemption import catch_signals
from cls_jax.training.runtime.provenance import software
from cls_jax.training.runtime.workdir import CHECKPOINTS, CONFIG, claim
from cls_jax.training.segments import Checkpointer, NoCheckpoints
from cls_jax.training.sizes import check_held
from cls_jax.training.start import Start, check_start


def begin(config: RunConfig) -> None:
    """What must come before JAX looks for devices and before data are read; call it first.

    Raises:
      InputError: for bad seeds, folders that cannot be written, or processes that cannot find each
        other.
    """
    check_seeds(config.seeds)
    check_outputs(config)
    if config.compile_cache:
        cache_programs()
    if config.coordinator is None:
        compute_on_calling_thread()
    initialize(config.coordinator, config.num_processes, config.process_id)


def run_one(name: str, config: Any) -> None:
    """A script's main: the method of the table's row ``name``, from the config to the report.

    Args:
      name: a row of METHODS.
      config: has ``stream``, ``net``, ``method`` and ``run``, and ``optimizer`` if it is open.

    Raises:
      InputError: before any compute, for whatever cannot work.
      Diverged: when a metric is not finite.
    """
    begin(config.run)
    stream, flags, start = make_stream(config.stream), config.stream, None
    if (where := getattr(config.run, "continue_from", None)) is not None:
        own = None if config.run.restart else config.run.workdir
        start = start_from(where, name, own)
        stream = in_label_space(stream, start)
        flags = with_room(flags, stream)
    optimizer = getattr(config, "optimizer", OptimizerConfig())
    learner = make_learner(name, asdict(config.method), stream, flags, config.net, optimizer)
    if start is not None:
        start = with_earlier(start, learner.method, stream, config.run.seeds)
    report(config, execute([learner], config.run, config, start=start))


def report(config: Any, results: Sequence[Result]) -> None:
    """Prints the table of ``results``, and writes all files into the workdir that ``execute``
    claimed; process 0 does, if there are several.

    Args:
      config: the whole config of the experiment; has ``run``.
      results: of ``execute``.
    """
    if is_primary():
        summary.report(results, config.run.workdir, config.run.figure_format)


def check_execution(
    learners: Sequence[Learner],
    config: RunConfig,
    start: Start | None = None,
    diverged: Literal["raise", "keep"] = "raise",
) -> tuple[Plan, list[Learner], list[dict[str, dict[str, float]]]]:
    """The plan, learners, and hyper-parameters of each by label, once all are found good.

    Args:
      learners, config, start, diverged: as for ``execute``.

    Returns:
      The plan; the learners, several of each where a sweep varies what fixes a program; and of
      each its hyper-parameters, by the label of the values that a sweep gives it.

    Raises:
      InputError: for bad seeds, hyper-parameters, plan, sweep or saving, for flags that would do
        nothing, and for what no memory can hold.
    """
    how = config.chunk, config.mode, config.over_seeds, config.devices, config.data_on
    plan = Plan(*how, config.profile, config.score, diverged)
    pairs = [pair for learner in learners for pair in grid(learner, config.sweep)]
    _check_names([learner.method.name for learner, _ in pairs])
    for learner, hypers in pairs:
        num_trials = len(hypers) * len(config.seeds)
        for hyper in hypers.values():
            check_hyper(hyper)
        if start is not None:
            check_start(start, learner.method, learner.stream, config.seeds)
        check_run(learner.method, learner.stream, config.seeds, plan, num_trials)
        check_held(learner.method, learner.stream, learner.recipe, num_trials)
        if num_trials == 1 and config.over_seeds in ("vmap", "devices"):
            raise InputError(
                f"over_seeds is {config.over_seeds!r}, but {learner.method.name} is one run; give "
                "several --seeds, or leave it out"
            )
    check_outputs(config)
    return plan, [learner for learner, _ in pairs], [hypers for _, hypers in pairs]


def _check_names(names: Sequence[str]) -> None:
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise InputError(f"{', '.join(twice)} is asked for more than once; name each method once")


def execute(
    learners: Sequence[Learner],
    config: RunConfig,
    record: Any,
    *,
    start: Start | None = None,
    observe: Logger = untold,
    diverged: Literal["raise", "keep"] = "raise",
) -> list[Result]:
    """Runs learners one after another, with the console, the logs and the saving asked for.

    What an earlier process saved of this experiment goes on from there.

    Args:
      learners: each with its stream, and its hyper-parameters, which a sweep varies.
      config: seeds, plan and where to write.
      record: the whole config of the experiment, a dataclass; kept in the workdir, if there is one,
        which is made only once everything has been checked.
      start: where the runs go on, if not anew.
      observe: called between chunks, beside the console and the logs.
      diverged: what comes of a run whose metrics are not finite; see Plan.

    Raises:
      InputError: for bad seeds, hyper-parameters, plan or workdir, before any compute.
      Diverged: when a metric is not finite.
      SaveFailed: when the disk is full or broken; what was saved before is kept.
      Stopped: after SIGTERM or Ctrl-C, once the run is saved.
    """
    plan, learners, values = check_execution(learners, config, start=start, diverged=diverged)
    for advice in advice_of(learners, values, config.seeds):
        print(f"warning: {advice}", file=sys.stderr)
    results, last_stream = [], None
    with fail_fast(), saving(learners, values, config, record, start) as keepers:
        for learner, hypers, keep in zip(learners, values, keepers, strict=True):
            first_look, last_stream = learner.stream is not last_stream, learner.stream
            log = logger_of(config.log, config.workdir, plain(asdict(record)))
            loggers = (console(stream_line=first_look), log) if is_primary() else ()
            found = sweep(
                learner.method,
                learner.stream,
                list(hypers.values()),
                labels=list(hypers),
                seeds=config.seeds,
                plan=plan,
                observe=several(*loggers, observe),
                keep=keep,
                start=start,
            )
            for label, result in zip(hypers, found, strict=True):
                results.append(result._replace(method=f"{learner.method.name} {label}".strip()))
    # One table, equal columns.
    told_at_test = any(result.details["told_at_test"] for result in results)
    return [r._replace(details={**r.details, "told_at_test": told_at_test}) for r in results]


@contextmanager
def saving(
    learners: Sequence[Learner],
    values: Sequence[Mapping[str, Mapping[str, float]]],
    config: RunConfig,
    record: Any,
    start: Start | None = None,
) -> Iterator[list[Checkpointer]]:
    """A Checkpointer for each learner, in the claimed workdir, while signals are caught.

    Args:
      learners: what runs.
      values: of each its hyper-parameters by label.
      config, record, start: as for ``execute``.
    """
    if config.workdir is None:
        yield [NoCheckpoints() for _ in learners]
        return
    same = identity(learners)
    names = safe_names([learner.method.name for learner in learners])
    folders = [Path(config.workdir) / CHECKPOINTS / name for name in names]
    begun = (Path(config.workdir) / CONFIG).exists()
    moved, gone = begun and config.restart, begun and not folders[0].parent.exists()
    for folder in folders if is_primary() and not moved else ():
        check_saves(folder)
    words = asdict(record) | ({} if start is None else {CONTINUES: start.words})
    mine = claim(config.workdir, words, same, restart=config.restart)
    with mine if is_primary() else nullcontext(), catch_signals() as wish:
        _meet("workdir")
        keepers = []
        for learner, hypers, folder in zip(learners, values, folders, strict=True):
            again = not moved and (gone or (folder / RECIPE).exists())
            if is_primary():
                with writing(config.workdir):
                    folder.mkdir(parents=True, exist_ok=True)
                    words = {
                        "name": learner.method.name,
                        "sweep": list(hypers),
                        "seeds": config.seeds,
                        **_tasks(learner.stream, config.seeds, start),
                    }
                    write_recipe(folder, {**learner.recipe, **words})
            every, title = interval(config.save_every), learner.method.name
            how = {"every": every, "last": config.keep, "wish": wish, "again": again}
            keepers.append(Checkpoints(folder, title, **how))
        yield keepers


def identity(learners: Sequence[Learner]) -> dict[str, Any]:
    """What must be the same wherever an experiment goes on, beside its config: data, software."""
    sources = {id(one.stream.source): one.stream.source for one in learners}.values()
    return {
        "data": {source.name: describe(source)["fingerprint"] for source in sources},
        "software": software(),
    }


def _tasks(stream: Stream, seeds: Sequence[int], start: Start | None) -> dict[str, Any]:
    """What recipe.json says of the tasks: how many, and of each seed the classes of each."""
    if is_open(stream):
        return {"task_classes": None}
    past = {} if start is None else {seed: start.trained[seed].task_classes for seed in seeds}
    classes = [
        [np.flatnonzero(row).tolist() for row in (*past.get(seed, ()), *task_classes(stream, seed))]
        for seed in seeds
    ]
    first_task = 0 if start is None else start.num_past
    counted = {"num_tasks": first_task + stream.num_tasks, "first_task": first_task}
    return {**counted, "task_classes": classes}


def _meet(where: str) -> None:
    """All processes of the run wait here for each other."""
    if jax.process_count() > 1:
        from jax.experimental import multihost_utils

        multihost_utils.sync_global_devices(where)


def advice_of(
    learners: Sequence[Learner],
    values: Sequence[Mapping[str, Mapping[str, float]]],
    seeds: Sequence[int],
) -> Iterator[str]:
    """What the methods say of so short a stream, at every value of a sweep."""
    for (method, stream, _), hypers in zip(learners, values, strict=True):
        if method.advice is no_advice:
            continue
        schedule = stream.schedule(schedule_key(seeds[0]))
        num_steps = int(schedule.num_seen.sum())
        num_epochs = int(schedule.rows(stream.num_tasks - 1).epoch.max(initial=0)) + 1
        for label, hyper in hypers.items():
            at_it = {name: np.float32(value) for name, value in hyper.items()}
            if advice := method.at(at_it).advice(num_steps, num_epochs):
                yield f"{label}{': ' * bool(label)}{advice}"
