"""How fast the parameters of a task group's channels move, by how alike the group is to the task.

A network's channels belong to groups (methods/cls/group_masks.py). What produces a channel (its
column of the kernel, its bias, the scale and shift of its norm) has its group's multiplier; all
else has 1. Updates are multiplied, not gradients, since the step of Adam is invariant to the size
of a gradient; and the multipliers are divided by their mean over all parameters, since else a
variant is a smaller learning rate.

    fast    rho = low + (high - low) s             what is alike moves fast
    slow    rho = high + low - fast's
    mid     rho = 1 - (1 - low) 4 s (1 - s)        slow where similarity is intermediate
    shuffle fast's rho, of another group           a control: nothing is known of the group
    flat    the mean of fast's rho                 a control: the same for all groups

Source: ours, after the task_similarity card, section 6; Ramasesh et al. 2021 (ICLR; arXiv
2007.07400) find forgetting largest at intermediate similarity.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import optax

from cls_jax.core.choices import Speed
from cls_jax.core.types import Array, PyTree, Scalar
from cls_jax.methods.cls.group_masks import SHARED, Owners


def group_speeds(
    key: Array, kind: Speed, similarity: Array, known: Array, low: Scalar, high: Scalar
) -> Array:
    """float32[G]: the multiplier of each group's channels, before it is divided by the mean.

    Args:
      key: of the kind "shuffle".
      kind: see the module's docstring.
      similarity: float32[G] of the new task to each group, calibrated, in [0, 1].
      known: bool[G] groups that have a task already; the others have 1.
      low, high: the least and the largest multiplier, >= 0.
    """
    fast = low + (high - low) * similarity
    number = jnp.maximum(known.sum(), 1)
    if kind == "slow":
        speed = high + low - fast
    elif kind == "mid":
        speed = 1 - (1 - low) * 4 * similarity * (1 - similarity)
    elif kind == "flat":
        speed = jnp.where(known, fast, 0).sum() / number
    elif kind == "shuffle":
        place = jnp.argsort(~known)  # the known ones in front, in order
        order = jnp.argsort(~known + jax.random.uniform(key, known.shape))  # and at random
        speed = jnp.zeros_like(fast).at[place].set(fast[order])
    else:
        speed = fast
    return jnp.where(known, speed, 1)


def channel_speeds(
    params: PyTree, stages: Sequence[tuple[str, int]], owners: Owners, speed: Array
) -> PyTree:
    """A multiplier for each parameter, like ``params``; its leaves broadcast to those.

    Args:
      params: of a network.
      stages: its ``Net.stages``.
      owners: of the channels of each stage.
      speed: float32[G] of each group.
    """
    found = jax.tree.map(lambda _: jnp.float32(1), params)
    for (name, _), owner in zip(stages, owners, strict=True):
        mine = jnp.where(owner == SHARED, 1, speed[owner])
        found = {**found, name: jax.tree.map(lambda _, mine=mine: mine, params[name])}
    return found


def scale_by_speed(multipliers: PyTree) -> optax.GradientTransformation:
    """Multiplies each update by its multiplier over the mean multiplier of all parameters.

    So the mean rate of all parameters stays the learning rate. It goes behind the optimizer,
    ``optax.chain(optax.adam(rate), scale_by_speed(multipliers))``. Multipliers of 1
    leave it as it is.

    Args:
      multipliers: like the parameters; leaves that broadcast to these.
    """

    def update(updates: PyTree, state: PyTree, params: PyTree | None = None):
        del params
        leaves = jax.tree.leaves(updates)
        total = sum(leaf.size for leaf in leaves)
        more = [  # than 1: so the mean of ones is 1 to the bit
            jnp.mean(jnp.broadcast_to(m - 1, u.shape)) * u.size / total
            for m, u in zip(jax.tree.leaves(multipliers), leaves, strict=True)
        ]
        mean = 1 + sum(more)
        return jax.tree.map(
            lambda u, m: u * (m / mean).astype(u.dtype), updates, multipliers
        ), state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update)
