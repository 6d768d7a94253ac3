"""ER-ACE: new classes learn among themselves, and replay alone sets them against the old ones.

The stream's cross-entropy is asymmetric: its softmax leaves out every class that was seen before
and is not in the batch, so incoming classes do not push the remembered ones away. Replay's runs
over all classes. The sum of two means; no task boundaries.

| symbol | name | default | where from |
|---|---|---|---|
| eta | learning_rate | 0.03 | our choice, as for DER: neither source gives one for M = 500 |
| M | memory_size | 500 | the middle of DER's three published buffers |
| m | replay_size | 32 | DER's grid search for Seq-CIFAR-10 |

Source: Caccia et al. 2022 (ICLR; arXiv 2104.05025); pclucas14/AML, methods/er_ace.py (task-free);
aimagelab/mammoth, models/er_ace.py (waits for the second task).
Departs: replay and mask begin with the first step, as in AML; "unseen" is a set, where both codes
take every class from the highest label seen upwards, which means a class order 0, 1, 2, …
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import optax
from flax import struct

from cls_jax.augment import Augment
from cls_jax.losses import cross_entropy
from cls_jax.memory import Memory, after, reservoir
from cls_jax.methods.base import (
    Method,
    Phase,
    answer,
    check_replay,
    descend,
    forward_each,
    fresh,
    kept,
)
from cls_jax.nets.net import Net
from cls_jax.types import Array, Batch, Metrics, Trainable, Variables


@dataclass(frozen=True)
class ErAceConfig:
    """memory_size: slots of the reservoir; replay_size: examples replayed a step."""

    memory_size: int = 500
    replay_size: int = 32


@struct.dataclass
class ErAceHyper:
    """learning_rate: step length of plain SGD, >= 0; float32[] within a run."""

    learning_rate: float = 0.03


@struct.dataclass
class ErAceState:
    """model: the network; memory: slots {x, y}; seen: bool[num_classes] labels met so far."""

    model: Trainable
    memory: Memory
    seen: Array
    hyper: ErAceHyper


def er_ace(config: ErAceConfig, net: Net, *, augment: Augment) -> Method:
    """Experience replay with asymmetric cross-entropy.

    Args:
      config: sizes.
      net: outputs float32[b, num_classes] logits.
      augment: ``train`` makes the inputs of the losses, ``test`` those of ``predict``.

    Returns:
      The method; its hyper is ErAceHyper.

    Raises:
      InputError: if the memory is smaller than one replay draw.
    """
    check_replay(config.memory_size, config.replay_size)
    policy = reservoir(config.memory_size)

    def init(key: Array, example: Batch, hyper: ErAceHyper) -> ErAceState:
        x = augment.test(example.x)
        model = fresh(key, net, x, optax.sgd(hyper.learning_rate))
        logits, _ = net.apply(model.vars, x, train=False)
        memory = policy.init({"x": example.x, "y": example.y})
        seen = jnp.zeros(logits.shape[1:], bool)
        return ErAceState(model=model, memory=memory, seen=seen, hyper=hyper)

    def step(key: Array, state: ErAceState, batch: Batch) -> tuple[ErAceState, Metrics]:
        key_draw, key_augment, key_add = jax.random.split(key, 3)
        present = classes_of(batch.y, batch.valid, len(state.seen))
        allowed = present | ~state.seen
        replay = policy.sample(key_draw, state.memory, config.replay_size)
        x = augment.train(key_augment, jnp.concatenate([batch.x, replay.items["x"]]))
        xs, valids = jnp.split(x, [len(batch.x)]), [batch.valid, replay.valid]

        def loss(vars: Variables):
            (logits, replayed), stats = forward_each(net, vars, xs, valids)
            incoming = cross_entropy(logits, batch.y, valid=batch.valid, classes=allowed)
            return incoming + cross_entropy(replayed, replay.items["y"], valid=replay.valid), stats

        model, value = descend(state.model, optax.sgd(state.hyper.learning_rate), loss)
        items = {"x": batch.x, "y": batch.y}
        memory = policy.add(key_add, after(state.memory, replay), items, batch.valid)
        seen = state.seen | present
        return ErAceState(model, memory, seen, state.hyper), {"loss": value}

    phases, predict = (Phase("train", step),), answer(net, augment)
    return Method(
        "er_ace", init, phases, predict, convolutional=net.convolutional, capacity=kept("model")
    )


def classes_of(y: Array, valid: Array, num_classes: int) -> Array:
    """bool[num_classes]: which labels the valid rows hold.

    Args:
      y: int32[b].
      valid: bool[b].
      num_classes: size of the label space.
    """
    return (jax.nn.one_hot(y, num_classes, dtype=bool) & valid[:, None]).any(axis=0)
