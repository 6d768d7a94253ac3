"""iCaRL: learns representations by distillation, classifies by the nearest mean of exemplars.

Every class is a sigmoid of its own. On classes of the task the target is the label, on past classes
what the network said before the task. A task trains on its examples and on all exemplars; as it
ends, herding chooses the exemplars of its classes and the older lists are cut, M // K each for K
classes seen. A test image belongs to the class whose exemplars' mean feature is nearest.

| symbol | name | default | where from |
|---|---|---|---|
| eta | learning_rate | 0.1 | DER's grid search for Seq-CIFAR-10 (aimagelab/mammoth) |
| | l2_weight | 1e-5 | the same; 0 for Seq-MNIST |
| M | memory_size | 500 | the middle of DER's three published buffers |
| m | replay_size | 10 | ours: DER's replay batch for Seq-MNIST; see Departs |

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

import jax
import jax.numpy as jnp
import optax
from flax import struct

from cls_jax.core.augment import Augment
from cls_jax.core.errors import InputError
from cls_jax.core.herding import unit
from cls_jax.core.losses import binary_cross_entropy
from cls_jax.core.memory import Memory
from cls_jax.core.types import Array, Batch, Metrics, PyTree, Task, Trainable, Variables
from cls_jax.methods.base import (
    Method,
    Needs,
    Phase,
    check_replay,
    gradient_step,
    init_model,
    parameter_bits,
    predict_with,
    told_rows,
)
from cls_jax.methods.prototypes.exemplars import choose, nearest_mean, no_exemplars, union
from cls_jax.methods.replay.replay_config import IcarlConfig, IcarlHyper
from cls_jax.nets.base import Net


@struct.dataclass
class IcarlState:
    """What iCaRL carries from step to step.

    Attributes:
      model: the network.
      old: the network as it was before the task; its logits are the targets on past classes.
      memory: the exemplars.
      means: float32[num_classes, d] unit features, zero for a class without exemplars.
      past, current: bool[num_classes] classes of earlier tasks alone, and of this task.
      task_size: int32[] examples of this task that are learned from.
      hyper: IcarlHyper.
    """

    model: Trainable
    old: Variables
    memory: Memory
    means: Array
    past: Array
    current: Array
    task_size: Array
    hyper: IcarlHyper


def icarl(config: IcarlConfig, net: Net, *, augment: Augment, num_classes: int) -> Method:
    """Incremental classifier and representation learning.

    Args:
      config: sizes, and whether class means are averaged with mirrored exemplars.
      net: outputs float32[b, num_classes] logits; has ``features``.
      augment: ``train`` makes the inputs of the loss, ``test`` those of herding and ``predict``.
      num_classes: of the stream.

    Returns:
      The method; its hyper is IcarlHyper. It answers with minus the squared distance to each
      class mean; the view "network" is the network's own logits. As a task ends, all its examples
      go forward once, in chunks.

    Raises:
      InputError: if a class gets no exemplar, the memory is smaller than one replay draw, or the
        network has no features.
    """
    if config.memory_size < num_classes:
        raise InputError(
            f"memory_size={config.memory_size} gives none of the {num_classes} classes an exemplar "
            f"of its own; use at least {num_classes}"
        )
    check_replay(config.memory_size, config.replay_size)
    if net.features is None:
        raise InputError("icarl compares features and the network has none; use mlp or resnet18")

    def features(vars: Variables, x: Array) -> Array:
        return unit(net.features(vars, x, train=False)[0])

    def init(key: Array, example: Batch, hyper: IcarlHyper) -> IcarlState:
        x = augment.test(example.x)
        model = init_model(key, net, x, optax.sgd(hyper.learning_rate))
        shape = jax.eval_shape(features, model.vars, x)
        return IcarlState(
            model=model,
            old=jax.tree.map(jnp.copy, model.vars),
            memory=no_exemplars(example, config.memory_size),
            means=jnp.zeros((num_classes, shape.shape[1]), shape.dtype),
            past=jnp.zeros(num_classes, bool),
            current=jnp.zeros(num_classes, bool),
            task_size=jnp.int32(0),
            hyper=hyper,
        )

    def begin_task(key: Array, state: IcarlState, task: Task, data: Batch | None) -> IcarlState:
        return state.replace(
            old=jax.tree.map(jnp.copy, state.model.vars),
            past=task.seen & ~task.classes,
            current=jnp.copy(task.classes),
            task_size=told_rows(data, task.seen).sum(dtype=jnp.int32),
        )

    def step(key: Array, state: IcarlState, batch: Batch) -> tuple[IcarlState, Metrics]:
        key_draw, key_keep, key_augment = jax.random.split(key, 3)
        batch = batch.replace(valid=told_rows(batch, state.past | state.current))
        both = union(key_draw, key_keep, state.memory, batch, state.task_size, config.replay_size)

        # Labels on the task's classes, what the old network says on past ones.
        x = augment.train(key_augment, both.x)
        remembered, _ = net.apply(state.old, x, train=False)
        targets = targets_of(remembered, both.y, state.past)

        def loss(vars: Variables):
            logits, stats = net.apply(vars, x, train=True, valid=both.weight > 0)
            value = binary_cross_entropy(logits, targets, both.weight, state.past | state.current)
            return value + state.hyper.l2_weight * _square(vars.params), stats

        model, value = gradient_step(state.model, optax.sgd(state.hyper.learning_rate), loss)
        return state.replace(model=model), {"loss": value}

    def end_task(key: Array, state: IcarlState, task: Task, data: Batch | None) -> IcarlState:
        look = lambda x: features(state.model.vars, augment.test(x))  # noqa: E731
        size = config.memory_size // jnp.maximum((state.past | state.current).sum(), 1)
        memory, means = choose(look, state.memory, data, state.current, size, mirror=config.mirror)
        return state.replace(memory=memory, means=means)

    def predict(state: IcarlState, x: Array, task: Task) -> Array:
        seen = features(state.model.vars, augment.test(x))
        return nearest_mean(seen, state.means)

    return Method(
        "icarl",
        init,
        (Phase("train", step),),
        predict,
        begin_task=begin_task,
        end_task=end_task,
        views={"network": predict_with(net, augment)},
        needs=Needs(told_task=True, boundaries=True, begin_data=True, end_data=True),
        convolutional=net.convolutional,
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
    return sum(jnp.square(leaf).sum() for leaf in jax.tree.leaves(params))
