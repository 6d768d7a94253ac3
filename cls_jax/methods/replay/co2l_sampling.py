"""How Co2L draws with equal shares of classes: rows for its classifier, exemplars for its memory.

Source: Cha, Lee and Shin 2021 (ICCV; arXiv 2106.14413); chaht01/Co2L, main_linear_buffer.py and
main.py, set_replay_samples.
Departs: there the share of each old class is rounded at random by itself, and the new classes get
the rest; here shares differ by one at most.
"""

import jax
import jax.numpy as jnp

from cls_jax.core.memory import Memory
from cls_jax.core.types import Array, Batch


def label_counts(y: Array, valid: Array, num_classes: int) -> Array:
    """int32[num_classes], how many valid rows have each label.

    Args:
      y: int32[n]; anything in invalid rows.
      valid: bool[n].
      num_classes: labels are 0 to num_classes - 1.
    """
    return jnp.bincount(jnp.where(valid, y, num_classes), length=num_classes).astype(jnp.int32)


def equal_shares(y: Array, valid: Array, counts: Array, old_y: Array, held: Array) -> Array:
    """With which chance each row is drawn, so that on average all classes are drawn equally often.

    Each image among the task's and the old ones has a chance of one over those of its class; a
    batch stands for the whole task.

    Args:
      y: int32[b] of a batch of the task.
      valid: bool[b].
      counts: int32[C] images of the task.
      old_y: int32[m] of the old images.
      held: bool[m] which of them are there.

    Returns:
      float32[b + m], up to a factor.

    Source: chaht01/Co2L, main_linear_buffer.py: WeightedRandomSampler.
    """
    each = 1 / jnp.maximum(counts + label_counts(old_y, held, counts.size), 1)
    of_batch = jnp.where(valid, each[y], 0)
    stands_for = (counts * each).sum() / jnp.maximum(of_batch.sum(), jnp.finfo(each.dtype).tiny)
    return jnp.concatenate([of_batch * stands_for, jnp.where(held, each[old_y], 0)])


def random_shares(key: Array, memory: Memory, data: Batch, num_classes: int) -> Memory:
    """The memory filled anew from what it holds and ``data``: any of each class, in equal shares.

    M images, M / C of each of C classes, rounded up for as many as fill it, or all there are.

    Args:
      key: of the draw.
      memory: slots {x, y}, ``seen`` of them filled.
      data: the valid rows are to choose from.
      num_classes: labels are 0 to num_classes - 1.
    """
    size = len(memory.slots["y"])
    items = {k: jnp.concatenate([v, getattr(data, k)]) for k, v in memory.slots.items()}
    there = jnp.concatenate([jnp.arange(size) < memory.seen, data.valid])
    key_order, key_class = jax.random.split(key)

    # Class by class, each in random order.
    noise = jax.random.uniform(key_order, there.shape)
    order = jnp.lexsort((noise, items["y"], ~there))
    y, counts = items["y"][order], label_counts(items["y"], there, num_classes)
    rank = jnp.arange(order.size) - (jnp.cumsum(counts) - counts)[y]

    # The first of each class, the second of each class, ... until the memory is full.
    turn = jax.random.permutation(key_class, num_classes)[y]
    order = order[jnp.lexsort((turn, rank, ~there[order]))][:size]
    held = jnp.minimum(there.sum(dtype=jnp.int32), size)
    return Memory({k: v[order] for k, v in items.items()}, held)
