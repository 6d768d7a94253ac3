"""How slow and fast weights meet: look-ahead, averaging and their clocks, as tree transforms.

Every rule maps whole pytrees to a new tree and hides nothing. What happens to BatchNorm statistics
is decided by what the caller passes: ``Variables`` moves parameters and statistics, ``.params``
moves parameters alone. The arithmetic is ``optax.incremental_update`` with the roles named.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import struct

from cls_jax.core.types import Array, PyTree

Rule = Callable[[PyTree, PyTree], PyTree]
"""(target, source) -> new target."""


def ema(target: PyTree, source: PyTree, decay: Array | float) -> PyTree:
    """The exponential moving average ``decay * target + (1 - decay) * source``.

    Args:
      target: float tree, the average so far.
      source: tree of the same structure, the newest weights.
      decay: dimensionless, in [0, 1]; 0 copies the source, 1 keeps the target, both bit for bit.

    Returns:
      A tree like ``target``.

    Source: Tarvainen and Valpola 2017; CLS-ER (arXiv 2201.12604), equation of the semantic
    memories.

    Example:
      >>> float(ema(0.0, 1.0, decay=0.75))
      0.25
    """
    return optax.incremental_update(source, target, 1.0 - decay)


def ema_decay(step: Array | int, decay: Array | float) -> Array:
    """The decay with warm-up, ``min(1 - 1 / (step + 1), decay)``.

    Until the cap binds, averaging at every step with this decay gives the arithmetic mean of all
    weights since the first, the initial ones included.

    Args:
      step: int32[] number of this update, 1 for the first (decay 0.5).
      decay: the cap, dimensionless, in [0, 1).

    Returns:
      float32[] the decay to use.

    Source: NeurAI-Lab/CLS-ER, update of the plastic and stable models.

    Example:
      >>> float(ema_decay(1, 0.999))
      0.5
    """
    return jnp.minimum(1.0 - 1.0 / (step + 1.0), decay)


def lookahead(anchor: PyTree, fast: PyTree, step_size: Array | float) -> PyTree:
    """A part of the way from the anchor to the fast weights, ``(1 - b) * anchor + b * fast``.

    Args:
      anchor: float tree, the weights before the inner steps (DualNet's slow weights).
      fast: tree of the same structure, the weights after them.
      step_size: ``b``, dimensionless, in [0, 1]; 0 gives the anchor and 1 the fast weights,
        both bit for bit.

    Returns:
      A tree like ``anchor``.

    Source: Zhang et al. 2019 (Lookahead), algorithm 1; DualNet (arXiv 2110.00175), slow phase.
    """
    return optax.incremental_update(fast, anchor, step_size)


def select(fire: Array, new: PyTree, old: PyTree) -> PyTree:
    """``new`` where ``fire`` holds, else ``old``: a whole tree, bit for bit.

    Args:
      fire: bool[].
      new, old: trees of the same structure, shapes and dtypes.
    """
    return jax.tree.map(lambda n, o: jnp.where(fire, n, o), new, old)


@struct.dataclass
class Clock:
    """How often a Sync was asked: ``count`` int32[]."""

    count: Array


class Sync(NamedTuple):
    """A rule with a clock.

    Attributes:
      init: () -> Clock.
      update: (key, clock, target, source) -> (clock, target).
    """

    init: Callable[[], Clock]
    update: Callable[[Array, Clock, PyTree, PyTree], tuple[Clock, PyTree]]


def _clocked(fires: Callable[[Array, Array], Array], rule: Rule) -> Sync:
    def init() -> Clock:
        return Clock(count=jnp.zeros((), jnp.int32))

    def update(key: Array, clock: Clock, target: PyTree, source: PyTree) -> tuple[Clock, PyTree]:
        count = clock.count + 1
        return Clock(count), select(fires(key, count), rule(target, source), target)

    return Sync(init, update)


def every(period: int, rule: Rule) -> Sync:
    """Applies ``rule`` at every ``period``-th call and keeps the target otherwise; no randomness.

    Args:
      period: calls, at least 1.
      rule: (target, source) -> new target.

    Raises:
      ValueError: if ``period`` is below 1.
    """
    if period < 1:
        raise ValueError(f"period must be at least 1 call, got {period}")
    return _clocked(lambda key, count: count % period == 0, rule)


def at_random(rate: Array | float, rule: Rule) -> Sync:
    """Applies ``rule`` with probability ``rate`` at each call, by an independent draw.

    Args:
      rate: probability in [0, 1]; an array when it comes from a method's Hyper.
      rule: (target, source) -> new target.

    Source: CLS-ER (arXiv 2201.12604), stochastic updates of the two semantic memories.
    """
    return _clocked(lambda key, count: jax.random.bernoulli(key, rate), rule)
