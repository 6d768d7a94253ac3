"""DyTox's second phase, on the memory alone: which exemplars a step has.

Source: Douillard et al. 2022 (CVPR; arXiv 2111.11326), section 3.3; arthurdouillard/dytox, main.py
(fine-tuning) and continual/rehearsal.py: there the loader does not shuffle, the memory lies from
the oldest class to the newest, and the last batch is left out if it is not whole.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from cls_jax.core.memory import Memory
from cls_jax.core.types import Array
from cls_jax.methods.steps import shuffled_slots, slots_of_batch


class MemoryBatch(NamedTuple):
    """Exemplars of one step.

    Attributes:
      x, y: [size, ...] raw images and labels; anything in invalid rows.
      valid: bool[size].
      epoch: int32[] the pass over the memory that they belong to, from 0.
      order: int32[slots] of this pass, for the next step.
    """

    x: Array
    y: Array
    valid: Array
    epoch: Array
    order: Array


def by_age(memory: Memory, owner: Array) -> Array:
    """int32[slots]: exemplars from the oldest task's to the newest's, class by class, best first.

    Args:
      memory: of exemplars {x, y, rank}, in front.
      owner: int32[C], the task of each class.
    """
    y, rank = memory.slots["y"], memory.slots["rank"]
    empty = jnp.arange(len(y)) >= memory.seen
    return jnp.lexsort((rank, y, owner[y], empty)).astype(jnp.int32)


def memory_batch(
    key: Array, memory: Memory, order: Array, step: Array, size: int, *, shuffled: bool
) -> MemoryBatch:
    """The exemplars of a step of passes over the memory.

    Args:
      key: of the shuffle, which a pass begins with.
      memory: of exemplars, in front.
      order: int32[slots], of this pass so far.
      step: int32[] of the phase, from 0.
      size: rows.
      shuffled: or else in the order that is given, without a last batch that is not whole; a memory
        smaller than a batch then gives no row at all.
    """
    held, slots = memory.seen, memory.slots
    num_batches = -(-held // size) if shuffled else held // size
    epoch, number = jnp.divmod(step, jnp.maximum(num_batches, 1))
    if shuffled:
        filled = jnp.arange(order.size) < held
        order = jax.lax.cond(number == 0, lambda: shuffled_slots(key, filled), lambda: order)
    slot, valid = slots_of_batch(order, number, held, size)
    return MemoryBatch(slots["x"][slot], slots["y"][slot], valid & (num_batches > 0), epoch, order)
