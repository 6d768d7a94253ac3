"""DualNet's two learners: one that is told which task it learns, and one that is not.

They differ in their memory, in the classes of a softmax, and in which remembered examples are
replayed and get soft targets; everything else is the same algorithm, in dualnet.py.

Source: phquang/DualNet; dualnet.py says where this departs from it.
"""

from collections.abc import Callable
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from flax import struct

from cls_jax.core import losses
from cls_jax.core.errors import InputError
from cls_jax.core.memory import Draw, Memory, MemoryPolicy, reservoir, ring_per_task
from cls_jax.core.types import Array, Batch, PyTree, Scalar, Task, Trainable
from cls_jax.methods.columns import classes_of, own_label

REFRESH = 64  # slots whose soft targets are computed in one forward pass (code, task-free)


class DualNetState(struct.PyTreeNode):
    """The whole learner.

    Attributes:
      slow: trunk and projector; its optimizer state is {"ssl", "supervised"}.
      fast: adapting blocks and head, with their own optimizer state.
      target: Variables of BYOL's averaged slow network; () for the other objectives.
      memory: slots {x, y, task, logits, has_logits}; ``logits`` are the soft targets.
      task_classes: bool[num_tasks, num_classes] of the tasks met so far.
      num_begun: int32[] boundaries met; last: int32[] number of the newest task, -1 unknown.
    """

    slow: Trainable
    fast: Trainable
    target: PyTree
    memory: Memory
    task_classes: Array
    num_begun: Array
    last: Array


StoreFn = Callable[[DualNetState, Array, Array], DualNetState]
"""(state, index int32[n], wanted bool[n]) -> the state after soft targets for these slots."""


class TaskRules(NamedTuple):
    """How a learner treats tasks.

    Attributes:
      policy: of the memory.
      own_classes: (state, task int32[b]) -> bool[b, num_classes], the columns of each example's
        softmax; None: all.
      learnable: (state, labelled examples) -> bool[b]: those to learn from and to store.
      replayable: (state, batch) -> bool[capacity]: the slots that may be replayed now.
      boundary: (state, new task, StoreFn) -> the state after soft targets for what lacks them,
        and what else the learner notes of a boundary.
    """

    policy: MemoryPolicy
    own_classes: Callable[[DualNetState, Array], Array | None]
    learnable: Callable[[DualNetState, Batch], Array]
    replayable: Callable[[DualNetState, Batch], Array]
    boundary: Callable[[DualNetState, Task, StoreFn], DualNetState]


def aware_rules(memory_size: int, num_tasks: int) -> TaskRules:
    """Task-aware: softmax over the task's own classes, and a ring of slots for each task.

    Args:
      memory_size: slots in all.
      num_tasks: of the stream.

    Raises:
      InputError: if the slots cannot be divided evenly among the tasks.
    """
    if memory_size % num_tasks:
        raise InputError(
            f"memory_size={memory_size} cannot be divided evenly among {num_tasks} tasks; "
            f"use a multiple of {num_tasks}"
        )
    per_task = memory_size // num_tasks
    policy = ring_per_task(num_tasks, per_task)

    def own_classes(state: DualNetState, task: Array) -> Array:
        return classes_of(state.task_classes, task)

    def learnable(state: DualNetState, batch: Batch) -> Array:
        """A label that is none of its task's counts as missing."""
        return own_label(state.task_classes, batch) & batch.labelled

    def replayable(state: DualNetState, batch: Batch) -> Array:
        """Examples of earlier tasks."""
        return policy.filled(state.memory) & (state.memory.slots["task"] != batch.task[0])

    def boundary(state: DualNetState, task: Task, store: StoreFn) -> DualNetState:
        """Soft targets for the last task's ring; then the new task's classes."""
        index = jnp.maximum(state.last, 0) * per_task + jnp.arange(per_task)
        wanted = policy.filled(state.memory)[index] & (state.last >= 0)
        state = store(state, index, wanted)
        return state.replace(task_classes=state.task_classes.at[task.index].set(task.classes))

    return TaskRules(policy, own_classes, learnable, replayable, boundary)


def free_rules(memory_size: int) -> TaskRules:
    """Task-free: softmax over all classes, one reservoir, and boundaries without a number."""
    policy = reservoir(memory_size)

    def own_classes(state: DualNetState, task: Array) -> None:
        return None

    def learnable(state: DualNetState, batch: Batch) -> Array:
        return batch.valid & batch.labelled

    def replayable(state: DualNetState, batch: Batch) -> Array:
        """Every example, once a task is over."""
        return policy.filled(state.memory) & (state.num_begun > 1)

    def boundary(state: DualNetState, task: Task, store: StoreFn) -> DualNetState:
        """Soft targets for every example that has none of its own."""
        wanted = policy.filled(state.memory) & ~state.memory.slots["has_logits"]
        slots = pad_rows(jnp.arange(policy.capacity), -(-policy.capacity // REFRESH) * REFRESH)
        wanted = pad_rows(wanted, slots.size)
        parts = (slots.reshape(-1, REFRESH), wanted.reshape(-1, REFRESH))
        state, _ = jax.lax.scan(lambda s, part: (store(s, *part), None), state, parts)
        return state

    return TaskRules(policy, own_classes, learnable, replayable, boundary)


def soft_target_loss(
    logits: Array,
    replay: Draw,
    own: Array | None,
    *,
    temperature: Scalar,
    stale: bool,
    reduction: Literal["elements", "batchmean"],
) -> Array:
    """KL from what was once said of the replayed examples, each in the classes ``own``.

    Args:
      logits: float32[m, C] of the replayed examples.
      replay: them; items {logits, has_logits}.
      own: bool[m, C]; None: all classes, of a task-free learner.
      temperature: T, softens logits and soft targets.
      stale: examples without soft targets of their own use what their slot holds.
      reduction: mean over all elements (in the task-free code times the batch) or over the batch.
    """
    known = replay.valid & (replay.items["has_logits"] | stale)
    targets = replay.items["logits"]
    targets = targets if own is None else losses.mask_logits(targets, own)
    soft = losses.soft_target_kl(
        logits,
        jax.nn.softmax(targets / temperature),
        temperature=temperature,
        valid=known,
        classes=own,
        reduction=reduction,
    )
    if reduction == "elements" and own is None:
        soft = soft * known.sum()
    return soft


def pad_rows(rows: Array, size: int) -> Array:
    """``rows`` with zeros (False) behind, ``size`` in all."""
    return jnp.pad(rows, [(0, size - rows.shape[0])] + [(0, 0)] * (rows.ndim - 1))
