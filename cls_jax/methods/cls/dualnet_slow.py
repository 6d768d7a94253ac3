"""DualNet's slow learner: self-supervised SGD steps, followed only a part of the way (look-ahead).

    repeat n_outer times:
        anchor = slow
        repeat inner_steps times:  slow <- slow - eta_ssl * gradient of L_ssl on fresh images
        slow <- anchor + beta * (slow - anchor)

Source: phquang/DualNet, slow phase of each batch; Zhang et al. 2019 for look-ahead. The card's
official objective is Barlow Twins; the others stand in ``view_losses`` with their own sources.
"""

from collections.abc import Callable
from typing import Literal, Protocol

import jax
import jax.numpy as jnp
import optax

from cls_jax.core import self_supervised as view_losses
from cls_jax.core.augment import Augment
from cls_jax.core.choices import Objective as Objective
from cls_jax.core.sync import ema, lookahead
from cls_jax.core.types import Array, PyTree, Trainable, Variables
from cls_jax.nets.dualnet import DualNets

DrawFn = Callable[[Array], tuple[Array, Array]]
"""key -> (images uint8[n, h, w, c], valid bool[n]), drawn anew for every inner step."""


class SlowConfig(Protocol):
    """The choices that the slow phase looks at; see DualNetConfig."""

    objective: Objective
    n_outer: int
    inner_steps: int
    ssl_optimizer: Literal["sgd", "momentum"]
    lookahead_stats: bool


class SlowPhaseFn(Protocol):
    """All rounds of one batch: (slow, target, mean self-supervised loss float32[])."""

    def __call__(
        self, key: Array, slow: Trainable, target: PyTree, draw: DrawFn, hyper: PyTree
    ) -> tuple[Trainable, PyTree, Array]: ...


def slow_learner(
    config: SlowConfig, nets: DualNets, augment: Augment
) -> tuple[Callable[[PyTree, PyTree], PyTree], SlowPhaseFn]:
    """The slow phase of DualNet.

    Args:
      config: the choices of SlowConfig.
      nets: whose ``embed`` is trained; with predictor for SimSiam and BYOL.
      augment: whose ``view_a`` and ``view_b`` make the two views.

    Returns:
      ``init(slow params, hyper) -> optimizer state``, kept under ``slow.opt["ssl"]``, and the
      phase. Its hyper has ``ssl_learning_rate``, ``lookahead_step_size`` and, where used,
      ``ssl_momentum``, ``ssl_weight_decay`` and ``target_decay``.
    """

    def optimizer(hyper) -> optax.GradientTransformation:
        if config.ssl_optimizer == "sgd":
            return optax.sgd(hyper.ssl_learning_rate)
        decay = optax.add_decayed_weights(hyper.ssl_weight_decay)
        return optax.chain(decay, optax.sgd(hyper.ssl_learning_rate, hyper.ssl_momentum))

    def init(params: PyTree, hyper) -> PyTree:
        return optimizer(hyper).init(params)

    def objective(slow: Variables, target: PyTree, xa: Array, xb: Array, valid: Array):
        """The loss on two views, each with a BatchNorm batch of its own; and the stats after."""
        a, stats = nets.embed(slow, xa, train=True, valid=valid)
        b, stats = nets.embed(slow.replace(stats=stats), xb, train=True, valid=valid)
        if config.objective in ("simsiam", "byol_as_in_code"):
            value = getattr(view_losses, config.objective)(a.p, b.p, a.z, b.z, valid=valid)
        elif config.objective == "byol":
            ta, _ = nets.embed(target, xa, train=True, valid=valid)
            tb, _ = nets.embed(target, xb, train=True, valid=valid)
            value = view_losses.byol(a.p, b.p, ta.z, tb.z, valid=valid)
        else:
            value = getattr(view_losses, config.objective)(a.z, b.z, valid=valid)
        return value, stats

    def inner_step(slow: Trainable, target: PyTree, xa: Array, xb: Array, valid: Array, hyper):
        def loss(params: PyTree):
            return objective(slow.vars.replace(params=params), target, xa, xb, valid)

        (value, stats), gradient = jax.value_and_grad(loss, has_aux=True)(slow.vars.params)
        updates, opt = optimizer(hyper).update(gradient, slow.opt["ssl"], slow.vars.params)
        vars = Variables(optax.apply_updates(slow.vars.params, updates), stats)
        if config.objective == "byol":
            target = ema(target, vars, hyper.target_decay)
        return Trainable(vars=vars, opt={**slow.opt, "ssl": opt}), target, value

    def images(key: Array, draw: DrawFn) -> tuple[Array, Array, Array]:
        """Both views of one inner step's images, and which of them count."""
        key_draw, key_a, key_b = jax.random.split(key, 3)
        x, valid = draw(key_draw)
        return augment.view_a(key_a, x), augment.view_b(key_b, x), valid

    def phase(key: Array, slow: Trainable, target: PyTree, draw: DrawFn, hyper):
        # Memory does not change in the slow phase: the images of all its steps are drawn at once,
        # which compiles the views once instead of once a step.
        keys = jax.vmap(lambda k: jax.random.split(k, config.inner_steps))(
            jax.random.split(key, config.n_outer)
        )
        xa, xb, valid = jax.vmap(lambda k: images(k, draw))(keys.ravel())
        values = []
        for outer in range(config.n_outer):
            anchor = slow.vars
            for inner in range(config.inner_steps):
                i = outer * config.inner_steps + inner
                slow, target, value = inner_step(slow, target, xa[i], xb[i], valid[i], hyper)
                values.append(value)
            moved = lookahead(anchor, slow.vars, hyper.lookahead_step_size)
            if not config.lookahead_stats:
                moved = moved.replace(stats=slow.vars.stats)
            slow = slow.replace(vars=moved)
        return slow, target, jnp.stack(values).mean()

    return init, phase
