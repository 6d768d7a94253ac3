"""Inner products of per-example gradients, without the gradients where layers are dense.

The gradient of a dense layer's kernel at one example is an outer product, of the layer's input a
and the loss's slope d at its output. So ``<g_i, g_j> = sum_layers (a_i . a_j + 1) (d_i . d_j)``,
and b examples cost what one backward pass over them costs, not b passes.

Source: the identity is Goodfellow 2015 (arXiv 1510.01799), there for norms.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from cls_jax.core.types import Array, PyTree, Variables
from cls_jax.nets.base import Net
from cls_jax.nets.dense_layers import DenseLayer, dense_layers, inputs_and_slopes

RowLosses = Callable[[Array, PyTree], Array]
"""(outputs [b, ...], targets with leaves [b, ...]) -> float[b], the loss of each row alone."""


def gradient_gram(net: Net, vars: Variables, x: Array, losses: RowLosses, targets: PyTree) -> Array:
    """The matrix of ``<g_i, g_j>``, g_i the gradient of row i's loss in all parameters.

    The network is taken as it answers: running statistics, no dropout, so that rows are
    independent. One that has other parameters than those of linen's or our dense layers needs one
    gradient a row in memory.

    Args:
      net, vars: the network.
      x: inputs float[b, ...].
      losses, targets: of each row; a row whose loss is constant has gradient 0.

    Returns:
      float[b, b], float32 or wider.
    """
    layers = dense_layers(net, vars, x)
    if layers is None:
        return _one_by_one(net, vars, x, losses, targets)
    return _by_layers(net, vars, x, losses, targets, layers)


def _by_layers(
    net: Net,
    vars: Variables,
    x: Array,
    losses: RowLosses,
    targets: PyTree,
    layers: dict[tuple, DenseLayer],
) -> Array:
    """The matrix from each layer's inputs and slopes."""

    def total(outputs: Array) -> Array:
        return losses(outputs, targets).sum()

    inputs, slopes = inputs_and_slopes(net, vars, x, total, layers, train=False)
    each = [
        (_products(inputs[path]) + layer.bias) * _products(slopes[path])
        for path, layer in layers.items()
    ]
    return jnp.asarray(sum(each))


def _one_by_one(net: Net, vars: Variables, x: Array, losses: RowLosses, targets: PyTree) -> Array:
    """The same of any network whose rows are independent."""

    def loss(params: PyTree, x: Array, targets: PyTree) -> Array:
        outputs, _ = net.apply(vars.replace(params=params), x[None], train=False)
        return losses(outputs, jax.tree.map(lambda leaf: leaf[None], targets))[0]

    each = jax.vmap(jax.grad(loss), (None, 0, 0))(vars.params, x, targets)
    return jnp.asarray(sum(_products(leaf) for leaf in jax.tree.leaves(each)))


def _products(rows: Array) -> Array:
    """float[b, b]: of every two rows."""
    flat = rows.reshape(len(rows), -1)
    flat = flat.astype(jnp.promote_types(flat.dtype, jnp.float32))
    return jnp.matmul(flat, flat.T, precision="highest")
