"""LwF: learning without forgetting, by keeping what the network said about past classes.

From the second task on, the new classes' columns of the head are trained first, on the features of
the frozen rest. Then everything is trained: cross-entropy over the classes seen, plus the
distillation ``-sum_c s_c(old) log s_c(new)`` over past classes, where ``old`` is the network as it
was before, given the same images un-augmented. No example is stored.

Source: Li and Hoiem 2017 (PAMI; arXiv 1606.09282), section 3; aimagelab/mammoth,
models/lwf.py: plain SGD in both phases, weight decay in the second alone; the head is warmed up on
augmented images with the network in evaluation mode, and so are the old logits taken.
Departs: the old network is kept and run anew at each step, on images normalised as the others are.
mammoth and NeurAI-Lab/CLS-ER store its logits, and take them of images that are not normalised; on
MNIST, where nothing is, the numbers are the same. A class that comes back in a later task counts as
past: it is distilled and learned from labels, but its column is not warmed up; mammoth knows
disjoint tasks only. A row of a class not told so far is padding. The first phase of the first task
runs without effect, as phases are the same in every task.
"""

import jax
import jax.numpy as jnp
from flax import struct

from cls_jax.core.losses import cross_entropy, mask_logits
from cls_jax.core.types import Array, Batch, Metrics, Scalar, Task, Trainable, Variables
from cls_jax.methods.base import Algorithm, Needs, Phase, method
from cls_jax.methods.problem import Problem
from cls_jax.methods.steps import gradient_step, init_model, predict_with, told_rows, torch_sgd
from cls_jax.nets.base import no_head


class LwfState(struct.PyTreeNode):
    """What LwF carries from step to step.

    Attributes:
      model: the network.
      old: the network as it was when it began to learn the task; only its logits are used.
      past, seen: bool[num_classes] classes of earlier tasks, and those with this task's.
    """

    model: Trainable
    old: Variables
    past: Array
    seen: Array


@method
def lwf(
    problem: Problem,
    *,
    learning_rate: float = 0.03,
    distill_weight: float = 1.0,
    temperature: float = 2.0,
    weight_decay: float = 5e-4,
) -> Algorithm:
    """Learning without forgetting.

    Args:
      learning_rate: eta, step length of plain SGD, >= 0; DER's grid search for Seq-MNIST (0.01 for
        Seq-CIFAR-10).
      distill_weight: alpha, of the distillation beside the cross-entropy, >= 0; DER's grid search
        for Seq-MNIST (3 for Seq-CIFAR-10).
      temperature: T, by which the logits are divided in the distillation, > 0; the paper and
        aimagelab/mammoth.
      weight_decay: added to the gradient, times the parameters, after the head's phase, >= 0; ours:
        DER's grid search amounts to 1e-3, see ``best_args``.

    Raises:
      InputError: if the network does not tell its last layer from the rest.
    """
    net, augment = problem.net(), problem.augment
    extract, last = net.features, net.head
    if extract is None or last is None:
        raise no_head("lwf trains the last layer by itself", net)

    optimizer = torch_sgd(learning_rate, None, weight_decay)

    def init(key: Array, example: Batch) -> LwfState:
        model = init_model(key, net, augment.test(example.x), optimizer)
        none = jnp.zeros(model.vars.params[last]["bias"].shape, bool)
        old = jax.tree.map(jnp.copy, model.vars)
        return LwfState(model=model, old=old, past=none, seen=jnp.copy(none))

    def begin_task(key: Array, state: LwfState, task: Task, data: Batch | None) -> LwfState:
        return state.replace(past=state.seen, seen=state.seen | task.classes)

    def head_step(key: Array, state: LwfState, batch: Batch) -> tuple[LwfState, Metrics]:
        vars, new = state.model.vars, state.seen & ~state.past
        features, _ = extract(vars, augment.train(key, batch.x), train=False)
        counted = told_rows(batch, new) & state.past.any()  # no row in the first task

        def loss(head):
            logits = features @ head["kernel"] + head["bias"]
            return cross_entropy(logits, batch.y, valid=counted, classes=new)

        value, gradient = jax.value_and_grad(loss)(vars.params[last])
        head = jax.tree.map(lambda p, g: p - learning_rate * g, vars.params[last], gradient)
        vars = vars.replace(params={**vars.params, last: head})
        return state.replace(model=state.model.replace(vars=vars)), {"loss": value}

    def remember(key: Array, state: LwfState, task: Task, data: Batch | None) -> LwfState:
        return state.replace(old=jax.tree.map(jnp.copy, state.model.vars))

    def step(key: Array, state: LwfState, batch: Batch) -> tuple[LwfState, Metrics]:
        x = augment.train(key, batch.x)
        old_logits, _ = net.apply(state.old, augment.test(batch.x), train=False)
        counted = told_rows(batch, state.seen)

        def loss(vars: Variables):
            logits, stats = net.apply(vars, x, train=True, valid=counted)
            learned = cross_entropy(logits, batch.y, valid=counted, classes=state.seen)
            held = distillation(logits, old_logits, state.past, temperature, counted)
            return learned + distill_weight * held, stats

        model, value = gradient_step(state.model, optimizer, loss)
        return state.replace(model=model), {"loss": value}

    return Algorithm(
        init=init,
        phases=(Phase("head", head_step), Phase("train", step, enter=remember)),
        predict=predict_with(net, augment),
        begin_task=begin_task,
        needs=Needs(told_task=True, boundaries=True),
    )


def smoothed(logits: Array, classes: Array, temperature: Scalar) -> Array:
    """``log s``, with s the softmax over ``classes`` to the power 1 / T, brought back to sum 1.

    That is the softmax of logits / T: ``s_c = p_c^(1/T) / sum_k p_k^(1/T)``.

    Args:
      logits: float32[b, C].
      classes: bool[C].
      temperature: float32[], T > 0.

    Returns:
      float32[b, C], finite; what stands outside ``classes`` means nothing.

    Source: the paper's section 3; baselines card, O5: (.8, .2) at T = 2 gives (2/3, 1/3).
    """
    return jax.nn.log_softmax(mask_logits(logits / temperature, classes))


def distillation(
    logits: Array, old_logits: Array, past: Array, temperature: Scalar, valid: Array
) -> Array:
    """Cross-entropy of the network with the old one on past classes, mean over the valid rows.

    ``-mean_i sum_{c past} s_c(old_i) log s_c(new_i)``, s as in ``smoothed``, without the factor
    ``temperature**2``.

    Args:
      logits, old_logits: float32[b, C].
      past: bool[C].
      temperature: float32[], > 0.
      valid: bool[b].

    Returns:
      float32[], in nats; 0 without a past class or a valid row.

    Source: the paper's section 3, the loss on old tasks; mammoth, modified_kl_div.
    """
    old, new = smoothed(old_logits, past, temperature), smoothed(logits, past, temperature)
    counted = valid[:, None] & past
    return -jnp.where(counted, jnp.exp(old) * new, 0).sum() / jnp.maximum(valid.sum(), 1)
