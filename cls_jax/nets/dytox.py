"""DyTox's network: one encoder and one decoder for all tasks; a token and a small head for each.

The encoder (``convit``) sees an image once. The decoder, a task-attention block, asks its patches
once for every task: the task's token looks at the patches and at itself, not at the other tokens,
and becomes the task's embedding of the image. That goes to the head of the task, LayerNorm and an
affine map to its classes. Tokens and heads of all tasks are there from the start, so that a task's
arrival is data. A class has one row of the heads' kernel, and ``owner`` says whose head it is in.

Source: Douillard et al. 2022 (CVPR; arXiv 2111.11326), section 3; arthurdouillard/dytox,
continual/dytox.py, convit.py, classifier.py.
Departs: all tokens go through the decoder together, which equals the official loop over tokens; its
own way to do that computes the query of one token alone.
"""

import math
from typing import NamedTuple, Protocol

import flax.linen as nn
import jax
import jax.numpy as jnp

from cls_jax.core.checks import check_range
from cls_jax.core.errors import InputError
from cls_jax.core.types import Array, PyTree, Scalar, Variables
from cls_jax.nets.base import InitVarsFn
from cls_jax.nets.convit import EPSILON, Block, drop_path, layer_kernel
from cls_jax.nets.layers import Dense, keeping_dtype, torch_bias
from cls_jax.nets.linen import apply_linen, check_net, init_linen
from cls_jax.nets.vit import dense, in_patches, norm, num_heads, patch_size, perceptron


class EmbedFn(Protocol):
    """Every task's embedding of every image, float[b, T, width]; float32 or more.

    With a ``key`` as in training: both branches of a block leave some examples out (``drop_path``),
    at rates that rise in equal steps from 0 in the first block to ``drop_path_rate`` in the
    decoder, where each token of an example has a draw of its own.
    """

    def __call__(
        self, params: PyTree, x: Array, *, key: Array | None = None, drop_path_rate: Scalar = 0.0
    ) -> Array: ...


class DytoxNet(NamedTuple):
    """``init(key, x) -> Variables``: params "encoder", "decoder", "tokens" and "heads"; no stats.

    Attributes:
      init: the network.
      embed: (params, x) -> embeddings; see EmbedFn. It does not look at the heads.
    """

    init: InitVarsFn
    embed: EmbedFn


class _Encoder(nn.Module):
    width: int
    num_blocks: int
    head_size: int
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: Array, rate: Scalar, *, train: bool) -> Array:
        side = patch_size(*x.shape[1:3])
        rows, columns = x.shape[1] // side, x.shape[2] // side
        patches = in_patches(x.astype(self.dtype), side)
        x = Dense(self.width, dtype=self.dtype.name, name="embed")(patches)
        kept, shape = keeping_dtype(self.dtype), (rows * columns, self.width)
        x = x + self.param("places", layer_kernel, shape, kept).astype(self.dtype)
        for number in range(self.num_blocks):
            block = Block(rows, columns, self.head_size, self.dtype, name=f"block{number}")
            x = block(x, rate * number / self.num_blocks, train=train)
        return x


class _Decoder(nn.Module):
    """float[b, T, width]: what each token sees among the patches float[b, n, width] and itself."""

    head_size: int
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, tokens: Array, patches: Array, rate: Scalar, *, train: bool) -> Array:
        def dropped(x: Array) -> Array:
            return drop_path(self.make_rng("drop_path"), x, rate, 2) if train else x

        layer_norm = norm("norm1", self.dtype, EPSILON)
        attention = _TaskAttention(self.head_size, self.dtype, name="attention")
        x = tokens + dropped(attention(layer_norm(tokens), layer_norm(patches)))
        seen = norm("norm2", self.dtype, EPSILON)(x)
        return x + dropped(perceptron(seen, self.dtype, layer_kernel))


class _TaskAttention(nn.Module):
    """float[b, T, width]: each token is a query, its keys are those of the patches and its own."""

    head_size: int
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, tokens: Array, patches: Array) -> Array:
        width = tokens.shape[-1]
        heads, kept = num_heads(width, self.head_size), keeping_dtype(self.dtype)
        query, key, value = (
            dense(width, name, self.dtype, layer_kernel, use_bias=False)
            for name in ("query", "key", "value")
        )

        def in_heads(x: Array) -> Array:
            return x.reshape(*x.shape[:-1], heads, -1)

        queries = in_heads(query(tokens)) / math.sqrt(width // heads)
        keys, values = in_heads(key(patches)), in_heads(value(patches))
        own_keys, own_values = in_heads(key(tokens)), in_heads(value(tokens))
        scores = jnp.einsum("thd,bnhd->bthn", queries, keys)
        own = jnp.einsum("thd,thd->th", queries, own_keys)[..., None]
        own = jnp.broadcast_to(own, (*scores.shape[:-1], 1))
        weights = jax.nn.softmax(jnp.concatenate([own, scores], -1).astype(kept))
        weights = weights.astype(self.dtype)
        seen = jnp.einsum("bthn,bnhd->bthd", weights[..., 1:], values)
        seen = seen + weights[..., :1] * own_values
        out = dense(width, "out", self.dtype, layer_kernel)
        return out(seen.reshape(*seen.shape[:2], width))


class _Dytox(nn.Module):
    num_tasks: int
    width: int
    num_blocks: int
    head_size: int
    dtype: str

    @nn.compact
    def __call__(
        self, x: Array, rate: Scalar = 0.0, *, train: bool, valid: Array | None = None
    ) -> Array:
        del valid
        dtype, kept = jnp.dtype(self.dtype), keeping_dtype(self.dtype)
        sizes = self.width, self.num_blocks, self.head_size, dtype
        patches = _Encoder(*sizes, name="encoder")(x, rate, train=train)
        tokens = self.param("tokens", layer_kernel, (self.num_tasks, self.width), kept)
        decoder = _Decoder(self.head_size, dtype, name="decoder")
        return decoder(tokens.astype(dtype), patches, rate, train=train).astype(kept)


def dytox_net(
    num_classes: int,
    num_tasks: int,
    width: int = 384,
    num_blocks: int = 5,
    head_size: int = 32,
    dtype: str = "float32",
) -> DytoxNet:
    """DyTox's transformer for images; patches as of ``vit`` (4x4 of 32x32 pixels).

    Args:
      num_classes: of all tasks.
      num_tasks: T, tokens and heads.
      width: numbers of a token.
      num_blocks: self-attention blocks of the encoder; the decoder is one more block.
      head_size: numbers of an attention head; there is at least one, and more where they divide the
        width.
      dtype: compute dtype, "float32" or "bfloat16"; parameters and embeddings are float32.

    Returns:
      DytoxNet; at the paper's size on 32x32x3 images with 100 classes 10,733,584 parameters for 10
      tasks, 10,745,104 for 20.

    Raises:
      InputError: a size is below 1, or the dtype is unknown.
    """
    check_net(num_classes, dtype, width)
    for name, value in (("num_tasks", num_tasks), ("num_blocks", num_blocks)):
        check_range(name, value, 1)
    check_range("head_size", head_size, 1)
    module = _Dytox(num_tasks, width, num_blocks, head_size, dtype)

    def init(key: Array, x: Array) -> Variables:
        if x.ndim != 4:
            raise InputError(
                f"dytox looks at patches of images, and these are vectors of {x.shape[1:]}; give "
                "images, or another method"
            )
        key_net, key_heads = jax.random.split(key)
        vars = init_linen(key_net, module, x)
        heads = new_head(key_heads, num_classes, (num_tasks, width), keeping_dtype(dtype))
        return vars.replace(params={**vars.params, "heads": heads})

    def embed(
        params: PyTree, x: Array, *, key: Array | None = None, drop_path_rate: Scalar = 0.0
    ) -> Array:
        shared = Variables({n: params[n] for n in ("encoder", "decoder", "tokens")}, {})
        if key is None:
            return apply_linen(module, shared, x, train=False)[0]
        options = {"train": True, "rngs": {"drop_path": key}}
        return apply_linen(module, shared, x, drop_path_rate, **options)[0]

    return DytoxNet(init, embed)


def new_head(key: Array, num_outputs: int, norms: tuple[int, ...], dtype: jnp.dtype) -> PyTree:
    """A LayerNorm and an affine map, or a LayerNorm for each task and a map they share.

    Args:
      key: of the draw.
      num_outputs: of the map.
      norms: (width,), or (T, width).
      dtype: of the parameters.

    Returns:
      {"scale", "shift": float[*norms], "kernel": float[num_outputs, width], "bias"}; kernel and
      bias as PyTorch's Linear begins, U(-1/sqrt(width), 1/sqrt(width)).
    """
    key_kernel, key_bias = jax.random.split(key)
    draw = torch_bias(norms[-1])
    return {
        "scale": jnp.ones(norms, dtype),
        "shift": jnp.zeros(norms, dtype),
        "kernel": draw(key_kernel, (num_outputs, norms[-1]), dtype),
        "bias": draw(key_bias, (num_outputs,), dtype),
    }


def head_logits(head: PyTree, embedding: Array) -> Array:
    """float[..., num_outputs] of one head, or [..., T, num_outputs] of every task's norm.

    Args:
      head: of ``new_head``.
      embedding: float[..., width], or [..., T, width].
    """
    centred = embedding - embedding.mean(-1, keepdims=True)
    variance = jnp.square(centred).mean(-1, keepdims=True)
    normed = centred * jax.lax.rsqrt(variance + EPSILON) * head["scale"] + head["shift"]
    return normed @ head["kernel"].T + head["bias"]


def task_logits(heads: PyTree, embeddings: Array, owner: Array) -> Array:
    """float[b, C]: each class by the head, and from the embedding, of its own task.

    Args:
      heads: of ``new_head`` with T norms and an output for each class.
      embeddings: float[b, T, width].
      owner: int32[C], the task of each class.
    """
    every = head_logits(heads, embeddings)
    return jnp.take_along_axis(every, owner[None, None], axis=1)[:, 0]
