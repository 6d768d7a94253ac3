"""DualNet's two networks: a slow ResNet-18 trunk and a fast convnet that adapts its features."""

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple, Protocol

import flax.linen as nn
import jax.numpy as jnp

from cls_jax.core.types import Array, PyTree, Variables
from cls_jax.nets.base import InitVarsFn
from cls_jax.nets.blocks import Stage
from cls_jax.nets.layers import (
    BatchNorm,
    Conv,
    Dense,
    keeping_dtype,
    masked_channels,
)
from cls_jax.nets.linen import apply_linen, check_net, init_linen
from cls_jax.nets.pooling import max_pool_2x2, max_pool_3x3

HEAD_SIZE = 256
"""Hidden units of projector and predictor, at every width."""

Maps = tuple[Array, Array, Array, Array]
"""h1..h4, float[b, h, w, c] in the compute dtype; each has half the side of the one before."""


class Embedding(NamedTuple):
    """What the self-supervised loss sees.

    Attributes:
      z: float32[b, 8 width], the projection.
      p: float32[b, 8 width], the predictor's output on z; None in a network without predictor.
    """

    z: Array
    p: Array | None


class FeaturesFn(Protocol):
    """The four maps of the slow trunk, and the whole slow stats tree after it.

    The projector takes no part and its statistics stay. ``train`` and ``valid`` as in ApplyFn.
    ``masks`` float32[b, c], one a map, multiply it before it goes on; () for none.
    """

    def __call__(
        self,
        slow: Variables,
        x: Array,
        /,
        *,
        train: bool,
        valid: Array | None = None,
        masks: Sequence[Array] = (),
    ) -> tuple[Maps, PyTree]: ...


class EmbedFn(Protocol):
    """The projection of the slow trunk's pooled last map, and the whole slow stats tree after it.

    ``z = projector(gap(h4))``; ``train`` and ``valid`` as in ApplyFn, ``masks`` as in FeaturesFn.
    """

    def __call__(
        self,
        slow: Variables,
        x: Array,
        /,
        *,
        train: bool,
        valid: Array | None = None,
        masks: Sequence[Array] = (),
    ) -> tuple[Embedding, PyTree]: ...


class ClassifyFn(Protocol):
    """float32[b, num_classes] logits of the fast net that adapts ``maps``, and its stats after it.

    ``m1 = f_conv1(x) * h1; m_l = f_conv_l(m_{l-1}) * h_l; logits = linear(gap(m4))``. With
    ``masks`` M_l, float32[b, c] of zeros and ones, each factor f is ``M f``, or if ``neutral``
    ``1 + M (f - 1)``: what is masked leaves the slow map as it is.
    """

    def __call__(
        self,
        fast: Variables,
        x: Array,
        maps: Maps,
        /,
        *,
        train: bool,
        valid: Array | None = None,
        masks: Sequence[Array] = (),
        neutral: bool = False,
    ) -> tuple[Array, PyTree]: ...


class DualNets(NamedTuple):
    """Pure functions over two separate trees, slow and fast.

    ``init_slow(key, x)`` and ``init_fast(key, x)`` give Variables for inputs shaped like ``x``;
    ``predictor`` tells whether ``embed`` gives a ``p``. The others take ``valid`` bool[g, b / g],
    of g batches, as BatchNorm does.
    """

    init_slow: InitVarsFn
    init_fast: InitVarsFn
    features: FeaturesFn
    embed: EmbedFn
    classify: ClassifyFn
    predictor: bool = False


class _Head(nn.Module):
    """Dense, BatchNorm, ReLU, Dense: the projector and the predictor."""

    hidden: int
    features: int
    unbiased_running: bool
    dtype: str

    @nn.compact
    def __call__(self, x: Array, *, train: bool, valid: Array | None = None) -> Array:
        x = Dense(self.hidden, use_bias=False, dtype=self.dtype, name="fc1")(x)
        norm = BatchNorm(self.unbiased_running, self.dtype, name="bn")
        x = nn.relu(norm(x, train=train, valid=valid))
        return Dense(self.features, use_bias=False, dtype=self.dtype, name="fc2")(x)


class _Slow(nn.Module):
    width: int
    predictor: bool
    dtype: str
    unbiased_running: bool

    def setup(self) -> None:
        width, kind = self.width, (self.dtype, self.unbiased_running)
        self.conv1 = Conv(width, dtype=self.dtype)
        self.bn1 = BatchNorm(self.unbiased_running, self.dtype)
        self.layer1 = Stage(width, 1, *kind)
        self.layer2 = Stage(2 * width, 2, *kind)
        self.layer3 = Stage(4 * width, 2, *kind)
        self.layer4 = Stage(8 * width, 2, *kind)
        head = (HEAD_SIZE, 8 * width, self.unbiased_running, str(keeping_dtype(self.dtype)))
        self.projector = _Head(*head)
        if self.predictor:
            self.predictor_head = _Head(*head, name="predictor")

    def features(
        self, x: Array, *, train: bool, valid: Array | None = None, masks: Sequence[Array] = ()
    ) -> Maps:
        x = self.bn1(self.conv1(x), train=train, valid=valid)
        x = max_pool_3x3(nn.relu(x))
        maps = []
        for number, layer in enumerate((self.layer1, self.layer2, self.layer3, self.layer4)):
            x = layer(x, train=train, valid=valid)
            x = masked_channels(x, masks[number]) if masks else x
            maps.append(x)
        return tuple(maps)

    def __call__(
        self, x: Array, *, train: bool, valid: Array | None = None, masks: Sequence[Array] = ()
    ) -> Embedding:
        last = self.features(x, train=train, valid=valid, masks=masks)[-1]
        pooled = last.astype(keeping_dtype(self.dtype)).mean((1, 2))
        z = self.projector(pooled, train=train, valid=valid)
        p = self.predictor_head(z, train=train, valid=valid) if self.predictor else None
        return Embedding(z, p)


class _Fast(nn.Module):
    num_classes: int
    width: int
    dtype: str
    unbiased_running: bool

    @nn.compact
    def __call__(
        self,
        x: Array,
        maps: Maps,
        *,
        train: bool,
        valid: Array | None = None,
        masks: Sequence[Array] = (),
        neutral: bool = False,
    ) -> Array:
        for number, slow_map in enumerate(maps):
            block = _FastBlock(
                self.width * 2**number,
                self.dtype,
                self.unbiased_running,
                name=f"f_conv{number + 1}",
            )
            adapted = block(x, train=train, valid=valid)
            if masks:
                adapted = masked_factor(adapted, masks[number], neutral=neutral)
            x = adapted * slow_map
        keep = keeping_dtype(self.dtype)
        pooled = x.astype(keep).mean((1, 2))
        return Dense(self.num_classes, dtype=str(keep), name="linear")(pooled)


def masked_factor(factor: Array, mask: Array, *, neutral: bool) -> Array:
    """``M f``, or if ``neutral`` ``M f + 1 - M``, which is ``1 + M (f - 1)`` for M of 0 and 1.

    Args:
      factor: float[b, ..., c], f.
      mask: float32[b, c], M.
      neutral: what is masked is 1 in place of 0.
    """
    kept = masked_channels(factor, mask)
    return kept + masked_channels(jnp.ones_like(factor), 1 - mask) if neutral else kept


class _FastBlock(nn.Module):
    features: int
    dtype: str
    unbiased_running: bool

    @nn.compact
    def __call__(self, x: Array, *, train: bool, valid: Array | None = None) -> Array:
        x = Conv(self.features, use_bias=True, dtype=self.dtype, name="conv")(x)
        norm = BatchNorm(self.unbiased_running, self.dtype, name="bn")
        return max_pool_2x2(nn.relu(norm(x, train=train, valid=valid)))


def _blank_maps(x: Array, width: int) -> Maps:
    """Zeros shaped like the trunk's maps for images ``x``."""
    maps, (height, breadth) = [], x.shape[1:3]
    for stage in range(4):
        height, breadth = -(-height // 2), -(-breadth // 2)
        maps.append(jnp.zeros((x.shape[0], height, breadth, width * 2**stage), x.dtype))
    return tuple(maps)


def dualnet(
    num_classes: int,
    width: int = 64,
    *,
    predictor: bool = False,
    dtype: str = "float32",
    unbiased_running: bool = True,
) -> DualNets:
    """DualNet's slow and fast networks as pure functions over two trees.

    Slow: conv1, bn1, max-pool, layer1..layer4 (a ResNet-18 trunk), projector[, predictor]. Fast:
    f_conv1..f_conv4 (convolution, BatchNorm, ReLU, max-pool) and linear. Any image side works;
    the two nets agree on every map's size.

    Args:
      num_classes: size of the output.
      width: channels of the first stage; 64 in the paper.
      predictor: adds the predictor that SimSiam and BYOL need (dead weight under Barlow Twins).
      dtype: compute dtype, "float32" or "bfloat16" ("float64" for parity, under x64); parameters,
        statistics, logits and z are float32.
      unbiased_running: the running variance is the unbiased one, as in PyTorch; False: Flax's.

    Returns:
      DualNets; 13,027,989 parameters in both trees at width 64 with 85 classes.

    Raises:
      InputError: a size is below 1, or the dtype is unknown.

    Source: DualNet (NeurIPS 2021); phquang/DualNet, architecture as in the code.
    Departs: no assertion on the image side; the trees are slow and fast as the paper means them
      (the repository's own helpers forget bn1 and f_conv2, and nothing calls them).
    """
    check_net(num_classes, dtype, width)
    slow = _Slow(width, predictor, dtype, unbiased_running)
    fast = _Fast(num_classes, width, dtype, unbiased_running)

    def init_fast(key: Array, x: Array) -> Variables:
        return init_linen(key, fast, x, _blank_maps(x, width))

    return DualNets(
        init_slow=lambda key, x: init_linen(key, slow, x),
        init_fast=init_fast,
        features=partial(apply_linen, slow, method="features"),
        embed=partial(apply_linen, slow),
        classify=partial(apply_linen, fast),
        predictor=predictor,
    )
