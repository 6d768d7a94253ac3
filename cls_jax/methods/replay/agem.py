"""A-GEM: a step may not climb the loss on remembered examples of earlier tasks.

``g`` is the gradient on the batch, ``r`` that on one replay draw; where ``g.r < 0``, the step goes
along ``g - (g.r / r.r) r``, which is orthogonal to ``r``. The memory takes an equal share of
examples of each task as it ends.

Source: Chaudhry et al. 2019 (ICLR; arXiv 1812.00420); aimagelab/mammoth, models/agem.py: the stream
goes forward before the replay; replayed images are augmented anew.
Departs: M // T examples of each task are stored, drawn uniformly without replacement, and slots
beyond M // T * T stay unused; mammoth stores one mini-batch a task, whatever M is.
"""

import jax
import jax.numpy as jnp
from flax import struct

from cls_jax.core.losses import cross_entropy
from cls_jax.core.memory import Memory, ring_per_task
from cls_jax.core.types import Array, Batch, Metrics, PyTree, Task, Trainable, Variables
from cls_jax.methods.base import Algorithm, Needs, method
from cls_jax.methods.checks import check_replay, check_task_slots
from cls_jax.methods.problem import Problem
from cls_jax.methods.steps import apply_gradient, gradient_of, init_model, predict_with


class AgemState(struct.PyTreeNode):
    """model: the network; memory: slots {x, y}."""

    model: Trainable
    memory: Memory


@method
def agem(
    problem: Problem,
    *,
    memory_size: int = 500,
    replay_size: int = 128,
    learning_rate: float = 0.1,
) -> Algorithm:
    """Averaged gradient episodic memory; its metric "projected" is 1 where the step was bent.

    Args:
      memory_size: M, slots, of which each of T tasks gets M // T; the middle of DER's three
        published buffers.
      replay_size: m, examples replayed a step; DER's grid search for Seq-MNIST.
      learning_rate: eta, step length, of SGD by default, >= 0; DER's grid search for Seq-MNIST
        (0.03 for Seq-CIFAR-10).

    Raises:
      InputError: if a task gets no slot, or the memory is smaller than one replay draw.
    """
    num_tasks = problem.num_tasks
    check_task_slots(memory_size, num_tasks)
    per_task = memory_size // num_tasks
    check_replay(num_tasks * per_task, replay_size)
    policy, optimizer = ring_per_task(num_tasks, per_task), problem.optimizer(learning_rate)
    net, augment = problem.net(), problem.augment

    def init(key: Array, example: Batch) -> AgemState:
        model = init_model(key, net, augment.test(example.x), optimizer)
        return AgemState(model, policy.init({"x": example.x, "y": example.y}))

    def step(key: Array, state: AgemState, batch: Batch) -> tuple[AgemState, Metrics]:
        key_draw, key_augment = jax.random.split(key)
        replay = policy.sample(key_draw, state.memory, replay_size)
        x = augment.train(key_augment, jnp.concatenate([batch.x, replay.items["x"]]))
        new, old = jnp.split(x, [len(batch.x)])

        def loss(x: Array, y: Array, valid: Array):
            def of_vars(vars: Variables):
                logits, stats = net.apply(vars, x, train=True, valid=valid)
                return cross_entropy(logits, y, valid=valid), stats

            return of_vars

        vars = state.model.vars
        (value, stats), gradient = gradient_of(loss(new, batch.y, batch.valid), vars)
        remembered = loss(old, replay.items["y"], replay.valid)
        (_, stats), reference = gradient_of(remembered, vars.replace(stats=stats))
        gradient, projected = project(gradient, reference)
        model = apply_gradient(state.model, optimizer, gradient, stats)
        metrics = {"loss": value, "projected": projected.astype(jnp.float32)}
        return state.replace(model=model), metrics

    def end_task(key: Array, state: AgemState, task: Task, data: Batch | None) -> AgemState:
        assert data is not None  # end_data
        key_draw, key_add = jax.random.split(key)
        score = jnp.where(data.valid, jax.random.uniform(key_draw, data.valid.shape), -1)
        score, chosen = jax.lax.top_k(score, min(per_task, len(score)))
        items = {"x": data.x[chosen], "y": data.y[chosen], "task": data.task[chosen]}
        return state.replace(memory=policy.add(key_add, state.memory, items, score >= 0))

    return Algorithm(
        init=init,
        step=step,
        predict=predict_with(net, augment),
        end_task=end_task,
        needs=Needs(told_task=True, boundaries=True, end_data=True),
    )


def project(gradient: PyTree, reference: PyTree) -> tuple[PyTree, Array]:
    """``g - min(g.r, 0) / r.r r`` over whole trees, and bool[]: whether that is not ``g`` itself.

    Without a reference (``r.r = 0``: an empty memory) the gradient stays.
    """
    along, square = _dot(gradient, reference), _dot(reference, reference)
    against = (along < 0) & (square > 0)
    share = jnp.where(against, along / jnp.where(square > 0, square, 1), 0)
    return jax.tree.map(lambda g, r: g - share * r, gradient, reference), against


def _dot(a: PyTree, b: PyTree) -> Array:
    products = jax.tree.map(lambda x, y: jnp.vdot(x, y, precision="highest"), a, b)
    return jnp.asarray(sum(jax.tree.leaves(products)))
