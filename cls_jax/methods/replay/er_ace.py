"""ER-ACE: new classes learn among themselves, and replay alone sets them against the old ones.

The stream's cross-entropy is asymmetric: its softmax leaves out every class that was seen before
and is not in the batch, so incoming classes do not push the remembered ones away. Replay's runs
over all classes. The sum of two means; no task boundaries.

| symbol | name | default | where from |
|---|---|---|---|
| eta | learning_rate | 0.03 | our choice, as for DER: neither source gives one for M = 500 |
| M | memory_size | 500 | the middle of DER's three published buffers |
| m | replay_size | 32 | DER's grid search for Seq-CIFAR-10 |
| | head | cosine | both codes: ``10 <f / |f|, w_c / |w_c|>``, no bias |

Source: Caccia et al. 2022 (ICLR; arXiv 2104.05025); pclucas14/AML, methods/er_ace.py (task-free)
and model.py (distLinear); aimagelab/mammoth, models/er_ace.py (waits for the second task). With
``head="linear"`` the network's own last layer stays, as in mammoth's first versions.
Departs: replay and mask begin with the first step, as in AML; "unseen" is a set, where both codes
take every class from the highest label seen upwards, which means a class order 0, 1, 2, …
"""

from typing import get_args, get_type_hints

import jax
import jax.numpy as jnp
import optax
from flax import struct

from cls_jax.core.augment import Augment
from cls_jax.core.errors import InputError
from cls_jax.core.losses import cross_entropy
from cls_jax.core.memory import Memory, order_after, reservoir
from cls_jax.core.types import Array, Batch, Metrics, Trainable, Variables
from cls_jax.methods.base import (
    Method,
    Phase,
    check_replay,
    forward_each,
    gradient_step,
    init_model,
    parameter_bits,
    predict_with,
)
from cls_jax.methods.prototypes.cosine import with_cosine_head
from cls_jax.methods.replay.replay_config import ErAceConfig, ErAceHyper
from cls_jax.nets.base import Net

SCALE = 10.0
"""By which both codes multiply the cosines."""


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
      config: sizes, and which last layer.
      net: outputs float32[b, num_classes] logits; for the cosine head it has ``features`` and
        ``head``.
      augment: ``train`` makes the inputs of the losses, ``test`` those of ``predict``.

    Returns:
      The method; its hyper is ErAceHyper.

    Raises:
      InputError: if the memory is smaller than one replay draw, or for a head that is none or that
        the network cannot have.
    """
    check_replay(config.memory_size, config.replay_size)
    heads = get_args(get_type_hints(ErAceConfig)["head"])
    if config.head not in heads:
        raise InputError(f"head is {config.head!r}; use one of {', '.join(heads)}")
    if config.head == "cosine":
        if net.features is None or net.head is None:
            raise InputError(
                "head is 'cosine' and the network names no last layer to put it in place of; use "
                "mlp or resnet18, or head 'linear'"
            )
        net = with_cosine_head(net, SCALE)
    policy = reservoir(config.memory_size)

    def init(key: Array, example: Batch, hyper: ErAceHyper) -> ErAceState:
        x = augment.test(example.x)
        model = init_model(key, net, x, optax.sgd(hyper.learning_rate))
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

        model, value = gradient_step(state.model, optax.sgd(state.hyper.learning_rate), loss)
        items = {"x": batch.x, "y": batch.y}
        memory = policy.add(key_add, order_after(state.memory, replay), items, batch.valid)
        seen = state.seen | present
        return ErAceState(model, memory, seen, state.hyper), {"loss": value}

    phases, predict = (Phase("train", step),), predict_with(net, augment)
    return Method(
        "er_ace",
        init,
        phases,
        predict,
        convolutional=net.convolutional,
        capacity=parameter_bits("model"),
    )


def classes_of(y: Array, valid: Array, num_classes: int) -> Array:
    """bool[num_classes]: which labels the valid rows hold.

    Args:
      y: int32[b].
      valid: bool[b].
      num_classes: size of the label space.
    """
    return (jax.nn.one_hot(y, num_classes, dtype=bool) & valid[:, None]).any(axis=0)
