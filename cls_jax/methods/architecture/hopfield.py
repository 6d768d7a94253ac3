"""A Hopfield network: patterns of -1 and 1 in one matrix, recalled by descending on an energy.

A pattern z of length d is written into the matrix Psi by Storkey's rule,

  h = Psi z,  Psi <- Psi + (z z' - I - z h' - h z') / d,

and lies then in a valley of E(s) = -s' Psi s / 2. The matrix keeps its size however many patterns
there are; too many, or too similar ones, and the valleys merge.

Source: Storkey 1997 (ICANN), "Increasing the capacity of a Hopfield network without sacrificing
functionality"; as used by RAIVNLab/supsup, models/modules.py, FastHopMaskBN.
"""

import jax
import jax.numpy as jnp
from flax import struct

from cls_jax.core.types import Array


class Hopfield(struct.PyTreeNode):
    """All patterns learned, in constant memory.

    Attributes:
      weights: layer -> float32[d, d], symmetric.
      mean: layer -> float32[d] mean of the patterns.
      stored: int32[] how many there are.
    """

    weights: dict[str, Array]
    mean: dict[str, Array]
    stored: Array


def empty(sizes: dict[str, int]) -> Hopfield:
    """A Hopfield network without a pattern, for layers of these sizes."""
    weights = {name: jnp.zeros((size, size), jnp.float32) for name, size in sizes.items()}
    mean = {name: jnp.zeros(size, jnp.float32) for name, size in sizes.items()}
    return Hopfield(weights=weights, mean=mean, stored=jnp.int32(0))


def stored(hopfield: Hopfield, patterns: dict[str, Array]) -> Hopfield:
    """The Hopfield network with one more pattern in each layer."""
    number = hopfield.stored + 1
    return Hopfield(
        weights=jax.tree.map(storkey, hopfield.weights, patterns),
        mean=jax.tree.map(lambda mean, z: mean + (z - mean) / number, hopfield.mean, patterns),
        stored=number,
    )


def storkey(weights: Array, z: Array) -> Array:
    """The Hopfield network with one more pattern.

    Args:
      weights: float32[d, d] of the patterns so far.
      z: float32[d] of -1 and 1.

    Returns:
      float32[d, d], ``weights + (z z' - I - z h' - h z') / d`` with h = weights z.

    Source: Storkey 1997; supsup card, oracle 9.
    """
    pull = jnp.outer(z, weights @ z)
    return (
        weights + (jnp.outer(z, z) - jnp.eye(z.size, dtype=weights.dtype) - pull - pull.T) / z.size
    )


def energy(weights: Array, s: Array) -> Array:
    """float32[]: ``-s' weights s / 2``; patterns that are stored lie in its valleys."""
    return -0.5 * s @ (weights @ s)
