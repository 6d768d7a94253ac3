"""iCaRL: learns representations by distillation, classifies by the nearest mean of exemplars.

Every class is a sigmoid of its own. On classes of the task the target is the label, on past classes
what the network said before the task. A task trains on its examples and on all exemplars; as it
ends, herding chooses the exemplars of its classes and the older lists are cut, M // K each for K
classes seen. A test image belongs to the class whose exemplars' mean feature is nearest.

Source: Rebuffi et al. 2017 (CVPR; arXiv 1611.07725), algorithms 1 to 5, equation 1;
aimagelab/mammoth, models/icarl.py and utils/buffer.py: features of unit length, class means
averaged with those of the mirrored exemplars and brought back to unit length.
Departs: the published codes shuffle the exemplars among the task's examples, so an epoch has more
steps; here each step gets the stream's batch and, beside it, as many exemplars as such a union
would have in expectation: of m drawn each is kept with probability r, so that an exemplar is seen
about once an epoch, not exactly once. Where m is too few (r > 1), all are kept and weigh r. The
loss is a mean over the classes seen, as in the paper and earlier versions of mammoth; its newest
averages over all classes. A class that comes back in a later task is learned from its labels and
herded anew from that task's examples and its old exemplars; disjoint tasks have no such class. A
row of a class not told so far is padding.
"""

from functools import partial

import jax
import jax.numpy as jnp
import optax
from flax import struct

from cls_jax.core.herding import unit
from cls_jax.core.losses import binary_cross_entropy
from cls_jax.core.memory import Memory
from cls_jax.core.types import Array, Batch, Metrics, PyTree, Task, Trainable, Variables
from cls_jax.methods.base import Algorithm, Needs, method
from cls_jax.methods.checks import check_replay
from cls_jax.methods.problem import Problem
from cls_jax.methods.prototypes.exemplars import (
    check_exemplars,
    mix_exemplars,
    nearest_mean,
    no_exemplars,
    select_exemplars,
)
from cls_jax.methods.steps import (
    gradient_step,
    init_model,
    parameter_bits,
    predict_with,
    told_rows,
)
from cls_jax.nets.base import no_head


class IcarlState(struct.PyTreeNode):
    """What iCaRL carries from step to step.

    Attributes:
      model: the network.
      old: the network as it was before the task; its logits are the targets on past classes.
      memory: the exemplars.
      means: float32[num_classes, d] unit features, zero for a class without exemplars.
      past, current: bool[num_classes] classes of earlier tasks alone, and of this task.
      task_size: int32[] examples of this task that are learned from.
    """

    model: Trainable
    old: Variables
    memory: Memory
    means: Array
    past: Array
    current: Array
    task_size: Array


@method
def icarl(
    problem: Problem,
    *,
    memory_size: int = 500,
    replay_size: int = 10,
    mirror: bool = True,
    learning_rate: float = 0.1,
    l2_weight: float = 1e-5,
) -> Algorithm:
    """Incremental classifier and representation learning.

    It answers with minus the squared distance to each class mean; the view "network" is the
    network's own logits. As a task ends, all its examples go forward once, in chunks.

    Args:
      memory_size: M, exemplars in all; the middle of DER's three published buffers.
      replay_size: m, exemplars drawn a step; ours: DER's replay batch for Seq-MNIST, see Departs.
      mirror: average the class means with those of the mirrored exemplars, as the official code
        does; for digits, whose mirror images are something else, better not. Vectors have none.
      learning_rate: eta, step length of plain SGD, >= 0; DER's grid search for Seq-CIFAR-10
        (aimagelab/mammoth).
      l2_weight: of the sum of all squared parameters in the loss, >= 0; the same grid search; 0
        for Seq-MNIST.

    Raises:
      InputError: if a class gets no exemplar, the memory is smaller than one replay draw, or the
        network has no features.
    """
    num_classes = problem.num_classes
    check_exemplars(memory_size, num_classes)
    check_replay(memory_size, replay_size)
    net, augment, optimizer = problem.net(), problem.augment, optax.sgd(learning_rate)
    extract = net.features
    if extract is None:
        raise no_head("icarl compares features, what the last layer is shown", net)

    def features(vars: Variables, x: Array) -> Array:
        """float32[b, d] of unit length, from raw examples."""
        return unit(extract(vars, augment.test(x), train=False)[0])

    def init(key: Array, example: Batch) -> IcarlState:
        model = init_model(key, net, augment.test(example.x), optimizer)
        shape = jax.eval_shape(features, model.vars, example.x)
        return IcarlState(
            model=model,
            old=jax.tree.map(jnp.copy, model.vars),
            memory=no_exemplars(example, memory_size),
            means=jnp.zeros((num_classes, shape.shape[1]), shape.dtype),
            past=jnp.zeros(num_classes, bool),
            current=jnp.zeros(num_classes, bool),
            task_size=jnp.int32(0),
        )

    def begin_task(key: Array, state: IcarlState, task: Task, data: Batch | None) -> IcarlState:
        assert data is not None  # begin_data
        return state.replace(
            old=jax.tree.map(jnp.copy, state.model.vars),
            past=task.seen & ~task.classes,
            current=jnp.copy(task.classes),
            task_size=told_rows(data, task.seen).sum(dtype=jnp.int32),
        )

    def step(key: Array, state: IcarlState, batch: Batch) -> tuple[IcarlState, Metrics]:
        key_draw, key_keep, key_augment = jax.random.split(key, 3)
        classes = state.past | state.current
        batch = batch.replace(valid=told_rows(batch, classes))
        mixed = mix_exemplars(key_draw, key_keep, state.memory, batch, state.task_size, replay_size)

        # Labels on the task's classes, what the old network says on past ones.
        x = augment.train(key_augment, mixed.x)
        old_logits, _ = net.apply(state.old, x, train=False)
        targets = targets_of(old_logits, mixed.y, state.past)

        def loss(vars: Variables):
            logits, stats = net.apply(vars, x, train=True, valid=mixed.weight > 0)
            value = binary_cross_entropy(logits, targets, mixed.weight, classes)
            return value + l2_weight * _square(vars.params), stats

        model, value = gradient_step(state.model, optimizer, loss)
        return state.replace(model=model), {"loss": value}

    def end_task(key: Array, state: IcarlState, task: Task, data: Batch | None) -> IcarlState:
        assert data is not None  # end_data
        features_of = partial(features, state.model.vars)
        size = memory_size // jnp.maximum((state.past | state.current).sum(), 1)
        memory, means = select_exemplars(
            features_of, state.memory, data, state.current, size, mirror=mirror
        )
        return state.replace(memory=memory, means=means)

    def predict(state: IcarlState, x: Array, task: Task) -> Array:
        return nearest_mean(features(state.model.vars, x), state.means)

    return Algorithm(
        init=init,
        step=step,
        predict=predict,
        begin_task=begin_task,
        end_task=end_task,
        views={"network": predict_with(net, augment)},
        needs=Needs(told_task=True, boundaries=True, begin_data=True, end_data=True),
        capacity=parameter_bits("model"),
        class_il=True,
    )


def targets_of(old_logits: Array, y: Array, past: Array) -> Array:
    """What each output should say: on past classes the old network's sigmoid, else the label.

    Args:
      old_logits: float32[b, C] of the network as it was before the task.
      y: int32[b] labels.
      past: bool[C].

    Returns:
      float32[b, C] in [0, 1].

    Source: equation 1; baselines card O8: one past class with old logit 0, label 1: (0.5, 1).
    """
    return jnp.where(past, jax.nn.sigmoid(old_logits), jax.nn.one_hot(y, past.size))


def _square(params: PyTree) -> Array:
    """Sum of all squared parameters."""
    return jnp.asarray(sum(jnp.square(leaf).sum() for leaf in jax.tree.leaves(params)))
