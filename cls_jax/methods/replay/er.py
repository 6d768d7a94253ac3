"""Experience replay: each step learns the batch and as many remembered examples, in one mean.

| symbol | name | default | where from |
|---|---|---|---|
| eta | learning_rate | 0.1 | DER's grid search for Seq-CIFAR-10 (aimagelab/mammoth) |
| M | memory_size | 500 | the middle of the three published buffers |
| m | replay_size | 32 | DER's grid search for Seq-CIFAR-10 |

Source: Chaudhry et al. 2019; aimagelab/mammoth, models/er.py: reservoir memory, raw images stored
and augmented anew at each draw, stream examples stored after the step.
"""

import jax
import jax.numpy as jnp
import optax
from flax import struct

from cls_jax.core.augment import Augment
from cls_jax.core.losses import cross_entropy
from cls_jax.core.memory import Memory, order_after, reservoir
from cls_jax.core.types import Array, Batch, Metrics, Trainable, Variables
from cls_jax.methods.base import (
    Method,
    Phase,
    check_replay,
    gradient_step,
    init_model,
    parameter_bits,
    predict_with,
)
from cls_jax.methods.replay.replay_config import ErConfig, ErHyper
from cls_jax.nets.base import Net


@struct.dataclass
class ErState:
    """model: the network; memory: slots {x, y}; hyper: ErHyper."""

    model: Trainable
    memory: Memory
    hyper: ErHyper


def er(config: ErConfig, net: Net, *, augment: Augment) -> Method:
    """Experience replay.

    Args:
      config: sizes.
      net: outputs float32[b, num_classes] logits.
      augment: ``train`` makes the inputs of the loss, ``test`` those of ``predict``.

    Returns:
      The method; its hyper is ErHyper.

    Raises:
      InputError: if the memory is smaller than one replay draw.
    """
    check_replay(config.memory_size, config.replay_size)
    policy = reservoir(config.memory_size)

    def init(key: Array, example: Batch, hyper: ErHyper) -> ErState:
        model = init_model(key, net, augment.test(example.x), optax.sgd(hyper.learning_rate))
        memory = policy.init({"x": example.x, "y": example.y})
        return ErState(model=model, memory=memory, hyper=hyper)

    def step(key: Array, state: ErState, batch: Batch) -> tuple[ErState, Metrics]:
        key_draw, key_augment, key_add = jax.random.split(key, 3)
        replay = policy.sample(key_draw, state.memory, config.replay_size)
        x = augment.train(key_augment, jnp.concatenate([batch.x, replay.items["x"]]))
        y = jnp.concatenate([batch.y, replay.items["y"]])
        valid = jnp.concatenate([batch.valid, replay.valid])

        def loss(vars: Variables):
            logits, stats = net.apply(vars, x, train=True, valid=valid)
            return cross_entropy(logits, y, valid=valid), stats

        model, value = gradient_step(state.model, optax.sgd(state.hyper.learning_rate), loss)
        items = {"x": batch.x, "y": batch.y}
        memory = policy.add(key_add, order_after(state.memory, replay), items, batch.valid)
        return state.replace(model=model, memory=memory), {"loss": value}

    phases, predict = (Phase("train", step),), predict_with(net, augment)
    return Method(
        "er",
        init,
        phases,
        predict,
        convolutional=net.convolutional,
        capacity=parameter_bits("model"),
    )
