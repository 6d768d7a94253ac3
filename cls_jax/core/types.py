"""The nouns of the library: batches, variables, tasks, and the signatures of pure functions.

Nothing here computes. Every array keeps its shape for a whole run; what is absent is masked.
"""

from collections.abc import Mapping
from typing import Any, Protocol

import jax
import numpy as np
from flax import struct

Array = jax.Array
PyTree = Any
Scalar = Array | float
"""A hyper-parameter: a number, or float32[] where it is data of a program."""
Metrics = Mapping[str, Array]
"""Scalars worth looking at after a step, float32[] each. The keys never change within a phase;
``"loss"`` is the total that was minimised last, and the runner stops when any value is not finite.
"""


class Batch(struct.PyTreeNode):
    """``b`` examples of one step, raw.

    Attributes:
      x: uint8[b, h, w, c] pixels as stored, or float32[b, d] vectors.
      y: int32[b] label in the stream's label space (labels are never renumbered).
      task: int32[b] number of the task, or -1 where the scenario hides it.
      valid: bool[b]; False is padding: in no loss, in no batch statistic, never stored.
      labelled: bool[b]; False is an example whose label must not be looked at.
      epoch: int32[] which pass over the task this is, from 0, as the stream counts: whatever rows
        are dropped or unlabelled, schedules of rates follow it.
    """

    x: Array
    y: Array
    task: Array
    valid: Array
    labelled: Array
    epoch: Array | np.int32 = np.int32(0)


class Variables(struct.PyTreeNode):
    """What a network is made of: ``params`` are trained; ``stats`` (BatchNorm's) follow, or {}."""

    params: PyTree
    stats: PyTree


class Trainable(struct.PyTreeNode):
    """One parameter tree with its own optimizer state."""

    vars: Variables
    opt: PyTree


class Task(struct.PyTreeNode):
    """Where in the stream we are, as data: another task is another value, not another program.

    Attributes:
      index: int32[] number of the task, or -1 when the method is not told.
      classes: bool[num_classes] classes of this task; all True when not told.
      seen: bool[num_classes] classes of this and all earlier tasks; all True when not told.
    """

    index: Array
    classes: Array
    seen: Array


class AugmentFn(Protocol):
    """Raw examples in, network input out: float32, one independent draw an example."""

    def __call__(self, key: Array, x: Array) -> Array:
        """Maps uint8[b, h, w, c] to float32[b, h', w', c]."""
        ...


class ViewFn(Protocol):
    """Raw examples in, one of two self-supervised views out: as AugmentFn, with the view's number.

    ``number`` is 0 (view A) or 1 (view B), and may be traced, so that both are one program.
    """

    def __call__(self, key: Array, x: Array, number: Array | int, /) -> Array: ...


class InitFn(Protocol):
    """Makes a method's state from one example batch, of which only shapes and dtypes matter."""

    def __call__(self, key: Array, example: Batch) -> PyTree: ...


class StepFn(Protocol):
    """One update. The state keeps its structure, shapes and dtypes."""

    def __call__(self, key: Array, state: PyTree, batch: Batch) -> tuple[PyTree, Metrics]: ...


class BoundaryFn(Protocol):
    """What a method does at the edge of a task; ``data`` is None unless its Needs ask for it."""

    def __call__(self, key: Array, state: PyTree, task: Task, data: Batch | None) -> PyTree: ...


class CapacityFn(Protocol):
    """What a state must keep to answer for all tasks learned so far; computed once, at the end."""

    def __call__(self, state: PyTree) -> Mapping[str, Array]:
        """ "bits" of storage (32 a float, 1 a mask's entry), and whatever else grows, by name:
        float32[num_tasks] after each task, or float32[] where it never changes."""
        ...


class PredictFn(Protocol):
    """Raw examples to float32[b, num_classes] logits over every class of the stream, finite."""

    def __call__(self, state: PyTree, x: Array, task: Task) -> Array: ...
