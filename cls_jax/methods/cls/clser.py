"""CLS-ER: one working network learns; two averaged copies of it, plastic and stable, teach it.

Experience replay, and for each replayed example the copy that gives its true class the higher
probability says which logits the working network should keep. Both copies follow the working
weights at random, the plastic one more often. No task boundaries, no task numbers; the stable copy
answers, and all three networks are evaluated.

``presets.py`` has the published settings of every table.

Source: Arani, Sarfraz, Zonooz 2022 (ICLR; arXiv 2201.12604), algorithm 1; NeurAI-Lab/CLS-ER,
models/clser.py. A tie between the copies goes to the plastic one, as in the code.
Departs: draws, augmentation and the two updates have keys of their own; the teachers' forwards
carry no gradient (in the code they do, unused). Where a network has no batch statistics, one pass
over stream and replay serves both losses, which is the same arithmetic; with BatchNorm the working
network sees the replay twice, as in the code.
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
    slow_copies,
    teacher_logits,
)
from cls_jax.methods.problem import Problem
from cls_jax.methods.steps import init_model, predict_with


class ClsErState(struct.PyTreeNode):
    """working: trained; plastic, stable: averages; memory: slots {x, y}; step: int32[] updates."""

    working: Trainable
    plastic: Averaged
    stable: Averaged
    memory: Memory
    step: Array


@method
def clser(
    problem: Problem,
    *,
    memory_size: int = 500,
    replay_size: int = 32,
    ema_bn: EmaBn = "own",
    warmup: Warmup = "steps",
    learning_rate: float = 0.1,
    consistency_weight: float = 2.0,
    stable_rate: float = 0.9,
    stable_decay: float = 0.99,
    plastic_rate: float = 1.0,
    plastic_decay: float = 0.99,
) -> Algorithm:
    """CLS-ER; its views are "working" and "plastic".

    Args:
      memory_size: M, slots of the reservoir; the middle of the three published buffers.
      replay_size: m, examples replayed a step; official best arguments, S-MNIST, buffer 500.
      ema_bn: the copies' BatchNorm statistics: from their own forwards on replay (as in the
        official code), averaged, or copied from the working network.
      warmup: the averages warm up over training steps (as in the official code) or over their own
        updates, which suits short streams and small rates.
      learning_rate: eta, step length, of SGD by default, >= 0; official, S-MNIST, buffer 500.
      consistency_weight: lambda, of the logit consistency, >= 0; official, S-MNIST, buffer 500.
      stable_rate: r_S, probability of an update of the stable copy a step, in [0, 1]; official,
        S-MNIST, buffer 500.
      stable_decay: alpha_S, cap of the stable average's decay, in [0, 1); official, S-MNIST,
        buffer 500.
      plastic_rate: r_P, probability of an update of the plastic copy a step, in [0, 1]; official,
        S-MNIST, buffer 500.
      plastic_decay: alpha_P, cap of the plastic average's decay, in [0, 1); official, S-MNIST,
        buffer 500.

    Raises:
      InputError: if the memory is smaller than one replay draw.
    """
    check_replay(memory_size, replay_size)
    net, augment, policy = problem.net(), problem.augment, reservoir(memory_size)
    m, optimizer = replay_size, problem.optimizer(learning_rate)
    rule = {"optimizer": optimizer, "consistency_weight": consistency_weight}
    learn = partial(consistency_step, net, **rule)
    follow = partial(maybe_ema_update, ema_bn=ema_bn, warmup=warmup)
    follow_plastic = partial(follow, rate=plastic_rate, decay=plastic_decay)
    follow_stable = partial(follow, rate=stable_rate, decay=stable_decay)

    def init(key: Array, example: Batch) -> ClsErState:
        working = init_model(key, net, augment.test(example.x), optimizer)
        return ClsErState(
            working=working,
            plastic=copy_of(working.vars),
            stable=copy_of(working.vars),
            memory=policy.init({"x": example.x, "y": example.y}),
            step=jnp.int32(0),
        )

    def step(key: Array, state: ClsErState, batch: Batch) -> tuple[ClsErState, Metrics]:
        key_draw, key_augment, key_add, key_plastic, key_stable = jax.random.split(key, 5)
        number = state.step + 1

        # Draw, and let the copy that knows better say what each replayed example should keep.
        replay = policy.sample(key_draw, state.memory, m)
        x = augment.train(key_augment, jnp.concatenate([replay.items["x"], batch.x]))
        y = jnp.concatenate([replay.items["y"], batch.y])
        valid = jnp.concatenate([replay.valid, batch.valid])
        stable_logits, stable = teacher_logits(net, state.stable, x[:m], replay.valid, ema_bn)
        plastic_logits, plastic = teacher_logits(net, state.plastic, x[:m], replay.valid, ema_bn)
        targets = better_teacher(stable_logits, plastic_logits, y[:m])

        # Learn stream and replay, and keep the chosen logits.
        working, value = learn(state.working, x, y, valid, targets)

        # Store the stream's examples; both copies follow, each by its own draw.
        items = {"x": batch.x, "y": batch.y}
        memory = policy.add(key_add, order_after(state.memory, replay), items, batch.valid)
        plastic = follow_plastic(key_plastic, plastic, working.vars, number)
        stable = follow_stable(key_stable, stable, working.vars, number)
        return ClsErState(working, plastic, stable, memory, number), {"loss": value}

    copies = {"stable": (stable_rate, stable_decay), "plastic": (plastic_rate, plastic_decay)}
    return Algorithm(
        init=init,
        step=step,
        predict=predict_with(net, augment, "stable"),
        views={tree: predict_with(net, augment, tree) for tree in ("working", "plastic")},
        advice=slow_copies(warmup, copies),
    )


def better_teacher(stable_logits: Array, plastic_logits: Array, y: Array) -> Array:
    """Each row's logits from the copy that finds its true class likelier; plastic if equal.

    Args:
      stable_logits, plastic_logits: float[m, C].
      y: int32[m] true classes.
    """
    stable, plastic = (
        jnp.take_along_axis(jax.nn.softmax(logits), y[:, None], axis=-1)
        for logits in (stable_logits, plastic_logits)
    )
    return jnp.where(stable > plastic, stable_logits, plastic_logits)
