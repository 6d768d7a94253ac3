"""A network under a binary mask, and how the mask is learned: every kernel is masked, nothing else.

Kernels are the parameters of two axes or more. A mask is a dictionary like theirs, from path to
zeros and ones, or, stored, one row of bits. So are the scores that it is learned through.

Source: Wortsman et al. 2020 (NeurIPS; arXiv 2006.14769), section 3.1; RAIVNLab/supsup. Their
networks have no biases and a BatchNorm that neither scales nor shifts.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax
from jax.flatten_util import ravel_pytree
from jax.typing import ArrayLike

from cls_jax.core.losses import cross_entropy
from cls_jax.core.types import Array, PyTree, Scalar, Variables
from cls_jax.methods.architecture.supermasks import (
    erdos_renyi_density,
    num_kept,
    pack,
    score_init,
    signed_constant,
    threshold_mask,
    top_k_mask,
    unpack,
)
from cls_jax.nets.base import Net

MaskFn = Callable[[PyTree], PyTree]
"""Scores of all layers -> their masks of zeros and ones, straight-through."""


def mask_rule(rule: str, density: int) -> MaskFn:
    """The function from scores to masks, layer by layer.

    Args:
      rule: "threshold" or "edge_popup".
      density: of edge_popup, see supermasks.erdos_renyi_density.
    """

    def largest(scores: Array) -> Array:
        share = erdos_renyi_density(scores.shape, density)
        return top_k_mask(scores, num_kept(scores.shape, share))

    def masks(scores: PyTree) -> PyTree:
        return jax.tree.map(threshold_mask if rule == "threshold" else largest, scores)

    return masks


def new_scores(key: Array, weights: PyTree) -> dict[str, Array]:
    """Random scores of every kernel of ``weights``; see supermasks.score_init."""
    shapes = {name: kernel.shape for name, kernel in kernels(weights).items()}
    keys = jax.random.split(key, len(shapes))
    return {n: score_init(k, s) for k, (n, s) in zip(keys, shapes.items(), strict=True)}


def score_optimizer(
    kind: str, learning_rate: Scalar, weight_decay: Scalar, cosine_steps: int
) -> optax.GradientTransformation:
    """The optimizer of the scores: PyTorch's "rmsprop" or "adam", the decay part of the gradient.

    Args:
      kind: "rmsprop" or "adam".
      learning_rate: float32[] of the first step.
      weight_decay: float32[].
      cosine_steps: steps in which the rate falls to 0 along a cosine; 0: it stays.
    """

    def rate(count: ArrayLike) -> Scalar:
        if not cosine_steps:
            return learning_rate
        share = jnp.minimum(jnp.asarray(count) / cosine_steps, 1)
        return learning_rate * (1 + jnp.cos(jnp.pi * share)) / 2

    kinds = {
        "rmsprop": optax.rmsprop(rate, decay=0.99, eps=1e-8, eps_in_sqrt=False),
        "adam": optax.adam(rate),
    }
    return optax.chain(optax.add_decayed_weights(weight_decay), kinds[kind])


def masked_loss(
    net: Net, weights: PyTree, mask_of: MaskFn, x: Array, y: Array, valid: Array
) -> Callable[[Variables], tuple[Array, PyTree]]:
    """The cross-entropy by the scores, over all outputs: ``CE(f(x, W * mask(scores)), y)``.

    Args:
      net, weights: the frozen network.
      mask_of: rule of the masks.
      x: float32[b, ...] inputs.
      y: int32[b] numbers of outputs.
      valid: bool[b], rows that count.

    Returns:
      (scores and statistics) -> (float32[], the statistics after the forward pass).
    """

    def loss(vars: Variables) -> tuple[Array, PyTree]:
        masks = mask_of(vars.params)
        params = with_kernels(weights, jax.tree.map(jnp.multiply, kernels(weights), masks))
        logits, stats = net.apply(Variables(params, vars.stats), x, train=True, valid=valid)
        return cross_entropy(logits, y, valid=valid), stats

    return loss


def kernels(params: PyTree) -> dict[str, Array]:
    """The parameters that a mask covers, by path: those of two axes or more."""
    leaves = jax.tree_util.tree_leaves_with_path(params)
    return {_name(path): leaf for path, leaf in leaves if leaf.ndim >= 2}


def with_kernels(params: PyTree, kernels: dict[str, Array]) -> PyTree:
    """``params`` with ``kernels`` in their places."""

    def put(path: tuple, leaf: Array) -> Array:
        return kernels.get(_name(path), leaf)

    return jax.tree_util.tree_map_with_path(put, params)


def frozen(key: Array, params: PyTree) -> PyTree:
    """Signed constants in place of every kernel, zeros in place of every bias."""
    drawn = kernels(params)
    keys = jax.random.split(key, len(drawn))
    drawn = {n: signed_constant(k, p.shape) for k, (n, p) in zip(keys, drawn.items(), strict=True)}

    def without_bias(path: tuple, leaf: Array) -> Array:
        return jnp.zeros_like(leaf) if _name(path).endswith("bias") else leaf

    return with_kernels(jax.tree_util.tree_map_with_path(without_bias, params), drawn)


def under(weights: PyTree, bits: Array) -> PyTree:
    """``weights`` where the packed mask ``bits`` is 1; its zeros are zeros."""
    flat, unravel = ravel_pytree(kernels(weights))
    return with_kernels(weights, unravel(flat * unpack(bits, flat.shape)))


def packed(masks: PyTree) -> Array:
    """uint8[ceil(n / 8)]: the masks of all layers in one row of bits."""
    return pack(ravel_pytree(masks)[0])


def num_bits(params: PyTree) -> int:
    """Entries of a mask: how many weights all kernels have."""
    return sum(kernel.size for kernel in kernels(params).values())


def _name(path: tuple) -> str:
    return jax.tree_util.keystr(path, simple=True, separator="/")
