"""Dark experience replay: remembered examples keep the logits they had when they were stored.

DER replays inputs with their old logits, DER++ also a second draw with its labels:
``CE(h(x), y) + alpha mean (h(x') - z')^2 [+ beta CE(h(x''), y'')]``. No task boundaries.

| symbol | name | default | where from |
|---|---|---|---|
| eta | learning_rate | 0.03 | grid search for Seq-CIFAR-10, buffer 500 (aimagelab/mammoth) |
| alpha | logit_weight | DER 0.3, DER++ 0.2 | the same; of a mean over logits, not a norm |
| beta | label_weight | DER++ 0.5 | the same |
| M | memory_size | 500 | the middle of the three published buffers |
| m | replay_size | 32 | grid search for Seq-CIFAR-10; each draw has this size |

Source: Buzzega et al. 2020 (NeurIPS; arXiv 2004.07211); aimagelab/mammoth, models/der.py and
models/derpp.py: reservoir memory, raw images stored and augmented anew at each draw, a forward pass
a term (stream, then each draw), and the training-mode logits of the stream stored as they were
before the step.
"""

from functools import reduce

import jax
import jax.numpy as jnp
import optax
from flax import struct

from cls_jax.core.augment import Augment
from cls_jax.core.losses import cross_entropy, logit_mse
from cls_jax.core.memory import Memory, order_after, reservoir
from cls_jax.core.types import Array, Batch, Metrics, Trainable, Variables
from cls_jax.methods.base import (
    Method,
    Phase,
    apply_gradient,
    check_replay,
    forward_each,
    gradient_of,
    init_model,
    parameter_bits,
    predict_with,
)
from cls_jax.methods.replay.replay_config import DerConfig, DerHyper, DerppHyper
from cls_jax.nets.base import Net


@struct.dataclass
class DerState:
    """model: the network; memory: slots {x, y, logits float32[num_classes]}; hyper: as given."""

    model: Trainable
    memory: Memory
    hyper: DerHyper | DerppHyper


def der(config: DerConfig, net: Net, *, augment: Augment) -> Method:
    """Dark experience replay.

    Args:
      config: sizes.
      net: outputs float32[b, num_classes] logits.
      augment: ``train`` makes the inputs of the losses, ``test`` those of ``predict``.

    Returns:
      The method; its hyper is DerHyper.

    Raises:
      InputError: if the memory is smaller than one replay draw.
    """
    return _der("der", config, net, augment, label_draw=False)


def derpp(config: DerConfig, net: Net, *, augment: Augment) -> Method:
    """DER++: dark experience replay with labels from a second, independent draw.

    Args:
      config: sizes.
      net: outputs float32[b, num_classes] logits.
      augment: ``train`` makes the inputs of the losses, ``test`` those of ``predict``.

    Returns:
      The method; its hyper is DerppHyper.

    Raises:
      InputError: if the memory is smaller than one replay draw.
    """
    return _der("derpp", config, net, augment, label_draw=True)


def _der(name: str, config: DerConfig, net: Net, augment: Augment, *, label_draw: bool) -> Method:
    check_replay(config.memory_size, config.replay_size)
    policy, m = reservoir(config.memory_size), config.replay_size

    def init(key: Array, example: Batch, hyper: DerHyper | DerppHyper) -> DerState:
        x = augment.test(example.x)
        model = init_model(key, net, x, optax.sgd(hyper.learning_rate))
        logits, _ = net.apply(model.vars, x, train=False)
        memory = policy.init({"x": example.x, "y": example.y, "logits": logits})
        return DerState(model=model, memory=memory, hyper=hyper)

    def step(key: Array, state: DerState, batch: Batch) -> tuple[DerState, Metrics]:
        key_draw, key_label_draw, key_augment, key_add = jax.random.split(key, 4)
        hyper = state.hyper
        replays = [policy.sample(key_draw, state.memory, m)]
        if label_draw:
            replays += [policy.sample(key_label_draw, state.memory, m)]
        x = jnp.concatenate([batch.x, *(replay.items["x"] for replay in replays)])
        x = augment.train(key_augment, x)
        xs = jnp.split(x, [len(batch.x) + m * number for number in range(len(replays))])
        valids = [batch.valid, *(replay.valid for replay in replays)]

        def loss(vars: Variables):
            (logits, *replayed), stats = forward_each(net, vars, xs, valids)
            total = cross_entropy(logits, batch.y, valid=batch.valid)
            kept, valid = replays[0].items["logits"], valids[1]
            total += hyper.logit_weight * logit_mse(replayed[0], kept, valid=valid)
            if label_draw:
                y, valid = replays[1].items["y"], valids[2]
                total += hyper.label_weight * cross_entropy(replayed[1], y, valid=valid)
            return total, (stats, logits)

        (value, (stats, logits)), gradient = gradient_of(loss, state.model.vars)
        model = apply_gradient(state.model, optax.sgd(hyper.learning_rate), gradient, stats)
        items = {"x": batch.x, "y": batch.y, "logits": logits}
        memory = reduce(order_after, replays, state.memory)
        memory = policy.add(key_add, memory, items, batch.valid)
        return state.replace(model=model, memory=memory), {"loss": value}

    phases, predict = (Phase("train", step),), predict_with(net, augment)
    return Method(
        name,
        init,
        phases,
        predict,
        convolutional=net.convolutional,
        capacity=parameter_bits("model"),
    )
