"""A small vision transformer: patches, pre-norm blocks, the mean over all tokens."""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp

from cls_jax.core.types import Array
from cls_jax.nets.base import Net
from cls_jax.nets.extractor import Extractor, Features, extractor_of_module
from cls_jax.nets.layers import keeping_dtype
from cls_jax.nets.linen import check_net, net_of_module

DEPTH, HEAD_SIZE, EXPANSION = 4, 16, 4
"""Blocks; numbers of one attention head; how many times wider the hidden layer of a block is."""
TOKENS = 8
"""At least so many patches along the longer side of an image of 16 pixels or more."""

Initializer = nn.initializers.Initializer
layer_kernel = nn.initializers.xavier_uniform()
"""Of every layer. Source: google-research/vision_transformer, vit_jax/models_vit.py (there the
patches' is LeCun's and the last one zero, which a cosine head cannot use)."""


def attention(queries: Array, keys: Array, values: Array) -> Array:
    """float[b, heads, n, d]: of the values a mean, weighed by how near their keys are to a query.

    ``softmax(q k^T / sqrt(d)) v`` in every head by itself.

    Args:
      queries, keys, values: float[b, heads, n, d].

    Source: Vaswani et al. 2017, equation 1.
    """
    weights = attention_weights(queries, keys).astype(values.dtype)
    return jnp.einsum("bhnm,bhmd->bhnd", weights, values)


def attention_weights(queries: Array, keys: Array) -> Array:
    """float[b, heads, n, m]: ``softmax(q k^T / sqrt(d))``, float32 or more; see ``attention``."""
    scores = jnp.einsum("bhnd,bhmd->bhnm", queries, keys) / math.sqrt(queries.shape[-1])
    return jax.nn.softmax(scores.astype(keeping_dtype(scores.dtype)))


def patch_size(height: int, width: int) -> int:
    """The side of a patch in pixels: 2 of images of 8 and 28, 4 of 32, 8 of 64, 28 of 224.

    It is the largest that divides both sides and leaves at least 8 patches along the longer one; or
    2, where that would be a pixel.
    """
    most = max(2, max(height, width) // TOKENS)
    return max(side for side in range(1, most + 1) if not height % side and not width % side)


def in_patches(x: Array, side: int) -> Array:
    """float[b, n, side * side * c]: the patches of images [b, h, w, c], row by row."""
    batch, height, width, channels = x.shape
    x = x.reshape(batch, height // side, side, width // side, side, channels)
    return x.transpose(0, 1, 3, 2, 4, 5).reshape(batch, -1, side * side * channels)


def num_heads(width: int, head_size: int = HEAD_SIZE) -> int:
    """Of a token of so many numbers: as many as divide it into ``head_size`` or more, or 1."""
    small = [n for n in range(1, math.isqrt(width) + 1) if not width % n]
    return max(n for d in small for n in (d, width // d) if n <= max(1, width // head_size))


def dense(
    size: int,
    name: str,
    dtype: jnp.dtype,
    kernel_init: Initializer = layer_kernel,
    use_bias: bool = True,
) -> nn.Dense:
    """An affine map, drawn by Glorot's rule if not said otherwise; zero bias.

    Args:
      size: of its output.
      name: within its module.
      dtype: compute dtype.
      kernel_init: of the kernel.
      use_bias: whether a bias is added.
    """
    keep = keeping_dtype(dtype)
    return nn.Dense(size, use_bias, dtype, keep, kernel_init=kernel_init, name=name)


def perceptron(x: Array, dtype: jnp.dtype, kernel_init: Initializer = layer_kernel) -> Array:
    """float[..., width]: a hidden layer of four widths (GELU) and back, of the module it is in.

    Args:
      x: float[..., width].
      dtype: compute dtype.
      kernel_init: of both layers, "fc1" and "fc2".
    """
    width = x.shape[-1]
    hidden = dense(EXPANSION * width, "fc1", dtype, kernel_init)(x)
    return dense(width, "fc2", dtype, kernel_init)(nn.gelu(hidden, approximate=False))


def norm(name: str, dtype: jnp.dtype, epsilon: float = 1e-6) -> nn.LayerNorm:
    """LayerNorm over the numbers of a token; it begins as scale 1 and shift 0.

    Args:
      name: within its module.
      dtype: compute dtype.
      epsilon: added to the variance.
    """
    keep = keeping_dtype(dtype)
    return nn.LayerNorm(epsilon=epsilon, dtype=dtype, param_dtype=keep, name=name)


class _Attention(nn.Module):
    """float[b, n, width]: every token looks at all of them, in several heads."""

    width: int
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: Array) -> Array:
        batch, tokens, heads = *x.shape[:2], num_heads(self.width)
        together = dense(3 * self.width, "qkv", self.dtype)(x)
        split = together.reshape(batch, tokens, 3, heads, -1).transpose(2, 0, 3, 1, 4)
        seen = attention(*split).transpose(0, 2, 1, 3).reshape(batch, tokens, self.width)
        return dense(self.width, "out", self.dtype)(seen)


class _Block(nn.Module):
    """``x + attention(norm(x))``, then ``x + perceptron(norm(x))``: pre-norm."""

    width: int
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: Array) -> Array:
        seen = norm("norm1", self.dtype)(x)
        x = x + _Attention(self.width, self.dtype, name="attention")(seen)
        y = norm("norm2", self.dtype)(x)
        return x + perceptron(y, self.dtype)


class _Trunk(nn.Module):
    width: int
    dtype: str

    @nn.compact
    def __call__(self, x: Array, *, train: bool, valid: Array | None = None) -> Features:
        del train, valid
        kept, dtype = keeping_dtype(self.dtype), jnp.dtype(self.dtype)
        side = patch_size(*x.shape[1:3])
        rows, columns = x.shape[1] // side, x.shape[2] // side
        patches = in_patches(x.astype(dtype), side)
        tokens = dense(self.width, "embed", dtype)(patches)
        places = self.param(
            "places", nn.initializers.normal(0.02), (rows * columns, self.width), kept
        )
        tokens = tokens + places.astype(dtype)
        for number in range(DEPTH):
            tokens = _Block(self.width, dtype, name=f"block{number}")(tokens)
        tokens = norm("norm", dtype)(tokens)
        maps = tokens.reshape(-1, rows, columns, self.width)
        return Features(tokens.astype(kept).mean(1), maps)


class _Classifier(nn.Module):
    num_classes: int
    width: int
    dtype: str

    @nn.compact
    def __call__(
        self, x: Array, *, train: bool, valid: Array | None = None, features: bool = False
    ) -> Array:
        kept = keeping_dtype(self.dtype)
        seen = _Trunk(self.width, self.dtype, name="trunk")(x, train=train, valid=valid).features
        if features:
            return seen
        return dense(self.num_classes, "head", kept)(seen)


def vit(num_classes: int, width: int = 64, dtype: str = "float32") -> Net:
    """A vision transformer of four blocks; outputs are float32 logits.

    Patches (``patch_size``), an affine map and a learned place for each, four pre-norm blocks with
    heads of 16 numbers and a hidden layer of four widths (GELU), LayerNorm, the mean over all
    tokens, Dense. No Dropout and no BatchNorm: nothing is drawn in training, and each answer
    depends on its own image alone.

    Args:
      num_classes: size of the output.
      width: numbers of a token.
      dtype: compute dtype, "float32" or "bfloat16"; parameters, features, logits are float32.

    Returns:
      Net; at width 64 on 32x32x3 images 207,946 parameters with 10 classes. Its features are
      float32[b, width].

    Raises:
      InputError: a size is below 1, or the dtype is unknown.

    Source: Dosovitskiy et al. 2021 (arXiv 2010.11929), section 3.1.
    Departs: the mean over tokens in place of a class token (its appendix D.3, as good), four blocks
      of 64 in place of twelve of 768.
    """
    check_net(num_classes, dtype, width)
    module = _Classifier(num_classes, width, dtype)
    return net_of_module(module, "head")


def vit_extractor(width: int = 64, dtype: str = "float32") -> Extractor:
    """The same without its classifier.

    Args:
      width: numbers of a token, and of the features float32[b, width].
      dtype: compute dtype.

    Raises:
      InputError: a size is below 1, or the dtype is unknown.
    """
    check_net(1, dtype, width)
    module = _Trunk(width, dtype)
    return extractor_of_module(module)
