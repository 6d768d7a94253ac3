"""DEN: a perceptron that retrains only what a task needs, and grows where that is not enough.

Every task has a sigmoid head of its own over shared hidden layers. Task 1 trains everything, with
L1, so that few weights are left. A later task has four phases. "head": an L1 head on the old
features; what leads to its weights is the relevant part. "select": that part alone is retrained,
pulled towards where it was. "expand": if the loss is still above tau, k units a layer are added and
trained, group lasso on what each one hears; those that hear nothing are removed. "split": old units
that moved farther than sigma become two, as they were and as they are, and everything is fine-tuned
with the pull. A unit has the stamp of its task, and task t is answered by stamps <= t alone.

Each step is Adam on ``BCE + l2/2 ||w||^2 + lambda/2 ||w - w_prev||^2`` over the weights of the
phase, then the proximal step of L1 on them and, in "expand", that of the group lasso. The table of
symbols, defaults and where they come from stands in den_config.py.

Source: Yoon et al. 2018 (ICLR; arXiv 1708.01547), equations 2 to 6, algorithms 1 to 4;
jaehong31/DEN (permuted MNIST): objective of a step, L1 and L2 in all phases, initial values.
Departs: defects of the released code are not kept: it selects by class 0 and keeps that column
alone, splits the units that moved least, loses what they learned, draws their biases and heads
anew, splits only after growing, leaves the order of the two proximal steps open, and fixes depth,
tasks and classes. Tau is compared with the mean of the last 50 losses, not with one; new units'
Glorot limits come from the sizes after growth; its early stopping is left out. A group of the lasso
is all that a new unit hears, as in equation 5; the released code groups variable by variable, so
what a new unit hears from old units and from new ones are two groups, and what an old unit hears
from new ones is a third, which is shrunk too. In the first task
"select" trains everything, and the other phases run without effect.
"""

from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
import optax
from flax import struct

from cls_jax.core.augment import Augment
from cls_jax.core.losses import binary_cross_entropy
from cls_jax.core.sync import select
from cls_jax.core.types import Array, Batch, Metrics, PyTree, Task, Trainable, Variables
from cls_jax.methods.architecture.den_config import DenConfig, DenHyper, check_sizes
from cls_jax.methods.architecture.den_growth import (
    add,
    columns_shrunk,
    drawn,
    prune,
    relevant,
    sparser,
    split,
)
from cls_jax.methods.base import Method, Needs, Phase, apply_gradient, gradient_of
from cls_jax.methods.heads import annealed_adam, asked
from cls_jax.nets.den import (
    Units,
    active,
    connections,
    forward,
    glorot,
    half_squared,
    num_parameters,
    trained,
)

_LOSSES = 50


@struct.dataclass
class DenState:
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
      hyper: DenHyper.
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
    hyper: DenHyper


def den(
    config: DenConfig,
    hidden: Sequence[int],
    *,
    augment: Augment,
    num_classes: int,
    num_tasks: int,
    dtype: str = "float32",
) -> Method:
    """Dynamically expandable network.

    Args:
      config: sizes, and whether units are split.
      hidden: sizes of the hidden layers in the first task.
      augment: ``train`` makes the inputs of the loss, ``test`` those of ``predict``.
      num_classes, num_tasks: of the stream.
      dtype: compute dtype of the hidden layers.

    Returns:
      The method; its hyper is DenHyper. Its phases are "head", "select", "expand" and "split". The
      view "no_stamps" answers every task with all units.

    Raises:
      InputError: without a hidden layer, or for a size that is too small.
    """
    check_sizes(config, hidden)
    needed = 2 * config.added_units * (num_tasks - 1)
    room = needed if config.room is None else config.room

    def optimizer(hyper: DenHyper) -> optax.GradientTransformation:
        return annealed_adam(hyper.learning_rate, hyper.annealing_rate, config.annealing_steps)

    def init(key: Array, example: Batch, hyper: DenHyper) -> DenState:
        num_inputs = augment.test(example.x)[0].size
        stamps = tuple((jnp.arange(n + room) < n).astype(jnp.int32) for n in hidden)
        units = active(stamps)
        body, _ = glorot(key, num_inputs, units, num_classes)
        heads = {
            "kernel": jnp.zeros((num_tasks, units[-1].size, num_classes)),
            "bias": jnp.zeros((num_tasks, num_classes)),
        }
        params = {"body": body, "heads": heads}
        return DenState(
            model=Trainable(Variables(params, {}), optimizer(hyper).init(params)),
            previous=jax.tree.map(jnp.copy, body),
            stamps=stamps,
            used=units,
            frozen=jax.tree.map(jnp.copy, units),
            learns=jnp.bool(False),
            task=jnp.int32(0),
            losses=jnp.zeros(_LOSSES),
            num_steps=jnp.int32(0),
            refused=jnp.zeros(num_tasks, jnp.int32),
            hyper=hyper,
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
            model=Trainable(Variables(params, {}), optimizer(state.hyper).init(params)),
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
        found = relevant(params["body"], params["heads"]["kernel"][state.task])
        used = select(state.task > 0, found, units)
        return begin_phase(state, params, used, jnp.bool(True))

    def begin_expand(key: Array, state: DenState, task: Task, data: Batch | None) -> DenState:
        params, old = state.model.vars.params, active(state.stamps)
        loss = state.losses.sum() / jnp.clip(state.num_steps, 1, _LOSSES)
        fires = (state.task > 0) & (loss > state.hyper.expand_threshold)
        most = jnp.where(fires, config.added_units, 0)
        stamps, refused = add(state.stamps, state.task + 1, most)

        params = drawn(key, params, old, active(stamps), state.task)
        state = state.replace(stamps=stamps, refused=state.refused.at[state.task].add(refused))
        return begin_phase(state, params, active(stamps), fires, frozen=old)

    def begin_split(key: Array, state: DenState, task: Task, data: Batch | None) -> DenState:
        later, threshold = state.task > 0, state.hyper.split_threshold
        added = jnp.where(later, state.task + 1, -1)
        params, stamps = prune(state.model.vars.params, state.stamps, added)
        most = config.added_units if config.split else 0
        params, stamps, refused = split(params, state.previous, stamps, state.task, threshold, most)
        state = state.replace(stamps=stamps, refused=state.refused.at[state.task].add(refused))
        return begin_phase(state, params, active(stamps), later)

    def update(
        key: Array, state: DenState, batch: Batch, l1: Array, group: Array
    ) -> tuple[DenState, Metrics]:
        hyper, x = state.hyper, augment.train(key, batch.x)
        now, targets = state.model.vars.params, jax.nn.one_hot(batch.y, num_classes)
        moves = trained(now, state.used, state.frozen, state.task, state.learns)
        old = connections(x[0].size, active(state.stamps, state.task))
        held = jax.tree.map(jnp.logical_and, old, moves["body"])

        def loss(vars: Variables):
            logits = forward(vars.params, x, state.used, state.task, dtype)
            learned = binary_cross_entropy(
                logits, targets, 1.0 * batch.valid, jnp.ones(num_classes, bool)
            )
            way = jax.tree.map(jnp.subtract, vars.params["body"], state.previous)
            kept = hyper.drift_weight * half_squared(way, held)
            return learned + hyper.l2_weight * half_squared(vars.params, moves) + kept, learned

        (value, learned), gradient = gradient_of(loss, state.model.vars)
        gradient = jax.tree.map(lambda m, g: jnp.where(m, g, 0), moves, gradient)
        model = apply_gradient(state.model, optimizer(hyper), gradient, {})

        # The proximal steps: L1 on what is trained, then group lasso on what new units hear.
        shrunk = lambda m, w: jnp.where(m, sparser(w, l1), w)  # noqa: E731
        params = jax.tree.map(shrunk, moves, model.vars.params)
        body = []
        for layer, stamps_of in zip(params["body"], state.stamps, strict=True):
            new = (stamps_of == state.task + 1) & state.learns
            kernel = jnp.where(new, columns_shrunk(layer["kernel"], group), layer["kernel"])
            body.append({**layer, "kernel": kernel})
        vars = Variables({**params, "body": tuple(body)}, {})
        state = state.replace(
            model=model.replace(vars=vars),
            losses=state.losses.at[state.num_steps % _LOSSES].set(learned),
            num_steps=state.num_steps + 1,
        )
        return state, {"loss": value}

    def head_step(key: Array, state: DenState, batch: Batch) -> tuple[DenState, Metrics]:
        return update(key, state, batch, state.hyper.head_l1_weight, 0.0)

    def step(key: Array, state: DenState, batch: Batch) -> tuple[DenState, Metrics]:
        return update(key, state, batch, state.hyper.l1_weight, 0.0)

    def expand_step(key: Array, state: DenState, batch: Batch) -> tuple[DenState, Metrics]:
        return update(key, state, batch, state.hyper.l1_weight, state.hyper.group_weight)

    def predict(state: DenState, x: Array, task: Task) -> Array:
        number = asked(task, state.task)
        units = active(state.stamps, number + 1)
        return forward(state.model.vars.params, augment.test(x), units, number, dtype)

    def without_stamps(state: DenState, x: Array, task: Task) -> Array:
        number, units = asked(task, state.task), active(state.stamps)
        return forward(state.model.vars.params, augment.test(x), units, number, dtype)

    def capacity(state: DenState) -> Mapping[str, Array]:
        tasks, params = jnp.arange(num_tasks), state.model.vars.params
        size = jax.vmap(lambda task: num_parameters(state.stamps, task, params))(tasks)
        found = {"bits": 32 * size, "refused units": state.refused.astype(jnp.float32)}
        for number, stamps in enumerate(state.stamps, start=1):
            units = (stamps > 0) & (stamps <= tasks[:, None] + 1)
            found[f"units of layer {number}"] = units.sum(axis=1).astype(jnp.float32)
        return found

    def advice(hyper: DenHyper, num_steps: int) -> str:
        if room >= needed:
            return ""
        return (
            f"den may want {needed} more units a layer and room={room}; what does not fit is not "
            'added, and counted as "refused units"'
        )

    return Method(
        "den",
        init,
        (
            Phase("head", head_step, enter=begin_head, epochs=config.head_epochs),
            Phase("select", step, enter=begin_select),
            Phase("expand", expand_step, enter=begin_expand),
            Phase("split", step, enter=begin_split),
        ),
        predict,
        begin_task=begin_task,
        views={"no_stamps": without_stamps},
        needs=Needs(told_task=True, told_task_at_test=True, boundaries=True),
        advice=advice,
        capacity=capacity,
    )
