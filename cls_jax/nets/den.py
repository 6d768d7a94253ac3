"""A perceptron of fixed arrays in which units come and go, with a last layer for each task.

Every hidden layer has room for more units than it starts with. Its stamps, int32[N], hold the task
that a unit came with, from 1 on, and 0 where there is none; what belongs to such a free place is
exactly 0. So a network that grows keeps its shapes. "body" are the hidden layers, a tuple of
{"kernel" float32[n, N], "bias" float32[N]}; "heads" are the last layers of all tasks,
{"kernel" float32[T, N, C], "bias" float32[T, C]}.

Source: Yoon et al. 2018 (ICLR; arXiv 1708.01547), inference by time stamps;
jaehong31/DEN: initial values.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from cls_jax.core.sharding import spread
from cls_jax.core.types import Array, PyTree

Units = tuple[Array, ...]
"""bool[N] for each hidden layer."""


def active(stamps: Sequence[Array], newest: Array | int | None = None) -> Units:
    """The units that are there; with ``newest``, those that came no later than that stamp."""
    there = tuple(stamp > 0 for stamp in stamps)
    if newest is None:
        return there
    return tuple(a & (stamp <= newest) for a, stamp in zip(there, stamps, strict=True))


def connections(num_inputs: int, units: Units) -> PyTree:
    """bool, like the body: weights whose both ends are in ``units`` (or inputs), their biases."""
    below = (jnp.ones(num_inputs, bool), *units[:-1])
    return tuple(
        {"kernel": b[:, None] & u, "bias": jnp.copy(u)} for b, u in zip(below, units, strict=True)
    )


def trainable(params: PyTree, used: Units, frozen: Units, task: Array, learns: Array) -> PyTree:
    """bool, like the parameters: what a phase may move.

    Args:
      params: {"body", "heads"}; only shapes matter.
      used: whose connections, biases and rows of the head take part.
      frozen: units, the connections among which (and with inputs) stay, and their biases.
      task: int32[] whose head learns.
      learns: bool[]; False: nothing moves.
    """
    num_inputs, heads = params["body"][0]["kernel"].shape[0], params["heads"]
    mine = (jnp.arange(len(heads["bias"])) == task) & learns
    rows = (mine[:, None] & used[-1])[:, :, None]
    return {
        "body": jax.tree.map(
            lambda u, f: u & ~f & learns,
            connections(num_inputs, used),
            connections(num_inputs, frozen),
        ),
        "heads": {
            "kernel": jnp.broadcast_to(rows, heads["kernel"].shape),
            "bias": jnp.broadcast_to(mine[:, None], heads["bias"].shape),
        },
    }


def forward(params: PyTree, x: Array, units: Units, task: Array, dtype: str = "float32") -> Array:
    """float32[b, C] outputs of the task's head over those units; the others are silent.

    Args:
      params: {"body", "heads"}.
      x: float32[b, ...].
      units: that take part.
      task: int32[] whose head.
      dtype: compute dtype of the hidden layers.
    """
    h = spread(x.reshape(x.shape[0], -1)).astype(dtype)
    for layer, there in zip(params["body"], units, strict=True):
        kernel, bias = layer["kernel"].astype(dtype), layer["bias"].astype(dtype)
        h = jax.nn.relu(h @ kernel + bias) * there
    head = jax.tree.map(lambda leaf: leaf[task], params["heads"])
    return h.astype(jnp.float32) @ head["kernel"] + head["bias"]


def init_params(
    key: Array, num_inputs: int, units: Units, num_tasks: int, num_classes: int
) -> PyTree:
    """{"body", "heads"}: a fresh body for ``units`` alone, and heads of 0.

    Args:
      key: for the draw.
      num_inputs, num_tasks, num_classes: sizes.
      units: that are there.
    """
    body, _ = glorot(key, num_inputs, units, num_classes)
    heads = {
        "kernel": jnp.zeros((num_tasks, units[-1].size, num_classes)),
        "bias": jnp.zeros((num_tasks, num_classes)),
    }
    return {"body": body, "heads": heads}


def glorot(key: Array, num_inputs: int, units: Units, num_classes: int) -> tuple[PyTree, PyTree]:
    """A fresh body and the kernel and bias of one head, for ``units`` alone; 0 elsewhere.

    Weights are uniform within +-sqrt(6 / (units below + units above)), and biases, as in the
    released code, within +-sqrt(3 / units).

    Args:
      key: for the draw.
      num_inputs, num_classes: sizes below the first and above the last hidden layer.
      units: that are there.

    Source: den card section 2 and oracle 3: 784 to 312 units is 0.0739895, 312 biases 0.0980581.
    """
    outputs = jnp.ones(num_classes, bool)
    layers, below = [], jnp.ones(num_inputs, bool)
    for key_layer, above in zip(
        jax.random.split(key, len(units) + 1), (*units, outputs), strict=True
    ):
        key_kernel, key_bias = jax.random.split(key_layer)
        there = below[:, None] & above
        kernel = jax.random.uniform(key_kernel, there.shape, minval=-1)
        bias = jax.random.uniform(key_bias, above.shape, minval=-1)
        limit = kernel_limit(below.sum(), above.sum())
        layers.append(
            {
                "kernel": jnp.where(there, limit * kernel, 0),
                "bias": jnp.where(above, bias_limit(above.sum()) * bias, 0),
            }
        )
        below = above
    return tuple(layers[:-1]), layers[-1]


def kernel_limit(below: Array, above: Array) -> Array:
    """``sqrt(6 / (below + above))``, float32[]."""
    return jnp.sqrt(6 / (below + above))


def bias_limit(above: Array) -> Array:
    """``sqrt(3 / above)``, float32[]."""
    return jnp.sqrt(3 / above)


def num_units(stamps: Sequence[Array], task: Array) -> tuple[Array, ...]:
    """float32[] for each hidden layer: units there after ``task``, int32[] from 0."""
    return tuple(units.sum().astype(jnp.float32) for units in active(stamps, task + 1))


def num_parameters(stamps: Sequence[Array], task: Array, params: PyTree) -> Array:
    """float32[]: weights and biases among the units there are, and those of the heads so far.

    A head is counted with the units of its own task alone: it does not know later ones.

    Args:
      stamps: int32[N] each.
      task: int32[] the last one learned, from 0.
      params: {"body", "heads"}; only shapes matter.
    """
    num_tasks, _, num_classes = params["heads"]["kernel"].shape
    total, below = 0, params["body"][0]["kernel"].shape[0]
    for units in active(stamps, task + 1):
        here = units.sum(dtype=jnp.int32)
        total, below = total + (below + 1) * here, here
    tasks = jnp.arange(num_tasks)
    known = (stamps[-1] > 0) & (stamps[-1] <= tasks[:, None] + 1)
    rows = jnp.where(tasks <= task, known.sum(axis=1) + 1, 0).sum()
    return jnp.asarray(total + num_classes * rows, jnp.float32)


def half_squared_where(tree: PyTree, counted: PyTree) -> Array:
    """``1/2 ||w||^2`` over the entries that count, float32[].

    Args:
      tree: float32 leaves.
      counted: bool, like ``tree``.
    """
    squares = jax.tree.map(lambda w, c: jnp.square(jnp.where(c, w, 0)).sum(), tree, counted)
    return 0.5 * jnp.asarray(sum(jax.tree.leaves(squares)))
