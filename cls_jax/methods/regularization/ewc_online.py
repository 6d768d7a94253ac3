"""Online EWC: parameters that mattered for earlier tasks are held where they were.

The loss is ``CE + lambda sum_k F_k (theta_k - theta*_k)^2``: theta* are the parameters at the end
of the last task, F is one running importance for all tasks. After each task
``F <- gamma F + F_t``, where ``F_t = mean_i p(y_i | x_i) (d log p(y_i | x_i) / d theta)^2`` takes
each example by itself, and theta* <- theta. No example is stored.

Source: Schwarz et al. 2018 (ICML; arXiv 1805.06370), online EWC; aimagelab/mammoth,
models/ewc_on.py: the factor p(y | x), which the paper lacks, and no factor 1/2 in the penalty,
which it has; the labels of the data, not of the model; one pass over the task, augmented, in
training mode, so BatchNorm sees batches of one image.
Departs: that pass leaves BatchNorm's running statistics alone, where mammoth's one-image batches
move them; F_t divides by the number of examples, mammoth by steps times batch size, which also
counts what the last batch lacks.
"""

import jax
import jax.numpy as jnp
from flax import struct

from cls_jax.core.losses import cross_entropy
from cls_jax.core.types import Array, Batch, Metrics, PyTree, Task, Trainable, Variables
from cls_jax.methods.base import Algorithm, Needs, Phase, method
from cls_jax.methods.problem import Problem
from cls_jax.methods.steps import gradient_of, gradient_step, init_model, predict_with


class EwcOnlineState(struct.PyTreeNode):
    """What online EWC carries from step to step.

    Attributes:
      model: the network.
      anchor: the parameters at the end of the last task.
      fisher: importance of each parameter, a tree like ``anchor``; zeros in the first task.
      fisher_sum: F_t of this task before its division, a tree like ``anchor``.
      count: int32[] examples in that sum.
    """

    model: Trainable
    anchor: PyTree
    fisher: PyTree
    fisher_sum: PyTree
    count: Array


@method
def ewc_online(
    problem: Problem,
    *,
    learning_rate: float = 0.03,
    penalty_weight: float = 90.0,
    fisher_keep_rate: float = 1.0,
) -> Algorithm:
    """Online elastic weight consolidation.

    Its phase "fisher" moves nothing, and holds as many gradients as a batch has rows.

    Args:
      learning_rate: eta, step length, of SGD by default, >= 0; DER's grid search for Seq-MNIST and
        Seq-CIFAR-10.
      penalty_weight: lambda, of the penalty beside the cross-entropy, >= 0; DER's grid search for
        Seq-MNIST (10 for Seq-CIFAR-10).
      fisher_keep_rate: gamma, share of the earlier importance kept as a task ends, in [0, 1]; DER's
        grid search for Seq-MNIST and Seq-CIFAR-10.
    """
    net, augment, optimizer = problem.net(), problem.augment, problem.optimizer(learning_rate)

    def init(key: Array, example: Batch) -> EwcOnlineState:
        model = init_model(key, net, augment.test(example.x), optimizer)
        params = model.vars.params
        return EwcOnlineState(
            model=model,
            anchor=jax.tree.map(jnp.copy, params),
            fisher=jax.tree.map(jnp.zeros_like, params),
            fisher_sum=jax.tree.map(jnp.zeros_like, params),
            count=jnp.int32(0),
        )

    def step(key: Array, state: EwcOnlineState, batch: Batch) -> tuple[EwcOnlineState, Metrics]:
        x = augment.train(key, batch.x)

        def loss(vars: Variables):
            logits, stats = net.apply(vars, x, train=True, valid=batch.valid)
            learned = cross_entropy(logits, batch.y, valid=batch.valid)
            pull = penalty(vars.params, state.anchor, state.fisher)
            return learned + penalty_weight * pull, stats

        model, value = gradient_step(state.model, optimizer, loss)
        return state.replace(model=model), {"loss": value}

    def forget_sum(
        key: Array, state: EwcOnlineState, task: Task, data: Batch | None
    ) -> EwcOnlineState:
        zeros = jax.tree.map(jnp.zeros_like, state.fisher_sum)
        return state.replace(fisher_sum=zeros, count=jnp.int32(0))

    def fisher_step(
        key: Array, state: EwcOnlineState, batch: Batch
    ) -> tuple[EwcOnlineState, Metrics]:
        def squared(x: Array, y: Array, valid: Array) -> tuple[Array, PyTree]:
            """``-log p(y | x)`` of one example and its squared gradient; both are 0 for padding."""

            def loss(vars: Variables):
                logits, stats = net.apply(vars, x[None], train=True, valid=valid[None])
                return cross_entropy(logits, y[None], valid=valid[None]), stats

            (value, _), gradient = gradient_of(loss, state.model.vars)
            return value, jax.tree.map(jnp.square, gradient)

        values, squares = jax.vmap(squared)(augment.train(key, batch.x), batch.y, batch.valid)
        num = batch.valid.sum(dtype=jnp.int32)
        # A product over the batch: a weight inside the sum is computed anew for each parameter.
        shares = jax.tree.map(
            lambda s: jnp.tensordot(jnp.exp(-values), s, 1, precision="highest"), squares
        )
        state = state.replace(
            fisher_sum=jax.tree.map(jnp.add, state.fisher_sum, shares),
            count=state.count + num,
        )
        return state, {"loss": values.sum() / jnp.maximum(num, 1)}

    def end_task(
        key: Array, state: EwcOnlineState, task: Task, data: Batch | None
    ) -> EwcOnlineState:
        num = jnp.maximum(state.count, 1)

        def merged(fisher: Array, fisher_sum: Array) -> Array:
            return fisher_keep_rate * fisher + fisher_sum / num

        return state.replace(
            fisher=jax.tree.map(merged, state.fisher, state.fisher_sum),
            anchor=jax.tree.map(jnp.copy, state.model.vars.params),
        )

    return Algorithm(
        init=init,
        phases=(Phase("train", step), Phase("fisher", fisher_step, enter=forget_sum, epochs=1)),
        predict=predict_with(net, augment),
        end_task=end_task,
        needs=Needs(boundaries=True),
    )


def penalty(params: PyTree, anchor: PyTree, importance: PyTree) -> Array:
    """``sum_k importance_k (params_k - anchor_k)^2`` over all leaves, float32[].

    Args:
      params, anchor, importance: trees of one structure and shapes.

    Source: baselines card, O3: importance (1, 4), shift (.5, -.5): 1.25, so 12.5 at weight 10.
    """
    each = jax.tree.map(lambda p, a, f: (f * jnp.square(p - a)).sum(), params, anchor, importance)
    return jnp.asarray(sum(jax.tree.leaves(each)))
