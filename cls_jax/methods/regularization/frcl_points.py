"""Which few inputs stand for a task's function: at random, of each class alike, or by a search.

The search lowers ``T(Z) = sum_x (k_xx - k_xZ K^-1 k_Zx)``, what of the prior's variance at the
task's inputs its values at the points Z leave open. It starts at random, proposes another input for
one of the points, and keeps what is better.

Source: Titsias et al. 2020 (ICLR; arXiv 1901.11356), section 2.4; AndreevP/FRCL: at most 300
proposals, and no more after 80 in a row that failed.
Departs: T is a trace in the space of the features, so that a proposal costs the same however many
inputs there are.
"""

from typing import Literal

import jax
import jax.numpy as jnp

from cls_jax.core.types import Array
from cls_jax.methods.regularization.frcl_posterior import jitter_of, weights_of_values

_PROPOSALS = 300
_FAILURES = 80

Criterion = Literal["random", "balanced", "trace"]


def first_points(
    key: Array, y: Array, valid: Array, size: int, *, balanced: bool
) -> tuple[Array, Array]:
    """Different valid rows, drawn at random.

    Args:
      key: for the draw.
      y: int32[n] labels.
      valid: bool[n] rows to draw from.
      size: how many.
      balanced: equally many of each class, as far as that goes.

    Returns:
      int32[size] rows, and bool[size]: False where there was nothing left to draw.
    """
    chance = jax.random.uniform(key, y.shape)
    turn = _rank_in_class(chance, y, valid) if balanced else jnp.zeros_like(y)
    order = jnp.lexsort((chance, turn, ~valid))[:size]
    rows = jnp.pad(order, (0, max(size - len(y), 0))).astype(jnp.int32)
    return rows, jnp.arange(size) < valid.sum()


def _rank_in_class(chance: Array, y: Array, valid: Array) -> Array:
    """int32[n]: of each valid row, how many of its class come before it, in order of chance."""
    order = jnp.lexsort((chance, y, ~valid))
    place, sorted_y = jnp.arange(len(y)), y[order]
    begins = jnp.concatenate([jnp.ones(1, bool), sorted_y[1:] != sorted_y[:-1]])
    rank = place - jax.lax.cummax(jnp.where(begins, place, 0))
    return jnp.zeros_like(y).at[order].set(rank.astype(y.dtype))


def trace_of(features: Array, gram: Array) -> Array:
    """``T(Z) = tr(G (I - P phi_Z))``, float32[].

    Args:
      features: float32[M, K] of the points.
      gram: float32[K, K] G, the sum of ``phi^T phi`` over the task's inputs.

    Source: frcl card, oracle 6.
    """
    to_weights, _ = weights_of_values(features, jitter_of(features))
    known = jnp.matmul(gram, to_weights, precision="highest")
    return jnp.trace(gram) - (known * features.T).sum()


def improved_points(key: Array, features: Array, valid: Array, rows: Array) -> Array:
    """The rows after a search by T from those given, int32[M].

    Args:
      key: of the proposals.
      features: float32[n, K] of the task's inputs.
      valid: bool[n] inputs that are there, at least M of them, or nothing is found.
      rows: int32[M] where the search starts.
    """
    features = jnp.where(valid[:, None], features, 0)
    gram = jnp.matmul(features.T, features, precision="highest")
    there = jnp.argsort(~valid)

    def propose(carry):
        number, failures, rows, best = carry
        key_member, key_input = jax.random.split(jax.random.fold_in(key, number))
        member = jax.random.randint(key_member, (), 0, len(rows))
        chosen = jax.random.randint(key_input, (), 0, jnp.maximum(valid.sum(), 1))
        other = rows.at[member].set(there[chosen].astype(rows.dtype))
        value = trace_of(features[other], gram)
        better = value < best
        rows, best = jnp.where(better, other, rows), jnp.where(better, value, best)
        return number + 1, jnp.where(better, 0, failures + 1), rows, best

    def goes_on(carry):
        return (carry[0] < _PROPOSALS) & (carry[1] < _FAILURES)

    start = jnp.int32(0), jnp.int32(0), rows, trace_of(features[rows], gram)
    return jax.lax.while_loop(goes_on, propose, start)[2]
