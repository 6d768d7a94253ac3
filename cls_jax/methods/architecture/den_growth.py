"""How DEN's network grows: which units are relevant, added, removed or split.

All of it is arithmetic on arrays of fixed size (nets/den.py), so no task is another program.

Source: Yoon et al. 2018 (ICLR; arXiv 1708.01547), algorithms 2 to 4; jaehong31/DEN.
Departs: what the released code does otherwise by mistake (see den.py) is done as the paper has it.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from cls_jax.core.errors import InputError
from cls_jax.core.types import Array, PyTree, Scalar
from cls_jax.nets.den import Units, connections, glorot


def check_growth(
    hidden: Sequence[int], added_units: int, room: int | None, head_epochs: int
) -> None:
    """Raises InputError for a network that is none, or growth by less than nothing.

    Args:
      hidden: units of each hidden layer in the first task.
      added_units, room, head_epochs: as for ``den``.
    """
    if not hidden or min(hidden) < 1:
        raise InputError(f"hidden={tuple(hidden)}: den needs a hidden layer, and units in each")
    if added_units < 1:
        raise InputError(
            f"added_units={added_units} lets nothing grow; give at least 1, or use l2_transfer"
        )
    if room is not None and room < 0:
        raise InputError(
            f"room={room} would cut the first task's units; give at least 0, or leave it out for "
            "all that could be needed"
        )
    if head_epochs < 1:
        raise InputError(f"head_epochs={head_epochs} selects nothing; give at least 1")


def relevant_units(body: PyTree, head: Array) -> Units:
    """The units from which a path of weights other than 0 leads to any class.

    Args:
      body: the hidden layers.
      head: float32[N, C], kernel of the task's last layer after it was trained with L1.

    Source: algorithm 2; den card, oracle 5. The released code looks at class 0 alone.
    """
    units = [(head != 0).any(axis=1)]
    for layer in reversed(body[1:]):
        units.append(((layer["kernel"] != 0) & units[-1]).any(axis=1))
    return tuple(reversed(units))


def add_units(
    stamps: Sequence[Array], stamp: Array, most: Array
) -> tuple[tuple[Array, ...], Array]:
    """``most`` units more in every layer, or as many as there is room for.

    Args:
      stamps: int32[N] each.
      stamp: int32[] of the new units.
      most: int32[] units a layer.

    Returns:
      The stamps, and int32[] how many units did not fit.
    """
    grown, refused = [], jnp.int32(0)
    for stamps_of in stamps:
        free = stamps_of == 0
        new = free & (jnp.cumsum(free) <= most)
        grown.append(jnp.where(new, stamp, stamps_of))
        refused += most - new.sum(dtype=jnp.int32)
    return tuple(grown), refused


def init_new_units(key: Array, params: PyTree, old: Units, units: Units, task: Array) -> PyTree:
    """The parameters with fresh values where a unit is new: what it hears, who hears it, its bias.

    Args:
      key: for the draw.
      params: {"body", "heads"}, 0 where a unit is new.
      old, units: that were there, and that are there now.
      task: int32[] whose head gets rows for new units.
    """
    num_inputs, kernel = params["body"][0]["kernel"].shape[0], params["heads"]["kernel"]
    body, head = glorot(key, num_inputs, units, kernel.shape[-1])
    body = jax.tree.map(jnp.where, connections(num_inputs, old), params["body"], body)
    mine = jnp.where(old[-1][:, None], kernel[task], head["kernel"])
    return {"body": body, "heads": {**params["heads"], "kernel": kernel.at[task].set(mine)}}


def prune_units(
    params: PyTree, stamps: Sequence[Array], stamp: Array
) -> tuple[PyTree, tuple[Array, ...]]:
    """Without the units of this ``stamp`` whose incoming weights are all 0; their places are free.

    From below to above, so that a unit which hears only removed units is removed too.

    Args:
      params: {"body", "heads"}.
      stamps: int32[N] each.
      stamp: int32[] that of the units just added; -1: there are none.

    Returns:
      params and stamps.
    """
    body, heads = params["body"], params["heads"]
    layers, left, stays = [], [], jnp.ones(body[0]["kernel"].shape[0], bool)
    for layer, stamps_of in zip(body, stamps, strict=True):
        kernel = jnp.where(stays[:, None], layer["kernel"], 0)
        stays = (stamps_of != stamp) | (kernel != 0).any(axis=0)
        layers.append({"kernel": kernel, "bias": jnp.where(stays, layer["bias"], 0)})
        left.append(jnp.where(stays, stamps_of, 0))
    heads = {**heads, "kernel": jnp.where(stays[:, None], heads["kernel"], 0)}
    return {"body": tuple(layers), "heads": heads}, tuple(left)


def drift(kernel: Array, previous: Array, old_below: Array) -> Array:
    """How far each unit's weights from old units below have moved, L2, float32[N].

    Args:
      kernel, previous: float32[n, N], now and before the task.
      old_below: bool[n].

    Source: algorithm 4; den card, oracle 7: (1, 2) to (1.3, 2.4) is 0.5.
    """
    return jnp.linalg.norm(jnp.where(old_below[:, None], kernel - previous, 0), axis=0)


def units_to_split(moved: Array, threshold: Scalar, most: int) -> tuple[Array, Array]:
    """Who is to be split: the units that moved most, and whether they moved far enough.

    Args:
      moved: float32[N], negative for a unit that must not be split.
      threshold: float32[].
      most: at most so many.

    Returns:
      int32[most] numbers of units, the farthest first, and bool[most].

    Source: den card, oracle 6: (.01, .2, .06, .9) above .05, at most 2: units 3 and 1. The
    released code splits those that moved least.
    """
    order = jnp.argsort(-moved)[:most]
    return order, moved[order] > threshold


def split_units(
    params: PyTree,
    previous: PyTree,
    stamps: Sequence[Array],
    task: Array,
    threshold: Scalar,
    most: int,
) -> tuple[PyTree, tuple[Array, ...], Array]:
    """Old units that moved too far become two: as before the task, and as now with a new stamp.

    The new one takes over incoming and outgoing weights, bias and its row of the task's head; the
    old one leaves that head, and older heads do not know the new one.

    Args:
      params: {"body", "heads"}.
      previous: the body before the task.
      stamps: int32[N] each.
      task: int32[] from 0; its units have the stamp ``task + 1``.
      threshold: float32[] of the drift.
      most: units a layer, those that moved farthest.

    Returns:
      params, stamps, and int32[] how many splits did not fit.
    """
    body, heads = params["body"], params["heads"]
    num_inputs = body[0]["kernel"].shape[0]
    origin_below, old_below = jnp.arange(num_inputs), jnp.ones(num_inputs, bool)
    layers, grown, refused = [], [], jnp.int32(0)
    for layer, before, stamps_of in zip(body, previous, stamps, strict=True):
        old = (stamps_of > 0) & (stamps_of <= task)
        moved = jnp.where(old, drift(layer["kernel"], before["kernel"], old_below), -1)
        chosen, far = units_to_split(moved, threshold, most)
        places = jnp.argsort(stamps_of > 0)[:most]  # free ones first, in their order
        fits = far & (stamps_of[places] == 0)
        origin = jnp.arange(old.size).at[places].set(jnp.where(fits, chosen, places))
        restored = jnp.zeros(old.size, bool).at[chosen].set(fits)
        kernel, bias = layer["kernel"][origin_below][:, origin], layer["bias"][origin]
        layers.append(
            {
                "kernel": jnp.where(restored, before["kernel"], kernel),
                "bias": jnp.where(restored, before["bias"], bias),
            }
        )
        grown.append(stamps_of.at[places].set(jnp.where(fits, task + 1, stamps_of[places])))
        refused += (far & ~fits).sum(dtype=jnp.int32)
        origin_below, old_below = origin, old
    mine = jnp.where(restored[:, None], 0, heads["kernel"][task][origin])
    heads = {**heads, "kernel": heads["kernel"].at[task].set(mine)}
    return {"body": tuple(layers), "heads": heads}, tuple(grown), refused


def soft_threshold(weights: Array, amount: Scalar) -> Array:
    """The proximal step of L1, ``sign(w) max(|w| - amount, 0)``: small weights become exactly 0.

    Source: den card, oracle 1.
    """
    return jnp.sign(weights) * jnp.maximum(jnp.abs(weights) - amount, 0)


def group_soft_threshold(kernel: Array, amount: Scalar) -> Array:
    """The proximal step of group lasso: every column's length is ``amount`` less, and at least 0.

    Source: den card, oracle 2: (3, 4) by 1e-3 is (2.9994, 3.9992).
    """
    length = jnp.linalg.norm(kernel, axis=0)
    return kernel * jnp.maximum(1 - amount / jnp.maximum(length, 1e-30), 0)


def with_columns_shrunk(body: PyTree, units: Units, amount: Scalar) -> PyTree:
    """The body after the proximal step of group lasso on what ``units`` hear; biases stay.

    Args:
      body: the hidden layers.
      units: whose incoming weights shrink.
      amount: float32[] by which each of their lengths does.
    """
    layers = []
    for layer, shrinks in zip(body, units, strict=True):
        shrunk = group_soft_threshold(layer["kernel"], amount)
        layers.append({**layer, "kernel": jnp.where(shrinks, shrunk, layer["kernel"])})
    return tuple(layers)
