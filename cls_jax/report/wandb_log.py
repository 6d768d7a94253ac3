"""A run as one of Weights & Biases."""

import secrets
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cls_jax.core.errors import InputError
from cls_jax.core.files import safe_name, write_file
from cls_jax.report.points import Point, points, trial_names
from cls_jax.training.events import Ended, Event, Logger, Started


def wandb_module() -> Any:
    """The package wandb.

    Raises:
      InputError: it is not installed.
    """
    try:
        import wandb as module  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise InputError(
            "log wandb needs wandb, which is not installed; pip install wandb or leave it out"
        ) from error
    return module


def wandb(folder: str | Path, **settings: Any) -> Logger:
    """A logger that writes a Weights & Biases run for each method, offline with WANDB_MODE=offline.

    What W&B reads from the environment (WANDB_PROJECT, WANDB_MODE, ...) holds. A run that goes on
    goes on in the same run of W&B, whose number lies in ``folder``/wandb.

    Args:
      folder: of the experiment; W&B's own files lie in its ``wandb``.
      settings: of ``wandb.init``, instead of ours: project, name, group, config, tags, ...

    Raises:
      InputError: wandb is not installed, or, as the run starts, refuses.
    """
    module, place = wandb_module(), Path(folder) / "wandb"
    started, axes = Started("", "", (), 0, 0, ""), set()
    run: Any = None

    def begin() -> Any:
        place.mkdir(parents=True, exist_ok=True)
        number = place / f"{safe_name(started.method)}.id"
        if not number.exists():
            write_file(number, secrets.token_hex(6))
        given = {
            "name": started.method,
            "dir": str(folder),
            "id": number.read_text(encoding="utf-8"),
            "resume": "allow",
            "settings": module.Settings(console="off", quiet=True),
            **settings,
        }
        try:
            return module.init(**given)
        except module.Error as error:
            raise InputError(
                f"log wandb: {' '.join(str(error).split())}; log in by `wandb login`, or set "
                "WANDB_MODE=offline"
            ) from error

    def tell(trial: str, of: Sequence[Point]) -> None:
        kind = of[0].names[0]
        axis = f"{trial}/{'after_task' if len(of[0].names) == 3 else 'step'}"
        if (trial, kind) not in axes:
            run.define_metric(axis, hidden=True)
            run.define_metric(f"{trial}/{kind}/*", step_metric=axis)
            axes.add((trial, kind))
        numbers = {"/".join((trial, *one.names)): one.number for one in of}
        run.log({axis: of[0].step, **numbers})

    def log(event: Event) -> None:
        nonlocal started, run
        if isinstance(event, Started):
            started, run = event, None
            axes.clear()
            run = begin()
        elif isinstance(event, Ended):
            if run is not None:
                run.finish(exit_code=0 if event.whole else 1)
        else:
            by_trial: dict[tuple[str, str], list[Point]] = {}
            for one in points(event, started):
                trial = "/".join(trial_names(started, one.value, one.seed))
                by_trial.setdefault((trial, one.names[0]), []).append(one)
            for (trial, _), of in by_trial.items():
                tell(trial, of)

    return log
