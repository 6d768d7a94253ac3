"""Mean-ER: CLS-ER with a single averaged copy, which teaches and answers; the paper's ablation.

| symbol | name | default | where from |
|---|---|---|---|
| eta | learning_rate | 0.1 | as clser, S-MNIST, buffer 500 |
| lambda | consistency_weight | 2 | as clser |
| r, alpha | ema_rate, ema_decay | 0.9, 0.99 | as clser's stable copy |
| M, m | memory_size, replay_size | 500, 32 | as clser |

Source: Arani et al. 2022 (arXiv 2201.12604), ablation "Mean-ER"; no best arguments are published,
so the defaults are CLS-ER's. Departs: as clser.
"""

import jax
import jax.numpy as jnp
import optax
from flax import struct

from cls_jax.core.augment import Augment
from cls_jax.core.memory import Memory, order_after, reservoir
from cls_jax.core.types import Array, Batch, Metrics, Trainable
from cls_jax.methods.base import (
    Method,
    Phase,
    check_replay,
    init_model,
    parameter_bits,
    predict_with,
)
from cls_jax.methods.cls.clser_config import ClsErConfig, MeanErHyper
from cls_jax.methods.cls.ema_teacher import (
    Averaged,
    check_averaging,
    consistency_step,
    copy_of,
    maybe_ema_update,
    teacher_logits,
)
from cls_jax.nets.base import Net


@struct.dataclass
class MeanErState:
    """working: trained; stable: its average; memory: slots {x, y}; step: int32[] updates."""

    working: Trainable
    stable: Averaged
    memory: Memory
    hyper: MeanErHyper
    step: Array


def mean_er(config: ClsErConfig, net: Net, *, augment: Augment) -> Method:
    """Mean-ER.

    Args:
      config: CLS-ER's.
      net: outputs float32[b, num_classes] logits.
      augment: ``train`` makes the inputs of the losses, ``test`` those of ``predict``.

    Returns:
      The method; its hyper is MeanErHyper, its view is "working".

    Raises:
      InputError: if the memory is smaller than one replay draw, or for an unknown choice.
    """
    check_replay(config.memory_size, config.replay_size)
    check_averaging(config.ema_bn, config.warmup)
    policy, m = reservoir(config.memory_size), config.replay_size
    choices = {"ema_bn": config.ema_bn, "warmup": config.warmup}

    def init(key: Array, example: Batch, hyper: MeanErHyper) -> MeanErState:
        working = init_model(key, net, augment.test(example.x), optax.sgd(hyper.learning_rate))
        memory = policy.init({"x": example.x, "y": example.y})
        return MeanErState(working, copy_of(working.vars), memory, hyper, jnp.int32(0))

    def step(key: Array, state: MeanErState, batch: Batch) -> tuple[MeanErState, Metrics]:
        key_draw, key_augment, key_add, key_follow = jax.random.split(key, 4)
        hyper, number = state.hyper, state.step + 1
        replay = policy.sample(key_draw, state.memory, m)
        x = augment.train(key_augment, jnp.concatenate([replay.items["x"], batch.x]))
        y = jnp.concatenate([replay.items["y"], batch.y])
        valid = jnp.concatenate([replay.valid, batch.valid])
        targets, stable = teacher_logits(net, state.stable, x[:m], replay.valid, config.ema_bn)

        working, value = consistency_step(net, state.working, hyper, x, y, valid, targets)
        items = {"x": batch.x, "y": batch.y}
        memory = policy.add(key_add, order_after(state.memory, replay), items, batch.valid)
        rule = {"rate": hyper.ema_rate, "decay": hyper.ema_decay, **choices}
        stable = maybe_ema_update(key_follow, stable, working.vars, number, **rule)
        return MeanErState(working, stable, memory, hyper, number), {"loss": value}

    return Method(
        "mean_er",
        init,
        (Phase("train", step),),
        predict_with(net, augment, "stable"),
        views={"working": predict_with(net, augment, "working")},
        convolutional=net.convolutional,
        capacity=parameter_bits("stable"),
    )
