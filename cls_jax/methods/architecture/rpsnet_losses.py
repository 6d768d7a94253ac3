"""RPS-Net's distillation: two forms of it, and the weight that grows with the tasks.

Source: Rajasegaran et al. 2019 (NeurIPS; arXiv 1906.01120), section 3.3; brjathu/RPSnet,
learner.py.
"""

import jax
import jax.numpy as jnp

from cls_jax.core.losses import at_least, mask_logits
from cls_jax.core.types import Array, Scalar


def controller(task: Array, path_tasks: int, growth: Scalar) -> Array:
    """phi, what the distillation is multiplied by: 1 up to task J, then ``growth * (task - J)``.

    Args:
      task: int32[] its number, from 0.
      path_tasks: J, tasks that share a path.
      growth: gamma.

    Source: rpsnet card O1: J = 2, gamma 2.5: 1, 1, 1, 2.5, 5, 7.5.
    """
    return jnp.where(task <= path_tasks, 1.0, growth * (task - path_tasks))


def mixed_targets(y: Array, old_logits: Array, past: Array) -> Array:
    """float32[b, C]: what the old network says of past classes; of all others the label as 0 or 1.

    Args:
      y: int32[b].
      old_logits: float32[b, C].
      past: bool[C].
    """
    return jnp.where(past, old_logits, jax.nn.one_hot(y, past.size, dtype=old_logits.dtype))


def clamped_divergence(logits: Array, targets: Array, temperature: Scalar) -> Array:
    """``sum_c max(0, q_c log(q_c / p_c))`` of each row, over all columns: the official code's.

    q and p are the softmax of ``targets`` and ``logits``, divided by the temperature. Its negative
    terms are dropped, so this is no divergence of two distributions, but at least as large.

    Args:
      logits, targets: float32[b, C].
      temperature: > 0.

    Returns:
      float32[b], in nats.

    Source: rpsnet card O2, quirks 6 and 7.
    """
    p, q = (jax.nn.log_softmax(z / temperature) for z in (logits, targets))
    return at_least(jnp.exp(q) * (q - p), 0.0).sum(axis=1)


def old_divergence(logits: Array, old_logits: Array, past: Array, temperature: Scalar) -> Array:
    """``KL(q || p)`` of each row over past classes alone, float32[b] in nats.

    Args:
      logits, old_logits: float32[b, C] of the network that learns, and of the old one.
      past: bool[C]; at least one, or the answer is 0.
      temperature: > 0.
    """
    p, q = (jax.nn.log_softmax(mask_logits(z / temperature, past)) for z in (logits, old_logits))
    return jnp.where(past, jnp.exp(q) * (q - p), 0).sum(axis=1)


def weighted_mean(rows: Array, weight: Array) -> Array:
    """The mean of float32[b] by ``weight`` float32[b]; a row without weight has no influence."""
    return jnp.where(weight > 0, weight * rows, 0).sum() / jnp.maximum(weight.sum(), 1)
