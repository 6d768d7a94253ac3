"""Loggers of a run: the terminal, CSV files, TensorBoard, Weights & Biases, several at once.

A logger is any function of events (``training.events.Logger``). All of these name a number in the
same way, see ``points.py``.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, get_args

from cls_jax.core.errors import InputError
from cls_jax.report.console import console
from cls_jax.report.csv_log import csv
from cls_jax.report.tensorboard_log import tensorboard, writer_class
from cls_jax.report.wandb_log import wandb, wandb_module
from cls_jax.training.events import Event, Logger

__all__ = ["console", "csv", "several", "tensorboard", "wandb"]

Log = Literal["csv", "tensorboard", "wandb"]
"""A log by the name that ``--log`` knows."""


def several(*loggers: Logger) -> Logger:
    """One logger that tells all of these, in order."""

    def log(event: Event) -> None:
        for logger in loggers:
            logger(event)

    return log


def check_logs(names: Sequence[str], workdir: str | None) -> None:
    """Raises InputError unless these logs can be written into the workdir; writes nothing."""
    if len(set(names)) < len(names) or set(names) - set(get_args(Log)):
        raise InputError(
            f"log is {' '.join(names)!r}; give one or several of {', '.join(get_args(Log))}, each "
            "once"
        )
    if names and workdir is None:
        raise InputError(f"log is {' '.join(names)}, but there is no folder for it; give --workdir")
    if "tensorboard" in names:
        writer_class()
    if "wandb" in names:
        wandb_module()


def logger_of(names: Sequence[str], workdir: str | None, config: Any = None) -> Logger:
    """All the logs of these names as one.

    Args:
      names: of logs, once they are checked.
      workdir: where to.
      config: what W&B is told of the experiment, JSON-ready.
    """
    if workdir is None:
        return several()

    def made(name: str) -> Logger:
        if name == "wandb":
            return wandb(workdir, config=config, group=Path(workdir).name)
        return csv(workdir) if name == "csv" else tensorboard(workdir)

    return several(*map(made, names))
