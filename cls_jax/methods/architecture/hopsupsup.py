"""HopSupSup: supermasks over units, all of them stored in one Hopfield network.

The weights are random and frozen. A task is learned as a mask over the hidden units: a score for
each unit, 1 where it is at least 0, trained straight through. As the task ends its pattern
z = 2 mask - 1 is written into a Hopfield network Psi, one d x d matrix for each hidden layer
however many tasks there are, and the mask is forgotten. At test nobody tells the task. Scores q
start at the mean of the stored patterns, and for t = 1 … N they descend on

  (1 - t/N) H(logits of some test images) + gamma t/N sum_layers E(s),  s = 2 [q >= 0] - 1,

where H is the mean entropy of the answers and E(s) = -s' Psi s / 2: first they look for a mask that
makes the network sure, then they fall into the nearest stored pattern.

| symbol | name | default | where from |
|---|---|---|---|
| | learning_rate | 0.1 | official code, args.py |
| | momentum | 0.9 | the same, in training and in recovery |
| | weight_decay | 1e-4 | the same, of the scores, in both |
| | recovery_learning_rate | 500 | official code, adaptors.py, hopfield_recovery |
| gamma | energy_weight | 1.5e-3 | official code, experiments/GNu/SplitMNIST/hopsupsup.py |
| N | recovery_steps | 30 | the code: as many as test batches of a task, about 32 |
| | recovery_batch_size | 64 | official code, its test batch |

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

from cls_jax.core.augment import Augment
from cls_jax.core.checks import check_range
from cls_jax.core.losses import cross_entropy, entropy
from cls_jax.core.types import Array, Batch, Metrics, PyTree, Task, Trainable, Variables
from cls_jax.methods.architecture.hopfield import Hopfield, empty, energy, stored
from cls_jax.methods.architecture.hopsupsup_config import HopSupSupConfig, HopSupSupHyper
from cls_jax.methods.architecture.supermasks import threshold_mask
from cls_jax.methods.base import WHOLE, Method, Needs, Phase, gradient_step
from cls_jax.nets.base import Net


@struct.dataclass
class HopSupSupState:
    """What HopSupSup carries from step to step.

    Attributes:
      model: the scores of this task, layer -> float32[d], and their optimizer state.
      kernels: the network's frozen weights; to keep their seed would be enough.
      hopfield: the patterns of the tasks that have ended.
      hyper: HopSupSupHyper.
    """

    model: Trainable
    kernels: PyTree
    hopfield: Hopfield
    hyper: HopSupSupHyper


def hopsupsup(config: HopSupSupConfig, net: Net, *, augment: Augment) -> Method:
    """Supermasks in superposition, recovered by a Hopfield network.

    Args:
      config: how masks are recovered.
      net: a ``bnnet``, whose scales are the masks.
      augment: ``train`` makes the inputs of training, ``test`` those of ``predict``.

    Returns:
      The method; its hyper is HopSupSupHyper. ``predict`` recovers a mask from the images that it
      is given and does not use the task.

    Raises:
      InputError: if the recovery has no step or no image.
    """
    check_range("recovery_steps", config.recovery_steps, 1)
    check_range("recovery_batch_size", config.recovery_batch_size, 1)

    def masked(kernels: PyTree, scores: PyTree) -> Variables:
        scales = jax.tree.map(threshold_mask, scores)
        return Variables(params={"kernels": kernels, "scales": scales}, stats={})

    def newborn(scores: PyTree, hyper: HopSupSupHyper) -> Trainable:
        scores = jax.tree.map(jnp.zeros_like, scores)
        opt = _sgd(hyper.learning_rate, hyper).init(scores)
        return Trainable(vars=Variables(params=scores, stats={}), opt=opt)

    def init(key: Array, example: Batch, hyper: HopSupSupHyper) -> HopSupSupState:
        params = net.init(key, augment.test(example.x)).params
        return HopSupSupState(
            model=newborn(params["scales"], hyper),
            kernels=params["kernels"],
            hopfield=empty({name: scale.size for name, scale in params["scales"].items()}),
            hyper=hyper,
        )

    def begin_task(
        key: Array, state: HopSupSupState, task: Task, data: Batch | None
    ) -> HopSupSupState:
        return state.replace(model=newborn(state.model.vars.params, state.hyper))

    def step(key: Array, state: HopSupSupState, batch: Batch) -> tuple[HopSupSupState, Metrics]:
        x = augment.train(key, batch.x)

        def loss(vars: Variables):
            here = masked(state.kernels, vars.params)
            logits, _ = net.apply(here, x, train=True, valid=batch.valid)
            return cross_entropy(logits, batch.y, valid=batch.valid), {}

        optimizer = _sgd(state.hyper.learning_rate, state.hyper)
        model, value = gradient_step(state.model, optimizer, loss)
        return state.replace(model=model), {"loss": value}

    def end_task(
        key: Array, state: HopSupSupState, task: Task, data: Batch | None
    ) -> HopSupSupState:
        patterns = jax.tree.map(pattern, state.model.vars.params)
        return state.replace(hopfield=stored(state.hopfield, patterns))

    def predict(state: HopSupSupState, x: Array, task: Task) -> Array:
        x = augment.test(x)
        logits_of = lambda scores, x: net.apply(masked(state.kernels, scores), x, train=False)[0]  # noqa: E731
        path = recover(logits_of, state.hopfield, x, state.hyper, config)
        return logits_of(jax.tree.map(lambda scores: scores[-1], path), x)

    def capacity(state: HopSupSupState) -> Mapping[str, Array]:
        kept = state.hopfield.weights, state.hopfield.mean
        return {"bits": jnp.float32(32 * sum(leaf.size for leaf in jax.tree.leaves(kept)))}

    return Method(
        "hopsupsup",
        init,
        (Phase("train", step),),
        predict,
        begin_task=begin_task,
        end_task=end_task,
        needs=Needs(told_task=True, boundaries=True, test_batch=WHOLE, transductive=True),
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
    hyper: HopSupSupHyper,
    config: HopSupSupConfig,
) -> PyTree:
    """Scores on their way from the mean of all patterns to the one that fits ``x``.

    Args:
      logits_of: (scores, x) -> float32[b, C].
      hopfield: the patterns.
      x: float32[n, ...] images of one task; each step looks at the next ``recovery_batch_size``,
        after the last at the first again.
      hyper: rates.
      config: sizes.

    Returns:
      layer -> float32[recovery_steps, d], the scores after each step.
    """
    size, steps = min(config.recovery_batch_size, len(x)), config.recovery_steps
    optimizer = _sgd(hyper.recovery_learning_rate, hyper)

    def loss(scores: PyTree, t: Array) -> Array:
        seen = x[(t * size + jnp.arange(size)) % len(x)]
        late = (t + 1) / steps
        valleys = jax.tree.map(lambda w, q: energy(w, pattern(q)), hopfield.weights, scores)
        return (1 - late) * entropy(logits_of(scores, seen)) + (
            hyper.energy_weight * late * sum(jax.tree.leaves(valleys))
        )

    def step(carry: tuple[PyTree, PyTree], t: Array):
        scores, opt = carry
        updates, opt = optimizer.update(jax.grad(loss)(scores, t), opt, scores)
        scores = optax.apply_updates(scores, updates)
        return (scores, opt), scores

    start = hopfield.mean, optimizer.init(hopfield.mean)
    return jax.lax.scan(step, start, jnp.arange(steps))[1]


def _sgd(learning_rate: Array, hyper: HopSupSupHyper) -> optax.GradientTransformation:
    """SGD of torch.optim.SGD: the decay is part of the gradient, the momentum is not damped."""
    return optax.chain(
        optax.add_decayed_weights(hyper.weight_decay),
        optax.sgd(learning_rate, momentum=hyper.momentum),
    )
