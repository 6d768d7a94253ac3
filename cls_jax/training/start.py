"""Where a run starts that goes on from another, which is finished."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from cls_jax.core.types import Array
from cls_jax.methods.base import Method
from cls_jax.streams.stream import Schedule, Stream
from cls_jax.training.run import Run


class Trained(NamedTuple):
    """One seed's finished run, and all that a further one needs to know of it.

    Attributes:
      method: what learned.
      run: at its end, without a trial axis.
      task_classes: bool[num_tasks, num_classes], of every task that was learned.
    """

    method: Method
    run: Run
    task_classes: np.ndarray


class Start(NamedTuple):
    """Where every seed of a run starts that goes on.

    Attributes:
      task_classes: of each seed, bool[num_past, num_classes]: the tasks that it has learned.
      runs: of each seed, the finished Run; empty where the new run's own saves are all there is.
      earlier: the stream that was learned, if its test examples are at hand.
      words: what config.json says of where it goes on from.
    """

    task_classes: Mapping[int, np.ndarray]
    runs: Mapping[int, Run]
    earlier: Stream | None = None
    words: Mapping[str, Any] = {}

    @property
    def num_past(self) -> int:
        """How many tasks were learned."""
        return len(next(iter(self.task_classes.values())))


def with_classes(schedule: Schedule, past: np.ndarray) -> Schedule:
    """The schedule of a continued stream, once the classes of its past tasks are known.

    Args:
      schedule: of ``streams.continued``.
      past: bool[num_past, num_classes].
    """
    classes = np.concatenate([past, schedule.task_classes[len(past) :]])
    return schedule.replace(task_classes=classes)


def first_run(finished: Run, hyper: Mapping[str, Array], num_tasks: int) -> Run:
    """The Run of a trial that goes on: its state, key and step, and room in its matrix.

    Args:
      finished: what was learned before.
      hyper: of the trial, which may have others from here on.
      num_tasks: in all.
    """
    views, scenarios, _, past = finished.matrix.shape
    matrix = np.full((views, scenarios, num_tasks + 1, num_tasks), np.nan, np.float32)
    matrix[:, :, : past + 1, :past] = np.asarray(finished.matrix)
    run = finished.replace(hyper=dict(hyper), matrix=jnp.asarray(matrix))
    return jax.tree.map(jnp.copy, run)  # its buffers will be donated
