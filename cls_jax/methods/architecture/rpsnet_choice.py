"""How RPS-Net's best candidate is found: on examples that none of them learned from.

Nobody but a step sees a batch, and nobody but a boundary all examples of a task. So whether an
example is held out follows from its pixels alone: a number of them, which looks random, is below
the share. Both sides find the same examples, and equal ones stand on one side.

Source: ours; brjathu/RPSnet, learner.py and util.py, choose by the accuracy on the test set.
"""

import jax
import jax.numpy as jnp

from cls_jax.core.types import Array, Scalar


def held_out(x: Array, share: Scalar) -> Array:
    """bool[n]: of many examples about ``share``, always the same ones.

    Args:
      x: raw examples, uint8[n, ...] or float32[n, d].
      share: in [0, 1).
    """
    rows = x.reshape(len(x), -1)
    if jnp.issubdtype(rows.dtype, jnp.floating):
        rows = jax.lax.bitcast_convert_type(rows.astype(jnp.float32), jnp.uint32)
    factors = jax.random.bits(jax.random.key(0), rows.shape[1:], jnp.uint32) | 1
    sums = (rows.astype(jnp.uint32) * factors).sum(axis=1, dtype=jnp.uint32)
    keys = jax.vmap(jax.random.fold_in, (None, 0))(jax.random.key(1), sums)
    return jax.vmap(lambda key: jax.random.uniform(key, dtype=jnp.float32))(keys) < share


def class_accuracy(logits: Array, y: Array, valid: Array) -> Array:
    """The accuracy of each class, averaged over those that have a valid row; float32[].

    Args:
      logits: float32[n, C].
      y: int32[n].
      valid: bool[n].
    """
    label = jnp.where(valid, y, logits.shape[1])  # out of bounds: not counted
    counts, right = (
        jnp.zeros(logits.shape[1]).at[label].add(values, mode="drop")
        for values in (1.0, 1.0 * (logits.argmax(axis=1) == y))
    )
    return (right / jnp.maximum(counts, 1)).sum() / jnp.maximum((counts > 0).sum(), 1)
