"""DyTox's losses, and what the outputs should say: labels, MixUp's mixed labels, old or new.

Source: Douillard et al. 2022 (CVPR; arXiv 2111.11326), section 3.3; arthurdouillard/dytox,
engine.py, continual/losses.py, continual/mixup.py (timm's Mixup, its label smoothing inside); Zhang
et al. 2018.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from cls_jax.core.losses import binary_cross_entropy, mask_logits, soft_target_kl
from cls_jax.core.types import Array, Scalar

SMOOTHING, ALPHA = 0.1, 0.8
"""Of MixUp: the share of a target that goes to all classes; both parameters of the Beta draw."""


def mix_up(key: Array, x: Array, y: Array, valid: Array, seen: Array) -> tuple[Array, Array]:
    """Images mixed with others of the batch, and their targets.

    One share ``lam ~ Beta(.8, .8)`` for all; the rows that are there lie in random order, and the
    first is mixed with the last, and so on.

    Args:
      key: of both draws.
      x: float[b, ...].
      y: int32[b] labels; anything in invalid rows.
      valid: bool[b]; a row that is not is in no mixture.
      seen: bool[C] classes so far.

    Returns:
      ``(float[b, ...], float32[b, C])``.
    """
    key_share, key_order = jax.random.split(key)
    share = jax.random.beta(key_share, ALPHA, ALPHA)
    order = jnp.argsort(~valid + jax.random.uniform(key_order, valid.shape))
    opposite = order[(valid.sum() - 1 - jnp.arange(len(order))) % len(order)]
    other = jnp.zeros_like(order).at[order].set(opposite)
    share_x = share.astype(x.dtype)
    mixed = share_x * x + (1 - share_x) * x[other]
    there = valid.reshape(-1, *(1,) * (x.ndim - 1))
    return jnp.where(there, mixed, x), mixed_targets(y, y[other], share, seen)


def mixed_targets(y: Array, other: Array, share: Array, seen: Array) -> Array:
    """float32[b, C]: ``share`` of the smoothed label ``y``, the rest of ``other``; sum 1.

    Args:
      y, other: int32[b] labels.
      share: float32[] in [0, 1].
      seen: bool[C] classes so far, over which labels are smoothed.

    Source: dytox card, O9.
    """
    both = (jax.nn.one_hot(label, seen.size) for label in (y, other))
    one, two = (
        (1 - SMOOTHING) * hot + SMOOTHING * seen / jnp.maximum(seen.sum(), 1) for hot in both
    )
    return share * one + (1 - share) * two


class Outputs(NamedTuple):
    """What the network says of a batch, and what it should.

    Attributes:
      logits: float[b, C].
      divergence: float[b, 1 + C] of the throw-away head: any old class, then each new one.
      targets: float[b, C] in [0, 1].
      old_logits: float[b, C], of the network as it was before the task.
      valid: bool[b]; a row that is not has no influence.
    """

    logits: Array
    divergence: Array
    targets: Array
    old_logits: Array
    valid: Array


def label_loss(logits: Array, targets: Array, valid: Array, seen: Array) -> Array:
    """L_clf float[]: binary cross-entropy, a mean over rows and over the classes so far.

    Args:
      logits, targets: float[b, C].
      valid: bool[b].
      seen: bool[C].
    """
    return binary_cross_entropy(logits, targets, 1.0 * valid, seen)


def distillation_loss(logits: Array, old_logits: Array, valid: Array, past: Array) -> Array:
    """L_kd float[]: from the old network's softmax over old classes, a mean over these, too.

    Args:
      logits, old_logits: float[b, C].
      valid: bool[b].
      past: bool[C] old classes; 0 if there is none.
    """
    old = jax.nn.softmax(mask_logits(old_logits, past))
    return soft_target_kl(logits, old, temperature=1.0, valid=valid, classes=past)


def divergence_loss(
    divergence: Array, targets: Array, valid: Array, past: Array, seen: Array
) -> Array:
    """L_div float[]: new classes from each other and from all old ones, which are one class.

    Args:
      divergence: float[b, 1 + C]; the outputs of old classes stay unused.
      targets: float[b, C]; what they say of old classes is added up.
      valid: bool[b].
      past, seen: bool[C] old classes, and all so far.
    """
    old = jnp.where(past, targets, 0).sum(-1, keepdims=True)
    targets, classes = jnp.concatenate([old, targets], -1), jnp.r_[True, seen & ~past]
    return binary_cross_entropy(divergence, targets, 1.0 * valid, classes)


def total_loss(
    outputs: Outputs, past: Array, seen: Array, divergence_weight: Scalar, *, distillation: bool
) -> Array:
    """float[]: ``(1 - C_o / C) L_clf + C_o / C L_kd + w L_div``; L_clf without old classes.

    Args:
      outputs: of some rows.
      past, seen: bool[C] C_o old classes, and all C so far.
      divergence_weight: w.
      distillation: without it L_clf has the weight 1.
    """
    logits, divergence, targets, old_logits, valid = outputs
    l_clf = label_loss(logits, targets, valid, seen)
    l_div = divergence_loss(divergence, targets, valid, past, seen)
    aside = jnp.where(past.any(), divergence_weight * l_div, 0)
    if not distillation:
        return l_clf + aside
    share = past.sum() / jnp.maximum(seen.sum(), 1)
    l_kd = distillation_loss(logits, old_logits, valid, past)
    return (1 - share) * l_clf + share * l_kd + aside
