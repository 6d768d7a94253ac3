"""Feature extractors without a classifier: what methods with heads of their own look through.

Their features may be negative: the last ReLU is left out, so that angles between features fill the
whole sphere.
"""

from functools import partial
from typing import NamedTuple, Protocol

import flax.linen as nn

from cls_jax.core.errors import InputError
from cls_jax.core.types import Array, PyTree, Variables
from cls_jax.nets.base import InitVarsFn
from cls_jax.nets.layers import Conv, Dense, keeping_dtype
from cls_jax.nets.linen import apply_linen, check_net, init_of


class Features(NamedTuple):
    """What an extractor makes of a batch.

    Attributes:
      features: float32[b, d].
      maps: float[b, h, w, c] the last feature maps before pooling; None of a perceptron.
    """

    features: Array
    maps: Array | None


class ExtractFn(Protocol):
    """Forward pass: ``(what is seen, BatchNorm statistics after it)``; see ``net.ApplyFn``."""

    def __call__(
        self, vars: Variables, x: Array, /, *, train: bool, valid: Array | None = None
    ) -> tuple[Features, PyTree]: ...


class Extractor(NamedTuple):
    """``init(key, x) -> Variables``, ``apply(vars, x, train=…) -> (Features, stats)``.

    Attributes:
      init, apply: the network.
    """

    init: InitVarsFn
    apply: ExtractFn


def extractor_of_module(module: nn.Module) -> Extractor:
    """What a module of ours that gives Features is."""
    return Extractor(init_of(module), partial(apply_linen, module))


class _Small(nn.Module):
    width: int
    dtype: str

    @nn.compact
    def __call__(self, x: Array, *, train: bool, valid: Array | None = None) -> Features:
        del train, valid
        for number, features in enumerate((self.width, 2 * self.width)):
            layer = Conv(features, stride=2, use_bias=True, dtype=self.dtype, name=f"conv{number}")
            x = nn.relu(layer(x))
        flat = x.reshape(x.shape[0], -1).astype(keeping_dtype(self.dtype))
        return Features(Dense(2 * self.width, name="dense")(flat), x)


def small_extractor(width: int = 16, dtype: str = "float32") -> Extractor:
    """Two 3x3 convolutions of stride 2 with ReLU, then a Dense layer without one; no BatchNorm.

    Args:
      width: channels of the first convolution; the second has, and the features are, twice as many.
      dtype: compute dtype of the convolutions.

    Raises:
      InputError: a size is below 1, or the dtype is unknown.

    Source: spb card, section 11 (16, 32, Dense 32, for 8x8 digits).
    """
    check_net(1, dtype, width)
    module = _Small(width, dtype)
    return extractor_of_module(module)


class _Flat(nn.Module):
    hidden: tuple[int, ...]
    dtype: str

    @nn.compact
    def __call__(self, x: Array, *, train: bool, valid: Array | None = None) -> Features:
        del train, valid
        x = x.reshape(x.shape[0], -1)
        for number, size in enumerate(self.hidden):
            x = Dense(size, dtype=self.dtype, name=f"fc{number + 1}")(nn.relu(x) if number else x)
        return Features(x.astype(keeping_dtype(self.dtype)), None)


def flat_extractor(hidden: tuple[int, ...] = (100, 100), dtype: str = "float32") -> Extractor:
    """A perceptron over the flattened input, with ReLU between its layers and none behind.

    Args:
      hidden: sizes of the layers; the last is that of the features.
      dtype: compute dtype.

    Raises:
      InputError: no layer, a size below 1, or an unknown dtype.
    """
    check_net(1, dtype)
    if not hidden or min(hidden) < 1:
        raise InputError(f"hidden = {tuple(hidden)}: give at least one layer of at least 1 unit.")
    module = _Flat(tuple(hidden), dtype)
    return extractor_of_module(module)
