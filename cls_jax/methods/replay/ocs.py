"""OCS: from each batch those examples are learned and kept whose gradients agree with the rest.

Of b_s examples the b with the highest score are taken,
``s_i = cos(g, g_i) - mean_j cos(g_i, g_j) + tau cos(r, g_i)``: g_i the gradient of example i, g
their mean, r that of the loss on the coreset. A step adds two means, over them and over a replay
from the coreset, ``CE(picks) + rho CE(replay)``. As task t ends, M // t examples of what was picked
in its last pass join the coreset, and each earlier task keeps the M // t of its own that score
highest among themselves; classes have equal shares. Several passes over a task (``epochs``) make up
for what a pass leaves out: b_s / b of them is one pass over as many examples.

Source: Yoon, Madaan, Yang, Hwang 2022 (ICLR; arXiv 2106.01085); jaehong31/OCS: SGD with momentum,
begun anew with each task at a smaller rate, and the random choice of a new task's coreset.
Departs: scores are of images as they are stored and of the network as it answers, without dropout
and with running statistics, where the code's BatchNorm makes each gradient depend on the batch.
Each pass has batches of its own, where the code's are fixed, and picks count from the latest pass
on, since a method does not know which is the last. The replay draws an old task and examples of it,
where the code goes round a shuffled list; the last places of a share never repeat an example. rho
is the code's weight over its replay size, by which it divides the mean again.
"""

from functools import partial
from typing import Literal

import jax
import jax.numpy as jnp
import optax
from flax import struct

from cls_jax.core.checks import check_range
from cls_jax.core.errors import InputError
from cls_jax.core.losses import cross_entropy, mean_over
from cls_jax.core.memory import Draw, Items, Memory, reservoir
from cls_jax.core.types import Array, Batch, Metrics, PyTree, Task, Trainable, Variables
from cls_jax.methods.base import Algorithm, method
from cls_jax.methods.checks import check_replay, check_task_slots
from cls_jax.methods.columns import all_columns, own_columns
from cls_jax.methods.problem import Problem
from cls_jax.methods.replay.ocs_selection import (
    agreement,
    balanced,
    cosine,
    losses_of,
    only_in_value,
)
from cls_jax.methods.steps import forward_each, gradient_step, init_model, predict_with
from cls_jax.nets.gradient_gram import gradient_gram


class OcsState(struct.PyTreeNode):
    """What OCS carries from step to step.

    Attributes:
      model: the network.
      memory: the coreset, slots {x, y, task}; ``seen`` are filled, the first ones.
      candidates: a reservoir of what was picked in this pass over the task; the same slots.
      task_classes: see Columns.
      task: int32[] tasks that began, less one.
      step: int32[] steps of this task.
      epoch: int32[] the pass that ``candidates`` are of.
    """

    model: Trainable
    memory: Memory
    candidates: Memory
    task_classes: PyTree
    task: Array
    step: Array
    epoch: Array


@method
def ocs(
    problem: Problem,
    *,
    memory_size: int = 200,
    selection_size: int = 10,
    replay_size: int = 10,
    candidates: int = 1000,
    warmup_batches: int = 100,
    selection: Literal["score", "random"] = "score",
    coreset: Literal["random", "score", "uniform"] = "random",
    own_classes: bool = False,
    current_classes: bool = False,
    learning_rate: float = 0.005,
    learning_rate_factor: float = 0.75,
    momentum: float = 0.8,
    replay_weight: float = 1.0,
    similarity_weight: float = 1.0,
    diversity_weight: float = 1.0,
    affinity_weight: float = 1000.0,
) -> Algorithm:
    """Online coreset selection; "ocs_own" in tables if it learns by each task's own classes.

    Args:
      memory_size: M, slots of the coreset, M // t for each of t tasks; official, Rotated MNIST.
      selection_size: b, examples of a batch that are picked; official. Of a batch that is not
        larger all are, so give a larger batch_size (official: 100, for pictures 20).
      replay_size: examples of one old task that are replayed; official.
      candidates: most picks of a pass that the coreset is chosen from; official, Rotated MNIST (250
        for Split CIFAR-100).
      warmup_batches: first batches of each task in whose first pass picks are random; official.
      selection: of a batch, by score or as a control by chance.
      coreset: what of a task's picks joins the coreset: any ("random", as the code, which computes
        scores and does not use them), those with the highest score, or ("uniform", a control) any
        examples of its last pass, picked or not, and earlier tasks keep any too. For "score" a
        network that is not all dense layers needs memory for one gradient a candidate.
      own_classes: a softmax over the classes of each example's own task, which is then told in
        training, as a network with a head a task has it; False: over all classes, never told.
      current_classes: with own_classes, r is taken over the current task's classes, as the code
        does by mistake: their logits fall on old images, and the label's rises, however well it is
        known.
      learning_rate: eta, step length in the first task, >= 0; official, Rotated MNIST.
      learning_rate_factor: of the step length, a factor a task, >= 0; official, Rotated MNIST.
      momentum: of SGD, in [0, 1); official.
      replay_weight: rho, of the replay's mean loss, >= 0; official, Rotated MNIST: 10 over 10
        examples.
      similarity_weight: of the cosine with the batch's mean; official.
      diversity_weight: of the mean cosine with the batch's other examples, subtracted; official.
      affinity_weight: tau, of the cosine with the gradient on the coreset; official (10 for the
        imbalanced Split CIFAR-100). At 1000 it decides alone once there is a coreset.

    Raises:
      InputError: if the coreset has no slot for each task or fewer than a replay, nothing is
        picked, or ``current_classes`` is asked for without ``own_classes``.
    """
    check_replay(memory_size, replay_size)
    check_task_slots(memory_size, problem.num_tasks)
    check_range("selection_size", selection_size, 1)
    check_range("candidates", candidates, 1)
    check_range("warmup_batches", warmup_batches, 0)
    if current_classes and not own_classes:
        raise InputError(
            "current_classes is True, but without own_classes there is one softmax over all "
            "classes; leave it out, or use own_classes too"
        )
    net, augment = problem.net(), problem.augment
    policy, pool = reservoir(memory_size), reservoir(candidates)
    columns = own_columns(problem) if own_classes else all_columns()

    def optimizer_of(task: Array) -> optax.GradientTransformation:
        return optax.sgd(learning_rate * learning_rate_factor**task, momentum)

    def init(key: Array, example: Batch) -> OcsState:
        model = init_model(key, net, augment.test(example.x), optimizer_of(jnp.int32(0)))
        items = {"x": example.x, "y": example.y, "task": example.y}
        return OcsState(
            model=model,
            memory=policy.init(items),
            candidates=pool.init(items),
            task_classes=columns.init,
            task=jnp.int32(-1),
            step=jnp.int32(0),
            epoch=jnp.int32(0),
        )

    def begin_task(key: Array, state: OcsState, task: Task, data: Batch | None) -> OcsState:
        state = columns.begin_task(key, state, task, data)
        number, vars = state.task + 1, state.model.vars
        return state.replace(
            model=Trainable(vars, optimizer_of(number).init(vars.params)),
            candidates=emptied(state.candidates, jnp.bool_(True)),
            task=number,
            step=jnp.int32(0),
            epoch=jnp.int32(0),
        )

    def step(key: Array, state: OcsState, batch: Batch) -> tuple[OcsState, Metrics]:
        key_pick, key_draw, key_augment, key_add = jax.random.split(key, 4)
        learned = columns.learnable(state.task_classes, batch)
        task = jnp.full_like(batch.y, state.task)
        items = {"x": batch.x, "y": batch.y, "task": task}

        # Pick from the batch.
        score = jax.random.uniform(key_pick, learned.shape)
        if selection == "score":
            by_chance = (jnp.asarray(batch.epoch) == 0) & (state.step < warmup_batches)
            score = jnp.where(by_chance, score, scores(state, items, learned))
        size = min(selection_size, len(score))
        _, chosen = jax.lax.top_k(jnp.where(learned, score, -jnp.inf), size)
        picked, valid = {k: v[chosen] for k, v in items.items()}, learned[chosen]

        # Learn it, beside examples of an old task.
        replay = of_one_task(key_draw, state.memory)
        x = augment.train(key_augment, jnp.concatenate([picked["x"], replay.items["x"]]))
        xs, valids = jnp.split(x, [size]), [valid, replay.valid]

        def loss(vars: Variables):
            logits, stats = forward_each(net, vars, xs, valids)
            new, old = (
                cross_entropy(z, of["y"], valid=v, classes=columns.of(state.task_classes, of))
                for z, of, v in zip(logits, (picked, replay.items), valids, strict=True)
            )
            return new + replay_weight * old, stats

        model, value = gradient_step(state.model, optimizer_of(state.task), loss)

        # Keep what was picked for the coreset.
        kept = emptied(state.candidates, jnp.asarray(batch.epoch) != state.epoch)
        offered = (items, learned) if coreset == "uniform" else (picked, valid)
        state = state.replace(
            model=model,
            candidates=pool.add(key_add, kept, *offered),
            step=state.step + 1,
            epoch=jnp.asarray(batch.epoch, jnp.int32),
        )
        return state, {"loss": value}

    def end_task(key: Array, state: OcsState, task: Task, data: Batch | None) -> OcsState:
        del task, data
        held, new = policy.filled(state.memory), pool.filled(state.candidates)
        slots = state.memory.slots, state.candidates.slots
        items = jax.tree.map(lambda *rows: jnp.concatenate(rows), *slots)
        filled = jnp.concatenate([held, new])
        score = jax.random.uniform(key, filled.shape)
        if coreset != "uniform":
            same_task = slots[0]["task"][:, None] == slots[0]["task"]
            own, _ = among(state, slots[0], held, held & held[:, None] & same_task)
            score = score.at[:memory_size].set(own)
        if coreset == "score":
            score = score.at[memory_size:].set(scores(state, slots[1], new))
        quota = memory_size // (state.task + 1)

        def share(number: Array) -> Array:
            mine = filled & (items["task"] == number)
            return balanced(score, items["y"], mine, quota, problem.num_classes)

        kept = jax.vmap(share)(jnp.arange(problem.num_tasks)).any(0)
        index = jnp.argsort(~kept)[:memory_size]  # those that are kept come first
        slots = {name: leaf[index] for name, leaf in items.items()}
        return state.replace(memory=Memory(slots, kept.sum(dtype=jnp.int32)))

    def scores(state: OcsState, items: Items, valid: Array) -> Array:
        """float[n]: s_i of each valid row, all of them compared."""
        own, norm = among(state, items, valid, jnp.broadcast_to(valid, (len(valid), len(valid))))
        params = state.model.vars.params
        reference = jax.grad(coreset_loss)(params, state)  # r; 0 without a coreset
        losses = partial(row_losses, state=state, items=items, valid=valid)
        _, along = jax.jvp(losses, (params,), (reference,))  # r . g_i
        return own + affinity_weight * cosine(along, norm, optax.tree.norm(reference))

    def among(state: OcsState, items: Items, valid: Array, peers: Array) -> tuple[Array, Array]:
        """float[n]: s_i without the coreset, compared with ``peers`` bool[n, n]; and |g_i|."""
        x, targets = augment.test(items["x"]), targets_of(state, items, valid)
        gram = gradient_gram(net, state.model.vars, x, losses_of, targets)
        similarity, diversity = agreement(gram, peers)
        own = similarity_weight * similarity + diversity_weight * diversity
        return own, jnp.sqrt(jnp.diagonal(gram))

    def coreset_loss(params: PyTree, state: OcsState) -> Array:
        items, valid = state.memory.slots, policy.filled(state.memory)
        return mean_over(row_losses(params, state, items, valid, current_classes), valid)

    def row_losses(
        params: PyTree, state: OcsState, items: Items, valid: Array, current: bool = False
    ) -> Array:
        vars = state.model.vars.replace(params=params)
        logits, _ = net.apply(vars, augment.test(items["x"]), train=False)
        y, valid, classes = targets_of(state, items, valid)
        if current:
            logits, classes = only_in_value(logits, state.task_classes[state.task]), None
        return losses_of(logits, (y, valid, classes))

    def targets_of(state: OcsState, items: Items, valid: Array) -> PyTree:
        return items["y"], valid, columns.of(state.task_classes, items)

    def of_one_task(key: Array, memory: Memory) -> Draw:
        """Examples of one task in the coreset; all tasks have equally many."""
        key_task, key_draw = jax.random.split(key)
        one = policy.sample(key_task, memory, 1)
        return policy.sample(
            key_draw, memory, replay_size, where=memory.slots["task"] == one.items["task"]
        )

    return Algorithm(
        init=init,
        step=step,
        predict=predict_with(net, augment),
        begin_task=begin_task,
        end_task=end_task,
        needs=columns.needs._replace(boundaries=True),
        name="ocs_own" if own_classes else None,
    )


def emptied(memory: Memory, fire: Array) -> Memory:
    """The reservoir begun anew, where ``fire``."""
    return memory.replace(seen=jnp.where(fire, 0, memory.seen))
