"""How slow and fast weights meet: look-ahead and averaging, as tree transforms.

Every rule maps whole pytrees to a new tree and hides nothing. What happens to BatchNorm statistics
is decided by what the caller passes: ``Variables`` moves parameters and statistics, ``.params``
moves parameters alone. The arithmetic is ``optax.incremental_update`` with the roles named.
"""

import jax
import jax.numpy as jnp
import optax

from cls_jax.core.types import Array, PyTree


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
