"""An averaged copy of the working network: its logits on replay, which teach, and how it follows.

CLS-ER has two such copies, Mean-ER one. The copy's parameters are a stochastic exponential moving
average of the working ones. What happens to its BatchNorm statistics is ``ema_bn``'s choice:

* "own": the copy's own training-mode forwards on replay move them; never averaged, never copied.
* "ema": averaged like the parameters, when these are.
* "copy": the working network's, taken over at each update.

Source: Arani et al. 2022 (arXiv 2201.12604), section 3; NeurAI-Lab/CLS-ER, models/clser.py ("own").
"""

from collections.abc import Callable, Mapping, Sequence

import jax
import jax.numpy as jnp
import optax
from flax import struct

from cls_jax.core.choices import EmaBn, Warmup
from cls_jax.core.losses import cross_entropy, logit_mse, weighted_logit_mse
from cls_jax.core.sync import ema, ema_decay, select
from cls_jax.core.types import Array, Scalar, Trainable, Variables
from cls_jax.methods.steps import forward_each, gradient_step
from cls_jax.nets.base import Net


class Averaged(struct.PyTreeNode):
    """vars: the copy; updates: int32[] how often it followed."""

    vars: Variables
    updates: Array


def copy_of(vars: Variables) -> Averaged:
    """A copy that has not followed yet; no buffer is shared."""
    return Averaged(vars=jax.tree.map(jnp.copy, vars), updates=jnp.int32(0))


def teacher_logits(
    net: Net, copy: Averaged, x: Array, valid: Array, ema_bn: EmaBn
) -> tuple[Array, Averaged]:
    """Logits of a training-mode forward on replay, without a gradient; "own" statistics move.

    Args:
      net: of the copy.
      copy: of the working network.
      x: float32[m, ...] augmented replay.
      valid: bool[m].
      ema_bn: see the module's docstring.

    Returns:
      (float32[m, num_classes], the copy after the forward).
    """
    (logits,), copy = teacher_logits_each(net, copy, [x], [valid], ema_bn)
    return logits, copy


def teacher_logits_each(
    net: Net, copy: Averaged, xs: Sequence[Array], valids: Sequence[Array], ema_bn: EmaBn
) -> tuple[list[Array], Averaged]:
    """As ``teacher_logits``, of several batches, each normalised by itself, one after another.

    Args:
      net, copy, ema_bn: as for ``teacher_logits``.
      xs: float32[b_i, ...] each.
      valids: bool[b_i] each.

    Returns:
      (float32[b_i, num_classes] each, the copy after the last forward).
    """
    each, stats = forward_each(net, copy.vars, xs, valids)
    if ema_bn == "own":
        copy = copy.replace(vars=copy.vars.replace(stats=stats))
    return jax.lax.stop_gradient(each), copy


def maybe_ema_update(
    key: Array,
    copy: Averaged,
    working: Variables,
    step: Array,
    *,
    rate: Scalar,
    decay: Scalar,
    ema_bn: EmaBn,
    warmup: Warmup,
) -> Averaged:
    """With probability ``rate`` a step of the average towards the working network.

    Args:
      key: of the draw.
      copy, working, decay, ema_bn: as for ``ema_update``.
      step: int32[] number of this training step, 1 for the first.
      rate: probability of an update, in [0, 1].
      warmup: the decay is ``min(1 - 1 / (n + 1), decay)``, where n is the number of training
        "steps" (as in the official code: with a small rate much of the initial weights stays) or
        of this copy's own "updates", this one included.
    """
    fire = jax.random.bernoulli(key, rate)
    number = step if warmup == "steps" else copy.updates + 1
    return ema_update(fire, copy, working, number, decay=decay, ema_bn=ema_bn)


def ema_update(
    fire: Array,
    copy: Averaged,
    working: Variables,
    number: Array,
    *,
    decay: Scalar,
    ema_bn: EmaBn,
) -> Averaged:
    """Where ``fire`` holds, a step of the average towards the working network.

    Args:
      fire: bool[].
      copy: the average so far.
      working: the newest weights.
      number: int32[] n, from which the decay is ``min(1 - 1 / (n + 1), decay)``; 1 for the first.
      decay: cap of the average's decay, in [0, 1).
      ema_bn: see the module's docstring.
    """
    keep = jnp.where(fire, ema_decay(number, decay), 1.0)  # 1 keeps the copy bit for bit
    params, stats = ema(copy.vars.params, working.params, keep), copy.vars.stats
    if ema_bn == "ema":
        stats = ema(stats, working.stats, keep)
    if ema_bn == "copy":
        stats = select(fire, working.stats, stats)
    return Averaged(vars=Variables(params=params, stats=stats), updates=copy.updates + fire)


def slow_copies(
    warmup: Warmup, copies: Mapping[str, tuple[float, float]]
) -> Callable[[int, int], str]:
    """The advice of a method: a warning where a copy would end made of initial weights, else "".

    Args:
      warmup: of the averages.
      copies: name -> (rate, decay) of each.
    """

    def advice(num_steps: int, num_epochs: int) -> str:
        del num_epochs
        told = (too_slow(name, *rule, num_steps) for name, rule in copies.items())
        return "" if warmup == "updates" else next(filter(None, told), "")

    return advice


def too_slow(copy: str, rate: float, decay: float, num_steps: int) -> str:
    """A warning if ``num_steps * rate * (1 - decay) < 3``, else "".

    With warm-up over steps much of the initial weights is then left: the published small rates
    belong to streams of many epochs.

    Args:
      copy: "stable" or "plastic".
      rate, decay: of that copy.
      num_steps: of the whole stream.
    """
    if num_steps * rate * (1 - decay) >= 3:
        return ""
    return (
        f"{copy}_rate {rate:g} and {copy}_decay {decay:g} are too slow for {num_steps} "
        f"steps: the {copy} copy will be made of initial weights; use --warmup updates, "
        "a higher rate or a lower decay"
    )


def consistency_step(
    net: Net,
    working: Trainable,
    x: Array,
    y: Array,
    valid: Array,
    targets: Array,
    weights: Array | None = None,
    *,
    optimizer: optax.GradientTransformation,
    consistency_weight: Scalar,
) -> tuple[Trainable, Array]:
    """One optimizer step: cross-entropy of all rows, and the replay's logits kept as they were.

    ``CE(h(x), y) + lambda mean (h(x_replay) - targets)^2``; of several copies the weighted sum.

    Args:
      net, working: the working network.
      x: float32[m + b, ...], the replay first.
      y: int32[m + b].
      valid: bool[m + b].
      targets: float32[m, num_classes] logits to keep, or of several copies float32[G, m, C].
      weights: float32[m, G] of each copy in each row; None: ``targets`` are of one.
      optimizer: of the working network.
      consistency_weight: lambda, >= 0.

    Returns:
      The working network after the step, and the loss before it.
    """
    m = targets.shape[-2]

    def loss(vars: Variables):
        remembered, logits, stats = _replay_and_all(net, vars, x, valid, m)
        if weights is None:
            consistency = logit_mse(remembered, targets, valid=valid[:m])
        else:
            consistency = weighted_logit_mse(remembered, targets, weights, valid=valid[:m])
        return cross_entropy(logits, y, valid=valid) + consistency_weight * consistency, stats

    return gradient_step(working, optimizer, loss)


def _replay_and_all(
    net: Net, vars: Variables, x: Array, valid: Array, m: int
) -> tuple[Array, Array, Array]:
    """Training-mode logits of the replay alone, then of everything, and the statistics after both.

    Where there are no statistics, one pass serves both.
    """
    if not jax.tree.leaves(vars.stats):
        logits, stats = net.apply(vars, x, train=True, valid=valid)
        return logits[:m], logits, stats
    remembered, stats = net.apply(vars, x[:m], train=True, valid=valid[:m])
    logits, stats = net.apply(vars.replace(stats=stats), x, train=True, valid=valid)
    return remembered, logits, stats
