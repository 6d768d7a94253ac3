"""SPB, SPB-I, SPB-M: new classes without a stored image, by two weights that balance each other.

A cosine classifier stands on an extractor. As a phase begins, the weights of its classes are
imprinted from their prototypes, the extractor is copied, and its features are held on the unit
sphere near the copy's: ``L = N_n / N_o * L_ce + N_o / N_n * L_em``, with N_n classes of this phase
and N_o before it; in the first phase ``L = L_ce``. SPB-I adds a self-supervised loss in every phase
(which rotation, or which views show one image). SPB-M rotates each image gamma ways, gives every
rotation a classifier of its own over the one extractor, and answers with the sum of their
predictions.

Source: Wu, Gong and Li 2021 (ICCV), sections 3.1 to 3.4, equations 1 to 6; no official code.
Departs: where the paper is silent we decide as the spb card does: the softmax runs over all classes
seen (``ce_scope``), old weights go on learning (``freeze_old_weights``), BatchNorm trains on in
later phases, the scale is not decayed, prototypes are taken from images as they are, and summed
predictions are probabilities (``answer``). A row of a class outside the softmax is padding.
"""

from collections.abc import Mapping
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import struct

from cls_jax.core.choices import Weighting
from cls_jax.core.herding import class_means, in_chunks, unit
from cls_jax.core.losses import cross_entropy, mask_logits
from cls_jax.core.sync import select
from cls_jax.core.types import Array, Batch, Metrics, Task, Trainable, Variables
from cls_jax.methods.base import Algorithm, Needs, method, unchanged, variant
from cls_jax.methods.checks import check_milestones
from cls_jax.methods.problem import Problem
from cls_jax.methods.prototypes.cosine import (
    cosine_logits,
    embedding_loss,
    imprint,
    initial_weights,
    loss_weights,
    step_decay,
    with_params,
)
from cls_jax.methods.prototypes.spb_pretext import (
    all_rotations,
    pretext_task,
    quarter_turns,
    rotate,
)
from cls_jax.methods.steps import apply_gradient, told_rows, torch_sgd

SCALES = ("scale", "learner_scale")
"""Parameters of the classifier that are not decayed."""


class SpbState(struct.PyTreeNode):
    """What SPB carries from step to step.

    Attributes:
      extractor: images to features.
      classifier: weights float32[gamma, C, d], scale, and the learner's own, with an optimizer
        state of their own.
      old: the extractor as it was when the phase began.
      past, seen: bool[C] classes of earlier phases, and those with this one's.
      own: bool[C] classes of this phase, those that come back included.
    """

    extractor: Trainable
    classifier: Trainable
    old: Variables
    past: Array
    seen: Array
    own: Array


@method
def spb(
    problem: Problem,
    *,
    weighting: Weighting = "reciprocal",
    ce_scope: Literal["seen", "new"] = "seen",
    learner: Literal["none", "rotation", "contrastive"] = "none",
    rotations: int = 1,
    answer: Literal["probabilities", "logits"] = "probabilities",
    freeze_old_weights: bool = False,
    freeze_after_base: bool = False,
    joint: bool = False,
    base_decays: tuple[int, ...] = (80, 120),
    decays: tuple[int, ...] = (30,),
    base_learning_rate: float = 0.1,
    learning_rate: float = 1e-3,
    classifier_learning_rate: float = 1e-2,
    momentum: float = 0.9,
    weight_decay: float = 5e-4,
    initial_scale: float = 1.0,
    temperature: float = 0.1,
) -> Algorithm:
    """SPB and its kin; as a phase begins, all its examples go forward once, in chunks.

    Defaults are those of the paper on CIFAR-100 unless said.

    Args:
      weighting: reciprocal is the method; equal has no weights, sqrt is UCIR's weight, none is
        fine-tuning.
      ce_scope: the softmax of the cross-entropy runs over all classes seen, or the phase's own.
      learner: the self-supervised loss of SPB-I: rotation, contrastive (4 views), or none.
      rotations: gamma, classifiers of SPB-M, each on the image turned another way: 1, 2 or 4; the
        paper's 4; 2 are 0 and 180 degrees (ours).
      answer: SPB-M adds up probabilities or logits.
      freeze_old_weights: classifier weights of past classes stay as they are.
      freeze_after_base: nothing is trained after the first phase and every class is its prototype:
        the control "frozen extractor".
      joint: all classes at once, the upper bound; epochs and decays are those of the first phase.
      base_decays, decays: epochs of the first and of later phases after which rates fall tenfold.
      base_learning_rate: of everything in the first phase, >= 0.
      learning_rate: of the extractor in later phases, >= 0.
      classifier_learning_rate: of weights, scale and learner in later phases, >= 0.
      momentum: of both optimizers, in [0, 1).
      weight_decay: L2, added to the gradient of all but the scales, >= 0.
      initial_scale: eta, by which cosines are multiplied at first, learnable; UCIR's code; 10
        speeds up small runs.
      temperature: tau, of the contrastive learner, > 0.

    Raises:
      InputError: for rotations other than 1, 2 or 4, a learner beside them, images that cannot be
        turned, or views that there are not.
    """
    check_milestones("base_decays", base_decays)
    check_milestones("decays", decays)
    pretext = pretext_task(problem, learner, rotations, temperature)
    extractor, augment, num_classes = problem.extractor(), problem.augment, problem.num_classes

    def optimizers(past: Array, epoch: Array | np.int32) -> list[optax.GradientTransformation]:
        """Of the extractor and of the classifier, in this pass over the phase."""
        first = ~past.any()
        base = base_learning_rate * step_decay(epoch, base_decays)
        later = step_decay(epoch, decays)
        return [
            torch_sgd(jnp.where(first, base, later * rate), momentum, weight_decay, undecayed)
            for rate, undecayed in ((learning_rate, ()), (classifier_learning_rate, SCALES))
        ]

    def restart(state: SpbState) -> SpbState:
        """Both optimizers as new."""
        models = state.extractor, state.classifier
        each = [
            model.replace(opt=optimizer.init(model.vars.params))
            for model, optimizer in zip(models, optimizers(state.past, jnp.int32(0)), strict=True)
        ]
        return state.replace(extractor=each[0], classifier=each[1])

    def features_of(vars: Variables, x: Array) -> Array:
        """float32[b, d] features of unit length, from images as the network takes them."""
        return unit(extractor.apply(vars, x, train=False)[0].features)

    def prototypes(vars: Variables, data: Batch) -> Array:
        """float32[gamma, C, d] mean unit feature of each class in each rotation."""

        def of_rotation(quarters: int) -> Array:
            def rotated(x: Array) -> Array:
                return features_of(vars, rotate(augment.test(x), quarters))

            return class_means(in_chunks(rotated, data.x), data.y, data.valid, num_classes)

        return jnp.stack([of_rotation(quarters) for quarters in quarter_turns(rotations)])

    def imprinted(state: SpbState, data: Batch, new: Array, past: Array) -> Trainable:
        """The classifier whose ``new`` classes have their prototypes as weights."""
        found, head = prototypes(state.extractor.vars, data), state.classifier
        weights = head.vars.params["weights"]
        weights = jax.vmap(imprint, (0, 0, None, None))(weights, found, new, past)
        return with_params(head, weights=weights)

    def init(key: Array, example: Batch) -> SpbState:
        key_extractor, key_weights, key_learner = jax.random.split(key, 3)
        x = augment.test(example.x)
        trunk = extractor.init(key_extractor, x)
        shapes = jax.eval_shape(lambda: extractor.apply(trunk, x, train=False)[0])
        features = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
        size = features.features.shape[1]
        weights = initial_weights(key_weights, (rotations, num_classes, size))
        scale = jnp.float32(initial_scale)
        head = pretext.init(key_learner, features, jnp.copy(scale))
        params = {"weights": weights, "scale": jnp.copy(scale), **head.params}
        none = jnp.zeros(num_classes, bool)
        state = SpbState(
            extractor=Trainable(trunk, None),
            classifier=Trainable(head.replace(params=params), None),
            old=jax.tree.map(jnp.copy, trunk),
            past=none,
            seen=jnp.copy(none),
            own=jnp.copy(none),
        )
        return restart(state)

    def begin_task(key: Array, state: SpbState, task: Task, data: Batch | None) -> SpbState:
        assert data is not None  # begin_data
        past = jnp.zeros_like(state.seen) if joint else state.seen
        seen = state.seen | task.classes
        state = state.replace(
            classifier=imprinted(state, data, seen & ~past & past.any(), past),
            old=jax.tree.map(jnp.copy, state.extractor.vars),
            past=past,
            seen=seen,
            own=task.classes | (seen & ~past),
        )
        return restart(state)

    def step(key: Array, state: SpbState, batch: Batch) -> tuple[SpbState, Metrics]:
        ce_weight, hold_weight = loss_weights(weighting, state.seen & ~state.past, state.past)
        classes = state.own if ce_scope == "new" else state.seen
        counted = told_rows(batch, classes)
        views = pretext.views(key, batch.x)
        num_views, flat = len(views), views.reshape(-1, *views.shape[2:])
        valid = jnp.tile(counted, num_views)
        old_features = features_of(state.old, flat)

        def loss(trunk, head):
            vars = state.extractor.vars.replace(params=trunk)
            output, stats = extractor.apply(vars, flat, train=True, valid=valid)
            features = unit(output.features)
            each = features.reshape(num_views, len(batch.y), -1)
            logits = cosine_logits(each[:rotations], head["weights"], head["scale"])
            ce = [cross_entropy(one, batch.y, valid=counted, classes=classes) for one in logits]
            drift = embedding_loss(features, old_features, valid)
            head_vars = state.classifier.vars.replace(params=head)
            own, head_stats = pretext.loss(head_vars, output, counted)
            value = ce_weight * (sum(ce) / rotations) + hold_weight * drift + own
            return value, (stats, head_stats)

        models = state.extractor, state.classifier
        params = [model.vars.params for model in models]
        (value, stats), gradients = jax.value_and_grad(loss, argnums=(0, 1), has_aux=True)(*params)
        optimizer = optimizers(state.past, batch.epoch)
        after = list(map(apply_gradient, models, optimizer, gradients, stats))
        if freeze_old_weights:
            old, moved = params[1]["weights"], after[1].vars.params["weights"]
            after[1] = with_params(after[1], weights=jnp.where(state.past[:, None], old, moved))
        if freeze_after_base:
            after = select(state.past.any(), list(models), after)
        return state.replace(extractor=after[0], classifier=after[1]), {"loss": value}

    def end_task(key: Array, state: SpbState, task: Task, data: Batch | None) -> SpbState:
        assert data is not None  # end_data
        new = state.seen & ~state.past
        return state.replace(classifier=imprinted(state, data, new, state.past))

    def predict(state: SpbState, x: Array, task: Task) -> Array:
        x, head = augment.test(x), state.classifier.vars.params
        flat = all_rotations(x, rotations).reshape(-1, *x.shape[1:])
        features = features_of(state.extractor.vars, flat).reshape(rotations, x.shape[0], -1)
        logits = cosine_logits(features, head["weights"], head["scale"])
        return mask_logits(sum_predictions(logits, state.seen, answer), state.seen)

    def capacity(state: SpbState) -> Mapping[str, Array]:
        head = state.classifier.vars.params  # the learner is of no use for an answer
        needed = jax.tree.leaves((state.extractor.vars, head["weights"], head["scale"]))
        return {"bits": jnp.float32(32 * sum(leaf.size for leaf in needed))}

    return Algorithm(
        init=init,
        step=step,
        predict=predict,
        begin_task=begin_task,
        end_task=end_task if freeze_after_base else unchanged,
        needs=Needs(
            told_task=True,
            boundaries=True,
            begin_data=True,
            end_data=freeze_after_base,
            pooled=joint,
        ),
        capacity=capacity,
        class_il=True,
    )


spb_i = variant("spb_i", spb, learner="rotation")
spb_m = variant("spb_m", spb, rotations=4)


def sum_predictions(logits: Array, classes: Array, answer: str) -> Array:
    """What several classifiers say in sum.

    Args:
      logits: float32[gamma, b, C].
      classes: bool[C] over which probabilities are taken.
      answer: "probabilities": the log of their sum; "logits": their sum.

    Returns:
      float32[b, C].

    Source: section 3.4 of SPB ("predictions"); card O5, where the two disagree.
    """
    if answer == "logits":
        return logits.sum(axis=0)
    return jax.nn.logsumexp(jax.nn.log_softmax(mask_logits(logits, classes)), axis=0)
