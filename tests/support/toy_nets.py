"""Networks with all that a method can see, BatchNorm included, compiled in seconds."""

from functools import partial

import flax.linen as nn
import jax.numpy as jnp

from cls_jax.nets.base import Net
from cls_jax.nets.dualnet import DualNets, Embedding
from cls_jax.nets.layers import BatchNorm, Conv, Dense, max_pool_2x2
from cls_jax.nets.linen import apply_linen, init_linen

WIDTHS = (2, 3)


class Slow(nn.Module):
    predictor: bool
    dtype: str

    def setup(self):
        self.convs = [Conv(width, dtype=self.dtype) for width in WIDTHS]
        self.norms = [BatchNorm(dtype=self.dtype) for _ in WIDTHS]
        self.projector = Dense(4)
        self.predictor_head = Dense(4)

    def features(self, x, *, train, valid=None):
        maps = []
        for conv, norm in zip(self.convs, self.norms, strict=True):
            x = max_pool_2x2(nn.relu(norm(conv(x), train=train, valid=valid)))
            maps.append(x)
        return tuple(maps)

    def __call__(self, x, *, train, valid=None):
        last = self.features(x, train=train, valid=valid)[-1]
        z = self.projector(last.astype(jnp.float32).mean((1, 2)))
        return Embedding(z, self.predictor_head(z) if self.predictor else None)


class Fast(nn.Module):
    num_classes: int
    dtype: str

    @nn.compact
    def __call__(self, x, maps, *, train, valid=None):
        for width, slow_map in zip(WIDTHS, maps, strict=True):
            x = Conv(width, dtype=self.dtype)(x)
            x = nn.relu(BatchNorm(dtype=self.dtype)(x, train=train, valid=valid))
            x = max_pool_2x2(x) * slow_map
        return Dense(self.num_classes)(x.astype(jnp.float32).mean((1, 2)))


def toy_dualnets(num_classes: int, *, predictor: bool = False, dtype: str = "float32") -> DualNets:
    """Two stages instead of four, one convolution each, BatchNorm included."""
    slow, fast = Slow(predictor, dtype), Fast(num_classes, dtype)

    def init_fast(key, x):
        maps, side = [], x.shape[1]
        for width in WIDTHS:
            side = -(-side // 2)
            maps.append(jnp.zeros((x.shape[0], side, side, width), x.dtype))
        return init_linen(key, fast, x, tuple(maps))

    return DualNets(
        init_slow=lambda key, x: init_linen(key, slow, x),
        init_fast=init_fast,
        features=partial(apply_linen, slow, method="features"),
        embed=partial(apply_linen, slow),
        classify=partial(apply_linen, fast),
        predictor=predictor,
    )


class Normed(nn.Module):
    num_classes: int

    @nn.compact
    def __call__(self, x, *, train, valid=None):
        x = Dense(5)(x.reshape(x.shape[0], -1))
        return Dense(self.num_classes)(nn.relu(BatchNorm()(x, train=train, valid=valid)))


def normed_net(num_classes: int) -> Net:
    """A perceptron with BatchNorm: each output depends on the whole batch."""
    module = Normed(num_classes)
    return Net(lambda key, x: init_linen(key, module, x), partial(apply_linen, module))
