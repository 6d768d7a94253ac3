"""CLS-ER: one working network learns; two averaged copies of it, plastic and stable, teach it.

Experience replay, and for each replayed example the copy that gives its true class the higher
probability says which logits the working network should keep. Both copies follow the working
weights at random, the plastic one more often. No task boundaries, no task numbers; the stable copy
answers, and all three networks are evaluated.

| symbol | name | default | where from |
|---|---|---|---|
| eta | learning_rate | 0.1 | official best arguments, S-MNIST, buffer 500 |
| lambda | consistency_weight | 2 | the same |
| r_S, alpha_S | stable_rate, stable_decay | 0.9, 0.99 | the same |
| r_P, alpha_P | plastic_rate, plastic_decay | 1, 0.99 | the same |
| M | memory_size | 500 | the middle of the three published buffers |
| m | replay_size | 32 | official best arguments, S-MNIST, buffer 500 |

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
from cls_jax.methods.cls.clser_config import ClsErConfig, ClsErHyper
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
class ClsErState:
    """working: trained; plastic, stable: averages; memory: slots {x, y}; step: int32[] updates."""

    working: Trainable
    plastic: Averaged
    stable: Averaged
    memory: Memory
    hyper: ClsErHyper
    step: Array


def clser(config: ClsErConfig, net: Net, *, augment: Augment) -> Method:
    """CLS-ER.

    Args:
      config: sizes and choices.
      net: outputs float32[b, num_classes] logits.
      augment: ``train`` makes the inputs of the losses, ``test`` those of ``predict``.

    Returns:
      The method; its hyper is ClsErHyper, its views are "working" and "plastic".

    Raises:
      InputError: if the memory is smaller than one replay draw, or for an unknown choice.
    """
    check_replay(config.memory_size, config.replay_size)
    check_averaging(config.ema_bn, config.warmup)
    policy, m, ema_bn = reservoir(config.memory_size), config.replay_size, config.ema_bn

    def init(key: Array, example: Batch, hyper: ClsErHyper) -> ClsErState:
        working = init_model(key, net, augment.test(example.x), optax.sgd(hyper.learning_rate))
        return ClsErState(
            working=working,
            plastic=copy_of(working.vars),
            stable=copy_of(working.vars),
            memory=policy.init({"x": example.x, "y": example.y}),
            hyper=hyper,
            step=jnp.int32(0),
        )

    def step(key: Array, state: ClsErState, batch: Batch) -> tuple[ClsErState, Metrics]:
        key_draw, key_augment, key_add, key_plastic, key_stable = jax.random.split(key, 5)
        hyper, number = state.hyper, state.step + 1

        # Draw, and let the copy that knows better say what each replayed example should keep.
        replay = policy.sample(key_draw, state.memory, m)
        x = augment.train(key_augment, jnp.concatenate([replay.items["x"], batch.x]))
        y = jnp.concatenate([replay.items["y"], batch.y])
        valid = jnp.concatenate([replay.valid, batch.valid])
        stable_logits, stable = teacher_logits(net, state.stable, x[:m], replay.valid, ema_bn)
        plastic_logits, plastic = teacher_logits(net, state.plastic, x[:m], replay.valid, ema_bn)
        targets = better_teacher(stable_logits, plastic_logits, y[:m])

        # Learn stream and replay, and keep the chosen logits.
        working, value = consistency_step(net, state.working, hyper, x, y, valid, targets)

        # Store the stream's examples; both copies follow, each by its own draw.
        items = {"x": batch.x, "y": batch.y}
        memory = policy.add(key_add, order_after(state.memory, replay), items, batch.valid)
        choices = {"ema_bn": ema_bn, "warmup": config.warmup}
        rule = {"rate": hyper.plastic_rate, "decay": hyper.plastic_decay, **choices}
        plastic = maybe_ema_update(key_plastic, plastic, working.vars, number, **rule)
        rule = {"rate": hyper.stable_rate, "decay": hyper.stable_decay, **choices}
        stable = maybe_ema_update(key_stable, stable, working.vars, number, **rule)
        state = ClsErState(working, plastic, stable, memory, hyper, number)
        return state, {"loss": value}

    views = {tree: predict_with(net, augment, tree) for tree in ("working", "plastic")}
    return Method(
        "clser",
        init,
        (Phase("train", step),),
        predict_with(net, augment, "stable"),
        views=views,
        convolutional=net.convolutional,
        capacity=parameter_bits("stable"),
        advice=partial(advice, config),
    )


def advice(config: ClsErConfig, hyper: ClsErHyper, num_steps: int) -> str:
    """A warning where a copy would still be made of initial weights at the end, else "".

    With warm-up over steps that is so if ``num_steps * rate * (1 - decay) < 3``: the published
    small rates belong to streams of many epochs.

    Args:
      config, hyper: of the method.
      num_steps: of the whole stream.
    """
    if config.warmup == "updates":
        return ""
    for copy in ("stable", "plastic"):
        rate, decay = (float(getattr(hyper, f"{copy}_{part}")) for part in ("rate", "decay"))
        if num_steps * rate * (1 - decay) < 3:
            return (
                f"{copy}_rate {rate:g} and {copy}_decay {decay:g} are too slow for {num_steps} "
                f"steps: the {copy} copy will be made of initial weights; use --warmup updates, "
                "a higher rate or a lower decay"
            )
    return ""


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
