"""Plain SGD on the stream: the lower bound, and the shortest method to read.

One network, cross-entropy over all classes on each batch, nothing remembered.

| symbol | name | default | where from |
|---|---|---|---|
| eta | learning_rate | 0.03 | DER's grid search for Seq-MNIST (aimagelab/mammoth) |

Source: aimagelab/mammoth, models/sgd.py: no momentum, no weight decay.
"""

import optax
from flax import struct

from cls_jax.core.augment import Augment
from cls_jax.core.losses import cross_entropy
from cls_jax.core.types import Array, Batch, Metrics, Trainable, Variables
from cls_jax.methods.base import (
    Method,
    Phase,
    gradient_step,
    init_model,
    parameter_bits,
    predict_with,
)
from cls_jax.methods.regularization.memoryless_config import SgdHyper
from cls_jax.nets.base import Net


@struct.dataclass
class SgdState:
    """model: the one network with its optimizer state; hyper: SgdHyper."""

    model: Trainable
    hyper: SgdHyper


def sgd(net: Net, *, augment: Augment) -> Method:
    """Fine-tuning without memory.

    Args:
      net: outputs float32[b, num_classes] logits.
      augment: ``train`` makes the inputs of the loss, ``test`` those of ``predict``.

    Returns:
      The method; its hyper is SgdHyper.
    """

    def init(key: Array, example: Batch, hyper: SgdHyper) -> SgdState:
        model = init_model(key, net, augment.test(example.x), optax.sgd(hyper.learning_rate))
        return SgdState(model=model, hyper=hyper)

    def step(key: Array, state: SgdState, batch: Batch) -> tuple[SgdState, Metrics]:
        x = augment.train(key, batch.x)

        def loss(vars: Variables):
            logits, stats = net.apply(vars, x, train=True, valid=batch.valid)
            return cross_entropy(logits, batch.y, valid=batch.valid), stats

        model, value = gradient_step(state.model, optax.sgd(state.hyper.learning_rate), loss)
        return state.replace(model=model), {"loss": value}

    phases, predict = (Phase("train", step),), predict_with(net, augment)
    return Method(
        "sgd",
        init,
        phases,
        predict,
        convolutional=net.convolutional,
        capacity=parameter_bits("model"),
    )
