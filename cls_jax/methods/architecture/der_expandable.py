"""DER, dynamically expandable representation: each task adds an extractor, and all old ones rest.

F_t starts as a copy of F_{t-1}, which is frozen for good, BatchNorm statistics included. One
classifier W without bias reads the features of all, ``u(x) = [F_1(x), ..., F_t(x)]``. A task has
two phases. "representation": ``CE(W u(x), y) + lambda_a CE(A F_t(x), y_a)`` over the task's
examples and all exemplars trains F_t, W and the auxiliary head A, whose classes are "old" and the
task's own, so that F_t learns what the others do not see. "classifier": W is drawn anew and learns
``CE(W u(x) / T, y)`` on a subset with equally many examples of each class. The first task has
neither an auxiliary loss nor the second phase. As a task ends its exemplars are herded on u.

Places for all extractors are there from the start, so a task more recompiles nothing; those in use
are run one after another, so that places not in use cost nothing.

Source: Yan, Xie and He 2021 (CVPR; arXiv 2103.16788); Rhyssiyan/DER-ClassIL.pytorch,
inclearn/models/incmodel.py, convnet/network.py, convnet/utils.py, configs/1.yaml of cifar100/b0.
Departs: the official code shuffles the exemplars among the examples, here they stand beside the
stream's batches (``exemplars.mix_exemplars``), and batches of the second phase are drawn anew each
time, so both are learned as often as there, but on average. Its scale of the last BatchNorm of a
block starts at 0, here at 1; its images also change in brightness. Exemplars are herded as iCaRL's
paper has it; the official loop can come back to one it has. A class that comes back in a later task
counts as old; it is herded anew. A row of a class not told so far is padding. Its pruning was not
released: of ours, which is of perceptrons alone, see channel_masks.py.
"""

from collections.abc import Mapping
from functools import partial

import jax
import jax.numpy as jnp
import optax

from cls_jax.core.checks import check_range
from cls_jax.core.herding import unit
from cls_jax.core.losses import cross_entropy, mask_logits
from cls_jax.core.memory import reservoir
from cls_jax.core.sync import select
from cls_jax.core.types import Array, Batch, Metrics, PyTree, Scalar, Task, Trainable, Variables
from cls_jax.methods.architecture import channel_masks
from cls_jax.methods.architecture.der_expandable_heads import (
    auxiliary_targets,
    joint_logits,
    rate_factor,
    weighted_cross_entropy,
)
from cls_jax.methods.architecture.der_expandable_state import (
    NEVER,
    StackState,
    all_features,
    drawn_heads,
    features_before,
    first_state,
    kept_bits,
    symmetric,
)
from cls_jax.methods.base import Algorithm, Needs, Phase, method
from cls_jax.methods.checks import check_milestones, check_replay, warmup_advice
from cls_jax.methods.heads import without_head
from cls_jax.methods.problem import Problem
from cls_jax.methods.prototypes.cosine import step_decay, with_params
from cls_jax.methods.prototypes.exemplars import (
    balanced_subset,
    check_exemplars,
    mix_exemplars,
    no_exemplars,
    select_exemplars,
)
from cls_jax.methods.steps import apply_gradient, told_rows, torch_sgd
from cls_jax.nets.base import no_head


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
    prune_units: bool = False,
    largest_scale: int = 10,
    learning_rate: float = 0.1,
    balanced_learning_rate: float = 0.1,
    momentum: float = 0.9,
    weight_decay: float = 5e-4,
    auxiliary_weight: float = 1.0,
    temperature: float = 5.0,
    sparsity_weight: float = 0.1,
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
      prune_units: learn which units of a new extractor are needed, and keep no others; of a
        perceptron alone.
      largest_scale: s_max, with which masks end an epoch, >= 1; the card's example.
      learning_rate: of everything in the phase "representation", >= 0.
      balanced_learning_rate: of the classifier in the phase "classifier", >= 0.
      momentum: of both phases, in [0, 1).
      weight_decay: L2, added to the gradient of all that is trained, >= 0.
      auxiliary_weight: lambda_a, >= 0; 0: F_t learns as if the others were not there.
      temperature: T, by which logits are divided in the phase "classifier", > 0; 1 for ImageNet.
      sparsity_weight: lambda_s, of the share of weights that masks let pass, >= 0; ours.

    Raises:
      InputError: if a class gets no exemplar, for a size that cannot be, a network without
        features, or one to be pruned that is no perceptron.
    """
    check_exemplars(memory_size, problem.num_classes)
    check_replay(memory_size, replay_size)
    check_range("warmup_epochs", warmup_epochs, 0)
    check_range("balanced_epochs", balanced_epochs, 0)
    check_range("largest_scale", largest_scale, 1)
    check_range("balanced_batch_size", balanced_batch_size, 1)
    check_milestones("decays", decays)
    check_milestones("balanced_decays", balanced_decays)
    net, augment, num_classes = problem.net(), problem.augment, problem.num_classes
    masked = channel_masks.hidden_layers(problem.networks) if prune_units else ()
    net = channel_masks.with_channel_masks(net, masked) if prune_units else net
    extract, head = net.features, net.head
    if extract is None or head is None:
        raise no_head("der_expandable joins features, what the last layer is shown", net)
    places = problem.num_tasks if grow else 1
    # Old classes have at most the memory; the new ones get as much room.
    policy = reservoir(2 * memory_size)
    balanced_size = min(balanced_batch_size, policy.capacity)

    def sgd(rate: Scalar) -> optax.GradientTransformation:
        return torch_sgd(
            rate, momentum, weight_decay, (channel_masks.MASKS,) if prune_units else ()
        )

    def new_extractor(key: Array, x: Array) -> Variables:
        vars = net.init(key, augment.test(x))
        return vars.replace(params=without_head(vars.params, head))

    def restart(state: StackState) -> StackState:
        """Both optimizers as new, each phase at its first step."""
        models = {name: getattr(state, name) for name in ("extractor", "classifier")}
        models = {n: m.replace(opt=sgd(0.0).init(m.vars.params)) for n, m in models.items()}
        return state.replace(**models, epoch=jnp.int32(0), step=jnp.int32(0))

    def init(key: Array, example: Batch) -> StackState:
        vars = new_extractor(key, example.x)
        shape = jax.eval_shape(lambda: extract(vars, augment.test(example.x), train=False)[0])
        empty = no_exemplars(example, memory_size), policy.init({"x": example.x, "y": example.y})
        return restart(first_state(vars, (num_classes, places, shape.shape[1]), *empty))

    def begin_task(key: Array, state: StackState, task: Task, data: Batch | None) -> StackState:
        assert data is not None  # begin_data
        key_extractor, key_heads = jax.random.split(key)
        newest, frozen, later = state.extractor.vars, state.frozen, task.index > 0
        if grow:
            to = jnp.where(later, task.index - 1, places)  # out of bounds: dropped
            frozen = jax.tree.map(lambda all, new: all.at[to].set(new, mode="drop"), frozen, newest)
        if grow and not warm_start:
            newest = select(later, new_extractor(key_extractor, data.x), newest)
        came = jnp.where(task.classes & (state.came == NEVER), task.index, state.came)
        extractor = state.extractor.replace(vars=newest)
        state = state.replace(extractor=extractor, frozen=frozen, came=came, task=task.index)
        heads = drawn_heads(key_heads, state, jax.random.normal)
        classifier = with_params(state.classifier, **heads)
        task_size = told_rows(data, state.seen).sum(dtype=jnp.int32)
        return restart(state.replace(classifier=classifier, task_size=task_size))

    def learn_features(key: Array, state: StackState, batch: Batch) -> tuple[StackState, Metrics]:
        key_heads, key_draw, key_keep, key_augment = jax.random.split(key, 4)
        past, seen, number = state.past, state.seen, state.place
        batch = batch.replace(valid=told_rows(batch, seen))
        mixed = mix_exemplars(key_draw, key_keep, state.memory, batch, state.task_size, replay_size)
        x, valid = augment.train(key_augment, mixed.x), mixed.weight > 0
        classifier = state.classifier
        if warmup_epochs:
            over = (batch.epoch >= warmup_epochs) & (state.epoch < warmup_epochs)
            heads = select(over, drawn_heads(key_heads, state, symmetric), classifier.vars.params)
            classifier = with_params(classifier, **heads)
        old_features = features_before(extract, state, x)
        own_y, own_classes = auxiliary_targets(mixed.y, seen & ~past)
        own_weight = jnp.where(past.any(), auxiliary_weight, 0.0)
        at, extractor = jnp.where(batch.epoch == state.epoch, state.step, 0), state.extractor
        scale = channel_masks.mask_scale(at, -(-state.task_size // len(batch.y)), largest_scale)
        if prune_units:
            extractor = channel_masks.with_scale(extractor, scale)

        def loss(trunk: PyTree, heads: PyTree):
            vars = extractor.vars.replace(params=trunk)
            newest, stats = extract(vars, x, train=True, valid=valid)
            logits = joint_logits(heads["weights"], old_features.at[:, number].set(newest))
            ce = weighted_cross_entropy(logits, mixed.y, mixed.weight, seen)
            own = newest @ heads["auxiliary"].T
            own_ce = weighted_cross_entropy(own, own_y, mixed.weight, own_classes)
            share = channel_masks.kept_share(trunk, masked, scale) if prune_units else 0
            return ce + own_weight * own_ce + sparsity_weight * share, stats

        before = extractor.vars.params, classifier.vars.params
        (value, stats), gradient = jax.value_and_grad(loss, argnums=(0, 1), has_aux=True)(*before)
        rate = learning_rate * rate_factor(jnp.asarray(batch.epoch), warmup_epochs, decays)
        trunk_gradient, heads_gradient = gradient
        if prune_units:
            trunk_gradient = channel_masks.compensated(
                trunk_gradient, before[0], scale, largest_scale
            )
        extractor = apply_gradient(extractor, sgd(rate), trunk_gradient, stats)
        extractor = channel_masks.held_near(extractor) if prune_units else extractor
        classifier = apply_gradient(classifier, sgd(rate), heads_gradient, {})
        models = {"extractor": extractor, "classifier": classifier}
        epoch = jnp.asarray(batch.epoch, jnp.int32)
        return state.replace(**models, epoch=epoch, step=at + 1), {"loss": value}

    def begin_head(key: Array, state: StackState, task: Task, data: Batch | None) -> StackState:
        assert data is not None  # enter_data
        key_subset, key_heads = jax.random.split(key)
        balanced = balanced_subset(key_subset, state.memory, data, state.seen, policy)
        new, classifier = drawn_heads(key_heads, state, symmetric), state.classifier
        classifier = with_params(
            classifier, **select(state.past.any(), new, classifier.vars.params)
        )
        return restart(state.replace(classifier=classifier, balanced=balanced))

    def learn_classifier(key: Array, state: StackState, batch: Batch) -> tuple[StackState, Metrics]:
        del batch  # this phase learns from ``balanced`` alone
        key_draw, key_augment = jax.random.split(key)
        model = state.classifier
        epoch = state.step // jnp.maximum(-(-state.balanced.seen // balanced_size), 1)
        rate = balanced_learning_rate * step_decay(epoch, balanced_decays)

        def moved() -> tuple[Trainable, Array]:
            drawn = policy.sample(key_draw, state.balanced, balanced_size)
            u = all_features(extract, state, augment.train(key_augment, drawn.items["x"]))

            def loss(heads: PyTree) -> Array:
                logits, y = joint_logits(heads["weights"], u) / temperature, drawn.items["y"]
                return cross_entropy(logits, y, valid=drawn.valid, classes=state.seen)

            value, gradient = jax.value_and_grad(loss)(model.vars.params)
            after = apply_gradient(model, sgd(rate), gradient, {})
            return after, value

        # Of the first task, and behind the last pass, nothing.
        on = state.past.any() & (epoch < balanced_epochs)
        model, value = jax.lax.cond(on, moved, lambda: (model, jnp.float32(0)))
        return state.replace(classifier=model, step=state.step + 1), {"loss": value}

    def end_task(key: Array, state: StackState, task: Task, data: Batch | None) -> StackState:
        assert data is not None  # end_data
        size = memory_size // jnp.maximum(state.seen.sum(), 1)

        def features_of(x: Array) -> Array:
            return unit(all_features(extract, state, augment.test(x)).reshape(len(x), -1))

        memory, _ = select_exemplars(features_of, state.memory, data, task.classes, size)
        return state.replace(memory=memory)

    def predict(state: StackState, x: Array, task: Task) -> Array:
        weights = state.classifier.vars.params["weights"]
        return mask_logits(
            joint_logits(weights, all_features(extract, state, augment.test(x))), state.seen
        )

    def capacity(state: StackState) -> Mapping[str, Array]:
        return {"bits": kept_bits(state, problem.num_tasks, masked)}

    phases = (Phase("representation", learn_features),)
    if balanced_epochs:
        num_steps = balanced_epochs * -(-policy.capacity // balanced_size)
        kind = {"enter": begin_head, "enter_data": True, "num_steps": num_steps}
        phases = (*phases, Phase("classifier", learn_classifier, **kind))
    return Algorithm(
        init=init,
        phases=phases,
        predict=predict,
        begin_task=begin_task,
        end_task=end_task,
        needs=Needs(told_task=True, boundaries=True, begin_data=True, end_data=True),
        capacity=capacity,
        advice=partial(warmup_advice, warmup_epochs),
        class_il=True,
    )
