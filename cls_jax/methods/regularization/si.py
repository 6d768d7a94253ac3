"""SI: parameters whose path lowered the loss of earlier tasks are held where it ended.

Each step credits a parameter with its share of the fall of the loss,
``w_k <- w_k - g_k (change of theta_k)``, g the gradient of the cross-entropy alone. As a task ends,
``Omega_k <- Omega_k + w_k / ((theta_k - theta*_k)^2 + xi)``, w starts again at 0, and
theta* <- theta. The loss is ``CE + c sum_k Omega_k (theta_k - theta*_k)^2``. No example is stored.

Source: Zenke et al. 2017 (ICML; arXiv 1703.04200), equations 3 to 5; ganguli-lab/pathint,
pathint/protocols.py: g without the penalty's part; aimagelab/mammoth, models/si.py: plain SGD along
the whole gradient, each component of it clipped to [-1, 1].
Departs: from mammoth's present version in nothing. Its older ones, and NeurAI-Lab/CLS-ER's copy of
them, credit eta times the square of that clipped whole gradient, penalty included, which is the
same only where nothing pulls or is clipped; DER's grid search was made with these. So w, and with
it Omega, can fall below 0 here, as in the paper; pathint cuts Omega at 0.
"""

import jax
import jax.numpy as jnp
from flax import struct

from cls_jax.core.losses import cross_entropy
from cls_jax.core.types import Array, Batch, Metrics, PyTree, Scalar, Task, Trainable, Variables
from cls_jax.methods.base import Algorithm, Needs, method
from cls_jax.methods.problem import Problem
from cls_jax.methods.regularization.ewc_online import penalty
from cls_jax.methods.steps import apply_gradient, gradient_of, init_model, predict_with


class SiState(struct.PyTreeNode):
    """What SI carries from step to step; the three trees are like the parameters.

    Attributes:
      model: the network.
      anchor: the parameters at the end of the last task; the initial ones in the first.
      credit: w, what each parameter did for the loss since then.
      importance: Omega; zeros in the first task.
    """

    model: Trainable
    anchor: PyTree
    credit: PyTree
    importance: PyTree


@method
def si(
    problem: Problem,
    *,
    learning_rate: float = 0.1,
    penalty_weight: float = 1.0,
    damping: float = 0.9,
) -> Algorithm:
    """Synaptic intelligence.

    Args:
      learning_rate: eta, step length, of SGD by default, >= 0; DER's grid search for Seq-MNIST
        (0.03 for Seq-CIFAR-10).
      penalty_weight: c, of the penalty beside the cross-entropy, >= 0; DER's grid search for
        Seq-MNIST (0.5 for Seq-CIFAR-10).
      damping: xi, bounds the importance of a parameter that hardly moved, > 0; DER's grid search
        for Seq-MNIST (1 for Seq-CIFAR-10).
    """
    net, augment, optimizer = problem.net(), problem.augment, problem.optimizer(learning_rate)

    def init(key: Array, example: Batch) -> SiState:
        model = init_model(key, net, augment.test(example.x), optimizer)
        params = model.vars.params
        return SiState(
            model=model,
            anchor=jax.tree.map(jnp.copy, params),
            credit=jax.tree.map(jnp.zeros_like, params),
            importance=jax.tree.map(jnp.zeros_like, params),
        )

    def step(key: Array, state: SiState, batch: Batch) -> tuple[SiState, Metrics]:
        before, x = state.model.vars.params, augment.train(key, batch.x)

        def loss(vars: Variables):
            logits, stats = net.apply(vars, x, train=True, valid=batch.valid)
            return cross_entropy(logits, batch.y, valid=batch.valid), stats

        def held(params: PyTree) -> Array:
            return penalty_weight * penalty(params, state.anchor, state.importance)

        (learned, stats), gradient = gradient_of(loss, state.model.vars)
        pull, pull_gradient = jax.value_and_grad(held)(before)
        whole = jax.tree.map(lambda g, p: jnp.clip(g + p, -1, 1), gradient, pull_gradient)
        model = apply_gradient(state.model, optimizer, whole, stats)
        credit = credited(state.credit, gradient, before, model.vars.params)
        return state.replace(model=model, credit=credit), {"loss": learned + pull}

    def end_task(key: Array, state: SiState, task: Task, data: Batch | None) -> SiState:
        params = state.model.vars.params
        return state.replace(
            importance=consolidated(state.importance, state.credit, params, state.anchor, damping),
            credit=jax.tree.map(jnp.zeros_like, params),
            anchor=jax.tree.map(jnp.copy, params),
        )

    return Algorithm(
        init=init,
        step=step,
        predict=predict_with(net, augment),
        end_task=end_task,
        needs=Needs(boundaries=True),
    )


def credited(credit: PyTree, gradient: PyTree, before: PyTree, after: PyTree) -> PyTree:
    """``w + g (theta before - theta after)``: a step down the gradient earns credit.

    Args:
      credit: w.
      gradient: g, of the cross-entropy.
      before, after: parameters around the step.

    Source: equation 3; baselines card, O4: g = .2 and a step of -.02 earn .004.
    """

    def earned(w: Array, g: Array, old: Array, new: Array) -> Array:
        return w + g * (old - new)

    return jax.tree.map(earned, credit, gradient, before, after)


def consolidated(
    importance: PyTree, credit: PyTree, params: PyTree, anchor: PyTree, damping: Scalar
) -> PyTree:
    """``Omega + w / ((theta - theta*)^2 + xi)``: importance after a task.

    Args:
      importance: Omega before.
      credit: w, over the whole task.
      params, anchor: parameters as the task ends and as it began.
      damping: xi, float32[] > 0.

    Source: equation 5; baselines card, O4: w = .004 over a move of -.02 at xi = .9: .0044425.
    """

    def added(o: Array, w: Array, p: Array, a: Array) -> Array:
        return o + w / (jnp.square(p - a) + damping)

    return jax.tree.map(added, importance, credit, params, anchor)
