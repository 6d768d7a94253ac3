"""The steps that methods share: a model's start, its gradient steps, and the answer by one net."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from operator import itemgetter

import jax
import jax.numpy as jnp
import numpy as np
import optax

from cls_jax.core.augment import Augment
from cls_jax.core.types import (
    Array,
    Batch,
    CapacityFn,
    PredictFn,
    PyTree,
    Scalar,
    Task,
    Trainable,
    Variables,
)
from cls_jax.nets.base import Net


def repeat(
    step: Callable[[PyTree, PyTree], tuple[PyTree, PyTree]], carry: PyTree, xs: PyTree
) -> tuple[PyTree, PyTree]:
    """``jax.lax.scan`` of inner steps within a step.

    On a CPU, whose convolutions are many times slower in a loop, they are written out one after
    another, each a call of one function: the train loop cuts there, and compiles one of them in
    place of all (``training/parts.py``). Elsewhere a loop does.
    """
    if jax.default_backend() != "cpu":
        return jax.lax.scan(step, carry, xs)
    found, inner = [], compiled_once(step)
    for number in range(len(jax.tree.leaves(xs)[0])):
        carry, one = inner(carry, jax.tree.map(itemgetter(number), xs))
        found.append(one)
    return carry, jax.tree.map(lambda *values: jnp.stack(values), *found)


def compiled_once(fn: Callable[..., PyTree]) -> Callable[..., PyTree]:
    """``fn``, of which the train loop on a CPU makes a program of its own, for all of its calls.

    Elsewhere it stays as it is: a part of the one program of the step.
    """
    return jax.jit(partial(repeated, fn)) if jax.default_backend() == "cpu" else fn


def repeated(fn: Callable[..., PyTree], *arguments: PyTree) -> PyTree:
    """What is ``compiled_once``, which is found in a jaxpr by this name."""
    return fn(*arguments)


def parameter_bits(*trees: str) -> CapacityFn:
    """The capacity of networks ``state.<tree>.vars`` that are kept whole and never grow."""

    def capacity(state: PyTree) -> Mapping[str, Array]:
        leaves = jax.tree.leaves([getattr(state, tree).vars for tree in trees])
        return {"bits": jnp.float32(sum(8 * leaf.dtype.itemsize * leaf.size for leaf in leaves))}

    return capacity


def init_model(
    key: Array, net: Net, x: Array, optimizer: optax.GradientTransformation
) -> Trainable:
    """A new network, with the optimizer state that belongs to it."""
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
      optimizer: its rates may be traced.
      loss: variables -> (float32[] loss, the statistics after the forward pass).

    Returns:
      The model after the step, and the loss before it.
    """
    (value, stats), gradient = gradient_of(loss, model.vars)
    return apply_gradient(model, optimizer, gradient, stats), value


def torch_sgd(
    learning_rate: Scalar | optax.Schedule,
    momentum: Scalar | None,
    weight_decay: Scalar,
    undecayed: tuple[str, ...] = (),
) -> optax.GradientTransformation:
    """SGD as torch.optim.SGD has it: the decay is part of the gradient, before the momentum.

    Args:
      learning_rate, momentum, weight_decay: float32[]; a schedule of rates; momentum None: plain
        SGD.
      undecayed: entries at the top of the parameter tree that are not decayed.
    """

    def decayed(tree: PyTree) -> PyTree:
        return {name: name not in undecayed for name in tree}

    return optax.chain(
        optax.add_decayed_weights(weight_decay, decayed if undecayed else None),
        optax.sgd(learning_rate, momentum),
    )


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


AT_ONCE = 16
"""Rows of a batch up to which ``in_turn`` passes several at once. On two cores the gradient of a
ResNet-18 on two batches of 10 then takes 2 to 11 % less; on two of 32 it would take 13 to 20 % more
(records/, less_to_compile): apart XLA can finish one before the other, which fits the caches."""


def in_turn(
    forward: Callable[[PyTree, PyTree, Array], tuple[PyTree, PyTree]],
    vars: PyTree,
    batches: Sequence[PyTree],
    valids: Sequence[Array],
) -> tuple[list[PyTree], PyTree]:
    """Several batches through ``forward``, each normalised by itself, one after another.

    Small batches of one size go through it together, which is the same to rounding and half of the
    program to compile.

    Args:
      forward: (variables, batch, valid) -> (outputs [b, ...], variables with new statistics), of
        networks that take ``valid`` as BatchNorm does, bool[g, b] for g batches.
      vars: the variables before the first.
      batches: pytrees of arrays [b_i, ...].
      valids: bool[b_i] each.

    Returns:
      The outputs of each batch, and the variables after the last.
    """
    sizes, number = {valid.size for valid in valids}, len(valids)
    if len(sizes) == 1 and max(sizes) <= AT_ONCE:
        whole = jax.tree.map(lambda *rows: jnp.concatenate(rows), *batches)
        outputs, vars = forward(vars, whole, jnp.stack(valids))
        parted = jax.tree.map(lambda rows: rows.reshape(number, -1, *rows.shape[1:]), outputs)
        return [jax.tree.map(itemgetter(at), parted) for at in range(number)], vars
    each = []
    for batch, valid in zip(batches, valids, strict=True):
        outputs, vars = forward(vars, batch, valid)
        each.append(outputs)
    return each, vars


def predict_with(net: Net, augment: Augment, tree: str = "model") -> PredictFn:
    """The ``predict`` by one network of the state, ``state.<tree>.vars``."""

    def predict(state: PyTree, x: Array, task: Task) -> Array:
        logits, _ = net.apply(getattr(state, tree).vars, augment.test(x), train=False)
        return logits.astype(jnp.float32)

    return predict


def shuffled_slots(key: Array, filled: Array) -> Array:
    """int32[capacity]: the filled slots of a memory in random order, then the empty ones.

    Args:
      key: of the draw.
      filled: bool[capacity].
    """
    return jnp.argsort(~filled + jax.random.uniform(key, filled.shape)).astype(jnp.int32)


def slots_of_batch(order: Array, number: Array, held: Array, size: int) -> tuple[Array, Array]:
    """The slots of a batch of a pass over a memory, int32[size], and which are there, bool[size].

    Args:
      order: int32[capacity], slots in the order of the pass, filled ones in front.
      number: int32[] of the batch in its pass.
      held: int32[] filled slots.
      size: rows of a batch; the last of a pass may have fewer.
    """
    row = number * size + jnp.arange(size)
    return order[jnp.minimum(row, order.size - 1)], row < held
