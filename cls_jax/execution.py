"""How it is run: flags for seeds, devices and saving; one call that trains, keeps and reports."""

import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal

import jax

from cls_jax.checkpoint import Checkpoints, interval
from cls_jax.console import check_tensorboard, console, fan_out, tensorboard
from cls_jax.events import Result
from cls_jax.experiment import Learner, make_learner, make_stream
from cls_jax.files import safe_names
from cls_jax.itinerary import Forget, Keeper
from cls_jax.methods.base import no_advice
from cls_jax.paths import check_place, check_saves, expanded, writing
from cls_jax.plan import Plan, check_run
from cls_jax.processes import cache_programs, is_first, join, no_one_waits
from cls_jax.report import finish
from cls_jax.runner import sweep
from cls_jax.stopping import heeded
from cls_jax.stored_recipe import write_recipe
from cls_jax.streams.sources import describe
from cls_jax.types import InputError, PyTree
from cls_jax.workdir import CHECKPOINTS, check_workdir_is_ours, claimed, software


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
      sweep: a field of the method's Hyper and its values, e.g. hyper.learning_rate 0.03 0.1; each
        value gets all seeds, dense networks all of them in one program.
      profile: a folder for a JAX profiler trace of one chunk.
      compile_cache: keep compiled programs for the next start, at most 2 GiB, in the user's cache
        folder (on Linux ~/.cache/cls_jax).
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
    sweep: tuple[str, ...] = ()
    profile: str | None = None
    compile_cache: bool = True
    coordinator: str | None = None
    num_processes: int | None = None
    process_id: int | None = None

    def __post_init__(self) -> None:
        """A leading ``~`` becomes the user's home, whatever shell there was."""
        for name in ("workdir", "profile"):
            object.__setattr__(self, name, expanded(getattr(self, name)))


def begin(config: RunConfig) -> None:
    """What must come before JAX looks for devices and before data are read; call it first.

    Raises:
      InputError: for folders that cannot be written, or processes that cannot find each other.
    """
    check_outputs(config)
    if config.compile_cache:
        cache_programs()
    join(config.coordinator, config.num_processes, config.process_id)


def check_outputs(config: RunConfig) -> None:
    """Whether all that is asked for can be written; writes nothing.

    Raises:
      InputError: for a folder that cannot be written or holds something else, or a package that is
        not installed.
    """
    if config.workdir is not None:
        check_workdir_is_ours(config.workdir)
    elif config.tensorboard:
        raise InputError("tensorboard needs a folder; give --workdir")
    elif config.restart:
        raise InputError("restart moves a workdir aside; give --workdir")
    if config.profile is not None:
        check_place(config.profile, "profile")
    if config.tensorboard:
        check_tensorboard()


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


def swept(hyper: PyTree, asked: Sequence[str]) -> dict[str, PyTree]:
    """Label -> Hyper for every value of a sweep; without one, the Hyper as it is, labelled "".

    Args:
      hyper: where everything else comes from.
      asked: a field, with or without "hyper." before it, and its values.

    Raises:
      InputError: for an unknown field, a value that is no number, or no value.
    """
    if not asked:
        return {"": hyper}
    name, *values = asked
    name = name.removeprefix("hyper.")
    known = [field.name for field in fields(hyper)]
    if name not in known:
        raise InputError(f"sweep names {asked[0]!r}; the method has {', '.join(known)}")
    if not values or len(set(values)) < len(values):
        raise InputError(f"sweep over {name} has the values {values}; give each once, at least one")
    try:
        return {f"{name}={value}": replace(hyper, **{name: float(value)}) for value in values}
    except ValueError:
        raise InputError(f"sweep over {name} has the values {values}; give numbers") from None


def check_execution(
    learners: Sequence[Learner], config: RunConfig
) -> tuple[Plan, list[dict[str, PyTree]]]:
    """The plan, and the Hypers of each learner by label, once all of them are found good.

    Raises:
      InputError: for bad seeds, hyper-parameters, plan, sweep or saving.
    """
    how = config.chunk, config.mode, config.over_seeds, config.devices, config.data_on
    plan = Plan(*how, config.profile, config.score)
    values = [swept(learner.hyper, config.sweep) for learner in learners]
    for learner, hypers in zip(learners, values, strict=True):
        for hyper in hypers.values():
            num_lanes = len(hypers) * len(config.seeds)
            check_run(learner.method, learner.stream, hyper, config.seeds, plan, num_lanes)
    check_outputs(config)
    if config.keep < 1:
        raise InputError(f"keep is {config.keep}; give at least 1")
    interval(config.save_every)
    return plan, values


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
    plan, values = check_execution(learners, config)
    _advise(learners, config.seeds)
    results, shown = [], None
    with no_one_waits(), _kept(learners, values, config, record) as keepers:
        for learner, hypers, keep in zip(learners, values, keepers, strict=True):
            logs = config.workdir if config.tensorboard and is_first() else None
            first_look, shown = learner.stream is not shown, learner.stream
            with console(stream_line=first_look) as see, tensorboard(logs) as log:
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
    folders = [
        Path(config.workdir) / CHECKPOINTS / name
        for name in safe_names([learner.method.name for learner in learners])
    ]
    for folder in () if config.restart else folders:
        check_saves(folder)
    claim = claimed(config.workdir, asdict(record), same, restart=config.restart)
    with claim if is_first() else nullcontext(), heeded() as wish:
        _meet("workdir")
        keepers = []
        for learner, hypers, folder in zip(learners, values, folders, strict=True):
            if is_first():
                with writing(config.workdir):
                    folder.mkdir(parents=True, exist_ok=True)
                    words = {
                        "name": learner.method.name,
                        "sweep": list(hypers),
                        "seeds": config.seeds,
                    }
                    hyper = {"hyper": asdict(learner.hyper)}
                    write_recipe(folder, {**learner.recipe, **hyper, **words})
            every, title = interval(config.save_every), learner.method.name
            keepers.append(Checkpoints(folder, title, every=every, last=config.keep, wish=wish))
        yield keepers


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
