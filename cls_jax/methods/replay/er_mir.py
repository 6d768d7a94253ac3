"""ER-MIR: of some remembered examples those are replayed that the coming step would harm most.

A virtual step on the batch alone says how much the loss of each of C candidates would rise:
``s_i = l_i(theta - eta g) - l_i(theta)``, ``g`` the gradient on the batch. The k examples that
would lose most are replayed in the real step, which starts at theta:
``theta - eta (g + grad mean_k l(theta))``, two means added.

Source: Aljundi et al. 2019 (NeurIPS; arXiv 1908.04742); optimass/Maximally_Interfered_Retrieval:
the candidates are of earlier tasks, their forwards are in training mode, the stream goes forward
before the replay, and k are replayed even where no loss would rise.
Departs: an exact reservoir; the candidates' batch statistics are dropped, where the code's move the
network's; with ``best_loss`` a slot holds the lowest loss and begins anew with each example, where
the code holds logits, zeros at first, which outlive the example and are read and written at the
wrong slots. The virtual step is plain SGD at the learning rate itself, whatever optimizer or
schedule the real one has. The code augments nothing; here a candidate's view is drawn once, for
both its losses and its replay.
"""

from functools import partial
from typing import Literal

import jax
import jax.numpy as jnp
from flax import struct

from cls_jax.core.errors import InputError
from cls_jax.core.losses import cross_entropy, row_cross_entropy
from cls_jax.core.memory import Memory, order_after, reservoir
from cls_jax.core.types import Array, Batch, Metrics, Trainable, Variables
from cls_jax.methods.base import Algorithm, Needs, method
from cls_jax.methods.checks import check_replay
from cls_jax.methods.problem import Problem
from cls_jax.methods.steps import apply_gradient, gradient_of, init_model, predict_with
from cls_jax.nets.base import Net
from cls_jax.nets.virtual_step import VirtualStep, outputs_after


class ErMirState(struct.PyTreeNode):
    """model: the network; memory: slots {x, y}, and two that are there if they are asked for.

    task: with ``exclude_current``; best: with ``best_loss``, float32[] the lowest loss that the
    example was found with, infinite before.
    """

    model: Trainable
    memory: Memory


@method
def er_mir(
    problem: Problem,
    *,
    memory_size: int = 500,
    replay_size: int = 10,
    candidates: int = 50,
    retrieval: Literal["interference", "loss", "random", "least"] = "interference",
    best_loss: bool = False,
    exclude_current: bool = True,
    learning_rate: float = 0.1,
) -> Algorithm:
    """Experience replay with maximally interfered retrieval.

    Args:
      memory_size: M, slots of the reservoir; 50 a class of ten, the middle of the paper's three.
      replay_size: k, examples replayed a step; the released settings.
      candidates: C, drawn to choose from, or the whole of a smaller memory; the released settings
        (25 for miniImageNet).
      retrieval: what the replayed examples have most of: the rise of their loss ("interference"),
        or as controls their loss as it is ("loss", no virtual step); chosen by chance ("random",
        plain replay as two means), or those whose loss rises least ("least").
      best_loss: the rise is counted from the lowest loss that the example has had in memory, as in
        the released settings for MNIST.
      exclude_current: no replay of the task that is being learned, which is then told in training,
        and none at all in the first; False: from all that the memory holds, never told.
      learning_rate: eta, step length, of SGD by default, >= 0, and of the virtual step; the
        released settings for Split MNIST and Split CIFAR-10 (a user's re-runs are better at 0.05
        there).

    Raises:
      InputError: if the memory or the candidates are fewer than one replay draw, or ``best_loss``
        is asked for with a retrieval that counts no rise.
    """
    check_replay(memory_size, replay_size)
    if candidates < replay_size:
        raise InputError(
            f"candidates={candidates} must be at least replay_size={replay_size}, to choose from"
        )
    if best_loss and retrieval in ("loss", "random"):
        raise InputError(
            f"best_loss is True, but retrieval {retrieval!r} counts no rise of a loss; leave "
            "best_loss out, or use retrieval 'interference'"
        )
    net, augment, policy = problem.net(), problem.augment, reservoir(memory_size)
    optimizer, num_drawn = problem.optimizer(learning_rate), min(candidates, memory_size)

    def items_of(batch: Batch) -> dict[str, Array]:
        items = {"x": batch.x, "y": batch.y}
        if exclude_current:
            items["task"] = batch.task
        if best_loss:
            items["best"] = jnp.full(batch.y.shape, jnp.inf, jnp.float32)
        return items

    def init(key: Array, example: Batch) -> ErMirState:
        model = init_model(key, net, augment.test(example.x), optimizer)
        return ErMirState(model, policy.init(items_of(example)))

    def step(key: Array, state: ErMirState, batch: Batch) -> tuple[ErMirState, Metrics]:
        key_draw, key_augment, key_add = jax.random.split(key, 3)
        vars, slots = state.model.vars, state.memory.slots
        earlier = slots["task"] != batch.task[0] if exclude_current else None
        drawn = policy.sample(key_draw, state.memory, num_drawn, where=earlier)
        x = augment.train(key_augment, jnp.concatenate([batch.x, drawn.items["x"]]))
        new, old = jnp.split(x, [len(batch.x)])
        (value, stats), gradient = gradient_of(mean_loss(new, batch.y, batch.valid), vars)

        y, valid = drawn.items["y"], drawn.valid
        loss = partial(cross_entropy, y=batch.y, valid=batch.valid)
        virtual = VirtualStep(new, loss, gradient, learning_rate)
        before, after = losses_around(net, vars, virtual, old, y, valid)
        best = jnp.minimum(before, drawn.items["best"]) if best_loss else before
        scores = {"interference": after - best, "least": best - after, "loss": before}
        chance = jnp.zeros_like(before)  # the draw is in random order
        scores = jnp.where(valid, scores.get(retrieval, chance), -jnp.inf)
        _, chosen = jax.lax.top_k(scores, replay_size)

        replay = mean_loss(old[chosen], y[chosen], valid[chosen])
        (replayed, stats), more = gradient_of(replay, vars.replace(stats=stats))
        gradient = jax.tree.map(jnp.add, gradient, more)
        model = apply_gradient(state.model, optimizer, gradient, stats)
        memory = order_after(state.memory, drawn)
        if best_loss:
            memory = policy.write(memory, drawn.index, {"best": best.astype(jnp.float32)}, valid)
        memory = policy.add(key_add, memory, items_of(batch), batch.valid)
        return ErMirState(model, memory), {"loss": value + replayed}

    def mean_loss(x: Array, y: Array, valid: Array):
        def of_vars(vars: Variables):
            logits, stats = net.apply(vars, x, train=True, valid=valid)
            return cross_entropy(logits, y, valid=valid), stats

        return of_vars

    return Algorithm(
        init=init,
        step=step,
        predict=predict_with(net, augment),
        needs=Needs(told_task=exclude_current, boundaries=exclude_current),
        class_il=True,
    )


def losses_around(
    net: Net, vars: Variables, step: VirtualStep, x: Array, y: Array, valid: Array
) -> tuple[Array, Array]:
    """The losses of examples before and after a step that is not taken.

    Args:
      net, vars: the network; in training mode, and its running statistics stay as they are.
      step: what it would be.
      x: inputs float32[c, ...].
      y: int32[c].
      valid: bool[c]; the others are in no batch statistic.

    Returns:
      float32[c] each, in nats.
    """
    before, _ = net.apply(vars, x, train=True, valid=valid)
    after = outputs_after(net, vars, step, x, valid)
    return row_cross_entropy(before, y, valid=valid), row_cross_entropy(after, y, valid=valid)
