"""Mean-ER: CLS-ER with a single averaged copy, which teaches and answers; the paper's ablation.

Source: Arani et al. 2022 (arXiv 2201.12604), ablation "Mean-ER"; no best arguments are published,
so the defaults are CLS-ER's. Departs: as clser.
"""

from functools import partial

import jax
import jax.numpy as jnp
from flax import struct

from cls_jax.core.choices import EmaBn, Warmup
from cls_jax.core.memory import Memory, order_after, reservoir
from cls_jax.core.types import Array, Batch, Metrics, Trainable
from cls_jax.methods.base import Algorithm, method
from cls_jax.methods.checks import check_replay
from cls_jax.methods.cls.ema_teacher import (
    Averaged,
    consistency_step,
    copy_of,
    maybe_ema_update,
    teacher_logits,
)
from cls_jax.methods.problem import Problem
from cls_jax.methods.steps import init_model, predict_with


class MeanErState(struct.PyTreeNode):
    """working: trained; stable: its average; memory: slots {x, y}; step: int32[] updates."""

    working: Trainable
    stable: Averaged
    memory: Memory
    step: Array


@method
def mean_er(
    problem: Problem,
    *,
    memory_size: int = 500,
    replay_size: int = 32,
    ema_bn: EmaBn = "own",
    warmup: Warmup = "steps",
    learning_rate: float = 0.1,
    consistency_weight: float = 2.0,
    ema_rate: float = 0.9,
    ema_decay: float = 0.99,
) -> Algorithm:
    """Mean-ER; its view is "working".

    Args:
      memory_size: M, slots of the reservoir; as for clser.
      replay_size: m, examples replayed a step; as for clser.
      ema_bn: the copy's BatchNorm statistics: from its own forwards on replay (as in the official
        code), averaged, or copied from the working network.
      warmup: the average warms up over training steps (as in the official code) or over its own
        updates, which suits short streams and small rates.
      learning_rate: eta, step length, of SGD by default, >= 0; as for clser, S-MNIST, buffer 500.
      consistency_weight: lambda, of the logit consistency, >= 0; as for clser.
      ema_rate: r, probability of an update of the copy a step, in [0, 1]; as clser's stable copy.
      ema_decay: alpha, cap of the average's decay, in [0, 1); as clser's stable copy.

    Raises:
      InputError: if the memory is smaller than one replay draw.
    """
    check_replay(memory_size, replay_size)
    net, augment, policy = problem.net(), problem.augment, reservoir(memory_size)
    m, optimizer = replay_size, problem.optimizer(learning_rate)
    rule = {"optimizer": optimizer, "consistency_weight": consistency_weight}
    learn = partial(consistency_step, net, **rule)
    rule = {"rate": ema_rate, "decay": ema_decay, "ema_bn": ema_bn, "warmup": warmup}
    follow = partial(maybe_ema_update, **rule)

    def init(key: Array, example: Batch) -> MeanErState:
        working = init_model(key, net, augment.test(example.x), optimizer)
        memory = policy.init({"x": example.x, "y": example.y})
        return MeanErState(working, copy_of(working.vars), memory, jnp.int32(0))

    def step(key: Array, state: MeanErState, batch: Batch) -> tuple[MeanErState, Metrics]:
        key_draw, key_augment, key_add, key_follow = jax.random.split(key, 4)
        number = state.step + 1

        # Draw, and let the copy say what the replayed examples should keep.
        replay = policy.sample(key_draw, state.memory, m)
        x = augment.train(key_augment, jnp.concatenate([replay.items["x"], batch.x]))
        y = jnp.concatenate([replay.items["y"], batch.y])
        valid = jnp.concatenate([replay.valid, batch.valid])
        targets, stable = teacher_logits(net, state.stable, x[:m], replay.valid, ema_bn)

        # Learn stream and replay, and keep those logits.
        working, value = learn(state.working, x, y, valid, targets)

        # Store the stream's examples; the copy follows.
        items = {"x": batch.x, "y": batch.y}
        memory = policy.add(key_add, order_after(state.memory, replay), items, batch.valid)
        stable = follow(key_follow, stable, working.vars, number)
        return MeanErState(working, stable, memory, number), {"loss": value}

    return Algorithm(
        init=init,
        step=step,
        predict=predict_with(net, augment, "stable"),
        views={"working": predict_with(net, augment, "working")},
    )
