"""What SupSup carries from step to step, and what that says of images of unknown task.

Source: Wortsman et al. 2020 (NeurIPS; arXiv 2006.14769), section 3; see supsup.py.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import struct
from jax.flatten_util import ravel_pytree

from cls_jax.core.augment import Augment
from cls_jax.core.types import Array, PyTree, Trainable, Variables
from cls_jax.methods.architecture.masked_net import kernels, with_kernels
from cls_jax.methods.architecture.superposition import (
    INFERENCES,
    UNCERTAINTIES,
    SlopesFn,
    slopes_of,
)
from cls_jax.methods.architecture.supsup_config import SupSupConfig, SupSupHyper
from cls_jax.nets.base import Net


@struct.dataclass
class SupSupState:
    """What SupSup carries from step to step; T masks of n bits.

    Attributes:
      weights: parameters of the network; they never change.
      model: the scores of the mask in training, one tree of kernels, and BatchNorm's statistics.
      masks: uint8[T, ceil(n / 8)].
      stats: BatchNorm's statistics of each mask, leaves [T, ...], or {}.
      classes: bool[T, num_classes] of each mask's task.
      num_masks: int32[] masks known; the first so many of T.
      current: int32[] mask in training.
      clock: int32[] steps made.
      masks_after: int32[num_tasks] masks known after each task; 0 where none ended.
      total: sum of the scores of all masks known (transfer), or {}.
      slots: scores and optimizer state of every mask, leaves [T, ...] (task not told), or {}.
      hyper: SupSupHyper.
    """

    weights: PyTree
    model: Trainable
    masks: Array
    stats: PyTree
    classes: Array
    num_masks: Array
    current: Array
    clock: Array
    masks_after: Array
    total: PyTree
    slots: PyTree
    hyper: SupSupHyper


def make_identify(
    config: SupSupConfig, net: Net, *, augment: Augment
) -> Callable[[SupSupState, Array, Array], Array]:
    """Builds ``identify(state, x, valid) -> int32[]``: which known mask fits the images.

    ``x`` are raw examples of one task, as for ``predict``; ``valid`` bool[p] says which rows count.
    One forward and backward pass, or a few where ``config.inference`` is "binary", however many
    masks there are.

    Args:
      config: has inference and objective.
      net, augment: of the method.
    """

    def identify(state: SupSupState, x: Array, valid: Array) -> Array:
        known = jnp.arange(len(state.masks)) < state.num_masks
        slopes = uncertainty_slopes(config, net, state, augment.test(x), valid, known)
        return INFERENCES[config.inference](slopes, known)

    return identify


def uncertainty_slopes(
    config: SupSupConfig, net: Net, state: SupSupState, x: Array, valid: Array, known: Array
) -> SlopesFn:
    """The function from shares of the masks to the slopes of the uncertainty about ``x``.

    Args:
      config: has the objective.
      net: of the method.
      state: has weights and masks.
      x: float32[p, ...] inputs of the network.
      valid: bool[p].
      known: bool[T], masks whose tasks count.
    """
    flat, unravel = ravel_pytree(kernels(state.weights))
    shares = known / jnp.maximum(known.sum(), 1)
    stats = jax.tree.map(lambda leaf: jnp.tensordot(shares, leaf, 1), state.stats)
    num_labels = jnp.where(known, state.classes.sum(axis=1), 0).max()

    def uncertainty(mixture: Array) -> Array:
        params = with_kernels(state.weights, unravel(flat * mixture))
        logits, _ = net.apply(Variables(params, stats), x, train=False)
        return UNCERTAINTIES[config.objective](logits, num_labels, valid)

    return slopes_of(uncertainty, state.masks, flat.size)
