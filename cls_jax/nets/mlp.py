"""The multilayer perceptron of the MNIST experiments."""

import math
from collections.abc import Sequence
from functools import partial
from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from cls_jax.core.errors import InputError
from cls_jax.core.sharding import spread
from cls_jax.core.types import Array, PyTree, Variables
from cls_jax.nets.base import Net
from cls_jax.nets.layers import keeping_dtype, masked_channels
from cls_jax.nets.linen import check_net, outputs_of


class _Mlp(nn.Module):
    num_classes: int
    hidden: tuple[int, ...]
    dtype: str

    @nn.compact
    def __call__(self, x: Array, *, features: bool = False, masks: Sequence[Array] = ()) -> Array:
        xavier, keep = nn.initializers.xavier_uniform(), keeping_dtype(self.dtype)

        def layer(number: int, size: int, dtype: jnp.dtype | str) -> nn.Dense:
            name = f"fc{number + 1}"
            return nn.Dense(size, kernel_init=xavier, dtype=dtype, param_dtype=keep, name=name)

        x = x.reshape(x.shape[0], -1)
        for number, size in enumerate(self.hidden):
            x = nn.relu(layer(number, size, self.dtype)(x))
            x = masked_channels(x, masks[number]) if masks else x
        x = x.astype(keep)
        return x if features else layer(len(self.hidden), self.num_classes, keep)(x)


def mlp(num_classes: int, hidden: Sequence[int] = (100, 100), dtype: str = "float32") -> Net:
    """A perceptron with ReLU layers over the flattened input; outputs are float32 logits.

    Args:
      num_classes: size of the output.
      hidden: sizes of the hidden layers; ``()`` is a linear classifier.
      dtype: compute dtype of the hidden layers, "float32" or "bfloat16" ("float64" for parity,
        under x64); parameters, features, the last layer and its logits are float32.

    Returns:
      Net; ``apply(vars, x float32[b, ...], train=…) -> (float32[b, num_classes], {})``. It has no
      BatchNorm, so ``train`` and ``valid`` change nothing. Its features are the last hidden layer,
      float32[b, hidden[-1]].

    Raises:
      InputError: a size is below 1, or the dtype is unknown.

    Example:
      >>> import jax
      >>> net = mlp(num_classes=10)
      >>> vars = net.init(jax.random.key(0), jax.numpy.zeros((1, 28, 28, 1)))
      >>> sum(p.size for p in jax.tree.leaves(vars.params))
      89610

    Source: CLS-ER, NeurAI-Lab/CLS-ER backbone/MNISTMLP.py: 784-100-100-10, Xavier-uniform kernels
      (bound sqrt(6 / (fan_in + fan_out))), zero biases.
    """
    check_net(num_classes, dtype)
    for size in hidden:
        if size < 1:
            raise InputError(f"hidden = {tuple(hidden)}: every layer needs at least 1 unit.")
    module = _Mlp(num_classes, tuple(hidden), dtype)

    def init(key: Array, x: Array) -> Variables:
        # One row is enough to fix the shapes, and a whole batch would be computed.
        row = jnp.zeros((1, math.prod(x.shape[1:])), keeping_dtype(dtype))
        return Variables(params=module.init(key, row)["params"], stats={})

    def apply(
        vars: Variables,
        x: Array,
        *,
        train: bool,
        valid: Array | None = None,
        **options: Any,
    ) -> tuple[Array, PyTree]:
        del train, valid
        return outputs_of(module, {"params": vars.params}, spread(x), **options), {}

    return Net(
        init,
        apply,
        features=partial(apply, features=True),
        head=f"fc{len(hidden) + 1}",
        stages=tuple((f"fc{number}", size) for number, size in enumerate(hidden, 1)),
        masked=apply if hidden else None,
    )
