"""One call that trains, keeps and reports what a command asked for.

Scripts import from here, once their flags are parsed, all that their ``main`` calls.
"""

import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any

import jax
import numpy as np

from cls_jax.app.build import Learner
from cls_jax.app.build import make_learner as make_learner
from cls_jax.app.build import make_stream as make_stream
from cls_jax.app.grid import grid
from cls_jax.app.run_config import RunConfig as RunConfig
from cls_jax.app.run_config import check_outputs
from cls_jax.app.stored_recipe import RECIPE, write_recipe
from cls_jax.core.checks import check_hyper, check_seeds
from cls_jax.core.errors import InputError
from cls_jax.core.files import safe_names
from cls_jax.core.paths import writing
from cls_jax.data.load import describe
from cls_jax.methods.base import no_advice
from cls_jax.methods.optimizer import OptimizerConfig
from cls_jax.report import summary
from cls_jax.report.console import console, fan_out, tensorboard
from cls_jax.runtime.checkpoint import Checkpoints, check_saves, interval
from cls_jax.runtime.distributed import cache_programs, fail_fast, initialize
from cls_jax.runtime.distributed import is_primary as is_primary
from cls_jax.runtime.preemption import catch_signals
from cls_jax.runtime.provenance import software
from cls_jax.runtime.workdir import CHECKPOINTS, CONFIG, claim
from cls_jax.training.events import Result
from cls_jax.training.plan import Plan, check_run
from cls_jax.training.runner import sweep
from cls_jax.training.segments import Checkpointer, NoCheckpoints
from cls_jax.training.sizes import check_held


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
    stream = make_stream(config.stream)
    optimizer = getattr(config, "optimizer", OptimizerConfig())
    given = stream, config.stream, config.net, optimizer
    learner = make_learner(name, asdict(config.method), *given)
    report(config, execute([learner], config.run, config))


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
    learners: Sequence[Learner], config: RunConfig
) -> tuple[Plan, list[Learner], list[dict[str, dict[str, float]]]]:
    """The plan, learners, and hyper-parameters of each by label, once all are found good.

    Returns:
      The plan; the learners, several of each where a sweep varies what fixes a program; and of
      each its hyper-parameters, by the label of the values that a sweep gives it.

    Raises:
      InputError: for bad seeds, hyper-parameters, plan, sweep or saving, for flags that would do
        nothing, and for what no memory can hold.
    """
    how = config.chunk, config.mode, config.over_seeds, config.devices, config.data_on
    plan = Plan(*how, config.profile, config.score)
    pairs = [pair for learner in learners for pair in grid(learner, config.sweep)]
    _check_names([learner.method.name for learner, _ in pairs])
    for learner, hypers in pairs:
        num_trials = len(hypers) * len(config.seeds)
        for hyper in hypers.values():
            check_hyper(hyper)
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


def execute(learners: Sequence[Learner], config: RunConfig, record: Any) -> list[Result]:
    """Runs learners one after another, with the console, the logs and the saving asked for.

    What an earlier process saved of this experiment goes on from there.

    Args:
      learners: each with its stream, and its hyper-parameters, which a sweep varies.
      config: seeds, plan and where to write.
      record: the whole config of the experiment, a dataclass; kept in the workdir, if there is one,
        which is made only once everything has been checked.

    Raises:
      InputError: for bad seeds, hyper-parameters, plan or workdir, before any compute.
      Diverged: when a metric is not finite.
      SaveFailed: when the disk is full or broken; what was saved before is kept.
      Stopped: after SIGTERM or Ctrl-C, once the run is saved.
    """
    plan, learners, values = check_execution(learners, config)
    _advise(learners, values, config.seeds)
    results, last_stream = [], None
    with fail_fast(), saving(learners, values, config, record) as keepers:
        for learner, hypers, keep in zip(learners, values, keepers, strict=True):
            logs = config.workdir if config.tensorboard and is_primary() else None
            first_look, last_stream = learner.stream is not last_stream, learner.stream
            labels = learner.method.name, list(hypers)
            with console(stream_line=first_look) as see, tensorboard(logs, *labels) as log:
                found = sweep(
                    learner.method,
                    learner.stream,
                    list(hypers.values()),
                    seeds=config.seeds,
                    plan=plan,
                    observe=fan_out(see, log) if is_primary() else fan_out(),
                    keep=keep,
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
) -> Iterator[list[Checkpointer]]:
    """A Checkpointer for each learner, in the claimed workdir, while signals are caught."""
    if config.workdir is None:
        yield [NoCheckpoints() for _ in learners]
        return
    sources = {id(one.stream.source): one.stream.source for one in learners}.values()
    same = {
        "data": {source.name: describe(source)["fingerprint"] for source in sources},
        "software": software(),
    }
    names = safe_names([learner.method.name for learner in learners])
    folders = [Path(config.workdir) / CHECKPOINTS / name for name in names]
    begun = (Path(config.workdir) / CONFIG).exists()
    moved, gone = begun and config.restart, begun and not folders[0].parent.exists()
    for folder in folders if is_primary() and not moved else ():
        check_saves(folder)
    mine = claim(config.workdir, asdict(record), same, restart=config.restart)
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
                    }
                    write_recipe(folder, {**learner.recipe, **words})
            every, title = interval(config.save_every), learner.method.name
            how = {"every": every, "last": config.keep, "wish": wish, "again": again}
            keepers.append(Checkpoints(folder, title, **how))
        yield keepers


def _meet(where: str) -> None:
    """All processes of the run wait here for each other."""
    if jax.process_count() > 1:
        from jax.experimental import multihost_utils

        multihost_utils.sync_global_devices(where)


def _advise(
    learners: Sequence[Learner],
    values: Sequence[Mapping[str, Mapping[str, float]]],
    seeds: Sequence[int],
) -> None:
    """Prints on stderr what the methods say of so short a stream, at every value of a sweep."""
    for (method, stream, _), hypers in zip(learners, values, strict=True):
        if method.advice is no_advice:
            continue
        num_steps = int(stream.schedule(jax.random.key(seeds[0])).num_seen.sum())
        for label, hyper in hypers.items():
            at_it = {name: np.float32(value) for name, value in hyper.items()}
            if advice := method.at(at_it).advice(num_steps):
                print(f"warning: {label}{': ' * bool(label)}{advice}", file=sys.stderr)
