"""Fine-tuning, the lower bound, and joint training, the upper one: plain SGD on cross-entropy.

Nothing is remembered and nothing held; ``joint`` gets all tasks at once, shuffled, in place of the
stream (``Needs.pooled``), so the last row of its accuracy matrix is the score.

Source: aimagelab/mammoth, models/sgd.py (no momentum, no weight decay) and models/joint.py.
"""

import dataclasses

from flax import struct

from cls_jax.core.losses import cross_entropy
from cls_jax.core.types import Array, Batch, Metrics, Trainable, Variables
from cls_jax.methods.base import Algorithm, Needs, method
from cls_jax.methods.problem import Problem
from cls_jax.methods.steps import gradient_step, init_model, predict_with


class SgdState(struct.PyTreeNode):
    """model: the one network with its optimizer state."""

    model: Trainable


@method
def sgd(problem: Problem, *, learning_rate: float = 0.03) -> Algorithm:
    """Fine-tuning without memory.

    Args:
      learning_rate: eta, step length, of SGD by default, >= 0; DER's grid search for Seq-MNIST.
    """
    net, augment, optimizer = problem.net(), problem.augment, problem.optimizer(learning_rate)

    def init(key: Array, example: Batch) -> SgdState:
        return SgdState(init_model(key, net, augment.test(example.x), optimizer))

    def step(key: Array, state: SgdState, batch: Batch) -> tuple[SgdState, Metrics]:
        x = augment.train(key, batch.x)

        def loss(vars: Variables):
            logits, stats = net.apply(vars, x, train=True, valid=batch.valid)
            return cross_entropy(logits, batch.y, valid=batch.valid), stats

        model, value = gradient_step(state.model, optimizer, loss)
        return SgdState(model), {"loss": value}

    return Algorithm(init=init, step=step, predict=predict_with(net, augment))


@method
def joint(problem: Problem, *, learning_rate: float = 0.03) -> Algorithm:
    """SGD over the pooled stream.

    Args:
      learning_rate: eta, step length, of SGD by default, >= 0; as for sgd.
    """
    return dataclasses.replace(
        sgd.build(problem, learning_rate=learning_rate), step=None, needs=Needs(pooled=True)
    )
