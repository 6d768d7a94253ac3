"""The LeNet of APD's CIFAR experiments: two wide convolutions, two large hidden layers."""

import flax.linen as nn
import jax.numpy as jnp
from jax import lax
from jax.typing import DTypeLike

from cls_jax.core.types import Array
from cls_jax.nets.base import Net
from cls_jax.nets.layers import keeping_dtype
from cls_jax.nets.linen import check_net, net_of_module

_kernel = nn.initializers.variance_scaling(1.0, "fan_in", "truncated_normal")


def _bias(key: Array, shape: tuple[int, ...], dtype: DTypeLike = jnp.float32) -> Array:
    """Drawn like a kernel whose inputs are as many as there are biases."""
    return _kernel(key, (*shape, 1), dtype).reshape(shape)


class _LeNet(nn.Module):
    num_classes: int
    dtype: str

    @nn.compact
    def __call__(
        self, x: Array, *, train: bool, valid: Array | None = None, features: bool = False
    ) -> Array:
        del train, valid
        keep = keeping_dtype(self.dtype)
        kind = {"kernel_init": _kernel, "bias_init": _bias, "param_dtype": keep}
        for number, channels in enumerate((20, 50)):
            conv = nn.Conv(channels, (5, 5), dtype=self.dtype, name=f"conv{number + 1}", **kind)
            x = nn.relu(conv(x.astype(self.dtype)))
            x = nn.max_pool(local_response_norm(x), (3, 3), (2, 2), "SAME")
        x = x.reshape(x.shape[0], -1)
        for number, units in enumerate((800, 500)):
            x = nn.relu(nn.Dense(units, dtype=self.dtype, name=f"fc{number + 1}", **kind)(x))
        x = x.astype(keep)
        return x if features else nn.Dense(self.num_classes, dtype=keep, name="fc3", **kind)(x)


def local_response_norm(x: Array) -> Array:
    """``x_c / (1 + 0.001 / 9 sum_{|k - c| <= 4} x_k^2)^0.75``: a channel against its neighbours.

    Computed in float32 or more, given back in the dtype of ``x`` [b, h, w, c].

    Source: apd card, section 3; tf.nn.local_response_normalization(4, 1.0, 0.001 / 9, 0.75).
    """
    wide, channel = x.astype(keeping_dtype(x.dtype)), jnp.arange(x.shape[-1])
    near = jnp.abs(channel - channel[:, None]) <= 4
    power = jnp.matmul(wide * wide, near.astype(wide.dtype), precision=lax.Precision.HIGHEST)
    return (wide * (1 + 0.001 / 9 * power) ** -0.75).astype(x.dtype)


def lenet(num_classes: int, dtype: str = "float32") -> Net:
    """Convolution 5x5 20, convolution 5x5 50, 800 and 500 units; outputs are float32 logits.

    After each convolution: ReLU, local response normalisation, a 3x3 maximum two pixels apart.

    Args:
      num_classes: size of the output.
      dtype: compute dtype, "float32" or "bfloat16"; parameters, the last layer and its logits are
        float32.

    Returns:
      Net; ``apply(vars, x float32[b, h, w, c], train=…) -> (float32[b, num_classes], {})``; it has
      no BatchNorm. Its features are float32[b, 500].

    Raises:
      InputError: num_classes is below 1, or the dtype is unknown.

    Source: apd card, section 3; jaehong31/APD: on 32x32x3 images 2,986,500 weights before the last
      layer; kernels truncated normal of std 1 / sqrt(fan_in), biases as if their number were it.
    """
    check_net(num_classes, dtype)
    module = _LeNet(num_classes, dtype)
    return net_of_module(module, "fc3")
