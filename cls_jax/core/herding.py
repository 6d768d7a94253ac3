"""Exemplars: which few examples of a class have nearly the mean feature of all, and their mean."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from cls_jax.core.types import Array


def herd(features: Array, y: Array, valid: Array, size: Array | int, num_classes: int) -> Array:
    """The greedy order in which each class's examples approximate its mean feature.

    The i-th choice (from 0) of a class with mean ``mu`` and chosen sum ``s`` is the example not yet
    chosen with the smallest ``|mu - (f + s) / (i + 1)|``, the first of equals. Every prefix of the
    order is the herding of its length, so a class is cut by keeping its lowest ranks. All classes
    choose at once: the cost is ``size`` passes over ``features``.

    Args:
      features: float32[n, d], usually of unit length.
      y: int32[n] classes; anything in invalid rows.
      valid: bool[n] examples to choose from; the others are in no mean.
      size: int32[] how many to choose of each class; a smaller class is ordered whole.
      num_classes: labels are 0 to num_classes - 1.

    Returns:
      int32[n], the rank of each example within its class, from 0; n where it was not chosen.

    Source: Rebuffi et al. 2017 (iCaRL), algorithm 4; aimagelab/mammoth, utils/buffer.py.
    """
    n = len(features)
    row = jnp.arange(n)
    means = class_means(features, y, valid, num_classes)
    y, features = jnp.where(valid, y, 0), jnp.where(valid[:, None], features, 0)

    def choose(i: Array, carry: tuple[Array, Array]) -> tuple[Array, Array]:
        rank, chosen = carry  # of each example; sum of each class's choices
        wanted = (i + 1) * means - chosen
        left = valid & (rank == n)
        cost = jnp.where(left, jnp.square(wanted[y] - features).sum(axis=1), jnp.inf)
        best = left & (cost == jax.ops.segment_min(cost, y, num_classes)[y])
        first = jax.ops.segment_min(jnp.where(best, row, n), y, num_classes)
        taken = best & (row == first[y])
        chosen += jax.ops.segment_sum(jnp.where(taken[:, None], features, 0), y, num_classes)
        return jnp.where(taken, i, rank), chosen

    start = jnp.full(n, n, jnp.int32), jnp.zeros_like(means)
    return jax.lax.fori_loop(0, size, choose, start)[0]


def class_means(features: Array, y: Array, valid: Array, num_classes: int) -> Array:
    """Mean feature of each class.

    Args:
      features: float32[n, d].
      y: int32[n] classes; anything in invalid rows.
      valid: bool[n] rows that count.
      num_classes: labels are 0 to num_classes - 1.

    Returns:
      float32[num_classes, d]; zeros for a class without a valid row.
    """
    y, features = jnp.where(valid, y, 0), jnp.where(valid[:, None], features, 0)
    sums = jax.ops.segment_sum(features, y, num_classes)
    counts = jax.ops.segment_sum(valid.astype(features.dtype), y, num_classes)
    return sums / jnp.maximum(counts, 1)[:, None]


def unit(features: Array) -> Array:
    """float32[n, d] rows divided by their length; a row shorter than 1e-12 stays as it is."""
    square = jnp.square(features).sum(axis=-1, keepdims=True)
    return features / jnp.sqrt(jnp.where(square > 1e-24, square, 1))


def in_chunks(fn: Callable[[Array], Array], x: Array, chunk: int = 256) -> Array:
    """``fn(x)`` for many rows, of which ``chunk`` at a time are in flight.

    Args:
      fn: [k, ...] -> [k, d], each row by itself.
      x: [n, ...].
      chunk: rows a call, >= 1; it bounds the working memory and changes nothing else.

    Returns:
      [n, d].
    """
    n, chunk = len(x), min(chunk, len(x))
    x = jnp.pad(x, [(0, -n % chunk)] + [(0, 0)] * (x.ndim - 1))
    out = jax.lax.map(fn, x.reshape(-1, chunk, *x.shape[1:]))
    return out.reshape(-1, out.shape[-1])[:n]
