"""Masks of task groups: which channels of a layer belong to which group, and what others see.

A share of a layer's channels belongs to all groups; the rest is divided evenly among them, at
random and once. What a layer gives an example of group g is multiplied by

    M[g, u] = 1 if channel u is shared or g's own, else a

Source: ours, after the task_similarity card, section 5; HAT (Serra et al. 2018; arXiv 1801.01423)
and CAT (Ke, Liu, Huang 2020; arXiv 2112.10017) learn such masks, a task each.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from cls_jax.core.errors import InputError
from cls_jax.core.similarity import Labelled
from cls_jax.core.task_groups import nearest_task
from cls_jax.core.types import Array, Scalar, Task
from cls_jax.nets.base import MaskedFn, Net

SHARED = -1
"""The owner of a channel that belongs to all groups."""

Owners = tuple[Array, ...]
"""Of each layer int32[channels]: the group that a channel belongs to, or SHARED."""


def maskable(net: Net, kind: str) -> MaskedFn:
    """The pass of a network with masks. Raises InputError if it has no stages to mask.

    Args:
      net: of one answer.
      kind: what it is called.
    """
    if net.masked is None:
        raise InputError(
            f"net is {kind!r}, which has no stages that masks of groups can multiply; use "
            "'resnet18', or 'mlp' with a hidden layer"
        )
    return net.masked


def draw_owners(key: Array, sizes: Sequence[int], num_groups: int, shared_rate: Scalar) -> Owners:
    """A random allotment of each layer's channels to groups.

    Args:
      key: of the draw.
      sizes: channels of each layer.
      num_groups: groups, which have equally many channels of their own, or one more.
      shared_rate: share of a layer's channels that belong to all, rounded, in [0, 1].

    Returns:
      Owners.
    """

    def of(key: Array, size: int) -> Array:
        shared = jnp.round(shared_rate * size).astype(jnp.int32)
        rank = jax.random.permutation(key, size) - shared
        own = rank * num_groups // jnp.maximum(size - shared, 1)
        return jnp.where(rank < 0, SHARED, own).astype(jnp.int32)

    return tuple(map(of, jax.random.split(key, len(sizes)), sizes))


def masks_of(owners: Owners, group: Array, foreign_factor: Scalar) -> tuple[Array, ...]:
    """Of each layer float32[b, channels]: 1, or a where a channel belongs to another group.

    Args:
      owners: of each layer.
      group: int32[b] of each example.
      foreign_factor: a: 0 hides such channels, 1 hides nothing.
    """

    def of(owner: Array) -> Array:
        seen = (owner == SHARED) | (owner == group[:, None])
        return jnp.where(seen, 1, jnp.asarray(foreign_factor, jnp.float32))

    return tuple(map(of, owners))


def task_at_test(task: Task, x: Array, stored: Labelled, stored_task: Array) -> Array:
    """int32[b]: the task that is told, or that whose exemplars of some class are nearest.

    Args:
      task: told, or index -1.
      x: float32[b, ...] inputs.
      stored: exemplars, their inputs float32[M, ...].
      stored_task: int32[M] the task of each.
    """
    stored = stored._replace(features=stored.features.reshape(len(stored.y), -1))
    nearest = nearest_task(x.reshape(x.shape[0], -1), stored, stored_task, task.classes.size)
    return jnp.where(task.index >= 0, task.index, nearest)
