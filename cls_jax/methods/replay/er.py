"""Experience replay: each step learns the batch and as many remembered examples, in one mean.

``inner_steps`` and ``own_classes`` make it a fair rival of a method that updates several times a
batch, or is told the task.

Source: Chaudhry et al. 2019; aimagelab/mammoth, models/er.py: reservoir memory, raw images stored
and augmented anew at each draw, stream examples stored after the step.
"""

import jax
import jax.numpy as jnp
from flax import struct

from cls_jax.core.checks import check_range
from cls_jax.core.losses import cross_entropy
from cls_jax.core.memory import Memory, order_after, reservoir
from cls_jax.core.types import Array, Batch, Metrics, PyTree, Trainable, Variables
from cls_jax.methods.base import Algorithm, method
from cls_jax.methods.checks import check_replay
from cls_jax.methods.columns import all_columns, own_columns
from cls_jax.methods.problem import Problem
from cls_jax.methods.steps import gradient_step, init_model, predict_with


class ErState(struct.PyTreeNode):
    """model: the network; memory: slots {x, y}, {x, y, task} with ``own_classes``.

    task_classes: bool[num_tasks, num_classes] of the tasks met, with ``own_classes``; else ().
    """

    model: Trainable
    memory: Memory
    task_classes: PyTree = ()


@method
def er(
    problem: Problem,
    *,
    memory_size: int = 500,
    replay_size: int = 32,
    inner_steps: int = 1,
    own_classes: bool = False,
    learning_rate: float = 0.1,
) -> Algorithm:
    """Experience replay; "er_own" in tables if it learns by each task's own classes.

    Args:
      memory_size: M, slots of the reservoir; the middle of DER's three published buffers.
      replay_size: m, examples replayed an update; DER's grid search for Seq-CIFAR-10.
      inner_steps: updates a batch, each with a replay draw of its own.
      own_classes: a softmax over the classes of each example's own task, which is then told in
        training, as a network with a head a task has it; False: over all classes, never told.
      learning_rate: eta, step length, of SGD by default, >= 0; DER's grid search for Seq-CIFAR-10.

    Raises:
      InputError: if the memory is smaller than one replay draw, or there is no update.
    """
    check_replay(memory_size, replay_size)
    check_range("inner_steps", inner_steps, 1)
    net, augment, policy = problem.net(), problem.augment, reservoir(memory_size)
    columns = own_columns(problem) if own_classes else all_columns()
    optimizer = problem.optimizer(learning_rate)

    def init(key: Array, example: Batch) -> ErState:
        model = init_model(key, net, augment.test(example.x), optimizer)
        return ErState(model, policy.init(columns.items(example)), columns.init)

    def step(key: Array, state: ErState, batch: Batch) -> tuple[ErState, Metrics]:
        key_draw, key_augment, key_add = jax.random.split(key, 3)
        items, learned = columns.items(batch), columns.learnable(state.task_classes, batch)
        for number in range(inner_steps):
            draw, views = (fold_in(key, number) for key in (key_draw, key_augment))
            state, value = update(draw, views, state, items, learned)
        memory = policy.add(key_add, state.memory, items, learned)
        return state.replace(memory=memory), {"loss": value}

    def fold_in(key: Array, number: int) -> Array:
        """The key of an update; the first one's is the key itself."""
        return jax.random.fold_in(key, number) if number else key

    def update(key_draw: Array, key_augment: Array, state: ErState, items: dict, learned: Array):
        """One gradient step on the batch and a draw from memory."""
        replay = policy.sample(key_draw, state.memory, replay_size)
        both = jax.tree.map(lambda *rows: jnp.concatenate(rows), items, replay.items)
        x, y = augment.train(key_augment, both["x"]), both["y"]
        valid = jnp.concatenate([learned, replay.valid])
        classes = columns.of(state.task_classes, both)

        def loss(vars: Variables):
            logits, stats = net.apply(vars, x, train=True, valid=valid)
            return cross_entropy(logits, y, valid=valid, classes=classes), stats

        model, value = gradient_step(state.model, optimizer, loss)
        return state.replace(model=model, memory=order_after(state.memory, replay)), value

    return Algorithm(
        init=init,
        step=step,
        predict=predict_with(net, augment),
        begin_task=columns.begin_task,
        needs=columns.needs,
        name="er_own" if own_classes else None,
    )
