"""DEN: a perceptron that retrains only what a task needs, and grows where that is not enough.

Every task has a sigmoid head of its own over shared hidden layers. Task 1 trains everything, with
L1, so that few weights are left. A later task has four phases. "head": an L1 head on the old
features; what leads to its weights is the relevant part. "select": that part alone is retrained,
pulled towards where it was. "expand": if the loss is still above tau, k units a layer are added and
trained, group lasso on what each one hears; those that hear nothing are removed. "split": old units
that moved farther than sigma become two, as they were and as they are, and everything is fine-tuned
with the pull. A unit has the stamp of its task, and task t is answered by stamps <= t alone.

Each step is Adam on ``BCE + l2/2 ||w||^2 + lambda/2 ||w - w_prev||^2`` over the weights of the
phase, then the proximal step of L1 on them and, in "expand", that of the group lasso.

Source: Yoon et al. 2018 (ICLR; arXiv 1708.01547), equations 2 to 6, algorithms 1 to 4;
jaehong31/DEN (permuted MNIST): objective of a step, L1 and L2 in all phases, initial values.
Departs: defects of the released code are not kept: it selects by class 0 and keeps that column
alone, splits the units that moved least, loses what they learned, draws their biases and heads
anew, splits only after growing, leaves the order of the two proximal steps open, and fixes depth,
tasks and classes. Tau is compared with the mean of the last 50 losses, not with one; new units'
Glorot limits come from the sizes after growth; its early stopping is left out. A group of the lasso
is all that a new unit hears, as in equation 5; the released code groups variable by variable, so
what a new unit hears from old units and from new ones are two groups, and what an old unit hears
from new ones is a third, which is shrunk too. In the first task "select" trains everything, and the
other phases run without effect.
"""

from collections.abc import Mapping
from functools import partial

import jax
import jax.numpy as jnp
from flax import struct

from cls_jax.core.errors import InputError
from cls_jax.core.losses import binary_cross_entropy
from cls_jax.core.sync import select
from cls_jax.core.types import Array, Batch, Metrics, PyTree, Scalar, Task, Trainable, Variables
from cls_jax.methods.architecture.den_growth import (
    add_units,
    check_growth,
    init_new_units,
    prune_units,
    relevant_units,
    soft_threshold,
    split_units,
    with_columns_shrunk,
)
from cls_jax.methods.base import Algorithm, Needs, Phase, method
from cls_jax.methods.checks import check_annealing
from cls_jax.methods.heads import annealed_adam, told_or_last_task
from cls_jax.methods.problem import Problem
from cls_jax.methods.steps import apply_gradient, gradient_of
from cls_jax.nets.den import (
    Units,
    active,
    connections,
    forward,
    glorot,
    half_squared_where,
    init_params,
    num_parameters,
    num_units,
    trainable,
)

_LOSSES = 50


class DenState(struct.PyTreeNode):
    """What DEN carries from step to step; N units fit into a hidden layer.

    Attributes:
      model: params {"body", "heads"} as in nets/den.py.
      previous: the body as the task began.
      stamps: int32[N] a layer: the task a unit came with, from 1; 0: a free place.
      used: bool[N] a layer: units of this phase's forward pass.
      frozen: bool[N] a layer: weights among these (and inputs) stay as they are.
      learns: bool[]; False: a phase without effect.
      task: int32[] the task being learned, or the last one.
      losses: float32[50] the last ones of this phase, without penalties.
      num_steps: int32[] of this phase.
      refused: int32[T] units of each task that did not fit.
    """

    model: Trainable
    previous: PyTree
    stamps: Units
    used: Units
    frozen: Units
    learns: Array
    task: Array
    losses: Array
    num_steps: Array
    refused: Array


@method
def den(
    problem: Problem,
    *,
    added_units: int = 10,
    room: int | None = None,
    head_epochs: int = 2,
    annealing_steps: int = 215,
    split: bool = True,
    learning_rate: float = 1e-3,
    annealing_rate: float = 0.95,
    l1_weight: float = 1e-5,
    head_l1_weight: float = 1e-5,
    l2_weight: float = 1e-4,
    group_weight: float = 1e-3,
    drift_weight: float = 0.5,
    expand_threshold: float = 0.01,
    split_threshold: float = 0.05,
) -> Algorithm:
    """Dynamically expandable network: brings a perceptron of its own, as wide as the one given.

    The view "no_stamps" answers every task with all units. Unless said otherwise, a default is that
    of the released code's run on permuted MNIST.

    Args:
      added_units: k, new units a layer if the loss stays high, and most splits a layer, >= 1.
      room: places for new units a layer; those that could ever be needed, 2 k (tasks - 1), if not
        given. What does not fit is not added; "refused units" counts it.
      head_epochs: passes of the phase "head", >= 1, others make those of the stream; a tenth of 20,
        as the released code means; by a slip it makes one step.
      annealing_steps: steps of a phase between two falls of the rate, >= 1; an epoch of the
        released code, 55,000 examples in batches of 256.
      split: old units that moved far become two; False leaves that out.
      learning_rate: eta, of Adam, which starts anew with each phase, >= 0.
      annealing_rate: factor on it after every annealing_steps steps, in [0, 1]; 1: it stays.
      l1_weight: mu, by which a trained weight shrinks a step, not times the rate, >= 0.
      head_l1_weight: the same in the phase "head", >= 0.
      l2_weight: of half the squared weights, >= 0.
      group_weight: gamma, by which a new unit's incoming weights shrink in length a step, >= 0.
      drift_weight: lambda, of half the squared drift of old weights, >= 0.
      expand_threshold: tau, loss above which the network grows, in nats a class, >= 0.
      split_threshold: sigma, drift of a unit's incoming weights above which it is split, >= 0.

    Raises:
      InputError: for a network that is no perceptron with a hidden layer, or a size too small.
    """
    kind, hidden, dtype = problem.networks.kind, problem.networks.hidden, problem.networks.dtype
    if kind != "mlp":
        raise InputError(f"net is {kind!r} and den grows a perceptron; use 'mlp'")
    check_growth(hidden, added_units, room, head_epochs)
    check_annealing(annealing_steps)
    augment, num_classes, num_tasks = problem.augment, problem.num_classes, problem.num_tasks
    needed = 2 * added_units * (num_tasks - 1)
    places = needed if room is None else room
    optimizer = annealed_adam(learning_rate, annealing_rate, annealing_steps)

    def init(key: Array, example: Batch) -> DenState:
        num_inputs = augment.test(example.x)[0].size
        stamps = tuple((jnp.arange(n + places) < n).astype(jnp.int32) for n in hidden)
        units = active(stamps)
        params = init_params(key, num_inputs, units, num_tasks, num_classes)
        return DenState(
            model=Trainable(Variables(params, {}), optimizer.init(params)),
            previous=jax.tree.map(jnp.copy, params["body"]),
            stamps=stamps,
            used=units,
            frozen=jax.tree.map(jnp.copy, units),
            learns=jnp.bool(False),
            task=jnp.int32(0),
            losses=jnp.zeros(_LOSSES),
            num_steps=jnp.int32(0),
            refused=jnp.zeros(num_tasks, jnp.int32),
        )

    def begin_task(key: Array, state: DenState, task: Task, data: Batch | None) -> DenState:
        params = state.model.vars.params
        units, num_inputs = active(state.stamps), params["body"][0]["kernel"].shape[0]
        _, head = glorot(key, num_inputs, units, num_classes)
        heads = jax.tree.map(lambda h, new: h.at[task.index].set(new), params["heads"], head)
        vars = Variables({**params, "heads": heads}, {})
        return state.replace(
            model=state.model.replace(vars=vars),
            previous=jax.tree.map(jnp.copy, params["body"]),
            task=task.index,
        )

    def begin_phase(
        state: DenState, params: PyTree, used: Units, learns: Array, frozen: Units | None = None
    ) -> DenState:
        none = jax.tree.map(jnp.zeros_like, used)
        return state.replace(
            model=Trainable(Variables(params, {}), optimizer.init(params)),
            used=used,
            frozen=none if frozen is None else jax.tree.map(jnp.copy, frozen),
            learns=learns,
            losses=jnp.zeros_like(state.losses),
            num_steps=jnp.int32(0),
        )

    def begin_head(key: Array, state: DenState, task: Task, data: Batch | None) -> DenState:
        units = active(state.stamps)
        return begin_phase(state, state.model.vars.params, units, state.task > 0, frozen=units)

    def begin_select(key: Array, state: DenState, task: Task, data: Batch | None) -> DenState:
        params, units = state.model.vars.params, active(state.stamps)
        found = relevant_units(params["body"], params["heads"]["kernel"][state.task])
        used = select(state.task > 0, found, units)
        return begin_phase(state, params, used, jnp.bool(True))

    def begin_expand(key: Array, state: DenState, task: Task, data: Batch | None) -> DenState:
        params, old = state.model.vars.params, active(state.stamps)
        loss = state.losses.sum() / jnp.clip(state.num_steps, 1, _LOSSES)
        grows = (state.task > 0) & (loss > expand_threshold)
        stamps, refused = add_units(state.stamps, state.task + 1, jnp.where(grows, added_units, 0))
        params = init_new_units(key, params, old, active(stamps), state.task)
        state = state.replace(stamps=stamps, refused=state.refused.at[state.task].add(refused))
        return begin_phase(state, params, active(stamps), grows, frozen=old)

    def begin_split(key: Array, state: DenState, task: Task, data: Batch | None) -> DenState:
        later, params = state.task > 0, state.model.vars.params
        params, stamps = prune_units(params, state.stamps, jnp.where(later, state.task + 1, -1))
        limits = split_threshold, added_units if split else 0
        params, stamps, refused = split_units(params, state.previous, stamps, state.task, *limits)
        state = state.replace(stamps=stamps, refused=state.refused.at[state.task].add(refused))
        return begin_phase(state, params, active(stamps), later)

    def step(
        key: Array, state: DenState, batch: Batch, *, l1: Scalar, group: Scalar
    ) -> tuple[DenState, Metrics]:
        x, targets = augment.train(key, batch.x), jax.nn.one_hot(batch.y, num_classes)
        moves = trainable(
            state.model.vars.params, state.used, state.frozen, state.task, state.learns
        )
        old = connections(x[0].size, active(state.stamps, state.task))
        pulled = jax.tree.map(jnp.logical_and, old, moves["body"])

        def objective(vars: Variables) -> tuple[Array, Array]:
            logits = forward(vars.params, x, state.used, state.task, dtype)
            valid, every = 1.0 * batch.valid, jnp.ones(num_classes, bool)
            loss = binary_cross_entropy(logits, targets, valid, every)
            drift = jax.tree.map(jnp.subtract, vars.params["body"], state.previous)
            pull = drift_weight * half_squared_where(drift, pulled)
            return loss + l2_weight * half_squared_where(vars.params, moves) + pull, loss

        (value, loss), gradient = gradient_of(objective, state.model.vars)
        gradient = jax.tree.map(lambda m, g: jnp.where(m, g, 0), moves, gradient)
        model = apply_gradient(state.model, optimizer, gradient, {})

        # The proximal steps: L1 on what is trained, then group lasso on what new units hear.
        params = jax.tree.map(
            lambda m, w: jnp.where(m, soft_threshold(w, l1), w), moves, model.vars.params
        )
        new = tuple((stamps == state.task + 1) & state.learns for stamps in state.stamps)
        body = with_columns_shrunk(params["body"], new, group)
        return state.replace(
            model=model.replace(vars=Variables({**params, "body": body}, {})),
            losses=state.losses.at[state.num_steps % _LOSSES].set(loss),
            num_steps=state.num_steps + 1,
        ), {"loss": value}

    def predict(state: DenState, x: Array, task: Task) -> Array:
        t = told_or_last_task(task, state.task)
        units = active(state.stamps, t + 1)
        return forward(state.model.vars.params, augment.test(x), units, t, dtype)

    def without_stamps(state: DenState, x: Array, task: Task) -> Array:
        t, units = told_or_last_task(task, state.task), active(state.stamps)
        return forward(state.model.vars.params, augment.test(x), units, t, dtype)

    def capacity(state: DenState) -> Mapping[str, Array]:
        tasks, params = jnp.arange(num_tasks), state.model.vars.params
        size = jax.vmap(lambda task: num_parameters(state.stamps, task, params))(tasks)
        found = {"bits": 32 * size, "refused units": state.refused.astype(jnp.float32)}
        widths = jax.vmap(lambda task: num_units(state.stamps, task))(tasks)
        return found | {f"units of layer {n}": width for n, width in enumerate(widths, start=1)}

    def advice(num_steps: int, num_epochs: int) -> str:
        if places >= needed:
            return ""
        return (
            f"den may want {needed} more units a layer and room={room}; what does not fit is not "
            'added, and counted as "refused units"'
        )

    head_step = partial(step, l1=head_l1_weight, group=0.0)
    retrain_step = partial(step, l1=l1_weight, group=0.0)
    expand_step = partial(step, l1=l1_weight, group=group_weight)
    return Algorithm(
        init=init,
        phases=(
            Phase("head", head_step, enter=begin_head, epochs=head_epochs),
            Phase("select", retrain_step, enter=begin_select),
            Phase("expand", expand_step, enter=begin_expand),
            Phase("split", retrain_step, enter=begin_split),
        ),
        predict=predict,
        begin_task=begin_task,
        views={"no_stamps": without_stamps},
        needs=Needs(told_task=True, told_task_at_test=True, boundaries=True),
        advice=advice,
        capacity=capacity,
    )
