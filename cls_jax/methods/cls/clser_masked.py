"""CLS-ER whose channels belong to groups of tasks: an example sees its own group's and the shared.

    at a boundary:
        the group of the new task: told, or that of the most similar tasks, or a new one
        the speed of each group's parameters, by how similar the group is
    for each batch, as CLS-ER, all three networks with the masks of each example's group:
        draw;  the copy that knows better teaches;  learn, the updates times their speeds
        store the examples and their task;  both copies follow

At test the group is told with the task, or else that of the nearest mean of exemplars, in pixels;
the view "conf" takes that whose masks make the working network surest, and is never told.

Source: ours, after the task_similarity card, sections 4 to 6 and its addenda; the user's second
source proposes it and gives no numbers. CLS-ER is Arani, Sarfraz, Zonooz 2022; see clser.py.
"""

from functools import partial
from typing import Literal

import jax
import jax.numpy as jnp
import optax
from flax import struct

from cls_jax.core.checks import check_range
from cls_jax.core.choices import EmaBn, Speed, Warmup
from cls_jax.core.memory import Memory, order_after, reservoir
from cls_jax.core.similarity import Labelled, task_similarity
from cls_jax.core.task_groups import choose_group, group_means
from cls_jax.core.types import Array, Batch, Metrics, PyTree, Task, Trainable
from cls_jax.methods.base import Algorithm, Needs, method
from cls_jax.methods.checks import check_replay
from cls_jax.methods.cls.clser import better_teacher
from cls_jax.methods.cls.ema_teacher import (
    Averaged,
    consistency_step,
    copy_of,
    maybe_ema_update,
    slow_copies,
    teacher_logits,
)
from cls_jax.methods.cls.group_ema_rules import (
    check_told,
    most_confident,
    of_group,
    planned_groups,
    some_of,
)
from cls_jax.methods.cls.group_masks import (
    Owners,
    draw_owners,
    maskable,
    masks_of,
    task_at_test,
)
from cls_jax.methods.cls.group_speeds import channel_speeds, group_speeds, scale_by_speed
from cls_jax.methods.problem import Problem
from cls_jax.methods.steps import init_model
from cls_jax.methods.tag_optimizer import tag
from cls_jax.nets.base import Net


class MaskedClsErState(struct.PyTreeNode):
    """The whole learner.

    Attributes:
      working, plastic, stable, step: as of ClsErState.
      memory: slots {x, y, task}.
      owners: of the channels of each stage.
      planned: int32[T] the group of each task where similarity does not decide, else -1.
      group: int32[T] of each task, -1 before it begins.
      speed: float32[G] multiplier of each group's channels.
      task: int32[], the present one.
    """

    working: Trainable
    plastic: Averaged
    stable: Averaged
    memory: Memory
    owners: Owners
    planned: Array
    group: Array
    speed: Array
    task: Array
    step: Array


@method
def clser_masked(
    problem: Problem,
    *,
    memory_size: int = 500,
    replay_size: int = 32,
    max_groups: int = 5,
    grouping: Literal["similarity", "random", "snapshots", "told"] = "similarity",
    told_groups: tuple[int, ...] = (),
    speed: Speed = "none",
    ema_bn: EmaBn = "own",
    warmup: Warmup = "steps",
    learning_rate: float = 0.1,
    consistency_weight: float = 2.0,
    stable_rate: float = 0.9,
    stable_decay: float = 0.99,
    plastic_rate: float = 1.0,
    plastic_decay: float = 0.99,
    shared_rate: float = 0.5,
    foreign_factor: float = 0.0,
    group_threshold: float = 0.5,
    slowest_factor: float = 0.5,
    fastest_factor: float = 1.5,
) -> Algorithm:
    """CLS-ER with masks of task groups; its views are "working", "plastic" and "conf".

    Args:
      memory_size: M, slots of the reservoir; as for clser.
      replay_size: m, examples replayed a step; as for clser.
      max_groups: G, room for groups, among which the channels are divided.
      grouping: by similarity as each task begins; or, as controls, at random into G groups of
        nearly equal sizes, "snapshots" (T / G tasks in a row are a group), or as told.
      told_groups: of each task, for grouping told, e.g. 0 1 2 0 1 2.
      speed: of the parameters of a group's channels, by its similarity to the new task: "fast" the
        similar, "slow" the others, "mid" those of no intermediate similarity; the controls "flat"
        and "shuffle"; "tag" learns with the TAG optimizer instead.
      ema_bn: the copies' BatchNorm statistics; as for clser.
      warmup: what warms the averages up; as for clser.
      learning_rate: eta, step length, of SGD by default, >= 0; as for clser, S-MNIST, buffer 500.
      consistency_weight: lambda, of the logit consistency, >= 0; as for clser.
      stable_rate: r_S, probability of an update of the stable copy a step; as for clser.
      stable_decay: alpha_S, cap of the stable average's decay, in [0, 1); as for clser.
      plastic_rate: r_P, probability of an update of the plastic copy a step; as for clser.
      plastic_decay: alpha_P, cap of the plastic average's decay, in [0, 1); as for clser.
      shared_rate: phi, share of a stage's channels that belong to all groups, in [0, 1]; the card.
      foreign_factor: a, what a channel of another group is multiplied by: 0 hides it (hard masks),
        0.3 is soft, 1 is CLS-ER without masks; the card.
      group_threshold: tau, the calibrated similarity below which a new group is opened; the card.
      slowest_factor: rho_min, the least multiplier of a group's updates, >= 0; the card.
      fastest_factor: rho_max, the largest, >= 0; the card.

    Raises:
      InputError: if the memory is smaller than one replay draw, the groups do not fit the stream,
        or the network has no stages that masks can multiply.
    """
    check_replay(memory_size, replay_size)
    net, augment, policy = problem.net(), problem.augment, reservoir(memory_size)
    num_tasks, num_classes, m = problem.num_tasks, problem.num_classes, replay_size
    check_range("max_groups", max_groups, 1)
    plan = grouping, told_groups, num_tasks, max_groups
    check_told(*plan)
    plain = None if speed == "tag" else problem.optimizer(learning_rate)
    by_speed = speed not in ("none", "tag")
    masked, measured = maskable(net, problem.networks.kind), by_speed or grouping == "similarity"
    follow = partial(maybe_ema_update, ema_bn=ema_bn, warmup=warmup)
    follow_plastic = partial(follow, rate=plastic_rate, decay=plastic_decay)
    follow_stable = partial(follow, rate=stable_rate, decay=stable_decay)

    def net_of(state: MaskedClsErState, group: Array) -> Net:
        """The network as examples of these groups, int32[n], see it, or the first few of them."""
        masks = masks_of(state.owners, group, foreign_factor)

        def apply(vars, x, *, train, valid=None):
            return masked(vars, x, masks=[m[: x.shape[0]] for m in masks], train=train, valid=valid)

        return Net(net.init, apply)

    def optimizer_at(task: Array | int, multipliers: PyTree) -> optax.GradientTransformation:
        """The optimizer of the present task, at the present multiplier of each parameter."""
        if plain is None:
            return tag(learning_rate, task, num_tasks)
        return optax.chain(plain, scale_by_speed(multipliers)) if by_speed else plain

    def init(key: Array, example: Batch) -> MaskedClsErState:
        working = init_model(key, net, augment.test(example.x), optimizer_at(0, None))
        sizes = [size for _, size in net.stages]
        return MaskedClsErState(
            working=working,
            plastic=copy_of(working.vars),
            stable=copy_of(working.vars),
            memory=policy.init({"x": example.x, "y": example.y, "task": example.task}),
            owners=draw_owners(jax.random.fold_in(key, 1), sizes, max_groups, shared_rate),
            planned=planned_groups(jax.random.fold_in(key, 2), *plan),
            group=jnp.full(num_tasks, -1, jnp.int32),
            speed=jnp.ones(max_groups),
            task=jnp.int32(0),
            step=jnp.int32(0),
        )

    def begin_task(key: Array, state: MaskedClsErState, task: Task, data: Batch | None):
        key_probe, key_similarity, key_speed = jax.random.split(key, 3)
        group, speeds = state.planned[task.index], state.speed
        if measured:
            assert data is not None  # Needs
            vars, slots = state.working.vars, state.memory.slots
            probe = some_of(key_probe, data)
            new = Labelled(features(vars, probe.x), probe.y, probe.valid)
            old = Labelled(features(vars, slots["x"]), slots["y"], policy.filled(state.memory))
            _, alike = task_similarity(
                key_similarity, new, old, slots["task"], num_tasks, num_classes
            )
            joined = choose_group(alike, state.group, group_threshold, max_groups)
            group = jnp.where(group < 0, joined, group)
            if by_speed:
                means, known = group_means(alike, state.group, max_groups)
                rule = (slowest_factor, fastest_factor)
                speeds = group_speeds(key_speed, speed, means, known, *rule)
        return state.replace(
            group=state.group.at[task.index].set(group), speed=speeds, task=task.index
        )

    def features(vars: PyTree, x: Array) -> Array:
        """Of the whole network, float32[n, d]: no example has a group yet."""
        assert net.features is not None  # maskable
        return net.features(vars, augment.test(x), train=False)[0]

    def step(key: Array, state: MaskedClsErState, batch: Batch) -> tuple[MaskedClsErState, Metrics]:
        key_draw, key_augment, key_add, key_plastic, key_stable = jax.random.split(key, 5)
        number = state.step + 1

        # Draw, and let the copy that knows better say what each replayed example should keep.
        replay = policy.sample(key_draw, state.memory, m)
        x = augment.train(key_augment, jnp.concatenate([replay.items["x"], batch.x]))
        y = jnp.concatenate([replay.items["y"], batch.y])
        valid = jnp.concatenate([replay.valid, batch.valid])
        tasks = jnp.concatenate([replay.items["task"], batch.task])
        here = net_of(state, state.group[tasks])
        stable_logits, stable = teacher_logits(here, state.stable, x[:m], replay.valid, ema_bn)
        plastic_logits, plastic = teacher_logits(here, state.plastic, x[:m], replay.valid, ema_bn)
        targets = better_teacher(stable_logits, plastic_logits, y[:m])

        # Learn stream and replay, and keep the chosen logits.
        params = state.working.vars.params
        speeds = channel_speeds(params, net.stages, state.owners, state.speed)
        learn = partial(consistency_step, here, consistency_weight=consistency_weight)
        optimizer = optimizer_at(state.task, speeds)
        working, value = learn(state.working, x, y, valid, targets, optimizer=optimizer)

        # Store the stream's examples; both copies follow, each by its own draw.
        items = {"x": batch.x, "y": batch.y, "task": batch.task}
        memory = policy.add(key_add, order_after(state.memory, replay), items, batch.valid)
        plastic = follow_plastic(key_plastic, plastic, working.vars, number)
        stable = follow_stable(key_stable, stable, working.vars, number)
        state = state.replace(working=working, plastic=plastic, stable=stable, memory=memory)
        return state.replace(step=number), {"loss": value}

    def predict(tree: str, state: MaskedClsErState, x: Array, task: Task) -> Array:
        x, slots = augment.test(x), state.memory.slots
        stored = Labelled(augment.test(slots["x"]), slots["y"], policy.filled(state.memory))
        here = net_of(state, state.group[task_at_test(task, x, stored, slots["task"])])
        logits, _ = here.apply(getattr(state, tree).vars, x, train=False)
        return logits.astype(jnp.float32)

    def confident(state: MaskedClsErState, x: Array, task: Task) -> Array:
        """By the working network with the masks that make it surest; never told a task."""
        x, groups = augment.test(x), jnp.arange(max_groups)

        def of(group: Array) -> Array:
            here = net_of(state, jnp.full(len(x), group))
            return here.apply(state.working.vars, x, train=False)[0].astype(jnp.float32)

        logits = jax.vmap(of)(groups)
        opened = (state.group == groups[:, None]).any(axis=1)
        sure = jax.nn.softmax(logits).max(axis=-1)
        return of_group(most_confident(sure, opened), logits)

    copies = {"stable": (stable_rate, stable_decay), "plastic": (plastic_rate, plastic_decay)}
    return Algorithm(
        init=init,
        step=step,
        predict=partial(predict, "stable"),
        views={
            **{tree: partial(predict, tree) for tree in ("working", "plastic")},
            "conf": confident,
        },
        begin_task=begin_task,
        advice=slow_copies(warmup, copies),
        needs=Needs(told_task=True, told_task_at_test=True, boundaries=True, begin_data=measured),
    )
