"""What group_ema keeps, and how an image is answered from it: by which network.

"route" asks the copy of the group whose exemplars are nearest, "told" that of the group of the true
task, "conf" the most confident copy, "working" the network that is trained.

Source: ours, as ``group_ema``.
"""

from collections.abc import Mapping
from functools import partial
from typing import Literal

import jax
import jax.numpy as jnp
from flax import struct

from cls_jax.core.herding import in_chunks
from cls_jax.core.memory import Memory, reservoir
from cls_jax.core.similarity import Labelled
from cls_jax.core.task_groups import group_means, nearest_task
from cls_jax.core.types import Array, PredictFn, Task, Trainable, Variables
from cls_jax.methods.cls.ema_teacher import Averaged
from cls_jax.methods.cls.group_ema_rules import most_confident, of_group
from cls_jax.methods.problem import Problem
from cls_jax.methods.steps import predict_with

Router = Literal["pixels", "features"]


class GroupEmaState(struct.PyTreeNode):
    """What it carries from step to step.

    Attributes:
      working: the network that is trained.
      copies: the averages, leaves [G, ...]; those of groups that are not open answer nothing.
      memory: slots {x, y, task}.
      task: int32[] tasks that began, less one.
      group: int32[T] of each task; -1 of those that have not begun.
      similarity: float32[T, T] of each two tasks that began, as measured when the later one did.
      planned: int32[T] the group that each task will get; -1: similarity decides.
    """

    working: Trainable
    copies: Averaged
    memory: Memory
    task: Array
    group: Array
    similarity: Array
    planned: Array

    @property
    def num_groups(self) -> int:
        """Room for groups."""
        return self.copies.updates.size

    def to_groups(self) -> tuple[Array, Array]:
        """float32[T, G]: the similarity of each task to each group; bool[G]: which are open."""
        return group_means(self.similarity, self.group, self.num_groups)


def features_of(problem: Problem, state: GroupEmaState, x: Array) -> Array:
    """float32[n, d]: what the last layer of the working network is shown of raw examples.

    Args:
      problem: of the method, with a network that names its last layer.
      state: of it.
      x: raw examples [n, ...].
    """
    extract = problem.net().features
    assert extract is not None

    def one(part: Array) -> Array:
        return extract(state.working.vars, problem.augment.test(part), train=False)[0]

    return in_chunks(one, x)


def stored(state: GroupEmaState, seen: Array) -> Labelled:
    """The exemplars, as ``seen`` float32[M, p] shows them."""
    y = state.memory.slots["y"]
    return Labelled(seen, y, reservoir(len(y)).filled(state.memory))


def routed(problem: Problem, router: Router, state: GroupEmaState, x: Array) -> Array:
    """int32[b]: the group of the task whose exemplars of some class are nearest to each image.

    Args:
      problem: of the method.
      router: what says how near they are.
      state: of it.
      x: raw examples [b, ...].
    """

    def see(x: Array) -> Array:
        if router == "features":
            return features_of(problem, state, x)
        return problem.augment.test(x).reshape(x.shape[0], -1)

    slots = state.memory.slots
    nearest = nearest_task(
        see(x), stored(state, see(slots["x"])), slots["task"], problem.num_classes
    )
    return state.group[nearest]


def answers(problem: Problem, router: Router) -> dict[str, PredictFn]:
    """The ways to answer, by name."""
    net, augment = problem.net(), problem.augment
    group_of = partial(routed, problem, router)

    def logits_of(state: GroupEmaState, x: Array) -> Array:
        """float32[G, b, C]: of each copy."""
        inputs = augment.test(x)

        def one(vars: Variables) -> Array:
            return net.apply(vars, inputs, train=False)[0].astype(jnp.float32)

        return jax.vmap(one)(state.copies.vars)

    def route(state: GroupEmaState, x: Array, task: Task) -> Array:
        return of_group(group_of(state, x), logits_of(state, x))

    def told(state: GroupEmaState, x: Array, task: Task) -> Array:
        known = state.group[jnp.maximum(task.index, 0)]
        group = jnp.where(task.index < 0, group_of(state, x), known)
        return of_group(group, logits_of(state, x))

    def conf(state: GroupEmaState, x: Array, task: Task) -> Array:
        logits, (_, opened) = logits_of(state, x), state.to_groups()
        sure = jax.nn.softmax(logits).max(axis=-1)
        return of_group(most_confident(sure, opened), logits)

    working = predict_with(net, augment, "working")
    return {"route": route, "told": told, "conf": conf, "working": working}


def capacity(state: GroupEmaState) -> Mapping[str, Array]:
    """The copies that are open and the exemplars, in bits; how many are open; each task's group."""
    before = jnp.tril(state.group[:, None] == state.group, k=-1).any(axis=1)
    opened = jnp.cumsum(1.0 * ((state.group >= 0) & ~before))
    kept, copies = (
        sum(8.0 * leaf.dtype.itemsize * leaf.size for leaf in jax.tree.leaves(tree))
        for tree in (state.memory.slots, state.copies.vars)
    )
    bits = opened * (copies / state.num_groups) + kept
    return {"bits": bits, "groups": opened, "group": 1.0 * state.group}
