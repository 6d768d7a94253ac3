"""The dense layers of a network that has no other parameters: what goes in, and the loss's slopes.

At one example the gradient of such a layer's kernel is an outer product, of the layer's input a and
the loss's slope d at its output, and that of its bias is d. So sums over gradients need none.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.core.tracers import current_trace

from cls_jax.core.types import Array, Variables
from cls_jax.nets.base import Net
from cls_jax.nets.layers import Dense


class DenseLayer(NamedTuple):
    """A dense layer that is called once: the shape of its output; 1 if it has a bias, else 0."""

    output: jax.ShapeDtypeStruct
    bias: int


def dense_layers(net: Net, vars: Variables, x: Array) -> dict[tuple, DenseLayer] | None:
    """Those of a network all of whose parameters are those of linen's or our dense layers, by path.

    None for any other network.

    Args:
      net, vars: the network.
      x: inputs float[b, ...].
    """
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
        found[path] = DenseLayer(output, int(shapes.pop((*path, "bias"), None) is not None))
    return None if shapes else found


def outputs_with(
    net: Net,
    vars: Variables,
    x: Array,
    add: Callable[[tuple, Array], Array],
    layers: dict[tuple, DenseLayer],
    *,
    train: bool,
) -> Array:
    """The network's outputs with something added to those of its dense layers.

    Args:
      net, vars: the network.
      x: inputs float[b, ...].
      add: (path of a layer, its input float[b, n]) -> float[b, m].
      layers: of ``dense_layers``.
      train: in which mode the network goes forward.
    """

    def watch(call: Callable, args: tuple, kwargs: dict, context: Any) -> Any:
        path = context.module.path
        if path not in layers or context.method_name != "__call__":
            return call(*args, **kwargs)
        output = call(*args, **kwargs)
        return output + add(path, *args).astype(output.dtype)

    with nn.intercept_methods(watch):
        return net.apply(vars, x, train=train)[0]


def inputs_and_slopes(
    net: Net,
    vars: Variables,
    x: Array,
    loss: Callable[[Array], Array],
    layers: dict[tuple, DenseLayer],
    *,
    train: bool,
) -> tuple[dict[tuple, Array], dict[tuple, Array]]:
    """What each dense layer is given, and the slope of a loss at its output.

    Args:
      net, vars: the network.
      x: inputs float[b, ...].
      loss: outputs -> float[].
      layers: of ``dense_layers``, for as many rows.
      train: in which mode the network goes forward.

    Returns:
      By path: float[b, n], float[b, m].
    """

    def of_offsets(offsets: dict) -> tuple[Array, dict]:
        inputs = {}

        def add(path: tuple, given: Array) -> Array:
            inputs[path] = given
            return offsets[path]

        return loss(outputs_with(net, vars, x, add, layers, train=train)), inputs

    outputs = {path: layer.output for path, layer in layers.items()}
    zeros = {path: jnp.zeros(shape.shape, shape.dtype) for path, shape in outputs.items()}
    slopes, inputs = jax.grad(of_offsets, has_aux=True)(zeros)
    return inputs, slopes
