"""CLS-ER with one averaged copy for each group of similar tasks; each image is routed to its copy.

As a task begins it joins the group of the old tasks that are most like it, or opens one, whose copy
is the working network of that moment. The copy of a group follows the working network while tasks
of the group are learned; while others are, it is a snapshot of them. For each replayed example the
copies say what the working network should keep, ``CE(h(x), y) + lambda mean_i sum_g w_ig mean_c
(h(x'_i) - h_g(x'_i))^2``, where w_i is one for the copy of the example's own group ("hard"). A test
image is answered by the copy of the group that has the exemplars nearest to it ("route").

One group is Mean-ER. Groupings "random" and "snapshots" are controls: what several copies are worth
where similarity says nothing.

Source: none; a proposal (one averaged network a task group, chosen by similarity) that nobody has
published, measured in our records. CLS-ER: Arani et al. 2022 (arXiv 2201.12604).
Departs: of CLS-ER's two copies there is one a group; each warms up over its own updates.
"""

from functools import partial
from typing import Literal

import jax
import jax.numpy as jnp

from cls_jax.core.checks import check_range
from cls_jax.core.choices import EmaBn
from cls_jax.core.memory import order_after, reservoir
from cls_jax.core.similarity import Labelled, task_similarity
from cls_jax.core.sync import select
from cls_jax.core.task_groups import choose_group
from cls_jax.core.types import Array, Batch, Metrics, Task
from cls_jax.methods.base import Algorithm, Needs, method
from cls_jax.methods.checks import check_replay
from cls_jax.methods.cls.ema_teacher import (
    Averaged,
    consistency_step,
    copy_of,
    ema_update,
    teacher_logits,
)
from cls_jax.methods.cls.group_ema_answers import (
    GroupEmaState,
    answers,
    capacity,
    features_of,
    stored,
)
from cls_jax.methods.cls.group_ema_rules import (
    check_told,
    literal_weights,
    most_confident,
    of_group,
    planned_groups,
    soft_weights,
    some_of,
    update_rates,
)
from cls_jax.methods.problem import Problem
from cls_jax.methods.steps import init_model
from cls_jax.nets.base import no_head


@method
def group_ema(
    problem: Problem,
    *,
    memory_size: int = 500,
    replay_size: int = 32,
    max_groups: int = 5,
    grouping: Literal["similarity", "random", "snapshots", "told"] = "similarity",
    told_groups: tuple[int, ...] = (),
    calibrated: bool = True,
    reference: Literal["hard", "conf", "soft", "literal"] = "hard",
    update: Literal["flat", "similarity"] = "flat",
    router: Literal["pixels", "features"] = "pixels",
    told_at_test: bool = False,
    ema_bn: EmaBn = "own",
    learning_rate: float = 0.1,
    consistency_weight: float = 2.0,
    ema_decay: float = 0.99,
    own_rate: float = 0.9,
    other_rate: float = 0.3,
    rate_threshold: float = 0.3,
    group_threshold: float = 0.5,
    soft_temperature: float = 0.1,
) -> Algorithm:
    """CLS-ER with a copy a group; its views are "working" and "conf", the most confident copy.

    Args:
      memory_size: M, slots of the reservoir; similarity and router need several for each class of
        each task.
      replay_size: m, examples replayed a step; as for clser.
      max_groups: G, room for groups, each of which costs a network.
      grouping: by similarity; or, as controls, at random into G groups of nearly equal sizes,
        "snapshots" (T / G tasks in a row share a copy), or as told.
      told_groups: of each task, for grouping told, e.g. 0 1 2 0 1 2.
      calibrated: similarity is 0 where it is what chance gives and 1 where it is that of the same
        task, so that a threshold means the same on every stream; False: the cosine as it is.
      reference: which copies say what a replayed example should keep: that of its own group (hard);
        the one that finds its class likeliest (conf, as in CLS-ER); all, by a softmax of the
        similarity of its task to each group (soft), or each by that of the current task, which do
        not sum to one (literal).
      update: copies of other groups stand still (flat), or follow too, the more often the more
        similar the current task is to them.
      router: what says which exemplars are nearest, normalised pixels or the working network's
        features.
      told_at_test: adds the view "told", the copy of the group of the true task.
      ema_bn: the copies' BatchNorm statistics, as for mean_er.
      learning_rate: eta, step length, of SGD by default, >= 0; as for clser.
      consistency_weight: lambda, of the logit consistency, >= 0; as for clser.
      ema_decay: alpha, cap of the averages' decay, in [0, 1); as for mean_er.
      own_rate: probability of an update of the current group's copy a step, in [0, 1].
      other_rate: of another group's copy at similarity 1, in [0, 1]; with update similarity.
      rate_threshold: similarity above which another group's copy follows at all, >= 0.
      group_threshold: least mean similarity to the tasks of a group with which a task joins it,
        >= 0.
      soft_temperature: of the softmax of reference soft, > 0.

    Raises:
      InputError: if the memory is smaller than one replay draw, there is no group, ``told_groups``
        does not fit, or the network names no last layer.
    """
    check_replay(memory_size, replay_size)
    check_range("max_groups", max_groups, 1)
    num_tasks, num_classes = problem.num_tasks, problem.num_classes
    plan = grouping, told_groups, num_tasks, max_groups
    check_told(*plan)
    net, augment, policy = problem.net(), problem.augment, reservoir(memory_size)
    if net.features is None:
        raise no_head("group_ema compares tasks by what the last layer is shown", net)
    m, optimizer = replay_size, problem.optimizer(learning_rate)
    features = partial(features_of, problem)
    learn = partial(
        consistency_step, net, optimizer=optimizer, consistency_weight=consistency_weight
    )
    teach = jax.vmap(partial(teacher_logits, net, ema_bn=ema_bn), (0, None, None))
    follow = jax.vmap(partial(ema_update, decay=ema_decay, ema_bn=ema_bn), (0, 0, None, 0))
    rates = {"own_rate": own_rate, "threshold": rate_threshold}
    rates["other_rate"] = other_rate if update == "similarity" else 0.0

    def init(key: Array, example: Batch) -> GroupEmaState:
        working = init_model(key, net, augment.test(example.x), optimizer)
        copy = copy_of(working.vars)
        return GroupEmaState(
            working=working,
            copies=jax.tree.map(lambda leaf: jnp.repeat(leaf[None], max_groups, axis=0), copy),
            memory=policy.init({"x": example.x, "y": example.y, "task": example.y}),
            task=jnp.int32(-1),
            group=jnp.full(num_tasks, -1, jnp.int32),
            similarity=jnp.zeros((num_tasks, num_tasks), jnp.float32),
            planned=planned_groups(jax.random.fold_in(key, 1), *plan),
        )

    def begin_task(key: Array, state: GroupEmaState, task: Task, data: Batch | None):
        assert data is not None
        number = state.task + 1

        # How alike the task is to each before it.
        key_probe, key_compare = jax.random.split(key)
        probe, slots = some_of(key_probe, data), state.memory.slots
        new = Labelled(features(state, probe.x), probe.y, probe.valid)
        old = stored(state, features(state, slots["x"])), slots["task"]
        raw, scaled = task_similarity(key_compare, new, *old, num_tasks, num_classes)
        similar = scaled if calibrated else raw
        similarity = state.similarity.at[number].set(similar).at[:, number].set(similar)

        # The group it joins; the copy of a new one starts from the working network.
        joined = choose_group(similar, state.group, group_threshold, max_groups)
        planned = state.planned[number]
        group = jnp.where(planned < 0, joined, planned)
        opens = (jnp.arange(max_groups) == group) & ~(state.group == group).any()
        start = Averaged(state.working.vars, jnp.int32(0))
        return state.replace(
            copies=jax.vmap(select, (0, None, 0))(opens, start, state.copies),
            task=number,
            group=state.group.at[number].set(group),
            similarity=similarity.at[number, number].set(1),
        )

    def step(key: Array, state: GroupEmaState, batch: Batch) -> tuple[GroupEmaState, Metrics]:
        key_draw, key_augment, key_add, key_follow = jax.random.split(key, 4)
        similar, opened = state.to_groups()

        # Draw, and let the copies say what the replayed examples should keep.
        replay = policy.sample(key_draw, state.memory, m)
        x = augment.train(key_augment, jnp.concatenate([replay.items["x"], batch.x]))
        y = jnp.concatenate([replay.items["y"], batch.y])
        valid = jnp.concatenate([replay.valid, batch.valid])
        targets, copies = teach(state.copies, x[:m], replay.valid)
        task = replay.items["task"]
        if reference == "hard":
            keep = of_group(state.group[task], targets), None
        elif reference == "conf":
            probability = jax.nn.softmax(targets)[:, jnp.arange(m), y[:m]]
            keep = of_group(most_confident(probability, opened), targets), None
        elif reference == "soft":
            keep = targets, soft_weights(similar, opened, soft_temperature)[task]
        else:
            keep = targets, literal_weights(similar, opened)[jnp.full_like(task, state.task)]

        # Learn stream and replay, and keep those logits.
        working, value = learn(state.working, x, y, valid, *keep)

        # Store the stream's examples; the copies follow, each by its own draw.
        items = {"x": batch.x, "y": batch.y, "task": jnp.full_like(batch.y, state.task)}
        memory = policy.add(key_add, order_after(state.memory, replay), items, batch.valid)
        own = state.group[state.task]
        fire = jax.random.bernoulli(
            key_follow, update_rates(similar[state.task], opened, own, **rates)
        )
        copies = follow(fire, copies, working.vars, copies.updates + 1)
        return state.replace(working=working, copies=copies, memory=memory), {"loss": value}

    by = answers(problem, router)
    views = ("working", "conf", "told") if told_at_test else ("working", "conf")
    return Algorithm(
        init=init,
        step=step,
        predict=by["route"],
        begin_task=begin_task,
        views={name: by[name] for name in views},
        needs=Needs(boundaries=True, begin_data=True, told_task_at_test=told_at_test),
        capacity=capacity,
    )
