"""The multilayer perceptron of the MNIST experiments."""

import math
from collections.abc import Sequence
from functools import partial

import flax.linen as nn
import jax.numpy as jnp

from cls_jax.mesh import spread
from cls_jax.nets.net import Net
from cls_jax.types import Array, InputError, PyTree, Variables


class _Mlp(nn.Module):
    num_classes: int
    hidden: tuple[int, ...]

    @nn.compact
    def __call__(self, x: Array, *, features: bool = False) -> Array:
        x = x.reshape(x.shape[0], -1)
        xavier = nn.initializers.xavier_uniform()
        for number, size in enumerate((*self.hidden, self.num_classes)):
            if number > 0:
                x = nn.relu(x)
            if features and number == len(self.hidden):
                return x
            layer = nn.Dense(size, kernel_init=xavier, param_dtype=x.dtype, name=f"fc{number + 1}")
            x = layer(x)
        return x


def mlp(num_classes: int, hidden: Sequence[int] = (100, 100)) -> Net:
    """A perceptron with ReLU layers over the flattened input; outputs are float32 logits.

    Args:
      num_classes: size of the output.
      hidden: sizes of the hidden layers; ``()`` is a linear classifier.

    Returns:
      Net; ``apply(vars, x float32[b, ...], train=…) -> (float32[b, num_classes], {})``. It has no
      BatchNorm, so ``train`` and ``valid`` change nothing. Its features are the last hidden layer.

    Raises:
      InputError: a size is below 1.

    Example:
      >>> import jax
      >>> net = mlp(num_classes=10)
      >>> vars = net.init(jax.random.key(0), jax.numpy.zeros((1, 28, 28, 1)))
      >>> sum(p.size for p in jax.tree.leaves(vars.params))
      89610

    Source: CLS-ER, NeurAI-Lab/CLS-ER backbone/MNISTMLP.py: 784-100-100-10, Xavier-uniform kernels
      (bound sqrt(6 / (fan_in + fan_out))), zero biases.
    """
    if num_classes < 1:
        raise InputError(f"num_classes = {num_classes}: give the number of classes, at least 1.")
    for size in hidden:
        if size < 1:
            raise InputError(f"hidden = {tuple(hidden)}: every layer needs at least 1 unit.")
    module = _Mlp(num_classes, tuple(hidden))

    def init(key: Array, x: Array) -> Variables:
        # One row is enough to fix the shapes, and a whole batch would be computed.
        row = jnp.zeros((1, math.prod(x.shape[1:])), jnp.promote_types(x.dtype, jnp.float32))
        return Variables(params=module.init(key, row)["params"], stats={})

    def apply(
        vars: Variables,
        x: Array,
        *,
        train: bool,
        valid: Array | None = None,
        features: bool = False,
    ) -> tuple[Array, PyTree]:
        del train, valid
        return module.apply({"params": vars.params}, spread(x), features=features), {}

    head = f"fc{len(hidden) + 1}"
    return Net(init, apply, features=partial(apply, features=True), head=head)
