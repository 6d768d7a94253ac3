"""BNNet: a perceptron without biases that is steered by the scales of its normalisation."""

import itertools
import math
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp

from cls_jax.core.errors import InputError
from cls_jax.core.sharding import spread
from cls_jax.core.types import Array, PyTree, Variables
from cls_jax.nets.base import Net
from cls_jax.nets.layers import batch_moments, keeping_dtype
from cls_jax.nets.linen import check_net

EPSILON = 1e-5


def bnnet(
    num_classes: int,
    hidden: Sequence[int],
    kernel_init: Callable[[Array, tuple[int, ...]], Array],
    dtype: str = "float32",
) -> Net:
    """Linear, normalised and scaled, swish; so for each hidden layer, then linear: the logits.

    A unit whose scale is 0 is gone, since swish(0) = 0 and nothing else is added. Normalisation is
    by the batch at hand, always: there are no running statistics, and a row's output depends on the
    rows beside it.

    Args:
      num_classes: size of the output.
      hidden: sizes of the hidden layers, at least one.
      kernel_init: (key, (inputs, outputs)) -> float32 kernel.
      dtype: compute dtype of the hidden layers, "float32" or "bfloat16"; parameters, statistics,
        the last layer and its logits are float32.

    Returns:
      Net; ``apply(vars, x float32[b, ...], train=…, valid=bool[b]) -> (float32[b, num_classes],
      {})``. ``train`` changes nothing. ``vars.params`` is {"kernels": {"fc1": …}, "scales":
      {"fc1": float32[hidden[0]], …}}; scales begin as ones.

    Raises:
      InputError: there is no hidden layer, a size is below 1, or the dtype is unknown.

    Source: RAIVNLab/supsup, models/small.py, BNNet: 784-2048-2048-10, and models/modules.py,
      FastHopMaskBN: biased batch variance plus 1e-5, no shift.
    """
    check_net(num_classes, dtype)
    if not hidden or min(hidden) < 1:
        raise InputError(f"hidden is {tuple(hidden)}; give at least one layer of at least 1 unit")
    keep, head = keeping_dtype(dtype), f"fc{len(hidden) + 1}"

    def init(key: Array, x: Array) -> Variables:
        sizes = [math.prod(x.shape[1:]), *hidden, num_classes]
        shapes = dict(enumerate(itertools.pairwise(sizes), 1))
        keys = jax.random.split(key, len(shapes))
        kernels = {f"fc{i}": kernel_init(keys[i - 1], shape) for i, shape in shapes.items()}
        scales = {f"fc{i}": jnp.ones(size, keep) for i, size in enumerate(hidden, 1)}
        return Variables(params={"kernels": kernels, "scales": scales}, stats={})

    def apply(
        vars: Variables, x: Array, *, train: bool, valid: Array | None = None
    ) -> tuple[Array, PyTree]:
        del train
        kernels, scales = vars.params["kernels"], vars.params["scales"]
        x = spread(x.reshape(x.shape[0], -1))
        for name, scale in scales.items():
            x = (x.astype(dtype) @ kernels[name].astype(dtype)).astype(keep)
            mean, variance, _ = batch_moments(x, valid)
            x = jax.nn.swish((x - mean) * (scale * jax.lax.rsqrt(variance + EPSILON)))
        return x @ kernels[head], {}

    return Net(init, apply)
