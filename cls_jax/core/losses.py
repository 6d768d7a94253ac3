"""Losses over masked batches: pure functions of arrays, mean over the rows that count.

Those of two views of the same images are in ``view_losses``.

A loss of rows takes ``valid`` bool[b] (None: every row counts), or a weight a row. A row that does
not count is replaced before anything is computed, so whatever it holds, NaN included, moves neither
value nor gradient; if none counts the loss is 0 and so is its gradient. Shapes that do not fit are
an AssertionError where the loss is traced, not a number by broadcasting. Float32 in is float32 out,
float64 is float64, and narrower types are computed in float32. Matrix products run at the highest
precision there is.
"""

from typing import Literal

import chex
import jax
import jax.numpy as jnp
import optax

from cls_jax.core.errors import InputError
from cls_jax.core.types import Array, PyTree

FLOOR = -1e9
"""What a forbidden logit becomes: finite, since ``-inf`` times 0 is NaN, and exp(FLOOR) is 0."""


def mask_logits(logits: Array, classes: Array) -> Array:
    """``logits`` with everything outside ``classes`` at FLOOR, so a softmax or argmax skips it.

    Args:
      logits: float[b, C].
      classes: bool[C], or bool[b, C] where each row has its own.

    Returns:
      float[b, C] of the dtype of ``logits``.
    """
    return jnp.where(classes, logits, jnp.asarray(FLOOR, logits.dtype))


def cross_entropy(
    logits: Array, y: Array, *, valid: Array | None = None, classes: Array | None = None
) -> Array:
    """Mean cross-entropy ``-log softmax(logits)[y]`` over the valid rows.

    With ``classes`` the softmax runs over those columns alone, which is what gathering a task's
    columns and renumbering its labels amounts to. A label outside its row's classes costs about
    1e9: a mistake of the caller, and meant to be seen.

    Args:
      logits: float[b, C].
      y: int32[b], one of 0..C-1 in valid rows, anything elsewhere.
      valid: bool[b] or None.
      classes: bool[C], bool[b, C] or None.

    Returns:
      float[], in nats.

    Source: dualnet card section 4 (L1, L2, "Task masks"); baselines card section 2.
    """
    losses = row_cross_entropy(logits, y, valid=valid, classes=classes)
    return mean_over(losses, jnp.ones(y.shape, bool) if valid is None else valid)


def row_cross_entropy(
    logits: Array, y: Array, *, valid: Array | None = None, classes: Array | None = None
) -> Array:
    """The cross-entropy of each row, of which ``cross_entropy`` is the mean.

    Args:
      logits, y, valid, classes: as for ``cross_entropy``.

    Returns:
      float[b], in nats; of a row that is not valid a number that says nothing, but is finite.
    """
    valid, (logits,) = rows_of(valid, logits)
    chex.assert_shape(y, logits.shape[:1])
    if classes is not None:
        logits = mask_logits(logits, classes)
    label = jnp.where(valid, y, 0)[:, None]
    return -jnp.take_along_axis(jax.nn.log_softmax(logits), label, axis=-1)[:, 0]


def binary_cross_entropy(logits: Array, targets: Array, weight: Array, classes: Array) -> Array:
    """Mean over ``classes`` and, by ``weight``, over rows of ``-t log s - (1 - t) log(1 - s)``.

    Args:
      logits: float32[b, C]; s is their sigmoid.
      targets: float32[b, C] in [0, 1].
      weight: float32[b], 0 or at least 1; a row without weight has no influence, whatever it holds.
      classes: bool[C].

    Returns:
      float32[], in nats; 0 if no row has weight.
    """
    counts = (weight > 0)[:, None] & classes
    logits, targets = jnp.where(counts, logits, 0), jnp.where(counts, targets, 0)
    each = jnp.where(counts, optax.sigmoid_binary_cross_entropy(logits, targets), 0)
    of_row = each.sum(axis=1) / jnp.maximum(classes.sum(), 1)
    return (weight * of_row).sum() / jnp.maximum(weight.sum(), 1)


def soft_target_kl(
    logits: Array,
    targets: Array,
    *,
    temperature: float | Array,
    valid: Array | None = None,
    classes: Array | None = None,
    reduction: Literal["elements", "batchmean"] = "elements",
) -> Array:
    """``KL(targets || softmax(logits / temperature))``: what the student loses on soft labels.

    ``sum_ij t_ij (log t_ij - log s_ij) / count`` without the factor ``temperature**2``. "elements"
    counts the (valid row, allowed class) pairs, as PyTorch's KLDivLoss does by default;
    "batchmean" counts the valid rows, which is the divergence proper and ``C`` times larger.
    DualNet's task-free form is "elements" times the number of valid rows.

    Args:
      logits: float[b, C], of the student, not yet divided by the temperature.
      targets: float[b, C] probabilities, softened by the caller; zeros are fine, and what stands
        outside ``classes`` is not looked at.
      temperature: > 0, dimensionless, usually 1 to 5.
      valid: bool[b] or None.
      classes: bool[C], bool[b, C] or None: the columns over which the softmax runs.
      reduction: "elements" or "batchmean".

    Returns:
      float[], in nats, >= 0 up to rounding where targets sum to 1.

    Raises:
      InputError: unknown ``reduction``.

    Source: dualnet card sections 4 ("KL, exact") and 5 (L3), oracle 4.
    """
    if reduction not in ("elements", "batchmean"):
        raise InputError(f"reduction={reduction!r}: give 'elements' or 'batchmean'")
    valid, (logits, targets) = rows_of(valid, logits, targets)
    logits = logits / temperature
    allowed = jnp.broadcast_to(valid[:, None], logits.shape)
    if classes is not None:
        logits, allowed = mask_logits(logits, classes), allowed & classes
    counted = allowed & (targets > 0)  # t log t -> 0 as t -> 0
    safe = jnp.where(counted, targets, 1)
    terms = safe * (jnp.log(safe) - jax.nn.log_softmax(logits))
    count = allowed.sum() if reduction == "elements" else valid.sum()
    return jnp.where(counted, terms, 0).sum() / jnp.maximum(count, 1)


def logit_mse(
    logits: Array, targets: Array, *, valid: Array | None = None, classes: Array | None = None
) -> Array:
    """Mean squared difference of logits over valid rows x classes.

    The mean over classes makes it ``C`` times weaker than the squared norm of the DER paper; the
    published weights of DER, DER++ and CLS-ER belong to the mean.

    Args:
      logits, targets: float[b, C].
      valid: bool[b] or None.
      classes: bool[b, C], the columns that count in each row; None: all.

    Returns:
      float[], dimensionless, >= 0.

    Source: clser card section 3 and oracle 3; baselines card section 2 and O2.
    """
    valid, (logits, targets) = rows_of(valid, logits, targets)
    square = jnp.square(logits - targets)
    if classes is None:
        return mean_over(square.mean(axis=-1), valid)
    each = jnp.where(classes, square, 0).sum(axis=-1) / jnp.maximum(classes.sum(axis=-1), 1)
    return mean_over(each, valid)


def weighted_logit_mse(
    logits: Array, targets: Array, weights: Array, *, valid: Array | None = None
) -> Array:
    """Mean over valid rows of ``sum_g w_ig mean_c (logits_ic - targets_gic)^2``.

    The loss to each of several teachers, not to their weighted mean: it is larger by their spread,
    which has no gradient.

    Args:
      logits: float[b, C].
      targets: float[G, b, C].
      weights: float[b, G], >= 0.
      valid: bool[b] or None.

    Returns:
      float[], dimensionless, >= 0.
    """
    valid, rows = rows_of(valid, logits, *targets)
    each = jnp.stack([jnp.square(rows[0] - target).mean(axis=-1) for target in rows[1:]], axis=1)
    return mean_over((weights * each).sum(axis=1), valid)


def entropy(logits: Array, *, valid: Array | None = None) -> Array:
    """``-sum_c p_c ln p_c``, p the softmax over all columns, mean over the rows that count.

    Args:
      logits: float[b, C].
      valid: bool[b] or None.

    Returns:
      float[], in nats, from 0 to log C.
    """
    valid, (logits,) = rows_of(valid, logits)
    logs = jax.nn.log_softmax(logits)
    return mean_over(-(jnp.exp(logs) * logs).sum(axis=-1), valid)


def half_squared(a: PyTree, b: PyTree) -> Array:
    """``1/2 ||a - b||^2`` over all leaves, float32[]: a sum, not a mean."""
    gaps = jax.tree.leaves(jax.tree.map(jnp.subtract, a, b))
    return 0.5 * jnp.asarray(sum(jnp.square(d).sum() for d in gaps))


def magnitude(x: Array) -> Array:
    """``|x|``, with gradient 0 at 0, as in PyTorch and TensorFlow; that of ``jnp.abs`` is 1 there.

    So an entry that is exactly 0, and that nothing else moves, stays 0 under an L1 penalty.

    Args:
      x: float[...].

    Returns:
      float[...], of the same dtype.
    """
    return x * jax.lax.stop_gradient(jnp.sign(x))


def at_least(x: Array, low: float) -> Array:
    """``max(x, low)``, with gradient 1 at ``low`` itself, as PyTorch's ``clamp``; NaN stays NaN.

    Args:
      x: float[...].
      low: a number.

    Returns:
      float[...], of the same dtype.
    """
    return jnp.where(x < low, low, x)


def rows_of(valid: Array | None, *arrays: Array) -> tuple[Array, list[Array]]:
    """``valid`` as an array, and the arrays with zeros in the rows that do not count.

    Args:
      valid: bool[b] or None.
      *arrays: float[b, n] each; narrower than float32 they become that.
    """
    chex.assert_rank(arrays, 2)  # what broadcasts would give a number, and a wrong one
    chex.assert_equal_shape(arrays)
    valid = jnp.ones(arrays[0].shape[0], bool) if valid is None else valid
    chex.assert_shape(valid, arrays[0].shape[:1])
    wide = [a.astype(jnp.promote_types(a.dtype, jnp.float32)) for a in arrays]
    return valid, [jnp.where(valid[:, None], a, 0) for a in wide]


def mean_over(values: Array, valid: Array) -> Array:
    """Mean of float[b] over the rows that are valid, bool[b]; 0 if there is none."""
    return jnp.where(valid, values, 0).sum() / jnp.maximum(valid.sum(), 1)
