"""A run as files of TensorBoard."""

from pathlib import Path
from typing import Any

from cls_jax.core.errors import InputError
from cls_jax.core.files import safe_name
from cls_jax.report.points import points, trial_names
from cls_jax.training.events import Ended, Event, Logger, Started


def writer_class() -> type:
    """TensorBoard's SummaryWriter.

    Raises:
      InputError: tensorboardX is not installed.
    """
    try:
        from tensorboardX import SummaryWriter  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise InputError(
            "log tensorboard needs tensorboardX, which is not installed; "
            'pip install "tensorboardX>=2.6" or leave it out'
        ) from error
    return SummaryWriter


def tensorboard(folder: str | Path) -> Logger:
    """A logger that writes TensorBoard files under ``folder``/tensorboard/method/value/seed0.

    TensorBoard then lays the curves of methods, values and seeds over each other. Where a run goes
    on, it hides what will be told again. A killed process loses at most ten seconds.

    Args:
      folder: of the experiment.

    Raises:
      InputError: tensorboardX is not installed.
    """
    kind, place = writer_class(), Path(folder) / "tensorboard"
    started, writers = Started("", "", (), 0, 0, ""), {}

    def writer(value: int, seed: int) -> Any:
        if (value, seed) not in writers:
            steps = [one.step for one in started.since if one[:2] == (value, seed)]
            again = steps[0] + 1 if any(steps) else None
            path = str(place.joinpath(*map(safe_name, trial_names(started, value, seed))))
            writers[value, seed] = kind(path, flush_secs=10, purge_step=again)
        return writers[value, seed]

    def log(event: Event) -> None:
        nonlocal started
        if isinstance(event, Started):
            started = event
        elif isinstance(event, Ended):
            for one in writers.values():
                one.close()
            writers.clear()
        else:
            for one in points(event, started):
                tag = "/".join(one.names)
                writer(one.value, one.seed).add_scalar(tag, one.number, one.step)

    return log
