"""Experience replay: each step learns the batch and as many remembered examples, in one mean.

Source: Chaudhry et al. 2019; aimagelab/mammoth, models/er.py: reservoir memory, raw images stored
and augmented anew at each draw, stream examples stored after the step.
"""

import jax
import jax.numpy as jnp
from flax import struct

from cls_jax.core.losses import cross_entropy
from cls_jax.core.memory import Memory, order_after, reservoir
from cls_jax.core.types import Array, Batch, Metrics, Trainable, Variables
from cls_jax.methods.base import Algorithm, method
from cls_jax.methods.checks import check_replay
from cls_jax.methods.problem import Problem
from cls_jax.methods.steps import gradient_step, init_model, predict_with


class ErState(struct.PyTreeNode):
    """model: the network; memory: slots {x, y}."""

    model: Trainable
    memory: Memory


@method
def er(
    problem: Problem,
    *,
    memory_size: int = 500,
    replay_size: int = 32,
    learning_rate: float = 0.1,
) -> Algorithm:
    """Experience replay.

    Args:
      memory_size: M, slots of the reservoir; the middle of DER's three published buffers.
      replay_size: m, examples replayed a step; DER's grid search for Seq-CIFAR-10.
      learning_rate: eta, step length of plain SGD, >= 0; DER's grid search for Seq-CIFAR-10.

    Raises:
      InputError: if the memory is smaller than one replay draw.
    """
    check_replay(memory_size, replay_size)
    net, augment, policy = problem.net(), problem.augment, reservoir(memory_size)
    optimizer = problem.optimizer(learning_rate)

    def init(key: Array, example: Batch) -> ErState:
        model = init_model(key, net, augment.test(example.x), optimizer)
        return ErState(model, policy.init({"x": example.x, "y": example.y}))

    def step(key: Array, state: ErState, batch: Batch) -> tuple[ErState, Metrics]:
        key_draw, key_augment, key_add = jax.random.split(key, 3)
        replay = policy.sample(key_draw, state.memory, replay_size)
        x = augment.train(key_augment, jnp.concatenate([batch.x, replay.items["x"]]))
        y = jnp.concatenate([batch.y, replay.items["y"]])
        valid = jnp.concatenate([batch.valid, replay.valid])

        def loss(vars: Variables):
            logits, stats = net.apply(vars, x, train=True, valid=valid)
            return cross_entropy(logits, y, valid=valid), stats

        model, value = gradient_step(state.model, optimizer, loss)
        items = {"x": batch.x, "y": batch.y}
        memory = policy.add(key_add, order_after(state.memory, replay), items, batch.valid)
        return ErState(model, memory), {"loss": value}

    return Algorithm(init=init, step=step, predict=predict_with(net, augment))
