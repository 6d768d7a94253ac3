"""A network under a binary mask: every kernel is masked, everything else is as it is.

Kernels are the parameters of two axes or more. A mask is a dictionary like theirs, from path to
zeros and ones, or, stored, one row of bits.

Source: Wortsman et al. 2020 (NeurIPS; arXiv 2006.14769), section 3.1; RAIVNLab/supsup. Their
networks have no biases and a BatchNorm that neither scales nor shifts.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from cls_jax.core.types import Array, PyTree
from cls_jax.methods.architecture.supermasks import (
    erdos_renyi_density,
    num_kept,
    pack,
    signed_constant,
    threshold_mask,
    top_k_mask,
    unpack,
)


def mask_rule(rule: str, density: int) -> Callable[[PyTree], PyTree]:
    """The function from scores to masks of zeros and ones, layer by layer, straight-through.

    Args:
      rule: "threshold" or "edge_popup".
      density: of edge_popup, see supermasks.erdos_renyi_density.
    """
    if rule == "threshold":
        return lambda scores: jax.tree.map(threshold_mask, scores)

    def largest(scores: Array) -> Array:
        share = erdos_renyi_density(scores.shape, density)
        return top_k_mask(scores, num_kept(scores.shape, share))

    return lambda scores: jax.tree.map(largest, scores)


def kernels(params: PyTree) -> dict[str, Array]:
    """The parameters that a mask covers, by path: those of two axes or more."""
    leaves = jax.tree_util.tree_leaves_with_path(params)
    return {_name(path): leaf for path, leaf in leaves if leaf.ndim >= 2}


def with_kernels(params: PyTree, kernels: dict[str, Array]) -> PyTree:
    """``params`` with ``kernels`` in their places."""
    put = lambda path, leaf: kernels.get(_name(path), leaf)  # noqa: E731
    return jax.tree_util.tree_map_with_path(put, params)


def frozen(key: Array, params: PyTree) -> PyTree:
    """Signed constants in place of every kernel, zeros in place of every bias."""
    drawn = kernels(params)
    keys = jax.random.split(key, len(drawn))
    drawn = {n: signed_constant(k, p.shape) for k, (n, p) in zip(keys, drawn.items(), strict=True)}
    zero = lambda path, leaf: jnp.zeros_like(leaf) if _name(path).endswith("bias") else leaf  # noqa: E731
    return with_kernels(jax.tree_util.tree_map_with_path(zero, params), drawn)


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
