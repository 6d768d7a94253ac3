"""What OCS chooses by: how a gradient agrees with others, and equal shares of the classes.

Source: Yoon et al. 2022 (arXiv 2106.01085), definitions 1 to 3; jaehong31/OCS.
Departs: the last places of a task's share go to examples that have none yet, where the code's
symmetric difference can give one example two.
"""

import jax
import jax.numpy as jnp

from cls_jax.core.losses import FLOOR, row_cross_entropy
from cls_jax.core.types import Array, PyTree

SMALLEST = 1e-6
"""Least product of two norms that a cosine is divided by, as in the code."""


def agreement(gram: Array, peers: Array) -> tuple[Array, Array]:
    """Similarity ``cos(g_i, g)`` and diversity ``-mean_j cos(g_i, g_j)``, g the mean over peers.

    Args:
      gram: float[n, n], ``g_i . g_j``.
      peers: bool[n, n], row i says which gradients i is compared with, itself among them.

    Returns:
      float[n] each; 0 for an example without peers.
    """
    norm, share = jnp.sqrt(jnp.diagonal(gram)), peers / jnp.maximum(peers.sum(1, keepdims=True), 1)
    mean_square = jnp.einsum("ij,jk,ik->i", share, gram, share, precision="highest")
    similarity = cosine((share * gram).sum(1), norm, jnp.sqrt(jnp.maximum(mean_square, 0)))
    return similarity, -(share * cosine(gram, norm[:, None], norm)).sum(1)


def cosine(product: Array, norm: Array, other: Array) -> Array:
    """``a . b / max(|a| |b|, 1e-6)``.

    Args:
      product: float[...], a . b.
      norm, other: float[...], |a| and |b|.
    """
    return product / jnp.maximum(norm * other, SMALLEST)


def balanced(
    score: Array, y: Array, eligible: Array, quota: Array | int, num_classes: int
) -> Array:
    """bool[n]: the ``quota`` eligible examples with the highest scores, in equal shares of classes.

    Every class gets as many as the poorest of those that still have some can give too; what is left
    then goes to the highest scores of all.

    Args:
      score: float[n].
      y: int32[n], labels.
      eligible: bool[n]; if they are fewer than ``quota``, all are taken.
      quota: int32[], at least 1.
      num_classes: labels are 0 to num_classes - 1.
    """
    order = jnp.argsort(jnp.where(eligible, -score, jnp.inf))
    one_hot = jax.nn.one_hot(y[order], num_classes, dtype=jnp.int32) * eligible[order][:, None]
    rank = (jnp.cumsum(one_hot, axis=0) * one_hot).sum(1) - 1  # within its class, best first
    rank = jnp.where(eligible[order], rank, len(y))
    level = jnp.sort(rank)[jnp.minimum(quota, len(y) - 1)]  # so many of each class fit
    place = jnp.argsort(jnp.argsort(jnp.minimum(rank, level)))
    taken = (place < quota) & eligible[order]
    return jnp.zeros_like(taken).at[order].set(taken)


def losses_of(logits: Array, targets: PyTree) -> Array:
    """float[n] cross-entropies; ``targets`` are labels, which rows are valid, and their classes."""
    y, valid, classes = targets
    return row_cross_entropy(logits, y, valid=valid, classes=classes)


def only_in_value(logits: Array, classes: Array) -> Array:
    """Logits that are at FLOOR outside ``classes`` bool[C], of which no gradient knows."""
    return logits + jax.lax.stop_gradient(jnp.where(classes, 0, FLOOR - logits))
