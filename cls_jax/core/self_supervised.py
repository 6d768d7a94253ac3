"""Losses of two views of the same images, none of which needs a label.

They treat rows that do not count, dtypes and precision as ``losses`` does.
"""

import math

import jax
import jax.numpy as jnp

from cls_jax.core.losses import at_least, mask_logits, mean_over, rows_of
from cls_jax.core.types import Array


def barlow_twins(
    za: Array, zb: Array, *, valid: Array | None = None, off_diagonal_weight: float | Array = 2e-3
) -> Array:
    """How far the cross-correlation of two views is from the identity: a sum, not a mean.

    ``C = zhat_a^T zhat_b / N``, loss ``sum_i (C_ii - 1)^2 + w sum_{i != j} C_ij^2``. Features are
    standardised with the unbiased standard deviation but C is divided by N, as in the official
    code, so two equal views have ``C_ii = (N - 1) / N``.

    Args:
      za, zb: float[b, d] projections of two views of the same rows.
      valid: bool[b] or None; N is the number of valid rows.
      off_diagonal_weight: w, >= 0, usually 2e-3 to 5e-3.

    Returns:
      float[], dimensionless; 0 when fewer than two rows are valid.

    Source: dualnet card section 4 ("Barlow Twins, exact"), oracle 1; Zbontar et al. 2021.
    Departs: a feature whose variance is below 1e-12 keeps its scale and correlates with nothing;
      the official code divides 0 by 0 there.
    """
    valid, (za, zb) = rows_of(valid, za, zb)
    num = valid.sum()
    correlation = _dot(_standardise(za, valid).T, _standardise(zb, valid)) / jnp.maximum(num, 2)
    on_diagonal = jnp.eye(za.shape[-1], dtype=bool)
    pull = jnp.where(on_diagonal, jnp.square(correlation - 1), 0).sum()
    push = jnp.where(on_diagonal, 0, jnp.square(correlation)).sum()
    return jnp.where(num >= 2, pull + off_diagonal_weight * push, 0)


def simclr(
    za: Array, zb: Array, *, valid: Array | None = None, temperature: float | Array = 0.5
) -> Array:
    """NT-Xent: each projection must pick its other view out of all other rows of both views.

    ``mean_i [logsumexp_{k != i} s_ik - s_ij]`` over 2N rows, ``s = cosine / temperature``, j the
    other view of i.

    Args:
      za, zb: float[b, d] projections of two views of the same rows.
      valid: bool[b] or None; invalid rows are nobody's negatives.
      temperature: > 0, dimensionless, usually 0.1 to 0.5.

    Returns:
      float[], in nats, >= 0.

    Source: Chen et al. 2020, equation 1.
    """
    valid, (za, zb) = rows_of(valid, za, zb)
    z = jnp.concatenate([_unit(za), _unit(zb)]) / jnp.sqrt(temperature).astype(za.dtype)
    both = jnp.concatenate([valid, valid])
    others = both & ~jnp.eye(both.size, dtype=bool)
    positive = (z * jnp.roll(z, valid.size, axis=0)).sum(axis=-1)
    return mean_over(jax.nn.logsumexp(mask_logits(_dot(z, z.T), others), axis=-1) - positive, both)


def simclr_as_in_code(za: Array, zb: Array, *, valid: Array | None = None) -> Array:
    """The contrastive loss that DualNet's code calls SimCLR, quirks kept; compare ``simclr``.

    Features are standardised over the batch as in ``barlow_twins``, rows are not normalised;
    ``mean -log(pos / (neg + 1e-6))``, ``pos = exp(<a_i, b_i> / 100)``,
    ``neg = max(sum_k exp(<z_i, z_k> / 100) - exp(1 / 100), 1e-6)``. The subtraction is meant for
    the row's similarity with itself, which is nearer exp(d / 100).

    Args:
      za, zb: float[b, d] projections of two views of the same rows.
      valid: bool[b] or None.

    Returns:
      float[], in nats; 0 when fewer than two rows are valid.

    Source: dualnet card section 7, oracle 11, quirk 16.
    """
    valid, (za, zb) = rows_of(valid, za, zb)
    za, zb = _standardise(za, valid), _standardise(zb, valid)
    z, both = jnp.concatenate([za, zb]), jnp.concatenate([valid, valid])
    similarity = jnp.where(both, jnp.exp(_dot(z, z.T) / 100), 0)
    negative = at_least(similarity.sum(axis=-1) - math.exp(0.01), 1e-6)
    positive = jnp.tile((za * zb).sum(axis=-1) / 100, 2)
    loss = mean_over(jnp.log(negative + 1e-6) - positive, both)
    return jnp.where(valid.sum() >= 2, loss, 0)


def simsiam(pa: Array, pb: Array, za: Array, zb: Array, *, valid: Array | None = None) -> Array:
    """``-(cos(pa, stop(zb)) + cos(pb, stop(za))) / 2``, mean over the valid rows.

    The stopped gradient on ``z`` is what keeps the representation from collapsing.

    Args:
      pa, pb: float[b, d] predictions from the two views.
      za, zb: float[b, d] projections of the two views.
      valid: bool[b] or None.

    Returns:
      float[], dimensionless, in [-1, 1].

    Source: Chen and He 2021, algorithm 1; dualnet card section 7.
    """
    valid, (pa, pb, za, zb) = rows_of(valid, pa, pb, za, zb)
    return mean_over(-(_cosine(pa, zb) + _cosine(pb, za)) / 2, valid)


def byol(pa: Array, pb: Array, ta: Array, tb: Array, *, valid: Array | None = None) -> Array:
    """Mean over rows and both directions of ``2 - 2 cos(prediction, stop(other view's target))``.

    Args:
      pa, pb: float[b, d] predictions of the online network for the two views.
      ta, tb: float[b, d] projections of the target network (an EMA of the online one).
      valid: bool[b] or None.

    Returns:
      float[], dimensionless, in [0, 4].

    Source: Grill et al. 2020, equation 2.
    Departs: the mean of the two directions, not their sum: half the paper's loss.
    """
    valid, (pa, pb, ta, tb) = rows_of(valid, pa, pb, ta, tb)
    return mean_over(2 - _cosine(pa, tb) - _cosine(pb, ta), valid)


def byol_as_in_code(
    pa: Array, pb: Array, za: Array, zb: Array, *, valid: Array | None = None
) -> Array:
    """The loss that DualNet's code calls BYOL: no target network, predictions detached.

    ``mean (2 - 2 cos(za, stop(pb)) + 2 - 2 cos(zb, stop(pa))) / 2``: the predictor never learns.

    Args:
      pa, pb: float[b, d] predictions from the two views.
      za, zb: float[b, d] projections of the two views.
      valid: bool[b] or None.

    Returns:
      float[], dimensionless, in [0, 4].

    Source: dualnet card section 7, oracle 11, quirk 16.
    """
    return byol(za, zb, pa, pb, valid=valid)


def _dot(a: Array, b: Array) -> Array:
    return jnp.matmul(a, b, precision=jax.lax.Precision.HIGHEST)


def _unit(z: Array) -> Array:
    """Rows divided by their norm; a row shorter than 1e-12 stays as it is, cosine about 0."""
    square = jnp.square(z).sum(axis=-1, keepdims=True)
    return z / jnp.sqrt(jnp.where(square > 1e-24, square, 1))


def _standardise(z: Array, valid: Array) -> Array:
    """Features with mean 0 and unbiased variance 1 over the valid rows, 0 in the others."""
    num, rows = valid.sum(), valid[:, None]
    z = jnp.where(rows, z - z.sum(axis=0) / jnp.maximum(num, 1), 0)
    variance = jnp.square(z).sum(axis=0) / jnp.maximum(num - 1, 1)
    return z / jnp.sqrt(jnp.where(variance > 1e-12, variance, 1))


def _cosine(moving: Array, fixed: Array) -> Array:
    """Cosines float[b] of row pairs; no gradient reaches ``fixed``."""
    return (_unit(moving) * jax.lax.stop_gradient(_unit(fixed))).sum(axis=-1)
