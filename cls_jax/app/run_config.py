"""How it is run: flags for seeds, devices, saving and what is written; their checks."""

from dataclasses import dataclass
from typing import Annotated, Literal

from cls_jax.app.flags import Repeated, arg
from cls_jax.core.errors import InputError
from cls_jax.core.paths import check_place, expanded
from cls_jax.report.canvas import DEFAULT_FORMATS, FigureFormat, check_formats
from cls_jax.report.logs import Log, check_logs
from cls_jax.training.runtime.save_interval import interval
from cls_jax.training.runtime.workdir import check_workdir_is_ours


@dataclass(frozen=True, kw_only=True)
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
      log: what is written of losses and scores while it runs, into the workdir: csv, tensorboard,
        wandb; one or several.
      figure_format: what figures in the workdir are written as, one or several of png, svg and pdf.
      sweep: an argument of the method and its values, e.g. learning_rate 0.03 0.1; given again with
        another one it makes a grid of all combinations. Each gets all seeds. Values of arguments
        whose flag wants a FLOAT share one program, all others are compiled anew.
      profile: a folder for a JAX profiler trace of one chunk.
      compile_cache: keep compiled programs for the next start, at most 2 GiB, in the user's cache
        folder (on Linux ~/.cache/cls_jax).
      coordinator: HOST:PORT of process 0 when several processes make one run, or auto on a TPU pod
        slice or under SLURM.
      num_processes: how many processes; auto finds out.
      process_id: which of them this is, from 0; auto finds out.
      imports: a Python file that brings methods, networks or data sets of your own.
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
    log: tuple[Log, ...] = ()
    figure_format: tuple[FigureFormat, ...] = DEFAULT_FORMATS
    sweep: Repeated[tuple[str, ...]] = ()
    profile: str | None = None
    compile_cache: bool = True
    coordinator: str | None = None
    num_processes: int | None = None
    process_id: int | None = None
    imports: Annotated[Repeated[str], arg(name="import")] = ()

    def __post_init__(self) -> None:
        """A leading ``~`` becomes the user's home, whatever shell there was."""
        for name in ("workdir", "profile"):
            object.__setattr__(self, name, expanded(getattr(self, name)))


def check_outputs(config: RunConfig) -> None:
    """Whether all that is asked for can be written; writes nothing.

    Raises:
      InputError: for a folder that cannot be written or holds something else, or a package that is
        not installed.
    """
    if config.keep < 1:
        raise InputError(f"keep is {config.keep}; give at least 1")
    interval(config.save_every)
    check_formats(config.figure_format, config.workdir is not None, "--workdir")
    check_logs(config.log, config.workdir)
    if config.workdir is not None:
        check_workdir_is_ours(config.workdir)
    elif config.restart:
        raise InputError("restart moves a workdir aside; give --workdir")
    else:
        for name in ("save_every", "keep"):
            if getattr(config, name) != getattr(RunConfig, name):
                raise InputError(
                    f"{name} is {getattr(config, name)}, but nothing is saved without a folder; "
                    "give --workdir"
                )
    if config.profile is not None:
        check_place(config.profile, "profile")
