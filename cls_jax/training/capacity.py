"""What a state must keep to answer for every task learned so far, in bits."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial

import jax
import numpy as np
from jax.interpreters.partial_eval import dce_jaxpr

from cls_jax.core.types import Array, PredictFn, PyTree
from cls_jax.methods.base import Algorithm, Method, hidden_task
from cls_jax.streams.stream import Stream
from cls_jax.training.run import Run, Shapes, abstract_run, example_batch, shapes_of


def capacities(method: Method, stream: Stream, runs: Sequence[Run]) -> dict[str, np.ndarray]:
    """What each Run must keep after each task, float64[runs, T], by name: "bits" first.

    Args:
      method: whose Runs they are; a method that does not say what it keeps must keep whatever
        ``predict`` reads.
      stream: has the tasks.
      runs: the last of each trial.
    """

    num_tasks = stream.num_tasks

    def after_each(value: Array | int) -> np.ndarray:
        found = np.asarray(value, np.float64)  # of all tasks that there is room for
        return np.broadcast_to(found[:num_tasks] if found.ndim else found, (num_tasks,))

    if method.algorithm.capacity is None:
        every = [{"bits": bits_read(method, shapes_of(stream))}] * len(runs)
    else:
        every = [jax.device_get(_capacity(method.at, run)) for run in runs]
    return {name: np.stack([after_each(one[name]) for one in every]) for name in every[0]}


@partial(jax.jit, static_argnums=0)
def _capacity(at: Callable[[PyTree], Algorithm], run: Run) -> Mapping[str, Array]:
    """What the method says; equal methods share the program."""
    capacity = at(run.hyper).capacity
    assert capacity is not None
    return capacity(run.state)


def bits_read(method: Method, shapes: Shapes) -> int:
    """Bits of all leaves of the state that ``predict`` reads; 1 of a bool."""
    state = abstract_run(method, shapes).state
    read, leaves = leaves_read(method.predict, state, shapes), jax.tree.leaves(state)
    return sum(_bits(leaf) for leaf, used in zip(leaves, read, strict=True) if used)


def leaves_read(predict: PredictFn, state: PyTree, shapes: Shapes) -> list[bool]:
    """Of each leaf of the state, concrete or abstract, whether ``predict`` reads it."""
    x, task = example_batch(shapes).x, hidden_task(shapes.num_classes)
    program = jax.make_jaxpr(predict)(state, x, task).jaxpr
    _, read = dce_jaxpr(program, [True] * len(program.outvars))
    return read[: len(jax.tree.leaves(state))]


def _bits(leaf: jax.ShapeDtypeStruct) -> int:
    width = 1 if leaf.dtype == bool else 8 * leaf.dtype.itemsize
    return width * int(np.prod(leaf.shape, dtype=np.int64))
