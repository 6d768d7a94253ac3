"""Attention that begins as a convolution: the blocks of a ConViT, of which DyTox's encoder is made.

Every head mixes two maps of weights by a gate g of its own: what a token says of itself (content),
and where it stands (place),

  A = (1 - sigmoid(g)) softmax(q k^T / sqrt(d)) + sigmoid(g) softmax(u (dx, dy, dx^2 + dy^2)^T),

for offsets dx, dy in columns and rows of patches. At first each of k x k heads looks at one place
of a k x k neighbourhood, k^2 the largest square of the number of heads, and values are the tokens
themselves; the heads beyond k^2 look where their random numbers say.

Source: d'Ascoli et al. 2021 (ICML; arXiv 2103.10697), equations 5 to 8 and appendix;
arthurdouillard/dytox, continual/convit.py.
"""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike

from cls_jax.core.types import Array, Scalar
from cls_jax.nets.layers import keeping_dtype
from cls_jax.nets.vit import attention_weights, dense, norm, num_heads, perceptron

EPSILON = 1e-5
"""Of LayerNorm, PyTorch's; Flax has 1e-6."""

layer_kernel = nn.initializers.normal(0.02)
"""Of the layers within blocks. Source: timm's trunc_normal_, which cuts at -2 and 2: nothing."""


class Block(nn.Module):
    """float[b, n, width] of the same: ``x + drop(GPSA(norm(x)))``, ``x + drop(MLP(norm(x)))``.

    Attributes:
      rows, columns: of patches, n in all.
      head_size: numbers of an attention head, see ``num_heads``.
      dtype: compute dtype.
    """

    rows: int
    columns: int
    head_size: int
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: Array, rate: Scalar, *, train: bool) -> Array:
        """``rate`` of examples whose branch is dropped, where ``train``; see ``drop_path``."""
        seen = norm("norm1", self.dtype, EPSILON)(x)
        places = self.rows, self.columns
        seen = _PositionalAttention(*places, self.head_size, self.dtype, name="attention")(seen)
        x = x + self._dropped(seen, rate, train)
        seen = norm("norm2", self.dtype, EPSILON)(x)
        return x + self._dropped(perceptron(seen, self.dtype, layer_kernel), rate, train)

    def _dropped(self, x: Array, rate: Scalar, train: bool) -> Array:
        return drop_path(self.make_rng("drop_path"), x, rate, 1) if train else x


class _PositionalAttention(nn.Module):
    """float[b, n, width]: gated positional self-attention (GPSA)."""

    rows: int
    columns: int
    head_size: int
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: Array) -> Array:
        batch, tokens, width = x.shape
        heads, kept = num_heads(width, self.head_size), keeping_dtype(self.dtype)

        def in_heads(y: Array, parts: int) -> Array:
            return y.reshape(batch, tokens, parts, heads, -1).transpose(2, 0, 3, 1, 4)

        queries_and_keys = dense(2 * width, "qk", self.dtype, layer_kernel, use_bias=False)(x)
        values = dense(width, "value", self.dtype, _identity, use_bias=False)(x)
        content = attention_weights(*in_heads(queries_and_keys, 2))
        offsets = jnp.asarray(relative_positions(self.rows, self.columns), kept)
        scores = dense(heads, "position", kept, position_kernel)(offsets)
        place = jax.nn.softmax(scores, axis=1).transpose(2, 0, 1)
        gate = jax.nn.sigmoid(self.param("gate", nn.initializers.ones, (heads,), kept))
        weights = gated(content, place, gate).astype(self.dtype)
        seen = jnp.einsum("bhnm,bhmd->bnhd", weights, in_heads(values, 1)[0])
        return dense(width, "out", self.dtype, layer_kernel)(seen.reshape(batch, tokens, width))


def gated(content: Array, place: Array, gate: Array) -> Array:
    """float[b, heads, n, n]: both maps of weights, mixed; every row has the sum 1.

    Args:
      content: float[b, heads, n, n].
      place: float[heads, n, n].
      gate: float[heads] in [0, 1], the share of ``place``.
    """
    gate = gate[:, None, None]
    weights = (1 - gate) * content + gate * place
    return weights / weights.sum(-1, keepdims=True)


def relative_positions(rows: int, columns: int) -> np.ndarray:
    """float64[n, n, 3]: (dx, dy, dx^2 + dy^2) from patch p to patch q, row by row.

    Args:
      rows, columns: of patches, n in all.
    """
    y, x = np.divmod(np.arange(rows * columns), columns)
    dx, dy = x[None] - x[:, None], y[None] - y[:, None]
    return np.stack([dx, dy, dx**2 + dy**2], -1).astype(np.float64)


def position_kernel(key: Array, shape: tuple[int, int], dtype: DTypeLike = jnp.float32) -> Array:
    """float[3, heads]: each of the first k^2 heads looks at a place of its own, k^2 <= heads.

    Head ``h1 + k h2`` has ``(2 (h2 - c), 2 (h1 - c), -1)``, the highest where (dx, dy) = (h2 - c,
    h1 - c), c the middle; the others are drawn as other layers are.

    Args:
      key: of the draw.
      shape: (3, heads).
      dtype: of the result.
    """
    side = math.isqrt(shape[1])
    h2, h1 = jnp.divmod(jnp.arange(side**2), side)
    middle = (side - 1) / 2
    local = jnp.stack([2 * (h2 - middle), 2 * (h1 - middle), jnp.full(side**2, -1.0)])
    return layer_kernel(key, shape, dtype).at[:, : side**2].set(local.astype(dtype))


def drop_path(key: Array, x: Array, rate: Scalar, num_axes: int) -> Array:
    """``x`` with some rows zero, each with probability ``rate``, and the others over ``1 - rate``.

    Args:
      key: of the draw.
      x: float[...].
      rate: in [0, 1]; 0 changes nothing.
      num_axes: the first axes, which number the rows.

    Source: Huang et al. 2016 (stochastic depth); timm's DropPath.
    """
    rows = x.shape[:num_axes] + (1,) * (x.ndim - num_axes)
    rest = 1 - jnp.asarray(rate)
    kept = jax.random.bernoulli(key, rest, rows)
    return x * jnp.where(kept, 1 / rest, 0).astype(x.dtype)


def _identity(key: Array, shape: tuple[int, int], dtype: DTypeLike = jnp.float32) -> Array:
    """Values are the tokens themselves, at first."""
    return jnp.eye(*shape, dtype=dtype)
