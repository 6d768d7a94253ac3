"""DualNet's slow learner: self-supervised SGD steps, followed only a part of the way (look-ahead).

    repeat n_outer times:
        anchor = slow
        repeat inner_steps times:  slow <- slow - eta_ssl * gradient of L_ssl on fresh images
        slow <- anchor + beta * (slow - anchor)

Source: phquang/DualNet, slow phase of each batch; Zhang et al. 2019 for look-ahead. The card's
official objective is Barlow Twins; the others stand in ``view_losses`` with their own sources.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Literal, NamedTuple, Protocol

import jax
import optax

from cls_jax.core import self_supervised as view_losses
from cls_jax.core.augment import Augment
from cls_jax.core.checks import check_range
from cls_jax.core.choices import Objective
from cls_jax.core.errors import InputError
from cls_jax.core.sync import ema, lookahead
from cls_jax.core.types import Array, PyTree, Scalar, Trainable, Variables
from cls_jax.methods.steps import compiled_once, gradient_step, in_turn, repeat
from cls_jax.nets.dualnet import DualNets, Embedding

NEEDS_PREDICTOR = ("simsiam", "byol", "byol_as_in_code")
"""Objectives whose networks have a predictor."""

DrawFn = Callable[[Array], tuple[Array, Array, Mapping[str, PyTree]]]
"""key -> (images uint8[n, h, w, c], valid bool[n], further keywords of ``embed``, leading axis n),
drawn anew for every inner step."""


class SlowPhaseFn(Protocol):
    """All rounds of one batch: (slow, target, mean self-supervised loss float32[])."""

    def __call__(
        self, key: Array, slow: Trainable, target: PyTree, draw: DrawFn
    ) -> tuple[Trainable, PyTree, Array]: ...


class SlowLearner(NamedTuple):
    """optimizer: its state stands under ``slow.opt["ssl"]``; phase: all rounds of one batch."""

    optimizer: optax.GradientTransformation
    phase: SlowPhaseFn


def slow_optimizer(
    rule: Literal["sgd", "momentum"],
    *,
    learning_rate: Scalar,
    momentum: Scalar,
    weight_decay: Scalar,
) -> optax.GradientTransformation:
    """The optimizer of the self-supervised steps.

    Args:
      rule: plain SGD, or SGD with momentum and decay of the weights.
      learning_rate: of either.
      momentum, weight_decay: of "momentum" alone.
    """
    if rule == "sgd":
        return optax.sgd(learning_rate)
    decay = optax.add_decayed_weights(weight_decay)
    return optax.chain(decay, optax.sgd(learning_rate, momentum))


def slow_learner(
    nets: DualNets,
    augment: Augment,
    optimizer: optax.GradientTransformation,
    *,
    objective: Objective,
    n_outer: int,
    inner_steps: int,
    lookahead_step_size: Scalar,
    lookahead_stats: bool,
    target_decay: Scalar,
) -> SlowLearner:
    """The slow phase of DualNet.

    Args:
      nets: whose ``embed`` is trained; with predictor for NEEDS_PREDICTOR.
      augment: whose ``view`` makes the two views.
      optimizer: of the inner steps.
      objective: name of the self-supervised loss.
      n_outer: look-ahead rounds a batch.
      inner_steps: optimizer steps in a round.
      lookahead_step_size: beta, in [0, 1].
      lookahead_stats: whether look-ahead moves the BatchNorm statistics too.
      target_decay: of BYOL's averaged network.

    Raises:
      InputError: if there are no rounds, no steps in them, or no views.
    """
    check_range("n_outer", n_outer, 1)
    check_range("inner_steps", inner_steps, 1)
    view = augment.view
    if view is None:
        raise InputError("augment has no self-supervised views; give views='kornia050' to recipe")

    def ssl_loss(slow: Variables, target: PyTree, views: tuple):
        """The loss on two views, each with a BatchNorm batch of its own; and the stats after."""
        (xa, xb), valid, more = views

        def embed(vars: Variables, rows: tuple, valid: Array) -> tuple[Embedding, Variables]:
            x, more = rows
            seen, stats = nets.embed(vars, x, train=True, valid=valid, **more)
            return seen, vars.replace(stats=stats)

        both = partial(in_turn, embed, batches=[(xa, more), (xb, more)], valids=[valid, valid])
        (a, b), slow = both(slow)
        if objective in ("simsiam", "byol_as_in_code"):
            value = getattr(view_losses, objective)(a.p, b.p, a.z, b.z, valid=valid)
        elif objective == "byol":
            (ta, tb), _ = both(target)
            assert a.p is not None  # NEEDS_PREDICTOR
            assert b.p is not None
            value = view_losses.byol(a.p, b.p, ta.z, tb.z, valid=valid)
        else:
            value = getattr(view_losses, objective)(a.z, b.z, valid=valid)
        return value, slow.stats

    def inner_step(slow: Trainable, target: PyTree, views: tuple):
        own = slow.replace(opt=slow.opt["ssl"])
        moved, value = gradient_step(own, optimizer, lambda vars: ssl_loss(vars, target, views))
        if objective == "byol":
            target = ema(target, moved.vars, target_decay)
        return moved.replace(opt={**slow.opt, "ssl": moved.opt}), target, value

    one_view = compiled_once(view)

    def images(key: Array, draw: DrawFn) -> tuple[list[Array], Array, Mapping[str, PyTree]]:
        """Both views of one inner step's images, which of them count, and what ``embed`` needs."""
        keys = jax.random.split(key, 3)
        x, valid, more = draw(keys[0])
        return [one_view(keys[1 + number], x, number) for number in (0, 1)], valid, more

    def phase(key: Array, slow: Trainable, target: PyTree, draw: DrawFn):
        # Memory does not change in the slow phase: the images of all its steps are drawn at once,
        # which compiles the views once instead of once a step.
        keys = jax.vmap(lambda k: jax.random.split(k, inner_steps))(jax.random.split(key, n_outer))
        views = jax.vmap(lambda k: images(k, draw))(keys.ravel())
        rounds = (n_outer, inner_steps)
        views = jax.tree.map(lambda a: a.reshape(*rounds, *a.shape[1:]), views)

        def inner(carry: tuple, views: tuple) -> tuple[tuple, Array]:
            slow, target, value = inner_step(carry[0], carry[1], views)
            return (slow, target), value

        def outer(carry: tuple, views: tuple) -> tuple[tuple, Array]:
            anchor = carry[0].vars
            (slow, target), values = repeat(inner, carry, views)
            moved = lookahead(anchor, slow.vars, lookahead_step_size)
            if not lookahead_stats:
                moved = moved.replace(stats=slow.vars.stats)
            return (slow.replace(vars=moved), target), values

        (slow, target), values = repeat(outer, (slow, target), views)
        return slow, target, values.mean()

    return SlowLearner(optimizer, phase)
