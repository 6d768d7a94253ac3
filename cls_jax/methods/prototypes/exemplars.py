"""Exemplars: the few stored images that stand for past classes, as iCaRL introduced them.

Herding chooses them as a task ends; the next tasks learn from their own examples and from all
exemplars, and the exemplars' mean features can answer.

Source: Rebuffi et al. 2017 (iCaRL), algorithms 1 to 5; Hou et al. 2019 (UCIR), with
equally many of each class.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from cls_jax.core.errors import InputError
from cls_jax.core.herding import class_means, herd, in_chunks, unit
from cls_jax.core.losses import mask_logits
from cls_jax.core.memory import Memory, MemoryPolicy, reservoir
from cls_jax.core.types import Array, Batch
from cls_jax.methods.steps import told_rows


def check_exemplars(memory_size: int, num_classes: int) -> None:
    """Raises InputError unless each class can have an exemplar of its own."""
    if memory_size < num_classes:
        raise InputError(
            f"memory_size={memory_size} gives none of the {num_classes} classes an exemplar "
            f"of its own; use at least {num_classes}"
        )


class MixedBatch(NamedTuple):
    """A batch and, behind it, exemplars.

    Attributes:
      x: raw examples [b + m, ...].
      y: int32[b + m] labels; anything in rows without weight.
      weight: float32[b + m]; 0: the row is not there, else at least 1.
    """

    x: Array
    y: Array
    weight: Array


def no_exemplars(example: Batch, capacity: int) -> Memory:
    """An empty memory of slots {x, y, rank}, filled from the front; ``seen`` counts what it holds.

    ``rank`` int32 is an exemplar's place in the herding order of its class, from 0.
    """
    return reservoir(capacity).init({"x": example.x, "y": example.y, "rank": example.y})


def mix_exemplars(
    key_draw: Array, key_keep: Array, memory: Memory, batch: Batch, task_size: Array, size: int
) -> MixedBatch:
    """The batch, and as many exemplars as it would have if all were shuffled among the task.

    Of ``size`` exemplars drawn each is used with the probability that makes their expected number
    ``valid rows * exemplars / task_size``: each is learned about once an epoch, not exactly once.
    Where ``size`` is too few all are used and weigh more.

    Args:
      key_draw, key_keep: for the two draws.
      memory: of exemplars.
      batch: of the task.
      task_size: int32[] examples of the task.
      size: exemplars drawn, at most the memory's capacity.
    """
    replay = reservoir(len(memory.slots["y"])).sample(key_draw, memory, size)
    share = batch.valid.sum() * (memory.seen / jnp.maximum(task_size, 1))
    rate = share / jnp.maximum(replay.valid.sum(), 1)
    used = replay.valid & jax.random.bernoulli(key_keep, jnp.minimum(rate, 1), replay.valid.shape)
    return MixedBatch(
        x=jnp.concatenate([batch.x, replay.items["x"]]),
        y=jnp.concatenate([batch.y, replay.items["y"]]),
        weight=jnp.concatenate([1.0 * batch.valid, used * jnp.maximum(rate, 1)]),
    )


def select_exemplars(
    features_of: Callable[[Array], Array],
    memory: Memory,
    data: Batch,
    current: Array,
    size: Array | int,
    *,
    mirror: bool = False,
) -> tuple[Memory, Array]:
    """The ``size`` best exemplars of each class, and the mean feature of each class's.

    Classes of the task are herded from its examples and the exemplars they have; of the others the
    first ``size`` stay. Class by class they lie in the front slots.

    Args:
      features_of: raw examples -> float32[n, d] features of unit length; called in chunks.
      memory: of exemplars so far.
      data: all examples of the task.
      current: bool[num_classes] its classes.
      size: int32[] or int, exemplars of a class; those of all classes must fit into the memory.
      mirror: images are averaged with their mirror images in the means.

    Returns:
      The memory, and float32[num_classes, d] means of unit length, zero without an exemplar.
    """
    slots, capacity = memory.slots, len(memory.slots["y"])

    # Everything to choose from: the exemplars so far, and the task's examples.
    x, y = jnp.concatenate([slots["x"], data.x]), jnp.concatenate([slots["y"], data.y])
    features = in_chunks(features_of, x)
    valid = jnp.concatenate([jnp.arange(capacity) < memory.seen, data.valid])
    herded = valid & current[y]
    unranked = jnp.full(data.y.shape, len(y), jnp.int32)
    rank = jnp.concatenate([slots["rank"], unranked])
    rank = jnp.where(herded, herd(features, y, herded, size, current.size), rank)

    # The best of each class, in front, class by class.
    keep = valid & (rank < size)
    order = jnp.lexsort((rank, y, ~keep))[:capacity]
    chosen = {"x": x[order], "y": y[order], "rank": rank[order]}

    # The mean feature of each class's exemplars.
    def means_of(features: Array) -> Array:
        return class_means(features, chosen["y"], keep[order], current.size)

    means = means_of(features[order])
    if mirror and x.ndim == 4:
        mirrored = in_chunks(features_of, chosen["x"][:, :, ::-1])
        means = (means + means_of(mirrored)) / 2
    return Memory(slots=chosen, seen=keep.sum(dtype=jnp.int32)), unit(means)


def balanced_subset(
    key: Array, memory: Memory, data: Batch, seen: Array, policy: MemoryPolicy
) -> Memory:
    """Equally many examples of each class, drawn from its exemplars and the task's examples.

    Each class is cut to as many as the class with the fewest has; or to fewer, if else they would
    not fit.

    Args:
      key: for the draw.
      memory: of exemplars.
      data: all examples of the task.
      seen: bool[num_classes] which classes; those without an example are not counted.
      policy: of the memory that they go to, filled from the front, with slots {x, y}.

    Source: Rhyssiyan/DER-ClassIL.pytorch, inclearn/tools/data_utils.py.
    """
    items = {
        name: jnp.concatenate([memory.slots[name], getattr(data, name)]) for name in ("x", "y")
    }
    there = jnp.arange(len(memory.slots["y"])) < memory.seen
    valid = jnp.concatenate([there & seen[memory.slots["y"]], told_rows(data, seen)])
    counts = jnp.bincount(jnp.where(valid, items["y"], seen.size), length=seen.size)
    size = jnp.min(counts, where=counts > 0, initial=policy.capacity)
    size = jnp.minimum(size, policy.capacity // jnp.maximum((counts > 0).sum(), 1))

    # All rows class by class, in random order within each; the first ``size`` are taken.
    noise = jax.random.uniform(key, valid.shape)
    order = jnp.lexsort((noise, items["y"], ~valid))
    first = (jnp.cumsum(counts) - counts)[items["y"][order]]
    keep = valid[order] & (jnp.arange(len(order)) - first < size)
    to = jnp.where(keep, jnp.cumsum(keep) - 1, policy.capacity)  # out of bounds: dropped
    empty = policy.init(items)
    slots = {k: v.at[to].set(items[k][order], mode="drop") for k, v in empty.slots.items()}
    return Memory(slots=slots, seen=keep.sum(dtype=jnp.int32))


def nearest_mean(features: Array, means: Array) -> Array:
    """Minus the squared distance to each class's mean, as logits float32[b, num_classes].

    Args:
      features: float32[b, d] of unit length.
      means: float32[num_classes, d]; a class whose mean is zero is never the answer.
    """
    distance = jnp.square(features[:, None] - means).sum(axis=-1)
    return mask_logits(-distance, (means != 0).any(axis=1))
