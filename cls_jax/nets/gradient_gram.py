"""Inner products of per-example gradients, without the gradients where layers are dense.

The gradient of a dense layer's kernel at one example is an outer product, of the layer's input a
and the loss's slope d at its output. So ``<g_i, g_j> = sum_layers (a_i . a_j + 1) (d_i . d_j)``,
and b examples cost what one backward pass over them costs, not b passes.

Source: the identity is Goodfellow 2015 (arXiv 1510.01799), there for norms.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from cls_jax.core.types import Array, PyTree, Variables
from cls_jax.nets.base import Net
from cls_jax.nets.layers import Dense

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
    layers = _dense_layers(net, vars, x)
    if layers is None:
        return _explicit(net, vars, x, losses, targets)

    def total(offsets: dict) -> tuple[Array, dict]:
        outputs, inputs = _watched(net, vars, x, offsets)
        return losses(outputs, targets).sum(), inputs

    zeros = {path: jnp.zeros(layer.output.shape, layer.output.dtype) for path, layer in layers}
    slopes, inputs = jax.grad(total, has_aux=True)(zeros)
    return sum(
        (_products(inputs[path]) + layer.bias) * _products(slopes[path]) for path, layer in layers
    )


class _Layer(NamedTuple):
    """A dense layer that was called once: shapes of its input and output; 1 if it has a bias."""

    input: jax.ShapeDtypeStruct
    output: jax.ShapeDtypeStruct
    bias: int


def _watched(net: Net, vars: Variables, x: Array, offsets: dict) -> tuple[Array, dict]:
    """The outputs, what each dense layer was given by its path; ``offsets`` are added to theirs."""
    inputs = {}

    def watch(call: Callable, args: tuple, kwargs: dict, context: Any) -> Any:
        path = context.module.path
        if path not in offsets or context.method_name != "__call__":
            return call(*args, **kwargs)
        (inputs[path],) = args
        return call(*args, **kwargs) + offsets[path]

    with nn.intercept_methods(watch):
        return net.apply(vars, x, train=False)[0], inputs


def _dense_layers(net: Net, vars: Variables, x: Array) -> list[tuple[tuple, _Layer]] | None:
    """(path, layer) of a network all of whose parameters are those of dense layers, else None."""
    calls = []

    def watch(call: Callable, args: tuple, kwargs: dict, context: Any) -> Any:
        output = call(*args, **kwargs)
        if isinstance(context.module, nn.Dense | Dense) and context.method_name == "__call__":
            shapes = (jax.ShapeDtypeStruct(leaf.shape, leaf.dtype) for leaf in (*args, output))
            calls.append((context.module.path, *shapes))
        return output

    def forward(vars: Variables, x: Array) -> Array:
        with nn.intercept_methods(watch):
            return net.apply(vars, x, train=False)[0]

    jax.eval_shape(forward, vars, x)
    leaves = jax.tree_util.tree_leaves_with_path(vars.params)
    shapes = {tuple(getattr(k, "key", k) for k in path): leaf.shape for path, leaf in leaves}
    found = {}
    for path, given, output in calls:
        kernel = (*given.shape[1:], *output.shape[1:])
        once = path not in found and len(given.shape) == 2 and len(given) == len(x)
        if not once or shapes.pop((*path, "kernel"), None) != kernel:
            return None
        found[path] = _Layer(given, output, int(shapes.pop((*path, "bias"), None) is not None))
    return None if shapes else list(found.items())


def _explicit(net: Net, vars: Variables, x: Array, losses: RowLosses, targets: PyTree) -> Array:
    """The same of any network whose rows are independent."""

    def loss(params: PyTree, x: Array, targets: PyTree) -> Array:
        outputs, _ = net.apply(vars.replace(params=params), x[None], train=False)
        return losses(outputs, jax.tree.map(lambda leaf: leaf[None], targets))[0]

    each = jax.vmap(jax.grad(loss), (None, 0, 0))(vars.params, x, targets)
    return sum(_products(leaf) for leaf in jax.tree.leaves(each))


def _products(rows: Array) -> Array:
    """float[b, b]: of every two rows."""
    flat = rows.reshape(len(rows), -1)
    flat = flat.astype(jnp.promote_types(flat.dtype, jnp.float32))
    return jnp.matmul(flat, flat.T, precision="highest")
