"""The two heads of DER (expandable): their logits, what they should say, and at which rate.

Source: Yan, Xie and He 2021 (CVPR; arXiv 2103.16788); Rhyssiyan/DER-ClassIL.pytorch,
inclearn/models/incmodel.py and tools/scheduler.py.
"""

import jax.numpy as jnp

from cls_jax.core.losses import row_cross_entropy
from cls_jax.core.types import Array
from cls_jax.methods.prototypes.cosine import step_decay


def joint_logits(weights: Array, features: Array) -> Array:
    """float32[b, C], ``W u(x)``: W float32[C, E, d] over the joined features float32[b, E, d]."""
    return jnp.einsum("bed,ced->bc", features, weights)


def weighted_cross_entropy(logits: Array, y: Array, weight: Array, classes: Array) -> Array:
    """Mean over rows, by ``weight``, of the cross-entropy over ``classes``.

    Args:
      logits: float32[b, C].
      y: int32[b] labels; anything in rows without weight.
      weight: float32[b], 0 or at least 1.
      classes: bool[C].

    Returns:
      float32[], in nats; 0 if no row has weight.

    Source: incmodel.py, _compute_loss; card O2: the joint loss is 1.1187400449, the auxiliary one
      1.3235753653.
    """
    rows = row_cross_entropy(logits, y, valid=weight > 0, classes=classes)
    return (weight * rows).sum() / jnp.maximum(weight.sum(), 1)


def auxiliary_targets(y: Array, new: Array) -> tuple[Array, Array]:
    """What the auxiliary head should say: 0 for an old class, else the place among the new ones.

    Args:
      y: int32[b] labels; anything in invalid rows.
      new: bool[C] classes of this task.

    Returns:
      int32[b] from 0 to the number of new classes, and bool[C + 1], which outputs there are.

    Source: incmodel.py, "aux_n+1"; card O1: of 3 old and 3 new classes 0, 1, 3, 4, 5
      are 0, 0, 1, 2, 3.
    """
    number = jnp.where(new, jnp.cumsum(new), 0)
    return number[y], jnp.arange(new.size + 1) <= new.sum()


def rate_factor(epoch: Array, warmup_epochs: int, decays: tuple[int, ...]) -> Array:
    """What the learning rate is multiplied by, float32[].

    Args:
      epoch: int32[] from 0.
      warmup_epochs: in which it rises in equal steps, to 1 in the last of them.
      decays: epochs from which it is a tenth of what it was before.

    Source: card O3: with 10 and (110, 130) a tenth in epoch 0, 1 from 9 to 109, .01 from 130.
    """
    rise = jnp.minimum((epoch + 1) / max(warmup_epochs, 1), 1)
    return jnp.asarray(rise * step_decay(epoch, decays), jnp.float32)
