"""DualNet with masks of task groups on what its fast network adapts; nothing without them.

With m_l = f_l(m_{l-1}) h_l, f the fast and h the slow network's layers, and M_l the mask of an
example's group (group_masks.py), zeros and ones:

    product   m_l = M_l f_l(m_{l-1}) h_l               the trunk and its loss stay as they are
    neutral   m_l = (1 + M_l (f_l(m_{l-1}) - 1)) h_l   other groups see the slow feature alone
    trunk     as product, and h_l is masked before it feeds h_{l+1}, without labels too

Source: ours, after the task_similarity card, section 5: A0, A1 and A2, and the shares.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from cls_jax.core.augment import Augment
from cls_jax.core.choices import GroupMasks
from cls_jax.core.errors import InputError
from cls_jax.core.memory import MemoryPolicy
from cls_jax.core.similarity import Labelled
from cls_jax.core.types import Array, PyTree, Task
from cls_jax.methods.cls.dualnet_tasks import DualNetState
from cls_jax.methods.cls.group_ema_rules import check_told
from cls_jax.methods.cls.group_masks import (
    draw_owners,
    masks_of,
    task_at_test,
)

FAST_SHARE, SLOW_SHARE = 0.25, 0.75
"""Of the channels of a fast and, with "trunk", of a slow layer that belong to all groups."""


class MaskedDualNetState(DualNetState):
    """As DualNetState; owners: {"fast", "slow"}, of the channels of each layer."""

    owners: PyTree = ()


class Cut(NamedTuple):
    """What masks add to the forwards of some examples: keywords of ``DualNets``' functions.

    Attributes:
      slow: of ``features`` and ``embed``.
      fast: of ``classify``.
    """

    slow: Mapping[str, Any] = {}
    fast: Mapping[str, Any] = {}


class Masking(NamedTuple):
    """How a learner masks.

    Attributes:
      start: (key, new state, channels of each layer) -> the state with an allotment.
      of: (state, task int32[b] of each example) -> Cut.
      task_of: (state, raw examples, task) -> int32[b], told or found.
    """

    start: Callable[[Array, DualNetState, Sequence[int]], DualNetState]
    of: Callable[[Any, Array], Cut]
    task_of: Callable[[DualNetState, Array, Task], Array]


def masking(
    kind: GroupMasks,
    groups: tuple[int, ...],
    num_tasks: int,
    policy: MemoryPolicy,
    augment: Augment,
) -> Masking:
    """The masks of a learner.

    Args:
      kind: see the module's docstring, or "none".
      groups: the group of each task; () for "none".
      num_tasks: of the stream; 0: a task-free learner, which is not told them.
      policy: of the memory, whose exemplars tell the group of an image at test.
      augment: of the inputs.

    Raises:
      InputError: if the groups do not fit the stream, nothing is masked by them, or the learner is
        task-free.
    """
    if kind == "none":
        if groups:
            raise InputError(
                f"told_groups is {groups}, but masks is none, so they would do nothing; leave "
                "told_groups out, or choose masks product, neutral or trunk"
            )
        return Masking(
            start=lambda key, state, sizes: state,
            of=lambda state, task: Cut(),
            task_of=lambda state, x, task: jnp.broadcast_to(task.index, x.shape[:1]),
        )
    if not num_tasks:
        raise InputError(f"masks is {kind}, and a task-free learner knows no group; use masks none")
    number = max(groups, default=0) + 1
    check_told("told", groups, num_tasks, number)

    def start(key: Array, state: DualNetState, sizes: Sequence[int]) -> MaskedDualNetState:
        owners = {
            name: draw_owners(jax.random.fold_in(key, i), sizes, number, share)
            for i, (name, share) in enumerate((("fast", FAST_SHARE), ("slow", SLOW_SHARE)))
        }
        return MaskedDualNetState(**vars(state), owners=owners)

    def of(state: MaskedDualNetState, task: Array) -> Cut:
        group = jnp.asarray(groups, jnp.int32)[task]
        masks = {name: masks_of(owners, group, 0.0) for name, owners in state.owners.items()}
        return Cut(
            slow={"masks": masks["slow"]} if kind == "trunk" else {},
            fast={"masks": masks["fast"], "neutral": kind == "neutral"},
        )

    def task_of(state: DualNetState, x: Array, task: Task) -> Array:
        slots = state.memory.slots
        stored = Labelled(augment.test(slots["x"]), slots["y"], policy.filled(state.memory))
        return task_at_test(task, augment.test(x), stored, slots["task"])

    return Masking(start, of, task_of)
