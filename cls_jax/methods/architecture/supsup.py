"""SupSup: one network of random weights that never change, and a binary mask over it for each task.

A task learns real scores, one a weight; the network runs under the mask of the scores, and the
mask's gradient goes to the scores as it is. When the task ends the mask is kept, one bit a weight,
so nothing that was learned can be forgotten. The weights come from a seed. If the task is not told
at test, all masks are mixed and one gradient says which of them the outputs want; outputs that no
label uses make that answer reliable (see superposition.py).

The paper's scenarios, by what is given in training, given at test, and whether labels are shared:
GG, GNs and GNu train alike, so one run has all three. With the task told at test it is GG. With the
task hidden, ``predict`` infers it for the images that it is given, 128 of one task, from the first
``probe_size`` of them, which is GNs. The share of images whose task and label are both right (GNu)
is in task_inference.py. NNs, where training does not tell the task either, is supsup_nns.py. A
class of a task is learned as its place among the task's classes, so tasks share their first
outputs, in class-IL streams too.

Source: Wortsman et al. 2020 (NeurIPS; arXiv 2006.14769); RAIVNLab/supsup. RMSprop as PyTorch's.
Departs: biases are 0 and BatchNorm neither scales nor shifts, which is what layers without them do.
With the task hidden, a network with BatchNorm uses the mean of the known tasks' statistics (the
code: those of the batch). No running sum of the masks is kept: for many groups of test images at a
time, mixing the masks costs little beside their slopes.
"""

from typing import Literal

import jax
import jax.numpy as jnp
from flax import struct

from cls_jax.core.checks import check_range
from cls_jax.core.losses import mask_logits
from cls_jax.core.types import Array, Batch, Metrics, PyTree, Task, Trainable, Variables
from cls_jax.methods.architecture.masked_net import (
    frozen,
    mask_rule,
    masked_loss,
    new_scores,
    num_bits,
    packed,
    score_optimizer,
)
from cls_jax.methods.architecture.supsup_inference import (
    TEST_GROUP,
    at,
    check_masks,
    forward_under,
    make_identify,
    mask_bits,
)
from cls_jax.methods.base import Algorithm, Needs, method
from cls_jax.methods.columns import place_of
from cls_jax.methods.problem import Problem
from cls_jax.methods.steps import gradient_step, told_rows


class SupSupState(struct.PyTreeNode):
    """T tasks, masks of n bits.

    Attributes:
      weights: parameters of the network; they never change.
      scores: of the mask in training, one tree of kernels, with BatchNorm's statistics.
      masks: uint8[T, ceil(n / 8)] of the tasks that have ended.
      stats: BatchNorm's statistics of each mask, leaves [T, ...], or {}.
      classes: bool[T, num_classes] of each task; all of them before it begins.
      num_masks: int32[] tasks that have ended; the first so many of T.
      total: sum of the scores of all masks (transfer), or {}.
    """

    weights: PyTree
    scores: Trainable
    masks: Array
    stats: PyTree
    classes: Array
    num_masks: Array
    total: PyTree


@method
def supsup(
    problem: Problem,
    *,
    rule: Literal["threshold", "edge_popup"] = "threshold",
    density: int = 8,
    inference: Literal["one_shot", "binary"] = "one_shot",
    objective: Literal["H", "G"] = "H",
    probe_size: int = 1,
    num_outputs: int = 100,
    classes_per_task: int | None = None,
    transfer: bool = False,
    optimizer: Literal["rmsprop", "adam"] = "rmsprop",
    cosine_steps: int = 0,
    learning_rate: float = 1e-4,
    weight_decay: float = 0.0,
) -> Algorithm:
    """Supermasks in superposition, the task told in training.

    Its answer to a task that was not learned yet is that of the mask in training.

    Args:
      rule: a mask keeps scores of at least 0 (threshold), or a layer's largest (edge_popup).
      density: s_p, of edge_popup: weights kept for each input and output of a layer, at most half;
        larger is denser. 8 is ours; the paper has 1 to 32.
      inference: of a task that is not told: one backward pass, or as many as halving needs.
      objective: the uncertainty: entropy H, or G, which needs outputs that no label uses.
      probe_size: images of each 128 that decide on the task of all, from 1 to 128.
      num_outputs: s, of the network; those beyond the labels are never a label. The official
        code's 100 is for LeNet on 250 tasks; it has 500 with 2500 tasks.
      classes_per_task: of the largest task; as many as the stream has if not given.
      transfer: a task's scores begin at the mean of the earlier tasks' instead of random.
      optimizer: of the scores.
      cosine_steps: steps of a task in which the rate falls to 0 along a cosine; 0: constant.
      learning_rate: of the optimizer of the scores, >= 0; official code, all MNIST streams
        (CIFAR-100, ImageNet: 1e-3).
      weight_decay: times the scores, added to the gradient, >= 0; 0 is the official code's for
        MNIST, which has 1e-4 by its default for CIFAR-100.

    Raises:
      InputError: for labels without an output, or a size out of its range.
    """
    num_classes, num_tasks, augment = problem.num_classes, problem.num_tasks, problem.augment
    num_labels = num_classes if classes_per_task is None else classes_per_task
    check_range("classes_per_task", num_labels, -(-num_classes // num_tasks), num_classes)
    check_masks(num_outputs, num_labels, probe_size, density, cosine_steps)
    net, mask_of = problem.net(num_outputs), mask_rule(rule, density)
    descent = score_optimizer(optimizer, learning_rate, weight_decay, cosine_steps)
    identify = make_identify(
        net, augment, inference=inference, objective=objective, num_labels=most_labels
    )

    def init(key: Array, example: Batch) -> SupSupState:
        key_net, key_weights, key_scores = jax.random.split(key, 3)
        vars = net.init(key_net, augment.test(example.x))
        weights = frozen(key_weights, vars.params)
        scores = new_scores(key_scores, weights)
        return SupSupState(
            weights=weights,
            scores=Trainable(Variables(scores, vars.stats), descent.init(scores)),
            masks=jnp.zeros((num_tasks, -(-num_bits(weights) // 8)), jnp.uint8),
            stats=jax.tree.map(lambda leaf: jnp.repeat(leaf[None], num_tasks, axis=0), vars.stats),
            classes=jnp.ones((num_tasks, num_classes), bool),
            num_masks=jnp.int32(0),
            total=jax.tree.map(jnp.zeros_like, scores) if transfer else {},
        )

    def begin_task(key: Array, state: SupSupState, task: Task, data: Batch | None) -> SupSupState:
        scores = new_scores(key, state.weights)
        opt = descent.init(scores)
        if transfer:
            mean = jax.tree.map(lambda leaf: leaf / jnp.maximum(state.num_masks, 1), state.total)
            scores = jax.tree.map(
                lambda mean, new: jnp.where(state.num_masks > 0, mean, new), mean, scores
            )
        # The statistics of a task that has not ended are those of a new network.
        vars = Variables(scores, at(state.stats, task.index))
        classes = state.classes.at[task.index].set(task.classes)
        return state.replace(scores=Trainable(vars, opt), classes=classes)

    def step(key: Array, state: SupSupState, batch: Batch) -> tuple[SupSupState, Metrics]:
        x, classes = augment.train(key, batch.x), state.classes[batch.task[0]]
        y, counted = place_of(classes)[batch.y], told_rows(batch, classes)
        loss = masked_loss(net, state.weights, mask_of, x, y, counted)
        scores, value = gradient_step(state.scores, descent, loss)
        return state.replace(scores=scores), {"loss": value}

    def end_task(key: Array, state: SupSupState, task: Task, data: Batch | None) -> SupSupState:
        def put(whole: Array, new: Array) -> Array:
            return whole.at[task.index].set(new)

        vars = state.scores.vars
        return state.replace(
            masks=put(state.masks, packed(mask_of(vars.params))),
            stats=jax.tree.map(put, state.stats, vars.stats),
            num_masks=jnp.maximum(state.num_masks, task.index + 1),
            total=jax.tree.map(jnp.add, state.total, vars.params) if transfer else {},
        )

    def answer(state: SupSupState, x: Array, index: Array) -> Array:
        """Logits over all classes under the mask of task ``index``."""
        ended, vars = index < state.num_masks, state.scores.vars
        kept, current = (
            (state.masks[index], at(state.stats, index)),
            (packed(mask_of(vars.params)), vars.stats),
        )
        bits, stats = jax.tree.map(lambda a, b: jnp.where(ended, a, b), kept, current)
        logits = forward_under(net, state.weights, bits, stats, augment.test(x))
        classes = state.classes[index]
        spread = jnp.take(logits, place_of(classes), axis=1, mode="clip")
        return mask_logits(spread.astype(jnp.float32), classes)

    def predict(state: SupSupState, x: Array, task: Task) -> Array:
        return jax.lax.cond(
            task.index < 0,
            lambda: answer(state, x, identify(state, x[:probe_size])),
            lambda: answer(state, x, task.index),
        )

    def capacity(state: SupSupState) -> dict[str, Array]:
        number = jnp.arange(num_tasks)
        masks = jnp.where(number < state.num_masks, number + 1, 0).astype(jnp.float32)
        bits = masks * mask_bits(state.weights, state.stats)
        return {"bits": bits, "masks": masks, "weights": jnp.float32(num_bits(state.weights))}

    return Algorithm(
        init=init,
        step=step,
        predict=predict,
        begin_task=begin_task,
        end_task=end_task,
        needs=Needs(told_task=True, told_task_at_test=True, boundaries=True, test_group=TEST_GROUP),
        capacity=capacity,
    )


def most_labels(state: SupSupState, known: Array) -> Array:
    """int32[]: classes of the largest task whose mask is known, bool[T]."""
    return jnp.where(known, state.classes.sum(axis=1), 0).max()
