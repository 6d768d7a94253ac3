"""UCIR (LUCIR): a unified cosine classifier, rebalanced between a few past examples and many new.

A cosine classifier stands on an extractor, and a few exemplars of each class are kept. As a phase
begins, the weights of its classes are imprinted from their prototypes and the extractor is copied.
The loss over the phase's examples and all exemplars is ``L_ce + lambda mean(1 - cos(f, f_old)) +
L_mr``, with ``lambda = lambda_base sqrt(N_o / N_n)`` for N_n classes of this phase and N_o before
it. L_mr wants an exemplar's own class a margin ahead of the new classes nearest to it. The weights
of past classes stand still. In the first phase the loss is ``L_ce``.

| symbol | name | default | where from |
|---|---|---|---|
| | learning_rate, decays | 0.1, (80, 120) | official code, CIFAR-100; the same in every phase |
| | momentum, weight_decay | 0.9, 5e-4 | the same |
| eta | initial_scale | 1.0 | the same; learnable, decayed like all the rest |
| lambda_base | embedding_weight | 5.0 | the same (10 for ImageNet) |
| K, m | hardest, margin | 2, 0.5 | the same |
| | margin_weight | 1.0 | the same |
| | exemplars_per_class | 20 | the paper |
| | balanced_epochs, balanced_batch_size | 0, 128 | none for CIFAR-100; 20 for ImageNet |
| | balanced_learning_rate, balanced_decays | 0.01, (10,) | official code, ImageNet |
| | replay_size | 64 | ours; see Departs |

Source: Hou et al. 2019 (CVPR), section 3; hshustc/CVPR19_Incremental_Learning,
class_incremental_cosine_cifar100.py and incremental_train_and_eval_MR_LF.py; for the phase
"balanced" cbf_class_incremental_cosine_imagenet.py: from the second task on, the weights of all
classes learn from the exemplars alone, those of the new classes among them; the extractor, its
statistics and the scale stand still.
Departs: the official code shuffles the exemplars among the examples, here they stand beside the
stream's batches (``exemplars.union``), and balanced batches are drawn anew each time, so both are
seen as often as there, but on average. Exemplars are herded as iCaRL's paper has it; the official
loop can come back to one it has. Class means are of the exemplars alone; the official CIFAR code
mixes in copies whose colours are reversed. A class that comes back in a later task counts as past:
it is not imprinted and its weights stand still; it is herded anew. A row of a class not told so far
is padding.
"""

import jax
import jax.numpy as jnp
import optax
from flax import struct

from cls_jax.core.augment import Augment
from cls_jax.core.herding import class_means, in_chunks, unit
from cls_jax.core.losses import cross_entropy, mask_logits
from cls_jax.core.memory import Memory, reservoir
from cls_jax.core.sync import select
from cls_jax.core.types import Array, Batch, Metrics, Task, Trainable, Variables
from cls_jax.methods.base import (
    Method,
    Needs,
    Phase,
    apply_gradient,
    parameter_bits,
    told_rows,
    unchanged,
)
from cls_jax.methods.prototypes.cosine import (
    adaptive_weight,
    cosine_logits,
    embedding_loss,
    imprint,
    initial_weights,
    l2_sgd,
    margin_ranking,
    step_decay,
)
from cls_jax.methods.prototypes.exemplars import choose, nearest_mean, no_exemplars, union
from cls_jax.methods.prototypes.ucir_config import UcirConfig, UcirHyper, check
from cls_jax.nets.extractor import Extractor


@struct.dataclass
class UcirState:
    """What UCIR carries from step to step.

    Attributes:
      extractor: images to features.
      classifier: weights float32[C, d] and scale float32[], with an optimizer state of their own.
      old: the extractor as it was when the task began.
      memory: the exemplars.
      means: float32[C, d] unit features of theirs, zero for a class without exemplars.
      past, seen: bool[C] classes of earlier tasks, and those with this one's.
      task_size: int32[] examples of this task that are learned from.
      step: int32[] made in the phase "balanced" of this task.
      hyper: UcirHyper.
    """

    extractor: Trainable
    classifier: Trainable
    old: Variables
    memory: Memory
    means: Array
    past: Array
    seen: Array
    task_size: Array
    step: Array
    hyper: UcirHyper


def ucir(config: UcirConfig, extractor: Extractor, *, augment: Augment, num_classes: int) -> Method:
    """Unified classifier, incrementally learned via rebalancing.

    Args:
      config: sizes and choices.
      extractor: images to features.
      augment: ``train`` for the images learned from, ``test`` for prototypes, herding and answers.
      num_classes: of the stream.

    Returns:
      The method; its hyper is UcirHyper. It answers with the classifier; with exemplars there is
      the view "nme", the nearest mean of exemplars. As a task begins, and where there are exemplars
      as it ends, all its examples go forward once, in chunks.

    Raises:
      InputError: for a size that cannot be, or a balanced phase without exemplars.
    """
    check(config)
    each = config.exemplars_per_class
    num_slots = max(num_classes * each, 1)  # without exemplars one, which stays empty
    replay_size = min(config.replay_size, num_slots)
    balanced_size = min(config.balanced_batch_size, num_slots)

    def features(vars: Variables, x: Array) -> Array:
        """float32[b, d] of unit length, from images as the network takes them."""
        return unit(extractor.apply(vars, x, train=False)[0].features)

    def restart(state: UcirState) -> UcirState:
        """Both optimizers as new, the phase at its first step."""
        return state.replace(
            extractor=_restarted(state.extractor, state.hyper),
            classifier=_restarted(state.classifier, state.hyper),
            step=jnp.int32(0),
        )

    def init(key: Array, example: Batch, hyper: UcirHyper) -> UcirState:
        key_extractor, key_weights = jax.random.split(key)
        x = augment.test(example.x)
        trunk = extractor.init(key_extractor, x)
        shape = jax.eval_shape(features, trunk, x)
        weights = initial_weights(key_weights, (num_classes, shape.shape[1]))
        head = {"weights": weights, "scale": jnp.array(hyper.initial_scale, jnp.float32)}
        none = jnp.zeros(num_classes, bool)
        state = UcirState(
            extractor=Trainable(trunk, None),
            classifier=Trainable(Variables(params=head, stats={}), None),
            old=jax.tree.map(jnp.copy, trunk),
            memory=no_exemplars(example, num_slots),
            means=jnp.zeros((num_classes, shape.shape[1]), shape.dtype),
            past=none,
            seen=jnp.copy(none),
            task_size=jnp.int32(0),
            step=jnp.int32(0),
            hyper=hyper,
        )
        return restart(state)

    def begin_task(key: Array, state: UcirState, task: Task, data: Batch | None) -> UcirState:
        past, seen = state.seen, state.seen | task.classes
        look = lambda x: features(state.extractor.vars, augment.test(x))  # noqa: E731
        prototypes = class_means(in_chunks(look, data.x), data.y, data.valid, num_classes)
        new = seen & ~past & past.any()
        weights = imprint(state.classifier.vars.params["weights"], prototypes, new, past)
        state = state.replace(
            classifier=_with(state.classifier, weights=weights),
            old=jax.tree.map(jnp.copy, state.extractor.vars),
            past=past,
            seen=seen,
            task_size=told_rows(data, seen).sum(dtype=jnp.int32),
        )
        return restart(state)

    def step(key: Array, state: UcirState, batch: Batch) -> tuple[UcirState, Metrics]:
        key_draw, key_keep, key_augment = jax.random.split(key, 3)
        hyper, b, new = state.hyper, len(batch.y), state.seen & ~state.past
        batch = batch.replace(valid=told_rows(batch, state.seen))
        rows = union(key_draw, key_keep, state.memory, batch, state.task_size, replay_size)
        x, valid = augment.train(key_augment, rows.x), rows.weight > 0
        old_features = features(state.old, x)
        hold = adaptive_weight(hyper.embedding_weight, new, state.past)

        def loss(trunk, head):
            vars = state.extractor.vars.replace(params=trunk)
            seen, stats = extractor.apply(vars, x, train=True, valid=valid)
            now = unit(seen.features)
            cosines = cosine_logits(now, head["weights"], jnp.float32(1))
            logits = head["scale"] * cosines

            def of(part: slice):
                told = {"valid": valid[part], "classes": state.seen}
                near = embedding_loss(now[part], old_features[part], valid[part]) / 2
                return cross_entropy(logits[part], rows.y[part], **told) + hold * near

            share = rows.weight[b:].sum() / jnp.maximum(rows.weight.sum(), 1)
            learned = (1 - share) * of(slice(b)) + share * of(slice(b, None))
            apart = margin_ranking(cosines, rows.y, new, valid, hyper.margin, config.hardest)
            return learned + hyper.margin_weight * apart, stats

        before = state.extractor.vars.params, state.classifier.vars.params
        (value, stats), slopes = jax.value_and_grad(loss, argnums=(0, 1), has_aux=True)(*before)
        optimizer = _sgd(hyper, hyper.learning_rate * step_decay(batch.epoch, config.decays))
        trunk = apply_gradient(state.extractor, optimizer, slopes[0], stats)
        head = apply_gradient(state.classifier, optimizer, slopes[1], {})
        if config.freeze_old_weights:
            stay, moved = before[1]["weights"], head.vars.params["weights"]
            head = _with(head, weights=jnp.where(state.past[:, None], stay, moved))
        return state.replace(extractor=trunk, classifier=head), {"loss": value}

    def choose_exemplars(key: Array, state: UcirState, task: Task, data: Batch | None) -> UcirState:
        look = lambda x: features(state.extractor.vars, augment.test(x))  # noqa: E731
        memory, means = choose(look, state.memory, data, task.classes, each)
        return restart(state.replace(memory=memory, means=means))

    def balanced(key: Array, state: UcirState, batch: Batch) -> tuple[UcirState, Metrics]:
        key_draw, key_augment = jax.random.split(key)
        hyper, model, new = state.hyper, state.classifier, state.seen & ~state.past
        drawn = reservoir(num_slots).sample(key_draw, state.memory, balanced_size)
        y, now = drawn.items["y"], augment.train(key_augment, drawn.items["x"])
        now, scale = features(state.extractor.vars, now), model.vars.params["scale"]

        def loss(head):
            cosines = cosine_logits(now, head["weights"], jnp.float32(1))
            told = {"valid": drawn.valid, "classes": state.seen}
            apart = margin_ranking(cosines, y, new, drawn.valid, hyper.margin, config.hardest)
            return cross_entropy(scale * cosines, y, **told) + hyper.margin_weight * apart

        value, slope = jax.value_and_grad(loss)(model.vars.params)
        epoch = state.step // jnp.maximum(-(-state.memory.seen // balanced_size), 1)
        rate = hyper.balanced_learning_rate * step_decay(epoch, config.balanced_decays)
        moved = _with(apply_gradient(model, _sgd(hyper, rate), slope, {}), scale=scale)
        on = state.past.any() & (epoch < config.balanced_epochs)
        state = state.replace(classifier=select(on, moved, model), step=state.step + 1)
        return state, {"loss": value}

    def predict(state: UcirState, x: Array, task: Task) -> Array:
        now, head = features(state.extractor.vars, augment.test(x)), state.classifier.vars.params
        return mask_logits(cosine_logits(now, head["weights"], head["scale"]), state.seen)

    def nme(state: UcirState, x: Array, task: Task) -> Array:
        return nearest_mean(features(state.extractor.vars, augment.test(x)), state.means)

    phases, at_the_end = (Phase("train", step),), each > 0
    if config.balanced_epochs:
        num_steps = config.balanced_epochs * -(-num_slots // balanced_size)
        kind = {"enter": choose_exemplars, "enter_data": True, "num_steps": num_steps}
        phases, at_the_end = (*phases, Phase("balanced", balanced, **kind)), False
    return Method(
        "ucir",
        init,
        phases,
        predict,
        begin_task=begin_task,
        end_task=choose_exemplars if at_the_end else unchanged,
        views={"nme": nme} if each else {},
        needs=Needs(told_task=True, boundaries=True, begin_data=True, end_data=at_the_end),
        convolutional=extractor.convolutional,
        capacity=parameter_bits("extractor", "classifier"),
        class_il=True,
    )


def _sgd(hyper: UcirHyper, rate: Array | float) -> optax.GradientTransformation:
    return l2_sgd(rate, hyper.momentum, hyper.weight_decay)


def _restarted(model: Trainable, hyper: UcirHyper) -> Trainable:
    """The same with its optimizer state as new."""
    return model.replace(opt=_sgd(hyper, 0.0).init(model.vars.params))


def _with(model: Trainable, **params: Array) -> Trainable:
    """The same with other values of these parameters."""
    return model.replace(vars=model.vars.replace(params={**model.vars.params, **params}))
