"""L2-transfer: a new task may move the shared weights, at the price of the squared distance.

One network with a last layer for each task. The loss of task t is
``CE + lambda / 2 ||theta - theta_{t-1}||^2``: theta are the weights that the tasks share, and
theta_{t-1} the same as the task before ended; the first task has no such term. With lambda = 0 it
is plain fine-tuning: the lower bound of methods that are told the task in training and at test.

Source: Yoon et al. 2020 (ICLR; arXiv 1902.09432), experiments: the baseline "L2-Transfer"; Yoon et
al. 2018 (ICLR; arXiv 1708.01547), "DNN-L2".
Departs: where the task is hidden at test, the last layer of the task learned last answers. A row
of a class that is not the task's is padding.
"""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
from flax import struct

from cls_jax.core.losses import cross_entropy, half_squared
from cls_jax.core.types import Array, Batch, Metrics, PyTree, Task, Trainable, Variables
from cls_jax.methods.base import Algorithm, Needs, method
from cls_jax.methods.checks import check_annealing
from cls_jax.methods.heads import (
    annealed_adam,
    check_head,
    for_task,
    head_numbers,
    told_or_last_task,
    with_heads,
    without_head,
)
from cls_jax.methods.problem import Problem
from cls_jax.methods.steps import gradient_step, told_rows


class L2TransferState(struct.PyTreeNode):
    """What L2-transfer carries from step to step.

    Attributes:
      model: the network; its last layer is there once a task.
      anchor: the shared weights as the task began.
      task: int32[] the task being learned, or the last one.
      classes: bool[T, C] classes of the tasks in the order of their learning.
      num_begun: int32[] how many tasks these are.
    """

    model: Trainable
    anchor: PyTree
    task: Array
    classes: Array
    num_begun: Array


@method
def l2_transfer(
    problem: Problem,
    *,
    annealing_steps: int = 40,
    learning_rate: float = 1e-3,
    annealing_rate: float = 1.0,
    penalty_weight: float = 1.0,
) -> Algorithm:
    """Fine-tuning with a pull towards where the shared weights were.

    Args:
      annealing_steps: steps of a task between two falls of the learning rate; those of an epoch of
        APD's experiments, without effect at annealing_rate 1.
      learning_rate: eta, of Adam as a task begins, >= 0; jaehong31/APD.
      annealing_rate: factor on it after every ``annealing_steps`` steps, in [0, 1]; ours: 1, it
        stays (APD's own experiments: 0.95 an epoch).
      penalty_weight: lambda, of half the squared distance of the shared weights, >= 0; ours: the
        middle of the card's grid 0.1, 1, 10.

    Raises:
      InputError: if the network names no last layer, or annealing_steps is below 1.
    """
    net, augment, num_tasks = problem.net(), problem.augment, problem.num_tasks
    head = check_head("l2_transfer", net)
    check_annealing(annealing_steps)
    optimizer = annealed_adam(learning_rate, annealing_rate, annealing_steps)

    def init(key: Array, example: Batch) -> L2TransferState:
        vars = with_heads(key, net, augment.test(example.x), num_tasks)
        return L2TransferState(
            model=Trainable(vars=vars, opt=optimizer.init(vars.params)),
            anchor=jax.tree.map(jnp.copy, without_head(vars.params, head)),
            task=jnp.int32(0),
            classes=jnp.zeros((num_tasks, problem.num_classes), bool),
            num_begun=jnp.int32(0),
        )

    def begin_task(
        key: Array, state: L2TransferState, task: Task, data: Batch | None
    ) -> L2TransferState:
        params = state.model.vars.params
        return state.replace(
            model=state.model.replace(opt=optimizer.init(params)),
            anchor=jax.tree.map(jnp.copy, without_head(params, head)),
            task=task.index,
            classes=state.classes.at[state.num_begun].set(task.classes),
            num_begun=state.num_begun + 1,
        )

    def step(key: Array, state: L2TransferState, batch: Batch) -> tuple[L2TransferState, Metrics]:
        x, classes = augment.train(key, batch.x), state.classes[state.num_begun - 1]
        weight = jnp.where(state.num_begun > 1, penalty_weight, 0)
        counted = told_rows(batch, classes)

        def loss(vars: Variables):
            mine = for_task(vars, head, state.task)
            logits, stats = net.apply(mine, x, train=True, valid=counted)
            learned = cross_entropy(logits, batch.y, valid=counted, classes=classes)
            distance = half_squared(without_head(vars.params, head), state.anchor)
            return learned + weight * distance, stats

        model, value = gradient_step(state.model, optimizer, loss)
        return state.replace(model=model), {"loss": value}

    def predict(state: L2TransferState, x: Array, task: Task) -> Array:
        mine = for_task(state.model.vars, head, told_or_last_task(task, state.task))
        logits, _ = net.apply(mine, augment.test(x), train=False)
        return logits.astype(jnp.float32)

    def capacity(state: L2TransferState) -> Mapping[str, Array]:
        vars = state.model.vars
        shared = jax.tree.leaves((without_head(vars.params, head), vars.stats))
        of_heads = jnp.cumsum(head_numbers(vars.params[head], state.classes))
        return {"bits": 32.0 * (sum(leaf.size for leaf in shared) + of_heads)}

    return Algorithm(
        init=init,
        step=step,
        predict=predict,
        begin_task=begin_task,
        needs=Needs(told_task=True, told_task_at_test=True, boundaries=True),
        capacity=capacity,
    )
