"""Rules of task groups: the planned ones, what a task is compared by, who teaches, who follows.

Source: ours, as ``group_ema``; which copy teaches: Arani et al. 2022 (arXiv 2201.12604), section 3.
"""

from typing import Literal

import jax
import jax.numpy as jnp

from cls_jax.core.errors import InputError
from cls_jax.core.types import Array, Batch, Scalar

Grouping = Literal["similarity", "random", "snapshots", "told"]

PROBE_SIZE = 200
"""Examples of a new task that are compared with the exemplars of the old ones."""


def check_told(grouping: Grouping, told: tuple[int, ...], num_tasks: int, num_groups: int) -> None:
    """Raises InputError unless the groups that are told fit, and are told where they are asked for.

    Args:
      grouping, told: arguments of the method.
      num_tasks, num_groups: room for tasks and groups.
    """
    if grouping != "told":
        if told:
            raise InputError(
                f"told_groups is {told}, but grouping is {grouping!r}; use grouping told, or leave "
                "told_groups out"
            )
        return
    if len(told) != num_tasks:
        raise InputError(
            f"told_groups holds {len(told)} numbers and there are {num_tasks} tasks; give the "
            "group of each task, e.g. --told-groups 0 1 0 1"
        )
    if not all(0 <= group < num_groups for group in told):
        raise InputError(
            f"told_groups is {told}; give numbers from 0 to {num_groups - 1}, or more max_groups"
        )


def planned_groups(
    key: Array, grouping: Grouping, told: tuple[int, ...], num_tasks: int, num_groups: int
) -> Array:
    """int32[num_tasks]: the group of each task where similarity does not decide, else -1.

    Args:
      key: of random groups, of nearly equal sizes.
      grouping, told: arguments of the method.
      num_tasks, num_groups: room for tasks and groups.
    """
    tasks, number = jnp.arange(num_tasks), min(num_groups, num_tasks)
    if grouping == "random":
        tasks = jax.random.permutation(key, tasks % number)
    elif grouping == "snapshots":
        tasks = tasks * number // num_tasks
    else:
        tasks = jnp.array(told) if told else jnp.full(num_tasks, -1)
    return tasks.astype(jnp.int32)


def some_of(key: Array, data: Batch) -> Batch:
    """PROBE_SIZE labelled examples of a task at random, or all: what it is compared by."""
    noise = jax.random.uniform(key, data.valid.shape)
    wanted = jnp.where(data.valid & data.labelled, noise, -1)
    value, rows = jax.lax.top_k(wanted, min(PROBE_SIZE, len(wanted)))
    return data.replace(
        x=data.x[rows],
        y=data.y[rows],
        task=data.task[rows],
        valid=value >= 0,
        labelled=value >= 0,
    )


def soft_weights(similar: Array, opened: Array, temperature: Scalar) -> Array:
    """float32[..., G]: a softmax of ``similar / temperature`` over the groups that are open.

    Args:
      similar: float32[..., G] to each group.
      opened: bool[G].
      temperature: > 0.
    """
    return jax.nn.softmax(jnp.where(opened, similar / temperature, -jnp.inf))


def literal_weights(similar: Array, opened: Array) -> Array:
    """float32[..., G]: ``max(0, s)`` of the groups that are open; they do not sum to one."""
    return jnp.where(opened, jnp.maximum(similar, 0), 0)


def most_confident(score: Array, opened: Array) -> Array:
    """int32[b]: the open copy with the highest score in each row, the first of equals.

    Args:
      score: float32[G, b], >= 0: the probability of the true class, or of the likeliest.
      opened: bool[G].
    """
    return jnp.where(opened[:, None], score, -1).argmax(axis=0)


def of_group(group: Array, logits: Array) -> Array:
    """float32[b, C]: the logits of each row's group; those of group 0 where it has none.

    Args:
      group: int32[b].
      logits: float32[G, b, C].
    """
    return logits[jnp.maximum(group, 0), jnp.arange(logits.shape[1])]


def update_rates(
    similar: Array,
    opened: Array,
    group: Array,
    *,
    own_rate: Scalar,
    other_rate: Scalar,
    threshold: Scalar,
) -> Array:
    """float32[G]: how probable an update of each copy is in a step.

    ``own_rate`` of the current group's, ``other_rate * max(0, (s - s0) / (1 - s0))`` of others, 0
    of those that are not open.

    Args:
      similar: float32[G] of the current task to each group.
      opened: bool[G].
      group: int32[] the current one.
      own_rate, other_rate: in [0, 1].
      threshold: s0, >= 0; from 1 on only the own copy is updated.
    """
    beyond = jnp.maximum(similar - threshold, 0) / jnp.maximum(1 - threshold, 1e-6)
    others = jnp.where(opened, other_rate * jnp.minimum(beyond, 1), 0)
    return jnp.where(jnp.arange(len(opened)) == group, own_rate, others)
