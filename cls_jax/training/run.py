"""One run as a pytree: all that a killed process needs, and its shapes before there is one."""

from collections.abc import Mapping
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from cls_jax.core.keys import RunKey
from cls_jax.core.types import Array, Batch, PredictFn, PyTree
from cls_jax.methods.base import Method, hidden_task
from cls_jax.streams.stream import Stream
from cls_jax.training.parts import has_convolutions


class Run(struct.PyTreeNode):
    """All that a killed process needs, for one seed, or for several stacked.

    Attributes:
      state: the method's.
      hyper: the method's hyper-parameters by name, float32[] each: data, like the state.
      key: the seed's key; every other key is folded from it.
      step: int32[] updates made; the key of the next step is folded from this number.
      matrix: float32[views, 2, T + 1, T], see events.Result.
    """

    state: PyTree
    hyper: dict[str, Array]
    key: Array
    step: Array
    matrix: Array


class Shapes(NamedTuple):
    """What a state's shapes depend on, beside the method.

    Attributes:
      batch: (b, ...) of raw examples.
      dtype: of theirs.
      num_classes, num_tasks: of the stream.
    """

    batch: tuple[int, ...]
    dtype: str
    num_classes: int
    num_tasks: int


def shapes_of(stream: Stream) -> Shapes:
    """Of a stream."""
    x = stream.source.train.x
    batch = (stream.batch_size, *x.shape[1:])
    return Shapes(batch, x.dtype.name, stream.num_classes, stream.num_tasks)


def example_batch(shapes: Shapes) -> Batch:
    """A batch of zeros, of which only shapes and dtypes matter."""
    b, dtype = shapes.batch[0], shapes.dtype
    yes, zero = jnp.ones((b,), bool), jnp.zeros((b,), jnp.int32)
    return Batch(jnp.zeros(shapes.batch, dtype), y=zero, task=zero, valid=yes, labelled=yes)


def init_run(method: Method, shapes: Shapes, hyper: Mapping[str, Array], seed: Array) -> Run:
    """A trial's Run before anything was learned.

    Args:
      method: whose ``init`` makes the state.
      shapes: of its batches.
      hyper, seed: of the trial.
    """
    key, t = jax.random.key(seed), shapes.num_tasks
    example = example_batch(shapes)
    return Run(
        state=method.at(hyper).init(jax.random.fold_in(key, RunKey.INIT), example),
        hyper=dict(hyper),
        key=key,
        step=jnp.int32(0),
        matrix=jnp.full((1 + len(method.views), 2, t + 1, t), jnp.nan),
    )


@jax.jit  # one program, where a copy of each leaf is one for every shape
def copied(run: Run) -> Run:
    """The Run in buffers of its own, no two of which are one: they will be donated."""
    return jax.tree.map(jnp.copy, run)


def abstract_run(method: Method, shapes: Shapes) -> Run:
    """A trial's Run as shapes and dtypes; nothing is computed, equal questions are one trace."""
    key = (method.at, *method.views, shapes)
    if key not in _ABSTRACT:
        hyper = {name: jax.ShapeDtypeStruct((), jnp.float32) for name in method.hyper}
        seed = jax.ShapeDtypeStruct((), jnp.uint32)
        _ABSTRACT[key] = jax.eval_shape(partial(init_run, method, shapes), hyper, seed)
        while len(_ABSTRACT) > _MOST_ABSTRACT:
            del _ABSTRACT[next(iter(_ABSTRACT))]
    return _ABSTRACT[key]


_ABSTRACT: dict[tuple, Run] = {}
_MOST_ABSTRACT = 64


def is_convolutional(method: Method, shapes: Shapes) -> bool:
    """Whether there are convolutions in the network that answers, and so in the steps."""
    state, x = abstract_run(method, shapes).state, jax.ShapeDtypeStruct(shapes.batch, shapes.dtype)
    return convolves(method.predict, state, x, shapes.num_classes)


def convolves(
    predict: PredictFn,
    state: PyTree,
    x: Array | np.ndarray | jax.ShapeDtypeStruct,
    num_classes: int,
) -> bool:
    """``is_convolutional`` where a state and raw examples are known, or their shapes and dtypes."""
    program = jax.make_jaxpr(predict)(state, x, hidden_task(num_classes))
    return has_convolutions(program.jaxpr)
