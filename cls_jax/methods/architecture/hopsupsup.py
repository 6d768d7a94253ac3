"""HopSupSup: supermasks over units, all of them stored in one Hopfield network.

The weights are random and frozen. A task is learned as a mask over the hidden units: a score for
each unit, 1 where it is at least 0, trained straight through. As the task ends its pattern
z = 2 mask - 1 is written into a Hopfield network Psi, one d x d matrix for each hidden layer
however many tasks there are, and the mask is forgotten. At test nobody tells the task. Scores q
start at the mean of the stored patterns, and for t = 1 … N they descend on

  (1 - t/N) H(logits of some test images) + gamma t/N sum_layers E(s),  s = 2 [q >= 0] - 1,

where H is the mean entropy of the answers and E(s) = -s' Psi s / 2: first they look for a mask that
makes the network sure, then they fall into the nearest stored pattern.

Source: Wortsman et al. 2020 (NeurIPS; arXiv 2006.14769), section 3.5; RAIVNLab/supsup, adaptors.py
and models/modules.py (FastHopMaskBN), which writes by Storkey's rule; the paper's text by Hebb's.
Departs: the code answers in batches of 64, each normalised by itself; ours are normalised over all
test images of a task, from which it recovers the mask as well. Either is transductive: test images
without labels, one task at a time, shape the mask that answers them, and BatchNorm takes its
statistics from them. So ``predict`` wants all test images of a task in one call, in an order that
does not depend on their labels: ``evaluate`` gives them so, in an order that their pixels decide,
whatever the order of the file. A single image alone is always answered alike. A test set with fewer
images than the largest is filled up with its own first images.
"""

from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import optax
from flax import struct
from jax import core

from cls_jax.core.checks import check_range
from cls_jax.core.losses import cross_entropy, entropy
from cls_jax.core.types import Array, Batch, Metrics, PyTree, Scalar, Task, Trainable, Variables
from cls_jax.methods.architecture.hopfield import Hopfield, empty, energy, stored
from cls_jax.methods.architecture.supermasks import signed_constant, threshold_mask
from cls_jax.methods.base import WHOLE, Algorithm, Needs, method
from cls_jax.methods.problem import Problem
from cls_jax.methods.steps import gradient_step, torch_sgd
from cls_jax.nets.bnnet import bnnet


class HopSupSupState(struct.PyTreeNode):
    """What HopSupSup carries from step to step.

    Attributes:
      model: the scores of this task, layer -> float32[d], and their optimizer state.
      kernels: the network's frozen weights; to keep their seed would be enough.
      hopfield: the patterns of the tasks that have ended.
    """

    model: Trainable
    kernels: PyTree
    hopfield: Hopfield


@method
def hopsupsup(
    problem: Problem,
    *,
    recovery_steps: int = 30,
    recovery_batch_size: int = 64,
    learning_rate: float = 0.1,
    momentum: float = 0.9,
    weight_decay: float = 1e-4,
    recovery_learning_rate: float = 500.0,
    energy_weight: float = 1.5e-3,
) -> Algorithm:
    """Supermasks in superposition, recovered by a Hopfield network.

    The network is a ``bnnet`` with the hidden layers of the problem's perceptron; its scales are
    the masks. ``predict`` recovers a mask from the images that it is given and does not use the
    task.

    Args:
      recovery_steps: N, of a mask, in every call of ``predict``; the code has as many as test
        batches of a task, about 32.
      recovery_batch_size: test images a step, one chunk after another and from the front again;
        official code, its test batch.
      learning_rate: of the scores in training, >= 0; official code, args.py.
      momentum: of SGD, in training and in recovery, in [0, 1); official code, args.py.
      weight_decay: times the scores, added to the gradient, in both, >= 0; official code, args.py.
      recovery_learning_rate: of the scores in recovery, >= 0; official code, adaptors.py,
        hopfield_recovery.
      energy_weight: gamma, of the Hopfield energy at the recovery's end, >= 0; official code,
        experiments/GNu/SplitMNIST/hopsupsup.py.

    Raises:
      InputError: if the recovery has no step or no image, or the network no hidden layer.
    """
    check_range("recovery_steps", recovery_steps, 1)
    check_range("recovery_batch_size", recovery_batch_size, 1)
    hidden, dtype = problem.networks.hidden, problem.networks.dtype
    net, augment = bnnet(problem.num_classes, hidden, signed_constant, dtype), problem.augment
    optimizer = torch_sgd(learning_rate, momentum, weight_decay)
    recovery = torch_sgd(recovery_learning_rate, momentum, weight_decay)

    def masked(kernels: PyTree, scores: PyTree) -> Variables:
        scales = jax.tree.map(threshold_mask, scores)
        return Variables(params={"kernels": kernels, "scales": scales}, stats={})

    def new_scores(scores: PyTree) -> Trainable:
        scores = jax.tree.map(jnp.zeros_like, scores)
        return Trainable(Variables(params=scores, stats={}), optimizer.init(scores))

    def init(key: Array, example: Batch) -> HopSupSupState:
        params = net.init(key, augment.test(example.x)).params
        return HopSupSupState(
            model=new_scores(params["scales"]),
            kernels=params["kernels"],
            hopfield=empty({name: scale.size for name, scale in params["scales"].items()}),
        )

    def begin_task(
        key: Array, state: HopSupSupState, task: Task, data: Batch | None
    ) -> HopSupSupState:
        return state.replace(model=new_scores(state.model.vars.params))

    def step(key: Array, state: HopSupSupState, batch: Batch) -> tuple[HopSupSupState, Metrics]:
        x = augment.train(key, batch.x)

        def loss(vars: Variables):
            here = masked(state.kernels, vars.params)
            logits, _ = net.apply(here, x, train=True, valid=batch.valid)
            return cross_entropy(logits, batch.y, valid=batch.valid), {}

        model, value = gradient_step(state.model, optimizer, loss)
        return state.replace(model=model), {"loss": value}

    def end_task(
        key: Array, state: HopSupSupState, task: Task, data: Batch | None
    ) -> HopSupSupState:
        patterns = jax.tree.map(pattern, state.model.vars.params)
        return state.replace(hopfield=stored(state.hopfield, patterns))

    def predict(state: HopSupSupState, x: Array, task: Task) -> Array:
        x = augment.test(x)

        def logits_of(scores: PyTree, x: Array) -> Array:
            return net.apply(masked(state.kernels, scores), x, train=False)[0]

        path = recover(
            logits_of,
            state.hopfield,
            x,
            optimizer=recovery,
            energy_weight=energy_weight,
            num_steps=recovery_steps,
            batch_size=recovery_batch_size,
        )
        return logits_of(jax.tree.map(lambda scores: scores[-1], path), x)

    def capacity(state: HopSupSupState) -> Mapping[str, Array]:
        leaves = jax.tree.leaves((state.hopfield.weights, state.hopfield.mean))
        return {"bits": jnp.float32(32 * sum(leaf.size for leaf in leaves))}

    return Algorithm(
        init=init,
        step=step,
        predict=predict,
        begin_task=begin_task,
        end_task=end_task,
        needs=Needs(told_task=True, boundaries=True, test_group=WHOLE),
        capacity=capacity,
        class_il=True,
    )


def pattern(scores: Array) -> Array:
    """1 where ``scores >= 0``, else -1; the gradient is that of 2 mask - 1, straight through."""
    return 2 * threshold_mask(scores) - 1


def recover(
    logits_of: Callable[[PyTree, Array], Array],
    hopfield: Hopfield,
    x: Array,
    *,
    optimizer: optax.GradientTransformation,
    energy_weight: Scalar,
    num_steps: int,
    batch_size: int,
) -> PyTree:
    """Scores on their way from the mean of all patterns to the one that fits ``x``.

    Args:
      logits_of: (scores, x) -> float32[b, C].
      hopfield: the patterns.
      x: float32[n, ...] images of one task; each step takes the next ``batch_size``, after the last
        the first again.
      optimizer: of the recovery.
      energy_weight: float32[] of the energy at the end.
      num_steps: of the recovery.
      batch_size: images a step.

    Returns:
      layer -> float32[num_steps, d], the scores after each step.
    """
    size = core.min_dim(batch_size, x.shape[0])  # n has no value yet in an exported program

    def loss(scores: PyTree, t: Array) -> Array:
        seen = x[(t * size + jnp.arange(size)) % x.shape[0]]
        late = (t + 1) / num_steps
        valleys = jax.tree.map(lambda w, q: energy(w, pattern(q)), hopfield.weights, scores)
        return (1 - late) * entropy(logits_of(scores, seen)) + (
            energy_weight * late * sum(jax.tree.leaves(valleys))
        )

    def step(carry: tuple[PyTree, PyTree], t: Array):
        scores, opt = carry
        updates, opt = optimizer.update(jax.grad(loss)(scores, t), opt, scores)
        scores = optax.apply_updates(scores, updates)
        return (scores, opt), scores

    start = hopfield.mean, optimizer.init(hopfield.mean)
    return jax.lax.scan(step, start, jnp.arange(num_steps))[1]
