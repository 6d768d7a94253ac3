"""ER-ACE: new classes learn among themselves, and replay alone sets them against the old ones.

The stream's cross-entropy is asymmetric: its softmax leaves out every class that was seen before
and is not in the batch, so incoming classes do not push the remembered ones away. Replay's runs
over all classes. The sum of two means; no task boundaries.

Source: Caccia et al. 2022 (ICLR; arXiv 2104.05025); pclucas14/AML, methods/er_ace.py (task-free)
and model.py (distLinear); aimagelab/mammoth, models/er_ace.py (waits for the second task). With
``head="linear"`` the network's own last layer stays, as in mammoth's first versions.
Departs: replay and mask begin with the first step, as in AML; "unseen" is a set, where both codes
take every class from the highest label seen upwards, which means a class order 0, 1, 2, …
"""

from typing import Literal

import jax
import jax.numpy as jnp
from flax import struct

from cls_jax.core.losses import cross_entropy
from cls_jax.core.memory import Memory, order_after, reservoir
from cls_jax.core.types import Array, Batch, Metrics, Trainable, Variables
from cls_jax.methods.base import Algorithm, method
from cls_jax.methods.checks import check_replay
from cls_jax.methods.problem import Problem
from cls_jax.methods.prototypes.cosine import with_cosine_head
from cls_jax.methods.steps import forward_each, gradient_step, init_model, predict_with
from cls_jax.nets.base import no_head

SCALE = 10.0
"""By which both codes multiply the cosines."""


class ErAceState(struct.PyTreeNode):
    """model: the network; memory: slots {x, y}; seen: bool[num_classes] labels met so far."""

    model: Trainable
    memory: Memory
    seen: Array


@method
def er_ace(
    problem: Problem,
    *,
    memory_size: int = 500,
    replay_size: int = 32,
    head: Literal["cosine", "linear"] = "cosine",
    learning_rate: float = 0.03,
) -> Algorithm:
    """Experience replay with asymmetric cross-entropy.

    Args:
      memory_size: M, slots of the reservoir; the middle of DER's three published buffers.
      replay_size: m, examples replayed a step; DER's grid search for Seq-CIFAR-10.
      head: the last layer compares angles, ``10 <f / |f|, w_c / |w_c|>`` without bias, as in both
        codes, or is the network's own.
      learning_rate: eta, step length, of SGD by default, >= 0; our choice, as for DER: neither
        source gives one for M = 500.

    Raises:
      InputError: if the memory is smaller than one replay draw, or for a head that the network
        cannot have.
    """
    check_replay(memory_size, replay_size)
    net, augment, policy = problem.net(), problem.augment, reservoir(memory_size)
    if head == "cosine":
        if net.features is None or net.head is None:
            why = "er_ace puts head 'cosine' in place of the last layer (or head 'linear' keeps it)"
            raise no_head(why, net)
        net = with_cosine_head(net, SCALE)
    optimizer = problem.optimizer(learning_rate)

    def init(key: Array, example: Batch) -> ErAceState:
        x = augment.test(example.x)
        model = init_model(key, net, x, optimizer)
        logits, _ = net.apply(model.vars, x, train=False)
        memory = policy.init({"x": example.x, "y": example.y})
        return ErAceState(model, memory, seen=jnp.zeros(logits.shape[1:], bool))

    def step(key: Array, state: ErAceState, batch: Batch) -> tuple[ErAceState, Metrics]:
        key_draw, key_augment, key_add = jax.random.split(key, 3)
        present = classes_of(batch.y, batch.valid, len(state.seen))
        allowed = present | ~state.seen
        replay = policy.sample(key_draw, state.memory, replay_size)
        x = augment.train(key_augment, jnp.concatenate([batch.x, replay.items["x"]]))
        xs, valids = jnp.split(x, [len(batch.x)]), [batch.valid, replay.valid]

        def loss(vars: Variables):
            (logits, replayed), stats = forward_each(net, vars, xs, valids)
            incoming = cross_entropy(logits, batch.y, valid=batch.valid, classes=allowed)
            return incoming + cross_entropy(replayed, replay.items["y"], valid=replay.valid), stats

        model, value = gradient_step(state.model, optimizer, loss)
        items = {"x": batch.x, "y": batch.y}
        memory = policy.add(key_add, order_after(state.memory, replay), items, batch.valid)
        return ErAceState(model, memory, state.seen | present), {"loss": value}

    return Algorithm(init=init, step=step, predict=predict_with(net, augment))


def classes_of(y: Array, valid: Array, num_classes: int) -> Array:
    """bool[num_classes]: which labels the valid rows hold.

    Args:
      y: int32[b].
      valid: bool[b].
      num_classes: size of the label space.
    """
    return (jax.nn.one_hot(y, num_classes, dtype=bool) & valid[:, None]).any(axis=0)
