"""How it is run: flags for seeds, devices and saving; one call that trains, keeps and reports."""

import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import jax

from cls_jax.checkpoint import Checkpoints, check_saves, interval
from cls_jax.cli import Repeated
from cls_jax.console import console, fan_out, tensorboard, writer_class
from cls_jax.events import Result
from cls_jax.experiment import Learner, make_learner, make_stream
from cls_jax.grid import grid
from cls_jax.itinerary import Forget, Keeper
from cls_jax.methods.base import no_advice
from cls_jax.plan import Plan, check_run
from cls_jax.processes import cache_programs, is_first, join, no_one_waits
from cls_jax.report import finish
from cls_jax.runner import sweep
from cls_jax.sizes import check_held
from cls_jax.stopping import heeded
from cls_jax.streams.sources import describe
from cls_jax.types import InputError, PyTree
from cls_jax.workdir import CONFIG, check_place, claimed, software, write_json, writing


@dataclass(frozen=True)
class RunConfig:
    """How it is run and where the results go.

    Attributes:
      seeds: one run each; a seed fixes class order, initial weights and every draw.
      workdir: folder of the results and of saved runs; the same command in the same folder goes on
        where it was. Nothing is written if not given.
      save_every: how often a run is saved: 60s, 5m, 1h, 200steps or never.
      keep: how many of the last saves stay.
      restart: begin anew; the experiment that is in the workdir is moved aside, never deleted.
      chunk: steps between two looks of the progress bar; chosen by the mode if not given.
      mode: compiled loop over steps (scan), Python loop over compiled steps (loop), or what is
        fast on this device.
      over_seeds: seeds one after another, in one program (vmap), one a device (devices), or what
        is fast.
      devices: over how many devices each batch is split, or how many seeds run at a time with
        --over-seeds devices; one, or all of them for seeds and for several processes.
      data_on: examples lie on the device, or are gathered on the host a chunk ahead; auto: on the
        host from 4 GiB on.
      score: test before training and after each task, or at the end alone; with hundreds of tasks
        the tests would take longer than the training.
      tensorboard: write TensorBoard files into the workdir.
      sweep: a field of the method and its values, e.g. hyper.learning_rate 0.03 0.1; given again
        with another field it makes a grid of all combinations. Each gets all seeds; numbers of the
        Hyper share one program, those that are not hyper.* are compiled anew.
      profile: a folder for a JAX profiler trace of one chunk.
      compile_cache: keep compiled programs in ~/.cache/cls_jax for the next start.
      coordinator: HOST:PORT of process 0 when several processes make one run, or auto on a TPU pod
        slice or under SLURM.
      num_processes: how many processes; auto finds out.
      process_id: which of them this is, from 0; auto finds out.
    """

    seeds: tuple[int, ...] = (0,)
    workdir: str | None = None
    save_every: str = "60s"
    keep: int = 2
    restart: bool = False
    chunk: int | None = None
    mode: Literal["auto", "loop", "scan"] = "auto"
    over_seeds: Literal["auto", "sequential", "vmap", "devices"] = "auto"
    devices: int | None = None
    data_on: Literal["auto", "device", "host"] = "auto"
    score: Literal["each", "end"] = "each"
    tensorboard: bool = False
    sweep: Repeated[tuple[str, ...]] = ()
    profile: str | None = None
    compile_cache: bool = True
    coordinator: str | None = None
    num_processes: int | None = None
    process_id: int | None = None


def begin(config: RunConfig) -> None:
    """What must come before JAX looks for devices; call it first.

    Raises:
      InputError: for processes that cannot find each other.
    """
    if config.compile_cache:
        cache_programs()
    join(config.coordinator, config.num_processes, config.process_id)


def run_one(name: str, config: Any) -> None:
    """A script's main: the method of the table's row ``name``, from the config to the report.

    Args:
      name: a row of METHODS.
      config: has ``stream``, ``net``, ``method``, ``hyper`` and ``run``.

    Raises:
      InputError: before any compute, for whatever cannot work.
      Diverged: when a metric is not finite.
    """
    begin(config.run)
    stream = make_stream(config.stream)
    learner = make_learner(name, config.method, config.hyper, stream, config.stream, config.net)
    conclude(config, execute([learner], config.run, config))


def conclude(config: Any, results: Sequence[Result]) -> None:
    """Prints the table of ``results`` and writes the workdir; process 0 does, if there are several.

    Args:
      config: the whole config of the experiment; has ``run``.
      results: of ``execute``.
    """
    if is_first():
        finish(config.run.workdir, asdict(config), results)


def check_execution(
    learners: Sequence[Learner], config: RunConfig
) -> tuple[Plan, list[Learner], list[dict[str, PyTree]]]:
    """The plan, learners, and the Hypers of each by label, once all of them are found good.

    Returns:
      The plan; the learners, several of each where a sweep varies what fixes a program; and of
      each the Hypers, by the label of the values that a sweep gives it.

    Raises:
      InputError: for bad seeds, hyper-parameters, plan, sweep or saving, for flags that would do
        nothing, and for what no memory can hold.
    """
    how = config.chunk, config.mode, config.over_seeds, config.devices, config.data_on
    plan = Plan(*how, config.profile, config.score)
    pairs = [pair for learner in learners for pair in grid(learner, config.sweep)]
    _check_names([learner.method.name for learner, _ in pairs])
    for learner, hypers in pairs:
        num_lanes = len(hypers) * len(config.seeds)
        for hyper in hypers.values():
            check_run(learner.method, learner.stream, hyper, config.seeds, plan, num_lanes)
        check_held(learner.method, learner.stream, hyper, learner.recipe, num_lanes)
        if num_lanes == 1 and config.over_seeds in ("vmap", "devices"):
            raise InputError(
                f"over_seeds is {config.over_seeds!r}, but {learner.method.name} is one run; give "
                "several --seeds, or leave it out"
            )
    if config.keep < 1:
        raise InputError(f"keep is {config.keep}; give at least 1")
    interval(config.save_every)
    if config.workdir is None:
        _check_no_workdir(config)
    if config.tensorboard:
        writer_class()
    if config.profile is not None:
        if not config.profile:
            raise InputError("profile is ''; give a folder, or leave it out")
        check_place(Path(config.profile), "profile")
    return plan, [learner for learner, _ in pairs], [hypers for _, hypers in pairs]


def _check_names(names: Sequence[str]) -> None:
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise InputError(f"{', '.join(twice)} is asked for more than once; name each method once")


def _check_no_workdir(config: RunConfig) -> None:
    """Raises InputError for a flag that does nothing where nothing is written."""
    if config.tensorboard:
        raise InputError("tensorboard needs a folder; give --workdir")
    if config.restart:
        raise InputError("restart moves a workdir aside; give --workdir")
    for name in ("save_every", "keep"):
        if getattr(config, name) != getattr(RunConfig, name):
            raise InputError(
                f"{name} is {getattr(config, name)}, but nothing is saved without a folder; give "
                "--workdir"
            )


def execute(learners: Sequence[Learner], config: RunConfig, record: Any) -> list[Result]:
    """Runs learners one after another, with the console, the logs and the saving asked for.

    What an earlier process saved of this experiment goes on from there.

    Args:
      learners: each with its stream, and its Hyper, which a sweep varies.
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
    _advise(learners, config.seeds)
    results, shown = [], None
    with no_one_waits(), _kept(learners, values, config, record) as keepers:
        for learner, hypers, keep in zip(learners, values, keepers, strict=True):
            logs = config.workdir if config.tensorboard and is_first() else None
            first_look, shown = learner.stream is not shown, learner.stream
            labels = learner.method.name, list(hypers)
            with console(stream_line=first_look) as see, tensorboard(logs, *labels) as log:
                found = sweep(
                    learner.method,
                    learner.stream,
                    list(hypers.values()),
                    seeds=config.seeds,
                    plan=plan,
                    observe=fan_out(see, log) if is_first() else fan_out(),
                    keep=keep,
                )
            for label, result in zip(hypers, found, strict=True):
                results.append(result._replace(method=f"{learner.method.name} {label}".strip()))
    told = any(result.details["told_at_test"] for result in results)  # one table, equal columns
    return [r._replace(details={**r.details, "told_at_test": told}) for r in results]


@contextmanager
def _kept(
    learners: Sequence[Learner],
    values: Sequence[Mapping[str, PyTree]],
    config: RunConfig,
    record: Any,
) -> Iterator[list[Keeper]]:
    """A Keeper for each learner, in the claimed workdir, while signals are heeded."""
    if config.workdir is None:
        yield [Forget() for _ in learners]
        return
    sources = {id(one.stream.source): one.stream.source for one in learners}.values()
    same = {
        "data": {source.name: describe(source)["fingerprint"] for source in sources},
        "software": software(),
    }
    folders = _folders(learners)
    saved = Path(config.workdir) / "checkpoints"
    begun = (Path(config.workdir) / CONFIG).exists()
    moved, gone = begun and config.restart, begun and not saved.exists()
    for name in folders if is_first() and not moved else ():
        check_saves(saved / name)
    claim = claimed(config.workdir, asdict(record), same, restart=config.restart)
    with claim if is_first() else nullcontext(Path(config.workdir)) as workdir, heeded() as wish:
        _meet("workdir")
        keepers = []
        for learner, hypers, name in zip(learners, values, folders, strict=True):
            folder = workdir / "checkpoints" / name
            again = not moved and (gone or (folder / "recipe.json").exists())
            if is_first():
                with writing(workdir):
                    folder.mkdir(parents=True, exist_ok=True)
                    words = {
                        "name": learner.method.name,
                        "sweep": list(hypers),
                        "seeds": config.seeds,
                    }
                    hyper = {"hyper": asdict(learner.hyper)}
                    write_json(folder / "recipe.json", {**learner.recipe, **hyper, **words})
            every, title = interval(config.save_every), learner.method.name
            how = {"every": every, "last": config.keep, "wish": wish, "again": again}
            keepers.append(Checkpoints(folder, title, **how))
        yield keepers


def _folders(learners: Sequence[Learner]) -> list[str]:
    """The folder of each learner's saves in ``checkpoints``.

    Raises:
      InputError: for two learners it would be one.
    """
    of: dict[str, str] = {}
    for name in (learner.method.name for learner in learners):
        folder = re.sub(r"[^\w.=-]+", "_", name)
        if folder in of:
            raise InputError(
                f"methods are called {of[folder]!r} and {name!r}, and both would be saved in "
                f"checkpoints/{folder}; give each a label of its own"
            )
        of[folder] = name
    return list(of)


def _meet(where: str) -> None:
    """All processes of the run wait here for each other."""
    if jax.process_count() > 1:
        from jax.experimental import multihost_utils

        multihost_utils.sync_global_devices(where)


def _advise(learners: Sequence[Learner], seeds: Sequence[int]) -> None:
    """Prints on stderr what the methods say of so short a stream."""
    for method, hyper, stream, _ in learners:
        if method.advice is not no_advice:
            num_steps = len(stream.schedule(jax.random.key(seeds[0])).index)
            if told := method.advice(hyper, num_steps):
                print(f"warning: {told}", file=sys.stderr)
