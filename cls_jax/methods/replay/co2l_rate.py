"""Co2L's learning rate: a line up, step by step, then half a cosine down, in each task.

Source: chaht01/Co2L at 3af7064, util.py and main.py (from HobbitLong/SupContrast).
"""

import jax.numpy as jnp
from jax.typing import ArrayLike

from cls_jax.core.types import Array, Scalar

LAST_FACTOR = 1e-3
"""What the cosine ends at, times its height."""


def rate_of(
    epoch: ArrayLike,
    passes: Array,
    rates: tuple[Scalar, Scalar],
    warmup_epochs: int,
    cosine_epochs: tuple[Array | int, int],
) -> Array:
    """float32[]: the learning rate of a step of the phase "contrast".

    In epoch e (from 1) of E it is ``low + (high - low) (1 + cos(pi e / E)) / 2``, low a thousandth
    of high. In the warm-up it is on a line, which leads to epoch ``warmup_epochs`` of a later
    task's cosine even in the first task, where the rate then jumps.

    Args:
      epoch: int32[] of the task, from 0.
      passes: float32[] over the task, so far.
      rates: where the line begins, and high.
      warmup_epochs: of the line; 0: there is none.
      cosine_epochs: E of this task, and of later ones.

    Source: chaht01/Co2L, util.py and main.py; card O4.
    """
    first, high = (jnp.asarray(rate) for rate in rates)

    def cosine(e: Array | int, num_epochs: Array | int) -> Array:
        share = jnp.clip(e / num_epochs, 0, 1)
        return high * (LAST_FACTOR + (1 - LAST_FACTOR) * (1 + jnp.cos(jnp.pi * share)) / 2)

    (this, later), epoch = cosine_epochs, jnp.asarray(epoch)
    rise = first + passes / max(warmup_epochs, 1) * (cosine(warmup_epochs, later) - first)
    rate = jnp.where(epoch < warmup_epochs, rise, cosine(epoch + 1, this))
    return rate.astype(high.dtype)
