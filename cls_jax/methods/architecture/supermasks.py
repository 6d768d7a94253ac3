"""Binary masks over frozen weights: how they are drawn, learned, counted and stored.

A supermask is learned through real scores, one for each weight (or unit): the forward pass sees 0
or 1, the backward pass gives the mask's gradient to the scores as it is (straight-through). Two
rules turn scores into masks:

  threshold_mask: 1 where the score is at least 0; about half of fresh scores.
  top_k_mask: 1 at the largest absolute scores of a layer; their number is chosen beforehand.

Weights are stored as (..., inputs, outputs), kernels as (height, width, inputs, outputs).

Source: Wortsman et al., "Supermasks in Superposition", NeurIPS 2020, arXiv 2006.14769;
  RAIVNLab/supsup, and for the second rule Ramanujan et al., "What's Hidden in a Randomly Weighted
  Neural Network?", CVPR 2020 (Edge-Popup).
"""

import math
from functools import partial

import jax
import jax.numpy as jnp

from cls_jax.core.errors import InputError
from cls_jax.core.types import Array


def signed_constant(key: Array, shape: tuple[int, ...]) -> Array:
    """Weights +c or -c with equal chance, c = sqrt(2 / fan_in): Kaiming's size, one magnitude.

    Args:
      key: typed PRNG key.
      shape: (..., inputs, outputs); fan_in is the product of all but the last.

    Returns:
      float32[shape].
    """
    return jnp.sqrt(2 / math.prod(shape[:-1])) * jax.random.rademacher(key, shape, jnp.float32)


def score_init(key: Array, shape: tuple[int, ...]) -> Array:
    """Fresh scores of weights of this shape: U(-1/sqrt(fan_in), 1/sqrt(fan_in)).

    Args:
      key: typed PRNG key.
      shape: (..., inputs, outputs); fan_in is the product of all but the last.

    Returns:
      float32[shape].
    """
    bound = math.prod(shape[:-1]) ** -0.5
    return jax.random.uniform(key, shape, jnp.float32, -bound, bound)


@jax.custom_vjp
def threshold_mask(scores: Array) -> Array:
    """1 where ``scores >= 0``, else 0, in their dtype; gradients pass to the scores unchanged."""
    return (scores >= 0).astype(scores.dtype)


def _threshold_forward(scores: Array) -> tuple[Array, None]:
    return threshold_mask(scores), None


def _threshold_backward(_: None, gradient: Array) -> tuple[Array]:
    return (gradient,)


threshold_mask.defvjp(_threshold_forward, _threshold_backward)


@partial(jax.custom_vjp, nondiff_argnums=(1,))
def top_k_mask(scores: Array, num_kept: int) -> Array:
    """1 at the ``num_kept`` largest absolute scores, else 0; of equal ones the first are kept.

    The gradient of the mask reaches |score| unchanged, hence the score times its sign.

    Args:
      scores: float[...], one layer.
      num_kept: how many ones; part of the program.

    Returns:
      A mask of the scores' shape and dtype.
    """
    size = jnp.abs(scores.ravel())
    _, index = jax.lax.top_k(size, num_kept)
    return jnp.zeros_like(size).at[index].set(1).reshape(scores.shape)


def _top_k_forward(scores: Array, num_kept: int) -> tuple[Array, Array]:
    return top_k_mask(scores, num_kept), jnp.sign(scores)


def _top_k_backward(num_kept: int, sign: Array, gradient: Array) -> tuple[Array]:
    del num_kept
    return (gradient * sign,)


top_k_mask.defvjp(_top_k_forward, _top_k_backward)


def erdos_renyi_density(shape: tuple[int, ...], factor: float) -> float:
    """The share of a layer's weights that a mask keeps: at most half, and more in small layers.

    density = factor (C_in + C_out) / (C_in C_out kh kw), so that a layer keeps about ``factor``
    weights for each of its input and output channels.

    Args:
      shape: (..., inputs, outputs) of the layer.
      factor: s_p of the paper, above 0; 1 to 32 there.

    Returns:
      A number above 0 and at most 0.5.

    Raises:
      InputError: for a factor that is not above 0.
    """
    if not factor > 0:
        raise InputError(f"factor is {factor}; give a density factor above 0, e.g. 4")
    return min(0.5, factor * (shape[-2] + shape[-1]) / math.prod(shape))


def num_kept(shape: tuple[int, ...], density: float) -> int:
    """How many weights a mask of this density keeps: n - int((1 - density) n).

    Raises:
      InputError: for a density outside (0, 1].
    """
    if not 0 < density <= 1:
        raise InputError(f"density is {density}; give a share above 0 and at most 1")
    size = math.prod(shape)
    return size - int((1 - density) * size)


def pack(mask: Array) -> Array:
    """uint8[ceil(n / 8)]: a mask of n entries, any shape and dtype, one bit for each."""
    return jnp.packbits(mask.ravel() != 0)


def unpack(bits: Array, shape: tuple[int, ...]) -> Array:
    """float32[shape] of zeros and ones: the mask that ``pack`` made into ``bits``."""
    return jnp.unpackbits(bits, count=math.prod(shape)).reshape(shape).astype(jnp.float32)
