"""DER, dynamically expandable representation: each task adds an extractor, and all old ones rest.

F_t starts as a copy of F_{t-1}, which is frozen for good, BatchNorm statistics included. One
classifier W without bias reads the features of all, ``u(x) = [F_1(x), ..., F_t(x)]``. A task has
two phases. "representation": ``CE(W u(x), y) + lambda_a CE(A F_t(x), y_a)`` over the task's
examples and all exemplars trains F_t, W and the auxiliary head A, whose classes are "old" and the
task's own, so that F_t learns what the others do not see. "classifier": W is drawn anew and learns
``CE(W u(x) / T, y)`` on a subset with equally many examples of each class. The first task has
neither an auxiliary loss nor the second phase. As a task ends its exemplars are herded on u.

===============  ====================  ==========================================================
symbol           name                  default from
===============  ====================  ==========================================================
lambda_a         auxiliary_weight      official code
T                temperature           official configuration for CIFAR-100
2000             memory_size           official configuration for CIFAR-100, 10 classes a task
===============  ====================  ==========================================================

Places for all extractors are there from the start, so a task more recompiles nothing; those in use
are run one after another. (ResNet-18 of width 8, batch 32, 2 CPU cores: 6 ms for each in use; all
five places at once by vmap took 180 ms, five calls side by side 25 ms, whatever is in use.)

Source: Yan, Xie and He 2021 (CVPR; arXiv 2103.16788), section 3; Rhyssiyan/DER-ClassIL.pytorch,
inclearn/models/incmodel.py, convnet/network.py, convnet/utils.py, configs/1.yaml of cifar100/b0.
Departs: the official code shuffles the exemplars among the examples, here they stand beside the
stream's batches (``exemplars.mix_exemplars``), and batches of the second phase are drawn anew each
time, so both are learned as often as there, but on average. Its scale of the last BatchNorm of a
block starts at 0, here at 1; its images also change in brightness. Exemplars are herded as iCaRL's
paper has it; the official loop can come back to one it has. A class that comes back in a later task
counts as old; it is herded anew. A row of a class not told so far is padding.
"""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
from flax import struct

from cls_jax.core.checks import check_range
from cls_jax.core.herding import unit
from cls_jax.core.losses import cross_entropy, mask_logits, row_cross_entropy
from cls_jax.core.memory import Memory, reservoir
from cls_jax.core.sync import select
from cls_jax.core.types import Array, Batch, Metrics, PyTree, Task, Trainable, Variables
from cls_jax.methods.base import Algorithm, Needs, Phase, method
from cls_jax.methods.checks import check_milestones, check_replay
from cls_jax.methods.heads import index_tree, without_head
from cls_jax.methods.problem import Problem
from cls_jax.methods.prototypes.cosine import step_decay, with_params
from cls_jax.methods.prototypes.exemplars import (
    balanced_subset,
    check_exemplars,
    mix_exemplars,
    no_exemplars,
    select_exemplars,
)
from cls_jax.methods.steps import apply_gradient, bits_of, told_rows, torch_sgd
from cls_jax.nets.base import no_head

_NEVER = 2**31 - 1


class DerExpandableState(struct.PyTreeNode):
    """What DER carries from step to step; there are places for E extractors.

    Attributes:
      extractor: F_t, the newest.
      classifier: params {"weights": W float32[C, E, d], "auxiliary": A float32[C + 1, d]}; of
        W[:, j] those of a place j not in use meet features of zero, of A the first row is "old".
      frozen: F_1 to F_{t-1}, leaves [max(E - 1, 1), ...].
      memory: the exemplars.
      balanced: what the phase "classifier" learns from, slots {x, y}.
      came: int32[C] the task that each class came with; 2**31 - 1: not seen so far.
      task: int32[] the task being learned, or the last one.
      task_size: int32[] examples of this task that are learned from.
      epoch: int32[] of the last step of the phase "representation".
      step: int32[] made in the phase "classifier" of this task.
    """

    extractor: Trainable
    classifier: Trainable
    frozen: Variables
    memory: Memory
    balanced: Memory
    came: Array
    task: Array
    task_size: Array
    epoch: Array
    step: Array

    @property
    def past(self) -> Array:
        """bool[C] classes of earlier tasks."""
        return self.came < self.task

    @property
    def seen(self) -> Array:
        """bool[C] classes of earlier tasks and of this one."""
        return self.came <= self.task


@method
def der_expandable(
    problem: Problem,
    *,
    memory_size: int = 2000,
    replay_size: int = 64,
    grow: bool = True,
    warm_start: bool = True,
    warmup_epochs: int = 10,
    decays: tuple[int, ...] = (110, 130),
    balanced_epochs: int = 30,
    balanced_batch_size: int = 128,
    balanced_decays: tuple[int, ...] = (15,),
    learning_rate: float = 0.1,
    balanced_learning_rate: float = 0.1,
    momentum: float = 0.9,
    weight_decay: float = 5e-4,
    auxiliary_weight: float = 1.0,
    temperature: float = 5.0,
) -> Algorithm:
    """Dynamically expandable representation: an extractor a task, one classifier over all.

    As a task begins and ends, all its examples are handed over; at the end they go forward once,
    in chunks. Defaults are those of the official code for CIFAR-100 unless said.

    Args:
      memory_size: exemplars in all, the same number of each class seen; at least one a class.
      replay_size: exemplars drawn a step; enough is batch size * exemplars / examples of a task;
        64 is ours, see Departs.
      grow: a new extractor with each task; False: one learns them all, the control.
      warm_start: a new extractor is a copy of the newest; False: it is drawn anew.
      warmup_epochs: passes in which the rate rises to its height; then both heads are drawn anew.
      decays: passes of each task, from 0, from which the rate is a tenth of what it was before;
        official code as its scheduler really runs: 100 and 120 count from the end of the warm-up.
      balanced_epochs: passes of the phase "classifier"; 0: there is none.
      balanced_batch_size: examples a step of them.
      balanced_decays: passes of them from which their rate is a tenth of what it was before.
      learning_rate: of everything in the phase "representation", >= 0.
      balanced_learning_rate: of the classifier in the phase "classifier", >= 0.
      momentum: of both phases, in [0, 1).
      weight_decay: L2, added to the gradient of all that is trained, >= 0.
      auxiliary_weight: lambda_a, >= 0; 0: F_t learns as if the others were not there.
      temperature: T, by which logits are divided in the phase "classifier", > 0; 1 for ImageNet.

    Raises:
      InputError: if a class gets no exemplar, for a size that cannot be, or a network without
        features.
    """
    check_exemplars(memory_size, problem.num_classes)
    check_replay(memory_size, replay_size)
    check_range("warmup_epochs", warmup_epochs, 0)
    check_range("balanced_epochs", balanced_epochs, 0)
    check_range("balanced_batch_size", balanced_batch_size, 1)
    check_milestones("decays", decays)
    check_milestones("balanced_decays", balanced_decays)
    net, augment, num_classes = problem.net(), problem.augment, problem.num_classes
    extract, head = net.features, net.head
    if extract is None or head is None:
        raise no_head("der_expandable joins features, what the last layer is shown", net)
    places = problem.num_tasks if grow else 1
    # Old classes have at most the memory; the new ones get as much room.
    policy = reservoir(2 * memory_size)
    balanced_size = min(balanced_batch_size, policy.capacity)

    def new_extractor(key: Array, x: Array) -> Variables:
        vars = net.init(key, augment.test(x))
        return vars.replace(params=without_head(vars.params, head))

    def place(state: DerExpandableState) -> Array:
        """int32[], where F_t stands among the extractors."""
        return jnp.minimum(state.task, places - 1)

    def frozen_features(state: DerExpandableState, x: Array) -> Array:
        """float32[b, E, d] of F_1 to F_{t-1}, zero elsewhere, from images as the network takes
        them."""

        def features(j: Array | int) -> Array:
            return extract(index_tree(state.frozen, j), x, train=False)[0]

        shape = jax.eval_shape(features, 0)
        none = jnp.zeros((shape.shape[0], places, shape.shape[1]), shape.dtype)
        if not grow:
            return none
        return jax.lax.fori_loop(0, place(state), lambda j, u: u.at[:, j].set(features(j)), none)

    def all_features(state: DerExpandableState, x: Array) -> Array:
        """float32[b, E, d] of F_1 to F_t as they answer, likewise."""
        newest, _ = extract(state.extractor.vars, x, train=False)
        return frozen_features(state, x).at[:, place(state)].set(newest)

    def restart(state: DerExpandableState) -> DerExpandableState:
        """Both optimizers as new, each phase at its first step."""
        new = torch_sgd(0.0, momentum, weight_decay).init
        extractor, classifier = (
            model.replace(opt=new(model.vars.params))
            for model in (state.extractor, state.classifier)
        )
        start = {"epoch": jnp.int32(0), "step": jnp.int32(0)}
        return state.replace(extractor=extractor, classifier=classifier, **start)

    def init(key: Array, example: Batch) -> DerExpandableState:
        vars = new_extractor(key, example.x)
        x = augment.test(example.x)
        size = jax.eval_shape(lambda: extract(vars, x, train=False)[0]).shape[1]
        weights = {"weights": (num_classes, places, size), "auxiliary": (num_classes + 1, size)}
        heads = {name: jnp.zeros(shape) for name, shape in weights.items()}
        spare = max(places - 1, 1)
        state = DerExpandableState(
            extractor=Trainable(vars, None),
            classifier=Trainable(Variables(params=heads, stats={}), None),
            frozen=jax.tree.map(lambda leaf: jnp.zeros((spare, *leaf.shape), leaf.dtype), vars),
            memory=no_exemplars(example, memory_size),
            balanced=policy.init({"x": example.x, "y": example.y}),
            came=jnp.full(num_classes, _NEVER, jnp.int32),
            task=jnp.int32(0),
            task_size=jnp.int32(0),
            epoch=jnp.int32(0),
            step=jnp.int32(0),
        )
        return restart(state)

    def begin_task(
        key: Array, state: DerExpandableState, task: Task, data: Batch | None
    ) -> DerExpandableState:
        assert data is not None  # begin_data
        key_extractor, key_heads = jax.random.split(key)
        newest, frozen, later = state.extractor.vars, state.frozen, task.index > 0
        if grow:
            to = jnp.where(later, task.index - 1, places)  # out of bounds: dropped
            frozen = jax.tree.map(lambda all, new: all.at[to].set(new, mode="drop"), frozen, newest)
        if grow and not warm_start:
            newest = select(later, new_extractor(key_extractor, data.x), newest)
        came = jnp.where(task.classes & (state.came == _NEVER), task.index, state.came)
        state = state.replace(
            extractor=state.extractor.replace(vars=newest),
            frozen=frozen,
            came=came,
            task=task.index,
        )
        return restart(
            state.replace(
                classifier=with_params(state.classifier, **kaiming(key_heads, state)),
                task_size=told_rows(data, state.seen).sum(dtype=jnp.int32),
            )
        )

    def fan_in(state: DerExpandableState) -> dict[str, Array]:
        """How many numbers an output of each head hears; those of W in places in use alone."""
        heads = state.classifier.vars.params
        size = jnp.float32(heads["auxiliary"].shape[1])
        return {"weights": size * (place(state) + 1), "auxiliary": size}

    def kaiming(key: Array, state: DerExpandableState) -> dict[str, Array]:
        """Both heads as a task begins: normal, of variance 1 / fan in."""
        heads, keys = state.classifier.vars.params, jax.random.split(key)
        return {
            name: jax.random.normal(k, heads[name].shape) / jnp.sqrt(size)
            for k, (name, size) in zip(keys, fan_in(state).items(), strict=True)
        }

    def redrawn(key: Array, state: DerExpandableState) -> dict[str, Array]:
        """Both heads as PyTorch draws a layer: uniform in +-1 / sqrt(fan in)."""
        heads, keys = state.classifier.vars.params, jax.random.split(key)
        return {
            name: jax.random.uniform(k, heads[name].shape, minval=-1) / jnp.sqrt(size)
            for k, (name, size) in zip(keys, fan_in(state).items(), strict=True)
        }

    def learn_features(
        key: Array, state: DerExpandableState, batch: Batch
    ) -> tuple[DerExpandableState, Metrics]:
        key_heads, key_draw, key_keep, key_augment = jax.random.split(key, 4)
        past, seen, number = state.past, state.seen, place(state)
        batch = batch.replace(valid=told_rows(batch, seen))
        mixed = mix_exemplars(key_draw, key_keep, state.memory, batch, state.task_size, replay_size)
        x, y, valid = augment.train(key_augment, mixed.x), mixed.y, mixed.weight > 0
        classifier = state.classifier
        if warmup_epochs:
            over = (batch.epoch >= warmup_epochs) & (state.epoch < warmup_epochs)
            heads = select(over, redrawn(key_heads, state), classifier.vars.params)
            classifier = with_params(classifier, **heads)
        old_features = frozen_features(state, x)
        own_y, own_classes = auxiliary_targets(y, seen & ~past)
        own_weight = jnp.where(past.any(), auxiliary_weight, 0.0)

        def mean(rows: Array) -> Array:
            return (mixed.weight * rows).sum() / jnp.maximum(mixed.weight.sum(), 1)

        def loss(trunk: PyTree, heads: PyTree):
            vars = state.extractor.vars.replace(params=trunk)
            newest, stats = extract(vars, x, train=True, valid=valid)
            logits = joint_logits(heads["weights"], old_features.at[:, number].set(newest))
            ce = row_cross_entropy(logits, y, valid=valid, classes=seen)
            own = newest @ heads["auxiliary"].T
            own_ce = row_cross_entropy(own, own_y, valid=valid, classes=own_classes)
            return mean(ce) + own_weight * mean(own_ce), stats

        before = state.extractor.vars.params, classifier.vars.params
        (value, stats), gradient = jax.value_and_grad(loss, argnums=(0, 1), has_aux=True)(*before)
        rate = learning_rate * rate_factor(jnp.asarray(batch.epoch), warmup_epochs, decays)
        optimizer = torch_sgd(rate, momentum, weight_decay)
        state = state.replace(
            extractor=apply_gradient(state.extractor, optimizer, gradient[0], stats),
            classifier=apply_gradient(classifier, optimizer, gradient[1], {}),
            epoch=jnp.asarray(batch.epoch, jnp.int32),
        )
        return state, {"loss": value}

    def begin_classifier(
        key: Array, state: DerExpandableState, task: Task, data: Batch | None
    ) -> DerExpandableState:
        assert data is not None  # enter_data
        key_subset, key_heads = jax.random.split(key)
        balanced = balanced_subset(key_subset, state.memory, data, state.seen, policy)
        later = state.past.any()
        heads = select(later, redrawn(key_heads, state), state.classifier.vars.params)
        classifier = with_params(state.classifier, **heads)
        return restart(state.replace(classifier=classifier, balanced=balanced))

    def learn_classifier(
        key: Array, state: DerExpandableState, batch: Batch
    ) -> tuple[DerExpandableState, Metrics]:
        del batch  # this phase learns from ``balanced`` alone
        key_draw, key_augment = jax.random.split(key)
        model = state.classifier
        epoch_steps = jnp.maximum(-(-state.balanced.seen // balanced_size), 1)
        epoch = state.step // epoch_steps
        rate = balanced_learning_rate * step_decay(epoch, balanced_decays)

        def moved() -> tuple[Trainable, Array]:
            drawn = policy.sample(key_draw, state.balanced, balanced_size)
            u = all_features(state, augment.train(key_augment, drawn.items["x"]))

            def loss(heads: PyTree) -> Array:
                logits = joint_logits(heads["weights"], u) / temperature
                return cross_entropy(
                    logits, drawn.items["y"], valid=drawn.valid, classes=state.seen
                )

            value, gradient = jax.value_and_grad(loss)(model.vars.params)
            after = apply_gradient(model, torch_sgd(rate, momentum, weight_decay), gradient, {})
            return after, value

        # Of the first task, and behind the last pass, nothing.
        on = state.past.any() & (epoch < balanced_epochs)
        model, value = jax.lax.cond(on, moved, lambda: (model, jnp.float32(0)))
        return state.replace(classifier=model, step=state.step + 1), {"loss": value}

    def end_task(
        key: Array, state: DerExpandableState, task: Task, data: Batch | None
    ) -> DerExpandableState:
        assert data is not None  # end_data
        size = memory_size // jnp.maximum(state.seen.sum(), 1)

        def features_of(x: Array) -> Array:
            return unit(all_features(state, augment.test(x)).reshape(len(x), -1))

        memory, _ = select_exemplars(features_of, state.memory, data, task.classes, size)
        return state.replace(memory=memory)

    def predict(state: DerExpandableState, x: Array, task: Task) -> Array:
        weights = state.classifier.vars.params["weights"]
        return mask_logits(joint_logits(weights, all_features(state, augment.test(x))), state.seen)

    def capacity(state: DerExpandableState) -> Mapping[str, Array]:
        tasks, weights = jnp.arange(problem.num_tasks), state.classifier.vars.params["weights"]
        extractors = jnp.minimum(tasks + 1, places)
        classes = (state.came <= tasks[:, None]).sum(axis=1)
        of_extractor, of_column = bits_of(state.extractor.vars), bits_of(weights[0, 0])
        return {"bits": extractors * (of_extractor + 1.0 * classes * of_column)}

    phases = (Phase("representation", learn_features),)
    if balanced_epochs:
        num_steps = balanced_epochs * -(-policy.capacity // balanced_size)
        kind = {"enter": begin_classifier, "enter_data": True, "num_steps": num_steps}
        phases = (*phases, Phase("classifier", learn_classifier, **kind))
    return Algorithm(
        init=init,
        phases=phases,
        predict=predict,
        begin_task=begin_task,
        end_task=end_task,
        needs=Needs(told_task=True, boundaries=True, begin_data=True, end_data=True),
        capacity=capacity,
        class_il=True,
    )


def joint_logits(weights: Array, features: Array) -> Array:
    """float32[b, C], ``W u(x)``: W float32[C, E, d] over the joined features float32[b, E, d]."""
    return jnp.einsum("bed,ced->bc", features, weights)


def auxiliary_targets(y: Array, new: Array) -> tuple[Array, Array]:
    """What the auxiliary head should say: 0 for an old class, else the place among the new ones.

    Args:
      y: int32[b] labels; anything in invalid rows.
      new: bool[C] classes of this task.

    Returns:
      int32[b] from 0 to the number of new classes, and bool[C + 1], which outputs there are.

    Source: section 3.2; incmodel.py, "aux_n+1"; card O1: of 3 old and 3 new classes 0, 1, 3, 4, 5
      are 0, 0, 1, 2, 3.
    """
    number = jnp.where(new, jnp.cumsum(new), 0)
    return number[y], jnp.arange(new.size + 1) <= new.sum()


def rate_factor(epoch: Array, warmup_epochs: int, decays: tuple[int, ...]) -> Array:
    """What the learning rate is multiplied by, float32[].

    Args:
      epoch: int32[] from 0.
      warmup_epochs: in which it rises in equal steps, to 1 in the last of them.
      decays: epochs from which it is a tenth of what it was before.

    Source: card O3: with 10 and (110, 130) a tenth in epoch 0, 1 from 9 to 109, .01 from 130.
    """
    rise = jnp.minimum((epoch + 1) / max(warmup_epochs, 1), 1)
    return jnp.asarray(rise * step_decay(epoch, decays), jnp.float32)
