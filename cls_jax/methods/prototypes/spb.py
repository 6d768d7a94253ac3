"""SPB, SPB-I, SPB-M: new classes without a stored image, by two weights that balance each other.

A cosine classifier stands on an extractor. As a phase begins, the weights of its classes are
imprinted from their prototypes, the extractor is copied, and its features are held on the unit
sphere near the copy's: ``L = N_n / N_o * L_ce + N_o / N_n * L_em``, with N_n classes of this phase
and N_o before it; in the first phase ``L = L_ce``. SPB-I adds a self-supervised loss in every phase
(which rotation, or which views belong together). SPB-M rotates each image gamma ways, gives every
rotation a classifier of its own over the one extractor, and answers with the sum of their
predictions.

| symbol | name | default | where from |
|---|---|---|---|
| | base_learning_rate | 0.1 | the paper, CIFAR-100, first phase |
| | learning_rate, classifier_learning_rate | 1e-3, 1e-2 | the same, later phases |
| | base_decays, decays | (80, 120), (30,) | the same: epochs after which rates fall tenfold |
| | momentum, weight_decay | 0.9, 5e-4 | the same |
| eta | initial_scale | 1.0 | UCIR's code; learnable |
| gamma | rotations | 1; 4 for SPB-M | the paper; 2 are 0 and 180 degrees (ours) |
| tau | temperature | 0.1 | the paper (SPB-I, contrastive; 4 views) |

Source: Wu, Gong and Li 2021 (ICCV), sections 3.1 to 3.4, equations 1 to 6; no official code.
Departs: where the paper is silent we decide as the spb card does: the softmax runs over all classes
seen (``ce_scope``), old weights go on learning (``freeze_old_weights``), BatchNorm trains on in
later phases, the scale is not decayed, prototypes are taken from images as they are, and summed
predictions are probabilities (``answer``). A row of a class outside the softmax is padding.
"""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
from flax import struct

from cls_jax.core.augment import Augment
from cls_jax.core.herding import class_means, in_chunks, unit
from cls_jax.core.losses import cross_entropy, mask_logits
from cls_jax.core.sync import select
from cls_jax.core.types import Array, Batch, Metrics, Task, Trainable, Variables
from cls_jax.methods.base import Method, Needs, Phase, apply_gradient, told_rows, unchanged
from cls_jax.methods.prototypes.cosine import (
    cosine_logits,
    embedding_loss,
    imprint,
    initial_weights,
    l2_sgd,
    loss_weights,
    step_decay,
)
from cls_jax.methods.prototypes.spb_config import SpbConfig, SpbHyper, check
from cls_jax.methods.prototypes.spb_pretext import learner, quarters, turn, turned
from cls_jax.nets.extractor import Extractor

SCALES = ("scale", "learner_scale")


@struct.dataclass
class SpbState:
    """What SPB carries from step to step.

    Attributes:
      extractor: images to features.
      classifier: weights float32[gamma, C, d], scale, and the learner's own, with an optimizer
        state apart from the extractor's.
      old: the extractor as it was when the phase began.
      past, seen: bool[C] classes of earlier phases, and those with this one's.
      own: bool[C] classes of this phase, those that come back included.
      hyper: SpbHyper.
    """

    extractor: Trainable
    classifier: Trainable
    old: Variables
    past: Array
    seen: Array
    own: Array
    hyper: SpbHyper


def spb(
    config: SpbConfig,
    extractor: Extractor,
    *,
    augment: Augment,
    num_classes: int,
    name: str = "spb",
) -> Method:
    """SPB and its kin.

    Args:
      config: which of them.
      extractor: images to features.
      augment: ``train`` for the images learned from, ``test`` for prototypes and answers,
        ``view_b`` for the contrastive learner's changed views.
      num_classes: of the stream.
      name: as the tables print it.

    Returns:
      The method; its hyper is SpbHyper. As a phase begins, all its examples go forward once, in
      chunks.

    Raises:
      InputError: for rotations other than 1, 2 or 4, a learner beside them, or views that there
        are not.
    """
    check(config, augment)
    gamma, inner = config.rotations, learner(config, augment)

    def optimizers(state: SpbState, epoch: Array):
        """Of the extractor and of the classifier, in this pass over the phase."""
        hyper, first = state.hyper, ~state.past.any()
        base = hyper.base_learning_rate * step_decay(epoch, config.base_decays)
        later = step_decay(epoch, config.decays)
        rates = hyper.learning_rate, hyper.classifier_learning_rate
        kind = hyper.momentum, hyper.weight_decay
        return [
            l2_sgd(jnp.where(first, base, later * rate), *kind, undecayed)
            for rate, undecayed in zip(rates, ((), SCALES), strict=True)
        ]

    def reset(state: SpbState) -> SpbState:
        """Both optimizers as new."""
        models = state.extractor, state.classifier
        each = [
            model.replace(opt=optimizer.init(model.vars.params))
            for model, optimizer in zip(models, optimizers(state, jnp.int32(0)), strict=True)
        ]
        return state.replace(extractor=each[0], classifier=each[1])

    def look(vars: Variables, x: Array) -> Array:
        """float32[b, d] features of unit length, from raw images of one rotation."""
        return unit(extractor.apply(vars, x, train=False)[0].features)

    def prototypes(vars: Variables, data: Batch) -> Array:
        """float32[gamma, C, d] mean unit feature of each class in each rotation."""

        def of_rotation(number: int) -> Array:
            seen = in_chunks(lambda x: look(vars, turn(augment.test(x), number)), data.x)
            return class_means(seen, data.y, data.valid, num_classes)

        return jnp.stack([of_rotation(number) for number in quarters(gamma)])

    def imprinted(state: SpbState, data: Batch, new: Array, past: Array) -> Variables:
        found, vars = prototypes(state.extractor.vars, data), state.classifier.vars
        weights = jax.vmap(imprint, (0, 0, None, None))(vars.params["weights"], found, new, past)
        return vars.replace(params={**vars.params, "weights": weights})

    def init(key: Array, example: Batch, hyper: SpbHyper) -> SpbState:
        key_extractor, key_weights, key_learner = jax.random.split(key, 3)
        x = augment.test(example.x)
        trunk = extractor.init(key_extractor, x)
        shapes = jax.eval_shape(lambda: extractor.apply(trunk, x, train=False)[0])
        size = shapes.features.shape[1]
        weights = initial_weights(key_weights, (gamma, num_classes, size))
        seen = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
        scale = jnp.float32(hyper.initial_scale)
        own = inner.init(key_learner, seen, jnp.copy(scale))
        params = {"weights": weights, "scale": jnp.copy(scale), **own.params}
        classifier = own.replace(params=params)
        none = jnp.zeros(num_classes, bool)
        state = SpbState(
            extractor=Trainable(trunk, None),
            classifier=Trainable(classifier, None),
            old=jax.tree.map(jnp.copy, trunk),
            past=none,
            seen=jnp.copy(none),
            own=jnp.copy(none),
            hyper=hyper,
        )
        return reset(state)

    def begin_task(key: Array, state: SpbState, task: Task, data: Batch | None) -> SpbState:
        past = jnp.zeros_like(state.seen) if config.joint else state.seen
        seen = state.seen | task.classes
        vars = imprinted(state, data, seen & ~past & past.any(), past)
        state = state.replace(
            classifier=state.classifier.replace(vars=vars),
            old=jax.tree.map(jnp.copy, state.extractor.vars),
            past=past,
            seen=seen,
            own=task.classes | (seen & ~past),
        )
        return reset(state)

    def step(key: Array, state: SpbState, batch: Batch) -> tuple[SpbState, Metrics]:
        hyper, new = state.hyper, state.seen & ~state.past
        classify, hold = loss_weights(config.weighting, new, state.past)
        scope = state.own if config.ce_scope == "new" else state.seen
        counted = told_rows(batch, scope)
        views = inner.views(key, batch.x)
        count, flat = len(views), views.reshape(-1, *views.shape[2:])
        valid = jnp.tile(counted, count)
        old_features = look(state.old, flat)

        def loss(trunk, head):
            vars = state.extractor.vars.replace(params=trunk)
            seen, stats = extractor.apply(vars, flat, train=True, valid=valid)
            features = unit(seen.features)
            each = features.reshape(count, len(batch.y), -1)
            logits = cosine_logits(each[:gamma], head["weights"], head["scale"])
            told = {"valid": counted, "classes": scope}
            ce = sum(cross_entropy(one, batch.y, **told) for one in logits) / gamma
            near = embedding_loss(features, old_features, valid)
            head_vars = state.classifier.vars.replace(params=head)
            own, head_stats = inner.loss(head_vars, seen, counted, hyper)
            return classify * ce + hold * near + own, (stats, head_stats)

        models = state.extractor, state.classifier
        params = [model.vars.params for model in models]
        value, gradients = jax.value_and_grad(loss, argnums=(0, 1), has_aux=True)(*params)
        after = [
            apply_gradient(model, optimizer, gradient, stats)
            for model, optimizer, gradient, stats in zip(
                models, optimizers(state, batch.epoch), gradients, value[1], strict=True
            )
        ]
        if config.freeze_old_weights:
            vars, before = after[1].vars, params[1]["weights"]
            weights = jnp.where(state.past[:, None], before, vars.params["weights"])
            vars = vars.replace(params={**vars.params, "weights": weights})
            after[1] = after[1].replace(vars=vars)
        if config.freeze_after_base:
            after = select(state.past.any(), list(models), after)
        state = state.replace(extractor=after[0], classifier=after[1])
        return state, {"loss": value[0]}

    def end_task(key: Array, state: SpbState, task: Task, data: Batch | None) -> SpbState:
        vars = imprinted(state, data, state.seen & ~state.past, state.past)
        return state.replace(classifier=state.classifier.replace(vars=vars))

    def predict(state: SpbState, x: Array, task: Task) -> Array:
        x, head = augment.test(x), state.classifier.vars.params
        flat = turned(x, gamma).reshape(-1, *x.shape[1:])
        features = look(state.extractor.vars, flat).reshape(gamma, len(x), -1)
        logits = cosine_logits(features, head["weights"], head["scale"])
        return mask_logits(together(logits, state.seen, config.answer), state.seen)

    def capacity(state: SpbState) -> Mapping[str, Array]:
        head = state.classifier.vars.params  # the learner is of no use for an answer
        needed = jax.tree.leaves((state.extractor.vars, head["weights"], head["scale"]))
        return {"bits": jnp.float32(32 * sum(leaf.size for leaf in needed))}

    frozen = config.freeze_after_base
    return Method(
        name,
        init,
        (Phase("train", step),),
        predict,
        begin_task=begin_task,
        end_task=end_task if frozen else unchanged,
        needs=Needs(
            told_task=True, boundaries=True, begin_data=True, end_data=frozen, pooled=config.joint
        ),
        convolutional=extractor.convolutional,
        capacity=capacity,
        class_il=True,
    )


def together(logits: Array, classes: Array, answer: str) -> Array:
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
