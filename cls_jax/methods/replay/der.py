"""Dark experience replay: remembered examples keep the logits they had when they were stored.

DER replays inputs with their old logits, DER++ also a second draw with its labels:
``CE(h(x), y) + alpha mean (h(x') - z')^2 [+ beta CE(h(x''), y'')]``. No task boundaries.

Source: Buzzega et al. 2020 (NeurIPS; arXiv 2004.07211); aimagelab/mammoth, models/der.py and
models/derpp.py: reservoir memory, raw images stored and augmented anew at each draw, a forward pass
a term (stream, then each draw), and the training-mode logits of the stream stored as they were
before the step.
"""

from functools import reduce

import jax
import jax.numpy as jnp
from flax import struct

from cls_jax.core.losses import cross_entropy, logit_mse
from cls_jax.core.memory import Memory, order_after, reservoir
from cls_jax.core.types import Array, Batch, Metrics, PyTree, Scalar, Trainable, Variables
from cls_jax.methods.base import Algorithm, method
from cls_jax.methods.checks import check_replay
from cls_jax.methods.columns import all_columns, own_columns
from cls_jax.methods.problem import Problem
from cls_jax.methods.steps import (
    apply_gradient,
    forward_each,
    gradient_of,
    init_model,
    predict_with,
)


class DerState(struct.PyTreeNode):
    """model: the network; memory: slots {x, y, logits float32[num_classes]}, or task beside them.

    task_classes: bool[num_tasks, num_classes] of the tasks met, with ``own_classes``; else ().
    """

    model: Trainable
    memory: Memory
    task_classes: PyTree = ()


@method
def der(
    problem: Problem,
    *,
    memory_size: int = 500,
    replay_size: int = 32,
    own_classes: bool = False,
    learning_rate: float = 0.03,
    logit_weight: float = 0.3,
) -> Algorithm:
    """Dark experience replay; "der_own" in tables if it learns by each task's own classes.

    Args:
      memory_size: M, slots of the reservoir; the middle of the three published buffers.
      replay_size: m, examples replayed a step; the grid search for Seq-CIFAR-10.
      own_classes: both losses over the classes of each example's own task, which is then told in
        training, as a network with a head a task has it; False: over all classes, never told.
      learning_rate: eta, step length, of SGD by default, >= 0; the grid search for Seq-CIFAR-10
        with 500 slots (aimagelab/mammoth).
      logit_weight: alpha, of the mean squared distance to the stored logits, not of a norm, >= 0;
        the grid search for Seq-CIFAR-10 with 500 slots.

    Raises:
      InputError: if the memory is smaller than one replay draw.
    """
    return _der(problem, memory_size, replay_size, own_classes, learning_rate, logit_weight)


@method
def derpp(
    problem: Problem,
    *,
    memory_size: int = 500,
    replay_size: int = 32,
    own_classes: bool = False,
    learning_rate: float = 0.03,
    logit_weight: float = 0.2,
    label_weight: float = 0.5,
) -> Algorithm:
    """DER++: dark experience replay with labels from a second draw; "derpp_own" by own classes.

    Args:
      memory_size: M, slots of the reservoir; the middle of the three published buffers.
      replay_size: m, examples of each of the two draws; the grid search for Seq-CIFAR-10.
      own_classes: both losses over the classes of each example's own task, which is then told in
        training, as a network with a head a task has it; False: over all classes, never told.
      learning_rate: eta, step length, of SGD by default, >= 0; the grid search for Seq-CIFAR-10
        with 500 slots (aimagelab/mammoth).
      logit_weight: alpha, of the mean squared distance to the stored logits, not of a norm, >= 0;
        the grid search for Seq-CIFAR-10 with 500 slots.
      label_weight: beta, of the cross-entropy of the second draw, >= 0; the grid search for
        Seq-CIFAR-10 with 500 slots.

    Raises:
      InputError: if the memory is smaller than one replay draw.
    """
    return _der(
        problem, memory_size, replay_size, own_classes, learning_rate, logit_weight, label_weight
    )


def _der(
    problem: Problem,
    memory_size: int,
    replay_size: int,
    own_classes: bool,
    learning_rate: Scalar,
    logit_weight: Scalar,
    label_weight: Scalar | None = None,
) -> Algorithm:
    """DER; with ``label_weight`` DER++."""
    check_replay(memory_size, replay_size)
    net, augment, policy = problem.net(), problem.augment, reservoir(memory_size)
    columns = own_columns(problem) if own_classes else all_columns()
    optimizer, label_draw = problem.optimizer(learning_rate), label_weight is not None

    def init(key: Array, example: Batch) -> DerState:
        x = augment.test(example.x)
        model = init_model(key, net, x, optimizer)
        logits, _ = net.apply(model.vars, x, train=False)
        memory = policy.init({**columns.items(example), "logits": logits})
        return DerState(model, memory, columns.init)

    def step(key: Array, state: DerState, batch: Batch) -> tuple[DerState, Metrics]:
        key_draw, key_label_draw, key_augment, key_add = jax.random.split(key, 4)
        replays = [policy.sample(key_draw, state.memory, replay_size)]
        if label_draw:
            replays += [policy.sample(key_label_draw, state.memory, replay_size)]
        x = jnp.concatenate([batch.x, *(replay.items["x"] for replay in replays)])
        x = augment.train(key_augment, x)
        ends = [len(batch.x) + replay_size * number for number in range(len(replays))]
        items, learned = columns.items(batch), columns.learnable(state.task_classes, batch)
        xs, valids = jnp.split(x, ends), [learned, *(replay.valid for replay in replays)]
        held = [items, *(replay.items for replay in replays)]
        own = [columns.of(state.task_classes, each) for each in held]

        def loss(vars: Variables):
            (logits, *replayed), stats = forward_each(net, vars, xs, valids)
            total = cross_entropy(logits, batch.y, valid=learned, classes=own[0])
            stored = held[1]["logits"]
            distance = logit_mse(replayed[0], stored, valid=valids[1], classes=own[1])
            total += logit_weight * distance
            if label_weight is not None:
                ce = cross_entropy(replayed[1], held[2]["y"], valid=valids[2], classes=own[2])
                total += label_weight * ce
            return total, (stats, logits)

        (value, (stats, logits)), gradient = gradient_of(loss, state.model.vars)
        model = apply_gradient(state.model, optimizer, gradient, stats)
        memory = reduce(order_after, replays, state.memory)
        memory = policy.add(key_add, memory, {**items, "logits": logits}, learned)
        return state.replace(model=model, memory=memory), {"loss": value}

    plain = "der" if label_weight is None else "derpp"
    return Algorithm(
        init=init,
        step=step,
        predict=predict_with(net, augment),
        begin_task=columns.begin_task,
        needs=columns.needs,
        name=f"{plain}_own" if own_classes else None,
    )
