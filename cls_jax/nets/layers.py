"""Layers that mean what PyTorch's mean: initialisers, convolution, BatchNorm with padding, pools.

Images are float[b, h, w, c]. Parameters and statistics are float32 whatever the compute dtype
(float64 when that is asked for, as the parity tests do).
"""

from collections.abc import Callable

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


class BatchNorm(nn.Module):
    """float[b, ..., c] normalised over every axis but the last, then scaled and shifted.

    In training ``y = (x - mean) / sqrt(var + eps) * scale + bias`` with the batch's own mean and
    biased variance over the valid rows, and the running statistics move a tenth of the way to the
    batch's. Sums run over space first and rows are weighed afterwards, so the mask costs nothing
    that has the size of ``x``. With no valid row the running statistics normalise and stay.

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

        def moments(mean: Array, var: Array, count: Array) -> tuple[Array, Array]:
            """By which a batch of these moments is normalised, once it has moved the statistics."""
            if not self.is_initializing():
                factor = count / jnp.maximum(count - 1, 1) if self.unbiased_running else 1.0
                step_size = self.momentum * (count > 0)
                for running, batch in ((running_mean, mean), (running_var, var * factor)):
                    old = running.value
                    running.value = old + step_size * (lax.stop_gradient(batch) - old)
            if valid is None:
                return mean, var
            some = count > 0
            mean = jnp.where(some, mean, running_mean.value)
            return mean, jnp.where(some, var, running_var.value)

        if not train:
            mean, var = running_mean.value, running_var.value
        elif valid is None or valid.ndim == 1:
            mean, var = moments(*batch_moments(x.astype(keep), valid))
        else:
            batches = x.astype(keep).reshape(*valid.shape, *x.shape[1:])
            each = zip(*jax.vmap(batch_moments)(batches, valid), strict=True)
            of_batch = map(jnp.stack, zip(*(moments(*one) for one in each), strict=True))
            mean, var = (_of_rows(one, x) for one in of_batch)
        gain = scale * lax.rsqrt(var + self.epsilon)
        return ((x.astype(keep) - mean) * gain + bias).astype(self.dtype)


def _of_rows(each: Array, x: Array) -> Array:
    """float[b, 1, ..., c]: the values float[g, c] of g batches, for each row of ``x``."""
    return jnp.repeat(each, len(x) // len(each), 0).reshape(len(x), *(1,) * (x.ndim - 2), -1)


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


def max_pool_2x2(x: Array) -> Array:
    """float[b, ceil(h/2), ceil(w/2), c]: maxima of 2x2 windows, the last ones cut by the border.

    Source: torch.nn.MaxPool2d(2, 2, ceil_mode=True).
    """
    x = _pad(x, (0, x.shape[1] % 2), (0, x.shape[2] % 2))
    columns = _first_max(x[:, :, ::2], x[:, :, 1::2])
    return _first_max(columns[:, ::2], columns[:, 1::2])


def max_pool_3x3(x: Array) -> Array:
    """float[b, ceil(h/2), ceil(w/2), c]: maxima of 3x3 windows, two apart, around even pixels.

    Source: torch.nn.MaxPool2d(3, 2, padding=1).
    """
    x = _pad(x, (1, x.shape[1] % 2), (1, x.shape[2] % 2))
    columns = _first_max(_first_max(x[:, :, :-1:2], x[:, :, 1::2]), x[:, :, 2::2])
    return _first_max(_first_max(columns[:, :-1:2], columns[:, 1::2]), columns[:, 2::2])


def _first_max(a: Array, b: Array) -> Array:
    """The larger one, NaN if one is; equal ones are ``a``, which has the whole gradient.

    So of equal numbers in a window the first one, row by row, has it, as in PyTorch;
    ``jnp.maximum`` gives each a share.
    """
    return jnp.where((b > a) | jnp.isnan(b), b, a)


def _pad(x: Array, rows: tuple[int, int], columns: tuple[int, int]) -> Array:
    """``x`` with minus infinity around it."""
    return jnp.pad(x, ((0, 0), rows, columns, (0, 0)), constant_values=-jnp.inf)


class BasicBlock(nn.Module):
    """float[b, h', w', features]: two 3x3 convolutions and a shortcut, ReLU after the sum.

    Attributes:
      features: output channels.
      stride: of the first convolution; the shortcut is the identity where shapes allow.
      dtype: compute dtype.
      unbiased_running: see BatchNorm.
      kernel_init: initialiser of the convolutions.
      last_relu: False leaves out the ReLU after the sum.

    Source: aimagelab/mammoth, backbone/ResNet18.py, BasicBlock.
    """

    features: int
    stride: int = 1
    dtype: str = "float32"
    unbiased_running: bool = True
    kernel_init: Callable[..., Array] = torch_kernel
    last_relu: bool = True

    @nn.compact
    def __call__(self, x: Array, *, train: bool, valid: Array | None = None) -> Array:
        """Two convolutions and the shortcut; ``train`` and ``valid`` as in BatchNorm."""

        def norm(name: str, y: Array) -> Array:
            layer = BatchNorm(self.unbiased_running, self.dtype, name=name)
            return layer(y, train=train, valid=valid)

        def conv(name: str, y: Array, kernel: int = 3, stride: int = 1) -> Array:
            kind = {"dtype": self.dtype, "kernel_init": self.kernel_init, "name": name}
            return Conv(self.features, kernel, stride, **kind)(y)

        y = nn.relu(norm("bn1", conv("conv1", x, stride=self.stride)))
        y = norm("bn2", conv("conv2", y))
        if self.stride != 1 or x.shape[-1] != self.features:
            x = norm("shortcut_bn", conv("shortcut_conv", x, kernel=1, stride=self.stride))
        return nn.relu(y + x) if self.last_relu else y + x


class Stage(nn.Module):
    """Two BasicBlocks, the first with ``stride``: one ``layer`` of a ResNet-18."""

    features: int
    stride: int = 1
    dtype: str = "float32"
    unbiased_running: bool = True

    @nn.compact
    def __call__(self, x: Array, *, train: bool, valid: Array | None = None) -> Array:
        """Both blocks in turn; ``train`` and ``valid`` as in BatchNorm."""
        for number, stride in enumerate((self.stride, 1)):
            block = BasicBlock(
                self.features, stride, self.dtype, self.unbiased_running, name=f"block{number}"
            )
            x = block(x, train=train, valid=valid)
        return x
