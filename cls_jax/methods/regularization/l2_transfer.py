"""L2-transfer: a new task may move the shared weights, at the price of the squared way.

One network with a last layer for each task. The loss of task t is
``CE + lambda / 2 ||theta - theta_{t-1}||^2``: theta are the weights that the tasks share, and
theta_{t-1} the same as the task before ended; the first task has no such term. With lambda = 0 it
is plain fine-tuning: the lower bound of methods that are told the task in training and at test.

| symbol | name | default | where from |
|---|---|---|---|
| eta | learning_rate | 1e-3 | jaehong31/APD: Adam, started anew with each task |
| | annealing_rate | 1.0 | ours: the rate stays (APD's own experiments: 0.95 an epoch) |
| | annealing_steps | 40 | steps an epoch of APD's experiments; without effect at rate 1 |
| lambda | penalty_weight | 1.0 | ours: the middle of the card's grid 0.1, 1, 10 |

Source: Yoon et al. 2020 (ICLR; arXiv 1902.09432), experiments: the baseline "L2-Transfer"; Yoon et
al. 2018 (ICLR; arXiv 1708.01547), "DNN-L2".
Departs: where the task is hidden at test, the last layer of the task learned last answers. A row
of a class that is not the task's is padding.
"""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
import optax
from flax import struct

from cls_jax.core.augment import Augment
from cls_jax.core.losses import cross_entropy, half_squared
from cls_jax.core.types import Array, Batch, Metrics, PyTree, Task, Trainable, Variables
from cls_jax.methods.base import Method, Needs, Phase, gradient_step, told_rows
from cls_jax.methods.heads import (
    annealed_adam,
    asked,
    check_annealing,
    check_head,
    for_task,
    head_numbers,
    with_heads,
    without_head,
)
from cls_jax.methods.regularization.memoryless_config import L2TransferConfig, L2TransferHyper
from cls_jax.nets.base import Net


@struct.dataclass
class L2TransferState:
    """What L2-transfer carries from step to step.

    Attributes:
      model: the network; its last layer is there once a task.
      anchor: the shared weights as the task began.
      task: int32[] the task being learned, or the last one.
      classes: bool[T, C] classes of the tasks in the order of their learning.
      num_begun: int32[] how many tasks these are.
      hyper: L2TransferHyper.
    """

    model: Trainable
    anchor: PyTree
    task: Array
    classes: Array
    num_begun: Array
    hyper: L2TransferHyper


def l2_transfer(
    config: L2TransferConfig, net: Net, *, augment: Augment, num_classes: int, num_tasks: int
) -> Method:
    """Fine-tuning with a pull towards where the shared weights were.

    Args:
      config: when the rate falls.
      net: outputs float32[b, num_classes] logits; names its head.
      augment: ``train`` makes the inputs of the loss, ``test`` those of ``predict``.
      num_classes, num_tasks: of the stream.

    Returns:
      The method; its hyper is L2TransferHyper.

    Raises:
      InputError: if the network names no last layer, or annealing_steps is below 1.
    """
    check_head("l2_transfer", net)
    check_annealing(config.annealing_steps)

    def optimizer(hyper: L2TransferHyper) -> optax.GradientTransformation:
        rates = hyper.learning_rate, hyper.annealing_rate
        return annealed_adam(*rates, config.annealing_steps)

    def init(key: Array, example: Batch, hyper: L2TransferHyper) -> L2TransferState:
        vars = with_heads(key, net, augment.test(example.x), num_tasks)
        return L2TransferState(
            model=Trainable(vars=vars, opt=optimizer(hyper).init(vars.params)),
            anchor=jax.tree.map(jnp.copy, without_head(vars.params, net.head)),
            task=jnp.int32(0),
            classes=jnp.zeros((num_tasks, num_classes), bool),
            num_begun=jnp.int32(0),
            hyper=hyper,
        )

    def begin_task(
        key: Array, state: L2TransferState, task: Task, data: Batch | None
    ) -> L2TransferState:
        params = state.model.vars.params
        return state.replace(
            model=state.model.replace(opt=optimizer(state.hyper).init(params)),
            anchor=jax.tree.map(jnp.copy, without_head(params, net.head)),
            task=task.index,
            classes=state.classes.at[state.num_begun].set(task.classes),
            num_begun=state.num_begun + 1,
        )

    def step(key: Array, state: L2TransferState, batch: Batch) -> tuple[L2TransferState, Metrics]:
        hyper, x = state.hyper, augment.train(key, batch.x)
        classes = state.classes[state.num_begun - 1]
        weight = jnp.where(state.num_begun > 1, hyper.penalty_weight, 0)
        counted = told_rows(batch, classes)

        def loss(vars: Variables):
            mine = for_task(vars, net.head, state.task)
            logits, stats = net.apply(mine, x, train=True, valid=counted)
            learned = cross_entropy(logits, batch.y, valid=counted, classes=classes)
            way = half_squared(without_head(vars.params, net.head), state.anchor)
            return learned + weight * way, stats

        model, value = gradient_step(state.model, optimizer(hyper), loss)
        return state.replace(model=model), {"loss": value}

    def predict(state: L2TransferState, x: Array, task: Task) -> Array:
        mine = for_task(state.model.vars, net.head, asked(task, state.task))
        logits, _ = net.apply(mine, augment.test(x), train=False)
        return logits.astype(jnp.float32)

    def capacity(state: L2TransferState) -> Mapping[str, Array]:
        vars = state.model.vars
        shared = jax.tree.leaves((without_head(vars.params, net.head), vars.stats))
        of_heads = jnp.cumsum(head_numbers(vars.params[net.head], state.classes))
        return {"bits": 32.0 * (sum(leaf.size for leaf in shared) + of_heads)}

    return Method(
        "l2_transfer",
        init,
        (Phase("train", step),),
        predict,
        begin_task=begin_task,
        needs=Needs(told_task=True, told_task_at_test=True, boundaries=True),
        convolutional=net.convolutional,
        capacity=capacity,
    )
