"""What a state must keep to answer for every task learned so far, in bits."""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
from jax.interpreters.partial_eval import dce_jaxpr

from cls_jax.core.types import Array
from cls_jax.methods.base import Method, hidden_task
from cls_jax.streams.stream import Stream
from cls_jax.train.steps import Run, Shapes, abstract_run, example_batch, shapes_of


def capacities(method: Method, stream: Stream, runs: list[Run]) -> dict[str, np.ndarray]:
    """What each Run must keep after each task, float64[runs, T], by name: "bits" first.

    Args:
      method: whose Runs they are; a method that does not say what it keeps must keep whatever
        ``predict`` reads.
      stream: has the tasks.
      runs: the last of each trial.
    """

    def kept(run: Run) -> Mapping[str, Array]:
        capacity = method.at(run.hyper).capacity
        if capacity is None:
            return {"bits": jnp.float32(bits_read(method, shapes_of(stream)))}
        return capacity(run.state)

    def after_each(value: Array) -> np.ndarray:
        return np.broadcast_to(np.float64(value), (stream.num_tasks,))

    every = [jax.device_get(jax.jit(kept)(run)) for run in runs]
    return {name: np.stack([after_each(one[name]) for one in every]) for name in every[0]}


def bits_read(method: Method, shapes: Shapes) -> int:
    """Bits of all leaves of the state that ``predict`` reads; 1 of a bool."""
    state, x = abstract_run(method, shapes).state, example_batch(shapes).x
    program = jax.make_jaxpr(method.predict)(state, x, hidden_task(shapes.num_classes)).jaxpr
    _, read = dce_jaxpr(program, [True] * len(program.outvars))
    leaves = jax.tree.leaves(state)
    return sum(_bits(leaf) for leaf, used in zip(leaves, read, strict=False) if used)


def _bits(leaf: jax.ShapeDtypeStruct) -> int:
    width = 1 if leaf.dtype == bool else 8 * leaf.dtype.itemsize
    return width * int(np.prod(leaf.shape, dtype=np.int64))
