"""The flags of choosing: on which tasks, by which score, from which values; needs no JAX."""

import re
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, Literal

from cls_jax.app.flags import Repeated
from cls_jax.app.unused import refuse
from cls_jax.core.errors import InputError

_PASSWORD = re.compile(r"://[^/@]*:[^/]*@|[?&]password=")


@dataclass(frozen=True, kw_only=True)
class TuneConfig:
    """How hyper-parameters are chosen.

    Attributes:
      space: an argument and where Optuna looks for it: learning_rate log 0.01 0.3, momentum uniform
        0 0.9, or memory_size choice 100 200; given again for another one. For a plain grid without
        Optuna give --sweep instead.
      sampler: how Optuna goes through --space; grid takes every combination of choices once.
      trials: combinations that Optuna tries in all, however many workers; 20, or the whole grid.
      prune: stop a trial after a task where it is worse than the median of the others.
      storage: where Optuna keeps the study, as a URL of its own (sqlite:///study.db, mysql://...,
        postgresql://...), for workers that share no folder; a journal in the workdir if not given.
      metric: the validation accuracy that decides; auto takes the one that the method is made for,
        task-IL where it is told the task.
      choose_tasks: choose on so many first tasks alone, and learn the others with what was chosen;
        on all tasks if not given.
    """

    space: Repeated[tuple[str, ...]] = ()
    sampler: Literal["tpe", "random", "grid"] = "tpe"
    trials: int | None = None
    prune: bool = True
    storage: str | None = None
    metric: Literal["auto", "class_il", "task_il"] = "auto"
    choose_tasks: int | None = None


def check_tuning(config: Any, typed: Collection[str]) -> None:
    """Raises InputError for flags of choosing that cannot work together, or would do nothing.

    Args:
      config: has ``stream``, ``run`` and ``tune``.
      typed: names of the flags on the command line.
    """
    tune, sweep = config.tune, config.run.sweep
    if bool(tune.space) == bool(sweep):
        given = "both --sweep and --space" if sweep else "neither --sweep nor --space"
        raise InputError(
            f"tune has {given}; give one of them, e.g. --sweep learning_rate 0.03 0.1 for a grid "
            "or --space learning_rate log 0.01 0.3 for Optuna"
        )
    for name in ("sampler", "trials", "prune", "storage"):
        if name in typed and sweep:
            refuse(
                name, getattr(tune, name), "a --sweep tries every value; give --space for Optuna"
            )
    if tune.storage is not None and _PASSWORD.search(tune.storage):
        raise InputError(
            "storage holds a password, which would stand in every record; leave it out of the URL "
            "and give it as your database wants it, e.g. in PGPASSWORD or ~/.pgpass"
        )
    if tune.trials is not None and tune.trials < 1:
        raise InputError(f"trials is {tune.trials}; give at least 1")
    if config.stream.validation_fraction == 0:
        raise InputError(
            "validation_fraction is 0, so there is nothing to choose on but the test set; give a "
            "fraction such as 0.1"
        )
