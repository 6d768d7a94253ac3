"""APD's consolidation: what the residues of similar tasks agree on is stored once for all of them.

Layer by layer, the tasks' residues are grouped by k-means. Where all members of a group lie within
``gap`` of each other, the middle between the largest and the smallest moves into one tensor of the
group, and the members keep nothing there; elsewhere each keeps its own. A task's residue plus what
its group holds moves by at most ``gap / 2`` per entry.

Everything has a fixed shape: T tasks of which some are ``seen``, room for K groups of which the
first ``num`` are in use, so all of it runs inside one compiled boundary.

Source: Yoon et al. 2020 (ICLR; arXiv 1902.09432), hierarchical knowledge consolidation;
jaehong31/APD: the middle of the range where the paper has the centre of the group, 100 steps of
k-means on flattened tensors, the first centres those of the consolidation before.
Departs: an empty group keeps its centre (the official code divides by 0). Centres are kept as
weights over the points and distances come from their inner products: the same steps, cheaper.
"""

import jax
import jax.numpy as jnp
from flax import struct

from cls_jax.core.errors import InputError
from cls_jax.core.types import Array, Scalar

_LLOYD_STEPS = 100


class Groups(struct.PyTreeNode):
    """What groups of tasks hold in common in one layer.

    Attributes:
      common: float32[K, ...] the tensor of each group, added to the residue of its members.
      centres: float32[K, ...] where k-means begins the next time.
      member: int32[T] group of each task; -1: none.
    """

    common: Array
    centres: Array
    member: Array


def no_groups(residues: Array, capacity: int) -> Groups:
    """Nothing in common yet.

    Args:
      residues: float32[T, ...], for shapes.
      capacity: K, room for so many groups.
    """
    empty = jnp.zeros((capacity, *residues.shape[1:]), residues.dtype)
    return Groups(empty, jnp.copy(empty), jnp.full((len(residues),), -1, jnp.int32))


def group_residue(groups: Groups, task: Array) -> Array:
    """float32[...]: what the group of a task holds for it; 0 without a group."""
    group = groups.member[task]
    return jnp.where(group >= 0, groups.common[jnp.maximum(group, 0)], 0)


def check_clusters(consolidate_every: int, clusters: int, num_tasks: int) -> int:
    """The most groups that there can be at a time; 0 where none is ever looked for.

    Args:
      consolidate_every, clusters: s and k.
      num_tasks: of the stream.

    Raises:
      InputError: if a number cannot be.
    """
    every = consolidate_every
    if every < 0:
        raise InputError(f"consolidate_every={every}; give a number of tasks, or 0 for never")
    if every and not 1 <= clusters <= every:
        raise InputError(
            f"clusters={clusters} of {every} tasks cannot be; give 1 to {every}, or "
            "consolidate_every 0 for none"
        )
    return clusters * (num_tasks // every) if every else 0


def num_groups(learned: Array, every: int, clusters: int) -> Array:
    """``clusters * learned / every``: groups after so many tasks, a multiple of ``every``.

    Args:
      learned: int32[] tasks.
      every, clusters: s and k.

    Source: apd card, oracle 5: s = 5, k = 2: 2, 4, 6, 8 after 5, 10, 15, 20 tasks.
    """
    return (clusters * learned // every).astype(jnp.int32)


def consolidate_layers(
    key: Array,
    residues: dict[str, Array],
    groups: dict[str, Groups],
    seen: Array,
    num: Array,
    num_before: Array,
    gap: Scalar,
) -> tuple[dict[str, Array], dict[str, Groups]]:
    """``consolidate`` for every layer by itself.

    Args:
      key: for the centres that are new.
      residues, groups: by layer.
      seen, num, num_before, gap: as for ``consolidate``.

    Returns:
      The residues and the groups by layer.
    """
    keys = dict(zip(residues, jax.random.split(key, len(residues)), strict=True))
    common = seen, num, num_before, gap
    found = {n: consolidate(keys[n], leaf, groups[n], *common) for n, leaf in residues.items()}
    return {n: leaf for n, (leaf, _) in found.items()}, {n: g for n, (_, g) in found.items()}


def consolidate(
    key: Array,
    residues: Array,
    groups: Groups,
    seen: Array,
    num: Array,
    num_before: Array,
    gap: Scalar,
) -> tuple[Array, Groups]:
    """Groups the tasks of one layer anew and moves what a group agrees on into its tensor.

    Args:
      key: for the centres that are new.
      residues: float32[T, ...] what each task has of its own.
      groups: as the last consolidation left them; dissolved.
      seen: bool[T] tasks that take part; the rows of others stay as they are.
      num: int32[] groups to find, at most K and at most the tasks seen.
      num_before: int32[] groups found the last time.
      gap: float32[], the largest distance between members that still agree.

    Returns:
      The residues and the groups. A group of one task holds nothing.
    """
    num_tasks, capacity = len(residues), len(groups.centres)

    def rows(mask: Array) -> Array:
        return mask.reshape(-1, *[1] * (residues.ndim - 1))

    def flat(leaf: Array) -> Array:
        return leaf.reshape(len(leaf), -1)

    whole = residues + jax.vmap(group_residue, (None, 0))(groups, jnp.arange(num_tasks))
    member, centres = kmeans(key, flat(whole), seen, num, flat(groups.centres), num_before)

    nobody = capacity  # a segment that is cut off
    segment = jnp.where(seen, member, nobody)
    low, high = (
        find(whole, segment, capacity + 1)[:capacity]
        for find in (jax.ops.segment_min, jax.ops.segment_max)
    )
    size = jax.ops.segment_sum(seen.astype(jnp.int32), segment, capacity + 1)[:capacity]
    agreed = rows(size > 1) & (high - low <= gap)
    common = jnp.where(agreed, (low + high) / 2, 0)

    grouped = seen & (size[member] > 1)
    mine = jnp.where(rows(grouped) & agreed[member], 0, whole)
    return jnp.where(rows(seen), mine, residues), Groups(
        common=common,
        centres=centres.reshape(groups.centres.shape),
        member=jnp.where(grouped, member, -1),
    )


def kmeans(
    key: Array, points: Array, seen: Array, num: Array, before: Array, num_before: Array
) -> tuple[Array, Array]:
    """100 steps of Lloyd's algorithm on the points seen.

    It starts from the ``num_before`` centres of ``before``, then from random distinct points.

    Args:
      key: for those points.
      points: float32[T, n].
      seen: bool[T] points that count.
      num: int32[] centres wanted, at most K and at most the points seen.
      before: float32[K, n] centres of the last time.
      num_before: int32[] how many of them there are.

    Returns:
      int32[T] the nearest centre of each point (of those not seen: anything), and float32[K, n] the
      centres; a centre to which no point is nearest stays where it was.
    """
    num_points, capacity = len(points), len(before)
    shuffled = jnp.argsort(jax.random.uniform(key, (num_points,)) + 2 * ~seen)
    slots = jnp.arange(capacity)
    start = jnp.where(slots < num_before, num_points + slots, shuffled[:capacity])

    # A centre is a mean of points, or one of ``before``: weights over both, which sum to 1.
    every = jnp.concatenate([jnp.where(seen[:, None], points, 0), before])
    count = jnp.maximum(seen.sum(), 1)
    shifted = every - every[:num_points].sum(0) / count  # inner products lose fewer digits
    inner = jnp.matmul(shifted, shifted.T, precision=jax.lax.Precision.HIGHEST)

    def nearest(weights: Array) -> Array:
        cross = weights @ inner
        distance = (cross * weights).sum(-1, keepdims=True) - 2 * cross[:, :num_points]
        return jnp.argmin(jnp.where((slots < num)[:, None], distance, jnp.inf), axis=0)

    def lloyd(_: Array, weights: Array) -> Array:
        mine = (nearest(weights) == slots[:, None]) & seen
        size = mine.sum(-1, keepdims=True)
        mean = jnp.pad(mine / jnp.maximum(size, 1), ((0, 0), (0, capacity)))
        return jnp.where(size > 0, mean, weights).astype(weights.dtype)

    weights = jax.nn.one_hot(start, num_points + capacity, dtype=points.dtype)
    weights = jax.lax.fori_loop(0, _LLOYD_STEPS, lloyd, weights)
    centres = jnp.matmul(weights, every, precision=jax.lax.Precision.HIGHEST)
    return nearest(weights).astype(jnp.int32), centres
