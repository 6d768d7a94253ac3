"""What stands on an extractor for a self-supervised task: a rotation learner, a projection."""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import flax.linen as nn

from cls_jax.core.types import Array, PyTree, Variables
from cls_jax.nets.blocks import BasicBlock
from cls_jax.nets.extractor import Features
from cls_jax.nets.layers import Dense, kaiming_kernel, keeping_dtype
from cls_jax.nets.linen import apply_linen, init_linen

PROJECTION = 128


class Learner(NamedTuple):
    """``init(key, seen) -> Variables``, ``apply(vars, seen, train=…, valid=…) -> (float32[b, d],
    stats)``."""

    init: Callable[[Array, Features], Variables]
    apply: Callable[..., tuple[Array, PyTree]]


class _Rotation(nn.Module):
    @nn.compact
    def __call__(self, seen: Features, *, train: bool, valid: Array | None = None) -> Array:
        if seen.maps is None:
            return seen.features
        x = seen.maps
        for number in range(2):
            name, dtype = f"block{number}", str(x.dtype)
            block = BasicBlock(x.shape[-1], dtype=dtype, kernel_init=kaiming_kernel, name=name)
            x = block(x, train=train, valid=valid)
        return x.astype(keeping_dtype(x.dtype)).mean((1, 2))


class _Projection(nn.Module):
    dtype: str

    @nn.compact
    def __call__(self, seen: Features, *, train: bool, valid: Array | None = None) -> Array:
        del train, valid
        size = seen.features.shape[-1]
        hidden = nn.relu(Dense(size, dtype=self.dtype, name="hidden")(seen.features))
        return Dense(PROJECTION, dtype=self.dtype, name="out")(hidden)


def rotation_learner() -> Learner:
    """Two residual blocks on the extractor's maps, pooled: features that tell how far it is turned.

    On a perceptron, which has no maps, they are the extractor's own features.

    Source: Wu et al. 2021 (SPB-I), section 3.3.
    """
    return _learner(_Rotation())


def projection(dtype: str = "float32") -> Learner:
    """Dense, ReLU, Dense to 128 numbers on the features: what two views of an image share.

    ``dtype`` is the compute dtype, float32 or more.

    Source: Wu et al. 2021 (SPB-I), section 3.3; the hidden layer is as wide as the features (ours,
      and in chaht01/Co2L).
    """
    return _learner(_Projection(dtype))


def _learner(module: nn.Module) -> Learner:
    return Learner(lambda key, seen: init_linen(key, module, seen), partial(apply_linen, module))
