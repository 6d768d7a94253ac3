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
from flax.core.tracers import current_trace

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
        return _one_by_one(net, vars, x, losses, targets)
    return _by_layers(net, vars, x, losses, targets, layers)


class _Layer(NamedTuple):
    """A dense layer that is called once: the shape of its output; 1 if it has a bias."""

    output: jax.ShapeDtypeStruct
    bias: int


def _by_layers(
    net: Net,
    vars: Variables,
    x: Array,
    losses: RowLosses,
    targets: PyTree,
    layers: dict[tuple, _Layer],
) -> Array:
    """The matrix from each layer's inputs and slopes."""

    def total(offsets: dict) -> tuple[Array, dict]:
        outputs, inputs = _watched(net, vars, x, offsets)
        return losses(outputs, targets).sum(), inputs

    shapes = {path: layer.output for path, layer in layers.items()}
    zeros = {path: jnp.zeros(shape.shape, shape.dtype) for path, shape in shapes.items()}
    slopes, inputs = jax.grad(total, has_aux=True)(zeros)
    each = [
        (_products(inputs[path]) + layer.bias) * _products(slopes[path])
        for path, layer in layers.items()
    ]
    return jnp.asarray(sum(each))


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


def _dense_layers(net: Net, vars: Variables, x: Array) -> dict[tuple, _Layer] | None:
    """Those of a network all of whose parameters are those of dense layers, by path; else None."""
    paths, elsewhere = [], []

    def forward(vars: Variables, x: Array) -> list[tuple[Array, Array]]:
        calls, here = [], current_trace()

        def watch(call: Callable, args: tuple, kwargs: dict, context: Any) -> Any:
            output = call(*args, **kwargs)
            if isinstance(context.module, nn.Dense | Dense) and context.method_name == "__call__":
                paths.append(context.module.path)
                elsewhere.append(current_trace() != here)
                calls.append((*args, output))
            return output

        with nn.intercept_methods(watch):
            net.apply(vars, x, train=False)
        return calls

    calls = jax.eval_shape(forward, vars, x)
    if any(elsewhere):  # in a program of its own, as of nn.remat, out of which nothing comes
        return None
    leaves = jax.tree_util.tree_leaves_with_path(vars.params)
    shapes = {tuple(getattr(k, "key", k) for k in path): leaf.shape for path, leaf in leaves}
    found = {}
    for path, (given, output) in zip(paths, calls, strict=True):
        kernel = (*given.shape[1:], *output.shape[1:])
        plain = len(given.shape) == 2 and len(given) == len(x)
        if not plain or shapes.pop((*path, "kernel"), None) != kernel:  # popped once alone
            return None
        found[path] = _Layer(output, int(shapes.pop((*path, "bias"), None) is not None))
    return None if shapes else found


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
