"""SupSup without a task id, neither in training nor at test (the paper's NNs).

As supsup.py, but nobody says when a task begins. Every K steps the masks that are known are mixed
and compared on the batch (see superposition.py): if none of them stands out, the batch is of a new
task and the next random mask is trained from here on; otherwise the one that fits best is. So
several tasks may share a mask, and a task may have several.

Source: Wortsman et al. 2020 (NeurIPS; arXiv 2006.14769), section 3.4, Algorithm 1;
  RAIVNLab/supsup.
Departs: as supsup.py. Each mask has its own optimizer state (the code renews all at the true
boundary, which it should not know), and if none is new the best known mask is taken (the code may
take one that is still random). Boundaries only note how many masks there are, for the capacity.
``known_rate``: softmax of raw slopes is not free of scale, and on the small digits a bound alone
merges all tasks into two or three masks.
"""

from typing import Literal

import jax
import jax.numpy as jnp
from flax import struct

from cls_jax.core.checks import check_range
from cls_jax.core.errors import InputError
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
from cls_jax.methods.architecture.superposition import is_new
from cls_jax.methods.architecture.supsup_inference import (
    TEST_GROUP,
    at,
    check_masks,
    forward_under,
    make_identify,
    mask_bits,
    uncertainty_slopes,
)
from cls_jax.methods.base import Algorithm, Needs, method
from cls_jax.methods.problem import Problem
from cls_jax.methods.steps import gradient_step


class SupSupNnsState(struct.PyTreeNode):
    """Room for T masks of n bits.

    Attributes:
      weights: parameters of the network; they never change.
      scores: of the mask in training, one tree of kernels, with BatchNorm's statistics.
      slots: scores, BatchNorm's statistics and optimizer state of every mask, leaves [T, ...].
      masks: uint8[T, ceil(n / 8)], those of the scores.
      num_masks: int32[] masks known; the first so many of T. The others are still random.
      current: int32[] mask in training.
      clock: int32[] steps made.
      masks_after: int32[num_tasks] masks known after each task; 0 where none ended.
    """

    weights: PyTree
    scores: Trainable
    slots: Trainable
    masks: Array
    num_masks: Array
    current: Array
    clock: Array
    masks_after: Array

    @property
    def stats(self) -> PyTree:
        """BatchNorm's statistics of every mask, leaves [T, ...], or {}."""
        return self.slots.vars.stats


@method
def supsup_nns(
    problem: Problem,
    *,
    rule: Literal["threshold", "edge_popup"] = "threshold",
    density: int = 8,
    inference: Literal["one_shot", "binary"] = "one_shot",
    objective: Literal["H", "G"] = "H",
    probe_size: int = 1,
    num_outputs: int = 100,
    num_masks: int | None = None,
    optimizer: Literal["rmsprop", "adam"] = "rmsprop",
    cosine_steps: int = 0,
    decide_every: int = 100,
    num_compared: int = 5,
    learning_rate: float = 1e-4,
    weight_decay: float = 0.0,
    new_bound: float = 1.125,
    known_rate: float = 1.0,
) -> Algorithm:
    """Supermasks in superposition, tasks noticed by the method itself.

    Args:
      rule: a mask keeps scores of at least 0 (threshold), or a layer's largest (edge_popup).
      density: s_p, of edge_popup: weights kept for each input and output of a layer, at most half;
        larger is denser. 8 is ours; the paper has 1 to 32.
      inference: of a task at test: one backward pass, or as many as halving needs.
      objective: the uncertainty: entropy H, or G, which needs outputs that no label uses.
      probe_size: images of each 128 that decide on the task of all, from 1 to 128.
      num_outputs: s, of the network; those beyond the labels are never a label. The official code
        has 500 with 2500 tasks.
      num_masks: room for masks; one a task if not given.
      optimizer: of the scores.
      cosine_steps: steps of a mask in which the rate falls to 0 along a cosine; 0: constant.
      decide_every: K, steps between two decisions which mask to train, the paper's Algorithm 1;
        those between the begin of a task and the next decision train the mask of the task before.
      num_compared: masks compared at a decision at least, random ones among them; official code.
      learning_rate: of the optimizer of the scores, >= 0; official code, all MNIST streams.
      weight_decay: times the scores, added to the gradient, >= 0; official code, MNIST.
      new_bound: 1 + epsilon: k' masks of which none has this many times its equal share mean a new
        task; the paper's epsilon is 2^-3.
      known_rate: a share of this much is never a new task, in [0, 1]; 1 leaves it out, 0.9 is ours
        for small networks.

    Raises:
      InputError: without room for a mask, for labels without an output, or a size out of its range.
    """
    num_classes, num_tasks, augment = problem.num_classes, problem.num_tasks, problem.augment
    num_slots = num_tasks if num_masks is None else num_masks
    if num_slots < 1:
        raise InputError(f"num_masks={num_slots} leaves no task a mask; give at least 1")
    check_masks(num_outputs, num_classes, probe_size, density, cosine_steps)
    check_range("decide_every", decide_every, 1)
    check_range("num_compared", num_compared, 2)
    net, mask_of = problem.net(num_outputs), mask_rule(rule, density)
    descent = score_optimizer(optimizer, learning_rate, weight_decay, cosine_steps)

    def every_class(state: SupSupNnsState, known: Array) -> Array:
        return jnp.int32(num_classes)

    identify = make_identify(
        net, augment, inference=inference, objective=objective, num_labels=every_class
    )

    def init(key: Array, example: Batch) -> SupSupNnsState:
        key_net, key_weights, key_scores = jax.random.split(key, 3)
        vars = net.init(key_net, augment.test(example.x))
        weights = frozen(key_weights, vars.params)

        def new_slot(key: Array) -> Trainable:
            scores = new_scores(key, weights)
            return Trainable(Variables(scores, vars.stats), descent.init(scores))

        slots = jax.vmap(new_slot)(jax.random.split(key_scores, num_slots))
        return SupSupNnsState(
            weights=weights,
            scores=at(slots, 0),
            slots=slots,
            masks=jax.vmap(lambda scores: packed(mask_of(scores)))(slots.vars.params),
            num_masks=jnp.int32(0),
            current=jnp.int32(0),
            clock=jnp.int32(0),
            masks_after=jnp.zeros(num_tasks, jnp.int32),
        )

    def choose(state: SupSupNnsState, x: Array, valid: Array) -> SupSupNnsState:
        """The mask to train on from here on: one that is known, or the next one (Algorithm 1)."""
        k, number = state.num_masks, jnp.arange(num_slots)
        compared = number < jnp.maximum(k, num_compared)

        def decide() -> tuple[Array, Array]:
            slopes = uncertainty_slopes(net, objective, state, x, valid, compared, num_classes)
            new, nu = is_new(slopes(compared / compared.sum()), compared, new_bound, known_rate)
            new = ((k == 0) | new) & (k < num_slots)
            best = jnp.argmax(jnp.where(number < k, nu, -1)).astype(jnp.int32)
            return jnp.where(new, k, best), k + new

        due = ((state.clock % decide_every == 0) | (k == 0)) & valid.any()
        current, k = jax.lax.cond(due, decide, lambda: (state.current, k))
        return state.replace(current=current, num_masks=k, scores=at(state.slots, current))

    def step(key: Array, state: SupSupNnsState, batch: Batch) -> tuple[SupSupNnsState, Metrics]:
        x = augment.train(key, batch.x)
        state = choose(state, x, batch.valid)
        loss = masked_loss(net, state.weights, mask_of, x, batch.y, batch.valid)
        scores, value = gradient_step(state.scores, descent, loss)
        return keep(state.replace(scores=scores, clock=state.clock + 1)), {"loss": value}

    def keep(state: SupSupNnsState) -> SupSupNnsState:
        """The mask in training written into its slot."""

        def put(whole: Array, new: Array) -> Array:
            return whole.at[state.current].set(new)

        masks = put(state.masks, packed(mask_of(state.scores.vars.params)))
        return state.replace(slots=jax.tree.map(put, state.slots, state.scores), masks=masks)

    def end_task(
        key: Array, state: SupSupNnsState, task: Task, data: Batch | None
    ) -> SupSupNnsState:
        ended = (state.masks_after > 0).sum()
        return state.replace(masks_after=state.masks_after.at[ended].set(state.num_masks))

    def predict(state: SupSupNnsState, x: Array, task: Task) -> Array:
        index = identify(state, x[:probe_size])
        mask, stats = state.masks[index], at(state.stats, index)
        logits = forward_under(net, state.weights, mask, stats, augment.test(x))
        return logits[:, :num_classes].astype(jnp.float32)

    def capacity(state: SupSupNnsState) -> dict[str, Array]:
        masks = state.masks_after.astype(jnp.float32)
        bits = masks * mask_bits(state.weights, state.stats)
        return {"bits": bits, "masks": masks, "weights": jnp.float32(num_bits(state.weights))}

    return Algorithm(
        init=init,
        step=step,
        predict=predict,
        end_task=end_task,
        needs=Needs(boundaries=True, test_group=TEST_GROUP),
        capacity=capacity,
    )
