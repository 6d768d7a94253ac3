"""What a continual-learning method is: a NamedTuple of pure functions, and the steps they share."""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from cls_jax.core.augment import Augment
from cls_jax.core.types import (
    Array,
    Batch,
    BoundaryFn,
    CapacityFn,
    InitFn,
    PredictFn,
    PyTree,
    StepFn,
    Task,
    Trainable,
    Variables,
)
from cls_jax.methods.config_checks import check_replay as check_replay
from cls_jax.nets.base import Net


def unchanged(key: Array, state: PyTree, task: Task, data: Batch | None) -> PyTree:
    """The boundary function of a method that does nothing there."""
    del key, task, data
    return state


def no_advice(hyper: PyTree, num_steps: int) -> str:
    """The advice of a method that has none."""
    del hyper, num_steps
    return ""


WHOLE = 2**31 - 1
"""As ``Needs.test_batch``: all test examples of a task at once."""


class Needs(NamedTuple):
    """What a method must be given; the runner withholds everything else.

    Attributes:
      told_task: training batches and boundary calls carry the task's number and classes;
        otherwise they arrive as -1 and all True, so a task-free method cannot peek.
      told_task_at_test: ``predict`` uses ``task``. The task-IL score is then taken with the task
        told and the class-IL score with it hidden. Otherwise one forward serves both scores.
      boundaries: ``begin_task`` and ``end_task`` are called.
      unlabelled: the method learns from examples without labels; otherwise they become padding.
      pooled: the upper bound: all tasks at once, shuffled, in place of the stream.
      begin_data, end_data: ``begin_task``, ``end_task`` get every example of the task once, as one
        Batch of n_max rows; the rest of them are padding. Needs ``boundaries``.
      test_batch: how many test examples at most ``predict`` is given at a time, e.g. WHOLE; None:
        as evaluate has it.
      transductive: an answer depends on the examples that are asked beside it. They are then given
        in an order that their pixels alone decide, so the order of a file decides nothing.
    """

    told_task: bool = False
    told_task_at_test: bool = False
    boundaries: bool = False
    unlabelled: bool = False
    pooled: bool = False
    begin_data: bool = False
    end_data: bool = False
    test_batch: int | None = None
    transductive: bool = False


class Phase(NamedTuple):
    """A part of each task with an update rule of its own; most methods have one.

    Attributes:
      name: "train", "finetune", …
      step: the update.
      enter: called once as the phase of a task begins.
      epochs: passes over the task; None is what the stream says.
      num_steps: a phase on memory alone: so many updates a task, whose batches arrive with every
        row invalid, since the step draws all it needs itself; None: batches of the task.
      enter_data: ``enter`` gets every example of the task, as with ``Needs.begin_data``.
    """

    name: str
    step: StepFn
    enter: BoundaryFn = unchanged
    epochs: int | None = None
    num_steps: int | None = None
    enter_data: bool = False


def parameter_bits(*trees: str) -> CapacityFn:
    """The capacity of networks ``state.<tree>.vars`` that are kept whole and never grow."""

    def capacity(state: PyTree) -> Mapping[str, Array]:
        leaves = jax.tree.leaves([getattr(state, tree).vars for tree in trees])
        return {"bits": jnp.float32(sum(8 * leaf.dtype.itemsize * leaf.size for leaf in leaves))}

    return capacity


class Method(NamedTuple):
    """A continual learner.

    Attributes:
      name: as the tables print it.
      init: (key, example, hyper) -> state.
      phases: run one after another in every task.
      predict: the method's answer.
      begin_task, end_task: called at the boundaries if ``needs.boundaries``.
      views: further networks worth evaluating, by name.
      needs: what the runner must provide.
      convolutional: its steps contain convolutions (the runner's ``auto`` mode asks).
      advice: (hyper, steps of the stream) -> a warning worth printing before a run, or "".
      capacity: what the answers need to keep; None: not told.
      class_il: told the task in training, yet made to tell all classes apart, so that its tables
        lead with class-IL; those of any other method that is told it lead with task-IL.
    """

    name: str
    init: InitFn
    phases: tuple[Phase, ...]
    predict: PredictFn
    begin_task: BoundaryFn = unchanged
    end_task: BoundaryFn = unchanged
    views: Mapping[str, PredictFn] = {}
    needs: Needs = Needs()
    convolutional: bool = False
    advice: Callable[[PyTree, int], str] = no_advice
    capacity: CapacityFn | None = None
    class_il: bool = False

    @property
    def told(self) -> dict[str, bool]:
        """What a Result's details say of the task being told; see ``columns.led_by_task``."""
        return {
            "told_task": self.needs.told_task,
            "told_at_test": self.needs.told_task_at_test,
            "class_il": self.class_il,
        }


def init_model(
    key: Array, net: Net, x: Array, optimizer: optax.GradientTransformation
) -> Trainable:
    """A network just born, with the optimizer state that belongs to it."""
    vars = net.init(key, x)
    return Trainable(vars=vars, opt=optimizer.init(vars.params))


def gradient_of(
    loss: Callable[[Variables], tuple[Array, PyTree]], vars: Variables
) -> tuple[tuple[Array, PyTree], PyTree]:
    """``((value, aux), gradient)`` of ``loss: vars -> (value, aux)``, in ``vars.params`` alone."""

    def of_params(params: PyTree) -> tuple[Array, PyTree]:
        return loss(vars.replace(params=params))

    return jax.value_and_grad(of_params, has_aux=True)(vars.params)


def told_rows(batch: Batch, classes: Array) -> Array:
    """The rows that a method which is told its classes counts: valid, and of one of them.

    A softmax over the told classes has no place for another label, so a row that has one (a minor
    example of a blurry task) is padding to such a method: in no loss, never stored.

    Args:
      batch: of the stream.
      classes: bool[num_classes].

    Returns:
      bool[b].
    """
    return batch.valid & classes[batch.y]


def apply_gradient(
    model: Trainable, optimizer: optax.GradientTransformation, gradient: PyTree, stats: PyTree
) -> Trainable:
    """The model after one optimizer step along ``gradient``, with ``stats`` as its statistics."""
    updates, opt = optimizer.update(gradient, model.opt, model.vars.params)
    params = optax.apply_updates(model.vars.params, updates)
    return Trainable(vars=Variables(params=params, stats=stats), opt=opt)


def gradient_step(
    model: Trainable,
    optimizer: optax.GradientTransformation,
    loss: Callable[[Variables], tuple[Array, PyTree]],
) -> tuple[Trainable, Array]:
    """One optimizer step on one tree.

    Args:
      model: parameters, statistics and optimizer state.
      optimizer: built from the method's Hyper, so that rates are data.
      loss: variables -> (float32[] loss, the statistics after the forward pass).

    Returns:
      The model after the step, and the loss before it.
    """
    (value, stats), gradient = gradient_of(loss, model.vars)
    return apply_gradient(model, optimizer, gradient, stats), value


def forward_each(
    net: Net, vars: Variables, xs: Sequence[Array], valids: Sequence[Array]
) -> tuple[list[Array], PyTree]:
    """Training-mode outputs of several batches, each normalised by itself, one after another.

    Every forward pass takes over the running statistics of the one before. A network without
    statistics treats its rows one by one, so there a single pass over all of them is the same.

    Args:
      net, vars: the network.
      xs: inputs float32[b_i, ...], in the order of their forwards.
      valids: bool[b_i] each; a batch without a valid row leaves the statistics as they were.

    Returns:
      The outputs of each batch, and the statistics after the last.
    """
    if not jax.tree.leaves(vars.stats):
        ends = np.cumsum([len(x) for x in xs])[:-1]
        whole, valid = jnp.concatenate(xs), jnp.concatenate(valids)
        outputs, stats = net.apply(vars, whole, train=True, valid=valid)
        return jnp.split(outputs, ends), stats
    each = []
    for x, valid in zip(xs, valids, strict=True):
        outputs, stats = net.apply(vars, x, train=True, valid=valid)
        each, vars = [*each, outputs], vars.replace(stats=stats)
    return each, vars.stats


def predict_with(net: Net, augment: Augment, tree: str = "model") -> PredictFn:
    """The ``predict`` by one network of the state, ``state.<tree>.vars``."""

    def predict(state: PyTree, x: Array, task: Task) -> Array:
        logits, _ = net.apply(getattr(state, tree).vars, augment.test(x), train=False)
        return logits.astype(jnp.float32)

    return predict
