"""Losses of how similar the rows of a batch are to each other, told by labels or by a teacher.

They treat rows that do not count, dtypes and precision as ``losses`` does. A row compares itself
with all others that count: ``q_ik = softmax_{k != i}(z_i . z_k / temperature)``.
"""

import jax
import jax.numpy as jnp

from cls_jax.core.losses import mask_logits, mean_over, rows_of
from cls_jax.core.types import Array, Scalar


def supervised_contrastive(
    z: Array,
    y: Array,
    anchors: Array,
    *,
    valid: Array | None = None,
    temperature: Scalar = 0.5,
    base_temperature: Scalar = 0.07,
) -> Array:
    """Each anchor must pick the other rows of its label out of all other rows.

    ``1/n sum_{i in anchors} -T / T_b mean_{p: y_p = y_i} log q_ip``, n all rows that count, anchors
    or not, as in the official code. With the two views of each image under a label of its own,
    every row an anchor and T_b = T it is ``simclr``.

    Args:
      z: float[b, d], of unit length.
      y: int32[b] labels; anything in invalid rows.
      anchors: bool[b]; the other rows are only picked, or not.
      valid: bool[b] or None.
      temperature: T, > 0, dimensionless.
      base_temperature: T_b, > 0; T / T_b is a scale, 7.14 with the defaults.

    Returns:
      float[], in nats times T / T_b, >= 0; an anchor without another row of its label has 0.

    Source: Khosla et al. 2020, equation 2; Cha et al. 2021 (Co2L), equation 3; chaht01/Co2L,
      losses_negative_only.py.
    """
    valid, (z,) = rows_of(valid, z)
    log_q, others = _log_similarities(z, valid, temperature)
    same = others & (y[:, None] == y)
    of_row = jnp.where(same, log_q, 0).sum(axis=1) / jnp.maximum(same.sum(axis=1), 1)
    scale = temperature / base_temperature
    return mean_over(jnp.where(anchors, -scale * of_row, 0), valid)


def relation_distillation(
    z: Array,
    teacher: Array,
    *,
    valid: Array | None = None,
    temperature: Scalar = 0.2,
    teacher_temperature: Scalar = 0.01,
) -> Array:
    """How far each row's similarities to all others are from what they are to a teacher.

    Cross-entropy ``-sum_k q'_ik log q_ik``, mean over the rows that count; q' is the teacher's. Its
    least value is the entropy of q', not 0.

    Args:
      z, teacher: float[b, d] of unit length; no gradient reaches ``teacher``.
      valid: bool[b] or None.
      temperature: of q, > 0, dimensionless.
      teacher_temperature: of q', > 0; at .01 q' is nearly one-hot.

    Returns:
      float[], in nats, >= 0.

    Source: Cha et al. 2021 (Co2L), equations 4 to 6; chaht01/Co2L, main.py.
    """
    valid, (z, teacher) = rows_of(valid, z, teacher)
    log_q, _ = _log_similarities(z, valid, temperature)
    fixed = jax.lax.stop_gradient(teacher)
    target, others = _log_similarities(fixed, valid, teacher_temperature)
    each = jnp.where(others, jnp.exp(target) * log_q, 0)
    return mean_over(-each.sum(axis=1), valid)


def _log_similarities(z: Array, valid: Array, temperature: Scalar) -> tuple[Array, Array]:
    """``log q`` float[b, b], and bool[b, b] whom each row compares itself with."""
    others = valid & ~jnp.eye(valid.size, dtype=bool)
    similarity = jnp.matmul(z, z.T, precision=jax.lax.Precision.HIGHEST) / temperature
    return jax.nn.log_softmax(mask_logits(similarity, others)), others
