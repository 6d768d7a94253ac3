"""Co2L, contrastive continual learning: an encoder learns what is alike, then a linear classifier.

A task has two phases. "contrast" trains an encoder e and a projection h on two views of each of B
images, of the task and of exemplars; z = h(e(x)) / |h(e(x))|, q_ik(T) = softmax_{k != i}(z_i z_k /
T), and q' is q in the network as it was when the task began:

  L_asym = 1/2B sum_{i of the task} -T / T_b mean_{p of i's class} log q_ip(T)
  L_ird = 1/2B sum_i -sum_k q'_ik(T_p) log q_ik(T_c),      L = L_asym + lambda L_ird

Exemplars are what others are unlike, never anchors, so that the few are not fitted too closely. The
distillation, from the second task on, keeps how images resemble each other. "classifier": a fresh
linear layer on e(x), which rests, learns cross-entropy on the task's images and the exemplars,
drawn with equal shares of classes. Then exemplars are drawn anew at random, in equal shares.

| symbol | name | default |
|---|---|---|
| M | memory_size | 200, official code |
| T, T_b | temperature, base_temperature | 0.5, 0.07, official code |
| T_c, T_p | similarity_temperature, teacher_temperature | 0.2, 0.01, official code |
| lambda | distillation_weight | 1, official code |

Source: Cha, Lee and Shin 2021 (ICCV; arXiv 2106.14413); chaht01/Co2L at 3af7064, main.py, util.py,
losses_negative_only.py, main_linear_buffer.py. The optimizer lives through all tasks. The teacher
stays in training mode there, so its BatchNorm uses the batch's statistics.
Departs: the code shuffles exemplars among the task's images, here they stand beside the stream's
batches (``exemplars.mix_exemplars``): as often, but on average. Views are ``augment.view``: padded
crops, not resized ones, and blurred. There the classifier is fitted once, after the last task, to
all classes, in epochs of its own batches; here after each task, to the classes seen, one step a
batch of the task. Labels tell anchors, so exemplars of a class that comes back (domain-IL) are
anchors too; the code's Rotated MNIST has labels of its own for each angle. A row of a class not
told so far is padding.
"""

from functools import partial
from typing import Literal

import jax
import jax.numpy as jnp
import optax
from flax import struct

from cls_jax.core.checks import check_range
from cls_jax.core.contrastive import relation_distillation, supervised_contrastive
from cls_jax.core.errors import InputError
from cls_jax.core.losses import cross_entropy, mask_logits
from cls_jax.core.memory import Memory, reservoir
from cls_jax.core.types import Array, Batch, Metrics, PyTree, Scalar, Task, Trainable, Variables
from cls_jax.methods.base import Algorithm, Needs, Phase, method
from cls_jax.methods.checks import check_milestones, check_replay, warmup_advice
from cls_jax.methods.problem import Problem
from cls_jax.methods.prototypes.cosine import step_decay
from cls_jax.methods.prototypes.exemplars import check_exemplars, mix_exemplars
from cls_jax.methods.replay.co2l_network import parts_of
from cls_jax.methods.replay.co2l_rate import rate_of
from cls_jax.methods.replay.co2l_sampling import equal_shares, label_counts, random_shares
from cls_jax.methods.steps import apply_gradient, gradient_of, gradient_step, told_rows, torch_sgd

FALL = 0.2
"""What the classifier's rate is multiplied by at each of its decays."""


class Co2lState(struct.PyTreeNode):
    """What Co2L carries from step to step.

    Attributes:
      model: params {"encoder": of e, "head": of h}.
      teacher: the model as it was when the task began.
      classifier: the linear layer that answers.
      memory: the exemplars, slots {x, y}; ``seen`` are filled, the first ones.
      reference: examples for the classifier alone, likewise; () if it learns from the exemplars.
      past, current: bool[C] classes of earlier tasks, and of this one.
      counts: int32[C] images of this task.
      step: int32[] made in this task's phase "contrast".
    """

    model: Trainable
    teacher: Variables
    classifier: Trainable
    memory: Memory
    reference: PyTree
    past: Array
    current: Array
    counts: Array
    step: Array

    @property
    def seen(self) -> Array:
        """bool[C] classes of earlier tasks and of this one."""
        return self.past | self.current


@method
def co2l(
    problem: Problem,
    *,
    memory_size: int = 200,
    replay_size: int = 32,
    objective: Literal["asymmetric", "symmetric", "cross_entropy"] = "asymmetric",
    teacher_statistics: Literal["batch", "running"] = "batch",
    warmup_epochs: int = 10,
    base_cosine_epochs: int = 500,
    cosine_epochs: int = 100,
    classifier_epochs: int = 100,
    classifier_batch_size: int = 256,
    classifier_decays: tuple[int, ...] = (60, 75, 90),
    reference_size: int = 0,
    learning_rate: float = 0.5,
    warmup_learning_rate: float = 0.01,
    classifier_learning_rate: float = 1.0,
    momentum: float = 0.9,
    weight_decay: float = 1e-4,
    distillation_weight: float = 1.0,
    temperature: float = 0.5,
    base_temperature: float = 0.07,
    similarity_temperature: float = 0.2,
    teacher_temperature: float = 0.01,
) -> Algorithm:
    """Contrastive continual learning, and a linear classifier on its features after each task.

    As a task begins and ends, all its examples are handed over. Views have mean and deviation .5,
    so normalisation "half" shows images to the classifier as the encoder learned them. Defaults are
    those of the official code for Split CIFAR-10 unless said.

    Args:
      memory_size: M, exemplars in all, equal shares of the classes seen; at least one a class.
      replay_size: exemplars drawn a step; enough is batch size * exemplars / examples of a task;
        of fewer all are used, and weigh no more. 32 is ours, see Departs.
      objective: anchors are the task's images ("asymmetric") or all ("symmetric"). "cross_entropy"
        is a control: h is a last layer over the classes seen, and there is no teacher.
      teacher_statistics: the teacher's BatchNorm uses the "batch"'s (code) or its "running" ones.
      warmup_epochs: passes of each task in which the rate rises linearly, step by step.
      base_cosine_epochs: passes of the first task's cosine; as many as it has.
      cosine_epochs: passes of each later task's; all warm-ups end on this one.
      classifier_epochs: passes over the task in the phase "classifier".
      classifier_batch_size: rows that each of its steps draws.
      classifier_decays: passes of it from which the rate is a fifth of what it was before.
      reference_size: examples of earlier tasks for the classifier alone, in place of exemplars: as
        many as the stream has give the upper bound, all data; 0: none.
      learning_rate: of the phase "contrast", where its cosine begins, >= 0.
      warmup_learning_rate: where the warm-up begins, >= 0.
      classifier_learning_rate: of the linear layer, >= 0.
      momentum: of both phases, in [0, 1).
      weight_decay: L2, added to the gradient of encoder and projection, >= 0.
      distillation_weight: lambda, >= 0.
      temperature: T, of the contrastive loss, > 0.
      base_temperature: T_b, by which that loss is divided, > 0.
      similarity_temperature: T_c, of the similarities that learn, > 0.
      teacher_temperature: T_p, of the teacher's, > 0.

    Raises:
      InputError: if a class gets no exemplar, for a size that cannot be, a network without
        features, or examples without views.
    """
    check_exemplars(memory_size, problem.num_classes)
    check_replay(memory_size, replay_size)
    check_range("warmup_epochs", warmup_epochs, 0)
    check_range("base_cosine_epochs", base_cosine_epochs, 1)
    check_range("cosine_epochs", cosine_epochs, 1)
    check_range("classifier_epochs", classifier_epochs, 1)
    check_range("classifier_batch_size", classifier_batch_size, 1)
    check_range("reference_size", reference_size, 0)
    check_milestones("classifier_decays", classifier_decays)
    augment, num_classes = problem.augment, problem.num_classes
    view = augment.view
    contrasts = objective != "cross_entropy"
    net = parts_of(problem.net(), problem.networks.dtype, projects=contrasts)
    if view is None:
        raise InputError("co2l learns from two views of an image, and these have none; give images")

    def sgd(rate: Scalar) -> optax.GradientTransformation:
        return torch_sgd(rate, momentum, weight_decay)

    def fresh_classifier(key: Array, x: Array) -> Trainable:
        layer = net.linear(key, augment.test(x))
        return Trainable(Variables(layer, {}), torch_sgd(0.0, momentum, 0.0).init(layer))

    def init(key: Array, example: Batch) -> Co2lState:
        key_model, key_classifier = jax.random.split(key)
        model = net.init(key_model, augment.test(example.x))
        items = {"x": example.x, "y": example.y}
        return Co2lState(
            model=Trainable(model, sgd(0.0).init(model.params)),
            teacher=jax.tree.map(jnp.copy, model),
            classifier=fresh_classifier(key_classifier, example.x),
            memory=reservoir(memory_size).init(items),
            reference=reservoir(reference_size).init(items) if reference_size else (),
            past=jnp.zeros(num_classes, bool),
            current=jnp.zeros(num_classes, bool),
            counts=jnp.zeros(num_classes, jnp.int32),
            step=jnp.int32(0),
        )

    def begin_task(key: Array, state: Co2lState, task: Task, data: Batch | None) -> Co2lState:
        assert data is not None  # begin_data
        told = told_rows(data, state.seen | task.classes)
        return state.replace(
            teacher=jax.tree.map(jnp.copy, state.model.vars),
            past=state.seen,
            current=jnp.copy(task.classes),
            counts=label_counts(data.y, told, num_classes),
            step=jnp.int32(0),
        )

    def contrast(key: Array, state: Co2lState, batch: Batch) -> tuple[Co2lState, Metrics]:
        key_draw, key_keep, *keys = jax.random.split(key, 4)
        seen, task_size, later = state.seen, state.counts.sum(), state.past.any()
        batch = batch.replace(valid=told_rows(batch, seen))
        mixed = mix_exemplars(key_draw, key_keep, state.memory, batch, task_size, replay_size)
        x = jnp.concatenate([view(k, mixed.x, number) for number, k in enumerate(keys)])
        y, valid = jnp.tile(mixed.y, 2), jnp.tile(mixed.weight > 0, 2)
        anchors = state.current[y] | (objective == "symmetric")

        def contrastive(model: Variables) -> tuple[Array, tuple[PyTree, Array]]:
            by_batch = teacher_statistics == "batch"
            taught, _ = net.project(state.teacher, x, train=by_batch, valid=valid)
            z, stats = net.project(model, x, train=True, valid=valid)
            asym = supervised_contrastive(
                *(z, y, anchors),
                valid=valid,
                temperature=temperature,
                base_temperature=base_temperature,
            )
            ird = relation_distillation(
                *(z, taught),
                valid=valid,
                temperature=similarity_temperature,
                teacher_temperature=teacher_temperature,
            )
            ird = jnp.where(later, ird, 0)
            return asym + distillation_weight * ird, (stats, ird)

        def classified(model: Variables) -> tuple[Array, tuple[PyTree, Array]]:
            logits, stats = net.logits(model, model.params["head"], x, train=True, valid=valid)
            return cross_entropy(logits, y, valid=valid, classes=seen), (stats, jnp.float32(0))

        loss = contrastive if contrasts else classified
        (value, (stats, ird)), gradient = gradient_of(loss, state.model.vars)
        rate = rate_of(
            batch.epoch,
            state.step / jnp.maximum(-(-task_size // len(batch.y)), 1),
            (warmup_learning_rate, learning_rate),
            warmup_epochs,
            (jnp.where(later, cosine_epochs, base_cosine_epochs), cosine_epochs),
        )
        model = apply_gradient(state.model, sgd(rate), gradient, stats)
        metrics = {"loss": value, "distillation": ird}
        return state.replace(model=model, step=state.step + 1), metrics

    def begin_classifier(key: Array, state: Co2lState, task: Task, data: Batch | None) -> Co2lState:
        return state.replace(classifier=fresh_classifier(key, state.memory.slots["x"][:1]))

    def classify(key: Array, state: Co2lState, batch: Batch) -> tuple[Co2lState, Metrics]:
        key_draw, key_augment = jax.random.split(key)
        old = state.reference if reference_size else state.memory
        held = jnp.arange(len(old.slots["y"])) < old.seen
        told = told_rows(batch, state.seen)
        chance = equal_shares(batch.y, told, state.counts, old.slots["y"], held)
        row = jax.random.choice(key_draw, chance.size, (classifier_batch_size,), p=chance)
        x, y = (jnp.concatenate([getattr(batch, k), old.slots[k]])[row] for k in ("x", "y"))
        x, valid = augment.train(key_augment, x), chance[row] > 0

        def loss(layer: Variables) -> tuple[Array, PyTree]:
            logits, _ = net.logits(state.model.vars, layer.params, x, train=False)
            return cross_entropy(logits, y, valid=valid, classes=state.seen), {}

        decay = step_decay(jnp.asarray(batch.epoch), classifier_decays, FALL)
        optimizer = torch_sgd(classifier_learning_rate * decay, momentum, 0.0)
        classifier, value = gradient_step(state.classifier, optimizer, loss)
        return state.replace(classifier=classifier), {"loss": value}

    def end_task(key: Array, state: Co2lState, task: Task, data: Batch | None) -> Co2lState:
        assert data is not None  # end_data
        key_memory, key_reference = jax.random.split(key)
        data = data.replace(valid=told_rows(data, state.seen))
        memory = random_shares(key_memory, state.memory, data, num_classes)
        if reference_size:
            new = random_shares(key_reference, state.reference, data, num_classes)
            state = state.replace(reference=new)
        return state.replace(memory=memory)

    def predict(state: Co2lState, x: Array, task: Task) -> Array:
        layer = state.classifier.vars.params
        logits, _ = net.logits(state.model.vars, layer, augment.test(x), train=False)
        return mask_logits(logits.astype(jnp.float32), state.seen)

    phases = (
        Phase("contrast", contrast),
        Phase("classifier", classify, enter=begin_classifier, epochs=classifier_epochs),
    )
    return Algorithm(
        init=init,
        phases=phases,
        predict=predict,
        begin_task=begin_task,
        end_task=end_task,
        needs=Needs(told_task=True, boundaries=True, begin_data=True, end_data=True),
        advice=partial(warmup_advice, warmup_epochs),
        class_il=True,
    )
