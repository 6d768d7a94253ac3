"""Layers that mean what PyTorch's mean: initialisers, convolution, BatchNorm with padding.

Images are float[b, h, w, c]. Parameters and statistics are float32 whatever the compute dtype
(float64 when that is asked for, as the parity tests do).
"""

from collections.abc import Callable
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import DTypeLike

from cls_jax.core.types import Array
from cls_jax.nets.convolution import convolve

torch_kernel = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")
"""PyTorch's default kernel: U(-1/sqrt(fan_in), 1/sqrt(fan_in)); Flax's own default differs."""

kaiming_kernel = nn.initializers.variance_scaling(2.0, "fan_out", "normal")
"""torch.nn.init.kaiming_normal_(mode="fan_out"): N(0, 2 / fan_out), not truncated."""


def torch_bias(fan_in: int) -> Callable[..., Array]:
    """An initialiser that gives PyTorch's default bias, U(-1/sqrt(fan_in), 1/sqrt(fan_in)).

    Args:
      fan_in: inputs that one output sums over (for a convolution: kernel area x input channels).

    Returns:
      ``init(key, shape, dtype) -> float[shape]``.

    Source: torch.nn.Conv2d and torch.nn.Linear, ``reset_parameters``.
    """

    def init(key: Array, shape: tuple[int, ...], dtype: DTypeLike = jnp.float32) -> Array:
        bound = fan_in**-0.5
        return jax.random.uniform(key, shape, dtype, -bound, bound)

    return init


def keeping_dtype(dtype: jnp.dtype | str) -> jnp.dtype:
    """The dtype of parameters and statistics beside this compute dtype: float32 or more."""
    return jnp.promote_types(dtype, jnp.float32)


class Conv(nn.Module):
    """float[b, h', w', features] convolution, padded by ``kernel // 2`` zeros on each side.

    Attributes:
      features: output channels.
      kernel: side of the square kernel, odd.
      stride: step of the window in both directions.
      use_bias: whether a bias is added.
      dtype: compute dtype.
      kernel_init: initialiser of the kernel.

    Source: torch.nn.Conv2d(padding=kernel // 2); kernel stored as (kh, kw, in, out).
    """

    features: int
    kernel: int = 3
    stride: int = 1
    use_bias: bool = False
    dtype: str = "float32"
    kernel_init: Callable[..., Array] = torch_kernel

    @nn.compact
    def __call__(self, x: Array) -> Array:
        side, fan_in = self.kernel, self.kernel**2 * x.shape[-1]
        keep = keeping_dtype(self.dtype)
        shape = (side, side, x.shape[-1], self.features)
        kernel = self.param("kernel", self.kernel_init, shape, keep)
        y = convolve(x.astype(self.dtype), kernel.astype(self.dtype), self.stride)
        if self.use_bias:
            bias = self.param("bias", torch_bias(fan_in), (self.features,), keep)
            y = y + bias.astype(self.dtype)
        return y


class Dense(nn.Module):
    """float[b, features] affine map, initialised as PyTorch does.

    Attributes:
      features: output size.
      use_bias: whether a bias is added.
      dtype: compute dtype.

    Source: torch.nn.Linear; kernel stored as (in, out).
    """

    features: int
    use_bias: bool = True
    dtype: str = "float32"

    @nn.compact
    def __call__(self, x: Array) -> Array:
        fan_in, keep = x.shape[-1], keeping_dtype(self.dtype)
        kernel = self.param("kernel", torch_kernel, (fan_in, self.features), keep)
        y = x.astype(self.dtype) @ kernel.astype(self.dtype)
        if self.use_bias:
            bias = self.param("bias", torch_bias(fan_in), (self.features,), keep)
            y = y + bias.astype(self.dtype)
        return y


Moments = tuple[Array, Array]
"""Mean and variance of each channel, float[c]."""


class BatchNorm(nn.Module):
    """float[b, ..., c] normalised over every axis but the last, then scaled and shifted.

    In training ``y = (x - mean) / sqrt(var + eps) * scale + bias`` with the batch's own mean and
    biased variance over the valid rows, and the running statistics move a tenth of the way to the
    batch's. Sums run over space first and rows are weighed afterwards, so the mask costs nothing
    that has the size of ``x``. With no valid row the running statistics normalise and stay. Its
    pieces are jitted, so that equal layers of a network are traced once.

    Attributes:
      unbiased_running: the running variance gets the batch's unbiased variance (n / (n - 1)), as
        in PyTorch; False is Flax's meaning, the biased one.
      dtype: compute dtype of the output; statistics are float32 always.

    Source: torch.nn.BatchNorm2d and BatchNorm1d (eps 1e-5, torch momentum 0.1).
    Departs: rows can be masked; a batch with a single value a channel is no error (variance 0).
    """

    unbiased_running: bool = True
    dtype: str = "float32"

    momentum = 0.1
    epsilon = 1e-5

    @nn.compact
    def __call__(self, x: Array, *, train: bool, valid: Array | None = None) -> Array:
        """Normalises ``x``; ``valid`` bool[b] (None: every row) says which rows count.

        bool[g, b / g] says that in training the rows are g batches, each normalised by itself, and
        that the running statistics move from one to the next.
        """
        keep, shape = keeping_dtype(self.dtype), (x.shape[-1],)
        scale = self.param("scale", nn.initializers.ones, shape, keep)
        bias = self.param("bias", nn.initializers.zeros, shape, keep)
        running_mean = self.variable("batch_stats", "mean", jnp.zeros, shape, keep)
        running_var = self.variable("batch_stats", "var", jnp.ones, shape, keep)

        def moments(mean: Array, var: Array, count: Array) -> Moments:
            """By which a batch of these moments is normalised, once it has moved the statistics."""
            running = running_mean.value, running_var.value
            if not self.is_initializing():
                unbiased = self.unbiased_running
                running = _moved(running, mean, var, count, unbiased=unbiased)
                running_mean.value, running_var.value = running
            return (mean, var) if valid is None else _where_some(count, (mean, var), running)

        if not train:
            mean, var = running_mean.value, running_var.value
        elif valid is None or valid.ndim == 1:
            mean, var = moments(*batch_moments(x.astype(keep), valid))
        else:
            batches = x.astype(keep).reshape(*valid.shape, *x.shape[1:])
            each = zip(*jax.vmap(batch_moments)(batches, valid), strict=True)
            of_batch = map(jnp.stack, zip(*(moments(*one) for one in each), strict=True))
            mean, var = (_of_rows(one, x) for one in of_batch)
        return _normalised(x, mean, var, scale, bias, dtype=self.dtype)


@partial(jax.jit, static_argnames="unbiased")
def _moved(running: Moments, mean: Array, var: Array, count: Array, *, unbiased: bool) -> Moments:
    """The running statistics after a batch of these moments."""
    factor = count / jnp.maximum(count - 1, 1) if unbiased else 1.0
    step_size = BatchNorm.momentum * (count > 0)

    def move(old: Array, batch: Array) -> Array:
        return old + step_size * (lax.stop_gradient(batch) - old)

    return move(running[0], mean), move(running[1], var * factor)


@jax.jit
def _where_some(count: Array, batch: Moments, running: Moments) -> Moments:
    """The batch's moments, or the running ones where it has no valid row."""
    some = count > 0
    return jnp.where(some, batch[0], running[0]), jnp.where(some, batch[1], running[1])


@partial(jax.jit, static_argnames="dtype")
def _normalised(
    x: Array, mean: Array, var: Array, scale: Array, bias: Array, *, dtype: str
) -> Array:
    gain = scale * lax.rsqrt(var + BatchNorm.epsilon)
    return ((x.astype(scale.dtype) - mean) * gain + bias).astype(dtype)


@jax.jit
def _of_rows(each: Array, x: Array) -> Array:
    """float[b, 1, ..., c]: the values float[g, c] of g batches, for each row of ``x``."""
    return jnp.repeat(each, len(x) // len(each), 0).reshape(len(x), *(1,) * (x.ndim - 2), -1)


@jax.jit
def batch_moments(x: Array, valid: Array | None) -> tuple[Array, Array, Array]:
    """Mean and biased variance of each channel over the valid rows, and how many values they are.

    The variance is the mean squared distance from the mean, in two passes: ``E[x^2] - mean^2``
    would lose every digit in float32 where the mean is a thousand times the deviation.

    Args:
      x: float[b, ..., c].
      valid: bool[b], or None where every row counts.

    Returns:
      ``(mean float[c], var float[c], count float[])``; zeros where nothing counts.
    """
    space = tuple(range(1, x.ndim - 1))
    area = x[0, ..., 0].size

    def total(values: Array) -> Array:
        rows = values.sum(space)
        return (rows if valid is None else jnp.where(valid[:, None], rows, 0)).sum(0)

    count = jnp.asarray(x.shape[0] if valid is None else valid.sum(), x.dtype) * area
    divisor = jnp.maximum(count, 1)
    mean = total(x) / divisor
    return mean, total(jnp.square(x - mean)) / divisor, count


def masked_channels(x: Array, mask: Array) -> Array:
    """float[b, ..., c]: each example's channels times its mask, float32[b, c]."""
    space = (1,) * (x.ndim - 2)
    return x * mask.reshape(mask.shape[0], *space, -1).astype(x.dtype)
