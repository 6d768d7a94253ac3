"""UCIR (LUCIR): a unified cosine classifier, rebalanced between a few past examples and many new.

A cosine classifier stands on an extractor, and a few exemplars of each class are kept. As a phase
begins, the weights of its classes are imprinted from their prototypes and the extractor is copied.
The loss over the phase's examples and all exemplars is ``L_ce + lambda mean(1 - cos(f, f_old)) +
L_mr``, with ``lambda = lambda_base sqrt(N_o / N_n)`` for N_n classes of this phase and N_o before
it. L_mr wants an exemplar's own class a margin ahead of the new classes nearest to it. The weights
of past classes stand still. In the first phase the loss is ``L_ce``.

Source: Hou et al. 2019 (CVPR), section 3; hshustc/CVPR19_Incremental_Learning,
class_incremental_cosine_cifar100.py and incremental_train_and_eval_MR_LF.py; for the phase
"balanced" cbf_class_incremental_cosine_imagenet.py: from the second task on, the weights of all
classes learn from the exemplars alone, those of the new classes among them; the extractor, its
statistics and the scale stand still.
Departs: the official code shuffles the exemplars among the examples, here they stand beside the
stream's batches (``exemplars.mix_exemplars``), and balanced batches are drawn anew each time, so
both are learned as often as there, but on average. Exemplars are herded as iCaRL's paper has it;
the official loop can come back to one it has. Class means are of the exemplars alone; the official
CIFAR code mixes in copies whose colours are reversed. A class that comes back in a later task
counts as past: it is not imprinted and its weights stand still; it is herded anew. A row of a class
not told so far is padding.
"""

from functools import partial

import jax
import jax.numpy as jnp
from flax import struct

from cls_jax.core.checks import check_range
from cls_jax.core.errors import InputError
from cls_jax.core.herding import class_means, in_chunks, unit
from cls_jax.core.losses import cross_entropy, mask_logits
from cls_jax.core.memory import Memory, reservoir
from cls_jax.core.sync import select
from cls_jax.core.types import Array, Batch, Metrics, Task, Trainable, Variables
from cls_jax.methods.base import Algorithm, Needs, Phase, method, unchanged
from cls_jax.methods.checks import check_milestones
from cls_jax.methods.problem import Problem
from cls_jax.methods.prototypes.cosine import (
    adaptive_weight,
    cosine_logits,
    embedding_loss,
    imprint,
    initial_weights,
    margin_ranking,
    step_decay,
    with_params,
)
from cls_jax.methods.prototypes.exemplars import (
    mix_exemplars,
    nearest_mean,
    no_exemplars,
    select_exemplars,
)
from cls_jax.methods.steps import apply_gradient, parameter_bits, told_rows, torch_sgd


class UcirState(struct.PyTreeNode):
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


@method
def ucir(
    problem: Problem,
    *,
    exemplars_per_class: int = 20,
    replay_size: int = 64,
    hardest: int = 2,
    freeze_old_weights: bool = True,
    decays: tuple[int, ...] = (80, 120),
    balanced_epochs: int = 0,
    balanced_batch_size: int = 128,
    balanced_decays: tuple[int, ...] = (10,),
    learning_rate: float = 0.1,
    balanced_learning_rate: float = 0.01,
    momentum: float = 0.9,
    weight_decay: float = 5e-4,
    initial_scale: float = 1.0,
    embedding_weight: float = 5.0,
    margin: float = 0.5,
    margin_weight: float = 1.0,
) -> Algorithm:
    """Unified classifier, incrementally learned via rebalancing.

    It answers with the classifier; with exemplars there is the view "nme", the nearest mean of
    exemplars. As a task begins, and where there are exemplars as it ends, all its examples go
    forward once, in chunks. Defaults are those of the official code for CIFAR-100 unless said.

    Args:
      exemplars_per_class: kept of each class, the paper's 20; 0 is UCIR without exemplars.
      replay_size: exemplars drawn a step; enough is batch size * exemplars / examples of a task;
        64 is ours, see Departs.
      hardest: K, new classes nearest to an exemplar that the margin loss compares it with.
      freeze_old_weights: classifier weights of past classes stay as they are.
      decays: epochs of each task after which the rate falls tenfold.
      balanced_epochs: passes over the exemplars of all classes after each task but the first; none
        for CIFAR-100, 20 for ImageNet.
      balanced_batch_size: exemplars a step of them.
      balanced_decays: epochs of them after which their rate falls tenfold; official code, ImageNet.
      learning_rate: of everything, >= 0; the same in every phase.
      balanced_learning_rate: of the classifier's weights in the phase "balanced", >= 0; official
        code, ImageNet.
      momentum: in [0, 1).
      weight_decay: L2, added to the gradient of everything, the scale included, >= 0.
      initial_scale: eta, by which cosines are multiplied at first, learnable; 10 speeds up small
        runs.
      embedding_weight: lambda_base, >= 0; 10 for ImageNet.
      margin: m, of cosines, in [0, 2].
      margin_weight: of the margin loss, >= 0.

    Raises:
      InputError: for a size that cannot be, or a balanced phase without exemplars.
    """
    check_range("exemplars_per_class", exemplars_per_class, 0)
    check_range("replay_size", replay_size, 1)
    check_range("hardest", hardest, 1)
    check_range("balanced_epochs", balanced_epochs, 0)
    check_range("balanced_batch_size", balanced_batch_size, 1)
    if balanced_epochs and not exemplars_per_class:
        raise InputError(
            f"balanced_epochs is {balanced_epochs} and exemplars_per_class 0: nothing to "
            "learn from; keep exemplars, or use balanced_epochs 0"
        )
    check_milestones("decays", decays)
    check_milestones("balanced_decays", balanced_decays)
    extractor, augment, num_classes = problem.extractor(), problem.augment, problem.num_classes
    # Without exemplars there is one slot, which stays empty.
    num_slots = max(num_classes * exemplars_per_class, 1)
    replay_size = min(replay_size, num_slots)
    balanced_size = min(balanced_batch_size, num_slots)

    def features(vars: Variables, x: Array) -> Array:
        """float32[b, d] of unit length, from images as the network takes them."""
        return unit(extractor.apply(vars, x, train=False)[0].features)

    def test_features(vars: Variables, x: Array) -> Array:
        """The same from raw images."""
        return features(vars, augment.test(x))

    def restart(state: UcirState) -> UcirState:
        """Both optimizers as new, the phase at its first step."""
        new = torch_sgd(0.0, momentum, weight_decay).init
        extractor, classifier = (
            model.replace(opt=new(model.vars.params))
            for model in (state.extractor, state.classifier)
        )
        return state.replace(extractor=extractor, classifier=classifier, step=jnp.int32(0))

    def init(key: Array, example: Batch) -> UcirState:
        key_extractor, key_weights = jax.random.split(key)
        trunk = extractor.init(key_extractor, augment.test(example.x))
        shape = jax.eval_shape(test_features, trunk, example.x)
        weights = initial_weights(key_weights, (num_classes, shape.shape[1]))
        head = {"weights": weights, "scale": jnp.array(initial_scale, jnp.float32)}
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
        )
        return restart(state)

    def begin_task(key: Array, state: UcirState, task: Task, data: Batch | None) -> UcirState:
        assert data is not None  # begin_data
        past, seen = state.seen, state.seen | task.classes
        every = in_chunks(partial(test_features, state.extractor.vars), data.x)
        prototypes = class_means(every, data.y, data.valid, num_classes)
        new = seen & ~past & past.any()
        weights = imprint(state.classifier.vars.params["weights"], prototypes, new, past)
        state = state.replace(
            classifier=with_params(state.classifier, weights=weights),
            old=jax.tree.map(jnp.copy, state.extractor.vars),
            past=past,
            seen=seen,
            task_size=told_rows(data, seen).sum(dtype=jnp.int32),
        )
        return restart(state)

    def step(key: Array, state: UcirState, batch: Batch) -> tuple[UcirState, Metrics]:
        key_draw, key_keep, key_augment = jax.random.split(key, 3)
        b, new = len(batch.y), state.seen & ~state.past
        batch = batch.replace(valid=told_rows(batch, state.seen))
        mixed = mix_exemplars(key_draw, key_keep, state.memory, batch, state.task_size, replay_size)
        x, valid = augment.train(key_augment, mixed.x), mixed.weight > 0
        old_features = features(state.old, x)
        hold_weight = adaptive_weight(embedding_weight, new, state.past)

        def loss(trunk, head):
            vars = state.extractor.vars.replace(params=trunk)
            output, stats = extractor.apply(vars, x, train=True, valid=valid)
            now = unit(output.features)
            cosines = cosine_logits(now, head["weights"], jnp.float32(1))
            logits = head["scale"] * cosines

            def loss_of(part: slice):
                ce = cross_entropy(
                    logits[part], mixed.y[part], valid=valid[part], classes=state.seen
                )
                drift = embedding_loss(now[part], old_features[part], valid[part]) / 2
                return ce + hold_weight * drift

            share = mixed.weight[b:].sum() / jnp.maximum(mixed.weight.sum(), 1)
            learned = (1 - share) * loss_of(slice(b)) + share * loss_of(slice(b, None))
            ranking = margin_ranking(cosines, mixed.y, new, valid, margin, hardest)
            return learned + margin_weight * ranking, stats

        before = state.extractor.vars.params, state.classifier.vars.params
        (value, stats), gradient = jax.value_and_grad(loss, argnums=(0, 1), has_aux=True)(*before)
        optimizer = torch_sgd(
            learning_rate * step_decay(batch.epoch, decays), momentum, weight_decay
        )
        trunk = apply_gradient(state.extractor, optimizer, gradient[0], stats)
        head = apply_gradient(state.classifier, optimizer, gradient[1], {})
        if freeze_old_weights:
            old, moved = before[1]["weights"], head.vars.params["weights"]
            head = with_params(head, weights=jnp.where(state.past[:, None], old, moved))
        return state.replace(extractor=trunk, classifier=head), {"loss": value}

    def update_exemplars(key: Array, state: UcirState, task: Task, data: Batch | None) -> UcirState:
        assert data is not None  # end_data, or enter_data
        features_of = partial(test_features, state.extractor.vars)
        memory, means = select_exemplars(
            features_of, state.memory, data, task.classes, exemplars_per_class
        )
        return restart(state.replace(memory=memory, means=means))

    def balanced(key: Array, state: UcirState, batch: Batch) -> tuple[UcirState, Metrics]:
        key_draw, key_augment = jax.random.split(key)
        model, new = state.classifier, state.seen & ~state.past
        drawn = reservoir(num_slots).sample(key_draw, state.memory, balanced_size)
        y, valid = drawn.items["y"], drawn.valid
        now = features(state.extractor.vars, augment.train(key_augment, drawn.items["x"]))
        scale = model.vars.params["scale"]

        def loss(head):
            cosines = cosine_logits(now, head["weights"], jnp.float32(1))
            ranking = margin_ranking(cosines, y, new, valid, margin, hardest)
            ce = cross_entropy(scale * cosines, y, valid=valid, classes=state.seen)
            return ce + margin_weight * ranking

        value, gradient = jax.value_and_grad(loss)(model.vars.params)
        epoch = state.step // jnp.maximum(-(-state.memory.seen // balanced_size), 1)
        rate = balanced_learning_rate * step_decay(epoch, balanced_decays)
        moved = apply_gradient(model, torch_sgd(rate, momentum, weight_decay), gradient, {})
        moved = with_params(moved, scale=scale)
        on = state.past.any() & (epoch < balanced_epochs)
        state = state.replace(classifier=select(on, moved, model), step=state.step + 1)
        return state, {"loss": value}

    def predict(state: UcirState, x: Array, task: Task) -> Array:
        now, head = test_features(state.extractor.vars, x), state.classifier.vars.params
        return mask_logits(cosine_logits(now, head["weights"], head["scale"]), state.seen)

    def nme(state: UcirState, x: Array, task: Task) -> Array:
        return nearest_mean(test_features(state.extractor.vars, x), state.means)

    phases, at_the_end = (Phase("train", step),), exemplars_per_class > 0
    if balanced_epochs:
        num_steps = balanced_epochs * -(-num_slots // balanced_size)
        kind = {"enter": update_exemplars, "enter_data": True, "num_steps": num_steps}
        phases, at_the_end = (*phases, Phase("balanced", balanced, **kind)), False
    return Algorithm(
        init=init,
        phases=phases,
        predict=predict,
        begin_task=begin_task,
        end_task=update_exemplars if at_the_end else unchanged,
        views={"nme": nme} if exemplars_per_class else {},
        needs=Needs(told_task=True, boundaries=True, begin_data=True, end_data=at_the_end),
        capacity=parameter_bits("extractor", "classifier"),
        class_il=True,
    )
