"""How a network answers after a step of plain SGD that is not taken.

Where all layers are dense it adds ``-eta sum_j (a . a_j + 1) d_j`` to a layer's output, a_j its
inputs and d_j the loss's slopes at the examples that are learned. While these are few that costs
less than moving the weights, and the product with the weights as they are is there already.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from cls_jax.core.types import Array, PyTree, Scalar, Variables
from cls_jax.nets.base import Net
from cls_jax.nets.dense_layers import dense_layers, inputs_and_slopes, outputs_with


class VirtualStep(NamedTuple):
    """A step of plain SGD.

    Attributes:
      learned: inputs float[n, ...] of the examples that it learns.
      loss: the network's outputs for them -> float[].
      gradient: of that loss in the parameters.
      learning_rate: float32[], its length.
    """

    learned: Array
    loss: Callable[[Array], Array]
    gradient: PyTree
    learning_rate: Scalar


def outputs_after(net: Net, vars: Variables, step: VirtualStep, x: Array, valid: Array) -> Array:
    """The outputs float[b, ...] for ``x`` after the step, in training mode.

    Args:
      net, vars: the network as it is; its running statistics stay so.
      step: which.
      x: inputs float[b, ...].
      valid: bool[b]; the others are in no batch statistic.
    """
    learned, loss, gradient, learning_rate = step
    leaves, layers = jax.tree.leaves(vars.params), dense_layers(net, vars, learned)
    few = len(learned) * sum(sum(leaf.shape) for leaf in leaves) < sum(leaf.size for leaf in leaves)
    if layers is None or jax.tree.leaves(vars.stats) or not few:
        moved = jax.tree.map(lambda p, g: p - learning_rate * g, vars.params, gradient)
        return net.apply(vars.replace(params=moved), x, train=True, valid=valid)[0]
    inputs, slopes = inputs_and_slopes(net, vars, learned, loss, layers, train=True)

    def moved_by(path: tuple, given: Array) -> Array:
        keep = jnp.promote_types(given.dtype, jnp.float32)
        rows, others, slope = (a.astype(keep) for a in (given, inputs[path], slopes[path]))
        return -learning_rate * ((rows @ others.T + layers[path].bias) @ slope)

    return outputs_with(net, vars, x, moved_by, layers, train=True)
