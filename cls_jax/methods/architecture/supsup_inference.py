"""Whose images are these? What the masks of SupSup say of images of unknown task.

Source: Wortsman et al. 2020 (NeurIPS; arXiv 2006.14769), section 3; see superposition.py.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from cls_jax.core.augment import Augment
from cls_jax.core.checks import check_range
from cls_jax.core.errors import InputError
from cls_jax.core.types import Array, PyTree, Variables
from cls_jax.methods.architecture.masked_net import kernels, num_bits, under, with_kernels
from cls_jax.methods.architecture.superposition import (
    INFERENCES,
    UNCERTAINTIES,
    SlopesFn,
    slopes_of,
)
from cls_jax.nets.base import Net

TEST_GROUP = 128
"""Test images of one task that are answered under one mask, when the task is inferred."""

IdentifyFn = Callable[..., Array]
"""(state, raw x of one task, which rows count = all) -> int32[] number of a mask."""


def make_identify(
    net: Net,
    augment: Augment,
    *,
    inference: str,
    objective: str,
    num_labels: Callable[[PyTree, Array], Array],
) -> IdentifyFn:
    """Builds ``identify(state, x, valid=None) -> int32[]``: which known mask fits the images.

    One forward and backward pass, or a few where ``inference`` is "binary", however many masks
    there are. 0 if no mask is known.

    Args:
      net, augment: of the method.
      inference: see superposition.INFERENCES.
      objective: see superposition.UNCERTAINTIES.
      num_labels: (state, bool[T] of the masks that are known) -> int32[] outputs that are labels.
    """

    def identify(state: PyTree, x: Array, valid: Array | None = None) -> Array:
        valid = jnp.ones(len(x), bool) if valid is None else valid
        known = jnp.arange(len(state.masks)) < state.num_masks
        slopes = uncertainty_slopes(
            net, objective, state, augment.test(x), valid, known, num_labels(state, known)
        )
        return INFERENCES[inference](slopes, known)

    return identify


def uncertainty_slopes(
    net: Net,
    objective: str,
    state: PyTree,
    x: Array,
    valid: Array,
    known: Array,
    num_labels: Array | int,
) -> SlopesFn:
    """The function from shares of the masks to the slopes of the uncertainty about ``x``.

    Args:
      net: of the method.
      objective: the uncertainty.
      state: has weights, masks and the statistics ``stats`` of each mask.
      x: float32[p, ...] inputs of the network.
      valid: bool[p].
      known: bool[T], masks whose statistics are mixed.
      num_labels: the first so many outputs are labels.
    """
    flat, unravel = ravel_pytree(kernels(state.weights))
    shares = known / jnp.maximum(known.sum(), 1)
    stats = jax.tree.map(lambda leaf: jnp.tensordot(shares, leaf, 1), state.stats)

    def uncertainty(mixture: Array) -> Array:
        params = with_kernels(state.weights, unravel(flat * mixture))
        logits, _ = net.apply(Variables(params, stats), x, train=False)
        return UNCERTAINTIES[objective](logits, num_labels, valid)

    return slopes_of(uncertainty, state.masks, flat.size)


def forward_under(net: Net, weights: PyTree, bits: Array, stats: PyTree, x: Array) -> Array:
    """float32[b, outputs]: the network's answer under one mask.

    Args:
      net, weights: the frozen network.
      bits: uint8[ceil(n / 8)], the mask.
      stats: BatchNorm's statistics of its task.
      x: float32[b, ...] inputs.
    """
    return net.apply(Variables(under(weights, bits), stats), x, train=False)[0]


def mask_bits(weights: PyTree, stats: PyTree) -> int:
    """Bits that a mask takes with its statistics; ``stats`` of all masks, leaves [T, ...]."""
    return num_bits(weights) + 32 * sum(leaf[0].size for leaf in jax.tree.leaves(stats))


def at(tree: PyTree, index: Array | int) -> PyTree:
    """``leaf[index]`` of every leaf."""
    return jax.tree.map(lambda leaf: leaf[index], tree)


def check_masks(
    num_outputs: int, num_labels: int, probe_size: int, density: int, cosine_steps: int
) -> None:
    """Raises InputError unless every label has an output and every size is in its range.

    Args:
      num_outputs, probe_size, density, cosine_steps: of supsup.
      num_labels: classes of the largest task.
    """
    if num_outputs < num_labels:
        raise InputError(
            f"num_outputs={num_outputs} is less than the {num_labels} classes of a task; give "
            "at least as many, and ten times as many for one_shot"
        )
    check_range("probe_size", probe_size, 1, TEST_GROUP)
    check_range("density", density, 1)
    check_range("cosine_steps", cosine_steps, 0)
