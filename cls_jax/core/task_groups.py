"""Groups of similar tasks: which one a new task joins, and to which task an image belongs.

A group is a number, decided as a task begins and then kept, so groups are data of a program that
is compiled once for the whole stream.

Source: ours; TAG (Fifty et al. 2021; arXiv 2109.04617) groups tasks that are all known at once.
"""

import jax
import jax.numpy as jnp

from cls_jax.core.herding import class_means
from cls_jax.core.similarity import Labelled
from cls_jax.core.types import Array, Scalar


def group_means(similarity: Array, group: Array, num_groups: int) -> tuple[Array, Array]:
    """The mean similarity to the tasks of each group, and which groups are open.

    Args:
      similarity: float32[..., T] to each task.
      group: int32[T] of each task; -1 where it has none yet.
      num_groups: room for groups.

    Returns:
      float32[..., num_groups], 0 of a group that is not open; bool[num_groups].
    """
    member = jax.nn.one_hot(group, num_groups, dtype=similarity.dtype)
    size = member.sum(axis=0)
    sums = jnp.matmul(similarity, member, precision="highest")
    return sums / jnp.maximum(size, 1), size > 0


def choose_group(similarity: Array, group: Array, threshold: Scalar, num_groups: int) -> Array:
    """The group that a new task joins, int32[]: the most similar one, or a new one.

    A group is opened for the first task, and where no open group's mean similarity reaches the
    threshold while there is room. Groups never merge or split.

    Args:
      similarity: float32[T] of the new task to each old one.
      group: int32[T] of the old tasks; -1 elsewhere.
      threshold: of the mean similarity.
      num_groups: room for groups, which are opened in the order of their numbers.
    """
    means, there = group_means(similarity, group, num_groups)
    means = jnp.where(there, means, -jnp.inf)
    opened = there.sum(dtype=jnp.int32)
    new = (opened == 0) | ((means.max() < threshold) & (opened < num_groups))
    return jnp.where(new, opened, jnp.argmax(means).astype(jnp.int32))


def nearest_task(x: Array, stored: Labelled, task: Array, num_classes: int) -> Array:
    """The task whose exemplars of some class have the mean nearest to each row, int32[b].

    ``argmin over (task, class) of |x - mean of the exemplars of (task, class)|^2``; each row is
    answered by itself. Where nothing is stored the answer says nothing.

    Args:
      x: float32[b, p] pixels or features.
      stored: float32[M, p] of the exemplars.
      task: int32[M] the task of each.
      num_classes: labels are 0 to num_classes - 1.
    """
    pair = jnp.where(stored.valid, task * num_classes + stored.y, jnp.iinfo(jnp.int32).max)
    order = jnp.argsort(pair)
    place = jnp.cumsum(pair[order] != jnp.roll(pair[order], 1)) - 1
    place = jnp.maximum(place, 0)  # all of one pair: nothing differs from its neighbour
    means = class_means(stored.features[order], place, stored.valid[order], len(pair))
    there = jnp.zeros(len(pair), bool).at[place].max(stored.valid[order])
    owner = jnp.zeros(len(pair), jnp.int32).at[place].max(task[order])
    near = jnp.matmul(x, means.T, precision="highest") - jnp.square(means).sum(axis=1) / 2
    return owner[jnp.argmax(jnp.where(there, near, -jnp.inf), axis=1)]
