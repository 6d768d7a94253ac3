"""Which of many masks fits? All of them are mixed, and one backward pass tells.

An unknown input goes through the weights under the mixture ``sum_i alpha_i M_i`` of all masks. How
fast an uncertainty F of the outputs falls as one mask's share grows, ``-dF/d alpha_i``, says how
well that mask fits. F sees the shares only through the mixture, so one gradient by the mixture, of
as many numbers as there are weights, and one dot product a mask give all of them:
``dF/d alpha_i = <dF/d mixture, M_i>``.

In the paper's letters: M are the masks, uint8[T, ceil(n / 8)], packed rows of n bits (see
supermasks.pack); alpha the shares, float32[T]; F is H, the entropy of the softmax over all outputs,
or G, a log-sum-exp whose gradient passes outputs that no label uses alone; nu the softmax of
``-dF/d alpha``, see is_new.

Source: Wortsman et al. 2020 (NeurIPS; arXiv 2006.14769), sections 3.3 and 3.4; RAIVNLab/supsup.
Departs: ties are decided by the number of the mask; the official binary search gives up on them.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from cls_jax.core import losses
from cls_jax.core.losses import mean_over
from cls_jax.core.types import Array, Scalar
from cls_jax.methods.architecture.supermasks import unpack

SlopesFn = Callable[[Array], Array]
"""float32[T] shares of the masks -> float32[T] slopes of the uncertainty by each share."""

_MASKS_AT_A_TIME = 8


def entropy(logits: Array, num_labels: Array | int, valid: Array) -> Array:
    """H: entropy of the softmax over all outputs, mean over the valid rows.

    Args:
      logits: float32[p, s].
      num_labels: int32[], not used; for G alone.
      valid: bool[p].

    Returns:
      float32[], in nats, from 0 to log s.

    Source: the paper's section 3.3; supsup card, O5.
    """
    del num_labels
    return losses.entropy(logits, valid=valid)


def superfluous(logits: Array, num_labels: Array | int, valid: Array) -> Array:
    """G: log-sum-exp of the outputs, which only those that no label uses can change.

    Its value is that of all outputs; its gradient is 0 by the first ``num_labels``. Without further
    outputs it has no gradient and tells nothing: then mask 0 is the answer, always.

    Args:
      logits: float32[p, s].
      num_labels: int32[], the first so many outputs stand for labels.
      valid: bool[p].

    Returns:
      float32[], mean over the valid rows.

    Source: the paper's section 3.3; supsup card, O6.
    """
    labels = jnp.arange(logits.shape[1]) < num_labels
    logits = jnp.where(labels, jax.lax.stop_gradient(logits), logits)
    return mean_over(jax.nn.logsumexp(logits, axis=1), valid)


def superposed(masks: Array, shares: Array, size: int) -> Array:
    """float32[size]: the mixture of all masks, unpacked one after another.

    Args:
      masks: uint8[T, ceil(size / 8)].
      shares: float32[T].
      size: n, entries of a mask.
    """

    def add(mixture: Array, mask: tuple[Array, Array]) -> tuple[Array, None]:
        bits, share = mask
        return mixture + share * unpack(bits, (size,)), None

    return jax.lax.scan(add, jnp.zeros(size), (masks, shares))[0]


def slopes_of(uncertainty: Callable[[Array], Array], masks: Array, size: int) -> SlopesFn:
    """The function from shares to slopes: one backward pass, then a dot product a mask.

    Args:
      uncertainty: mixture float32[size] -> float32[].
      masks: uint8[T, ceil(size / 8)].
      size: n, entries of a mask.
    """

    def slopes(shares: Array) -> Array:
        gradient = jax.grad(uncertainty)(superposed(masks, shares, size))

        def along(bits: Array) -> Array:
            return unpack(bits, (size,)) @ gradient

        return jax.lax.map(along, masks, batch_size=_MASKS_AT_A_TIME)

    return slopes


def one_shot(slopes: SlopesFn, known: Array) -> Array:
    """int32[]: the mask of the least slope where all known masks have equal shares; 0 if none is.

    Args:
      slopes: shares -> slopes.
      known: bool[T], masks to choose from.

    Source: the paper's section 3.3, "One-Shot".
    """
    found = slopes(known / jnp.maximum(known.sum(), 1))
    return jnp.argmin(jnp.where(known, found, jnp.inf)).astype(jnp.int32)


def binary(slopes: SlopesFn, known: Array) -> Array:
    """int32[]: the mask that is left when the half with the larger slopes goes, again and again.

    Of n masks ``ceil(n / 2)`` stay a round, so T masks need ``ceil(log2 T)`` backward passes.

    Args:
      slopes: shares -> slopes.
      known: bool[T], masks to choose from.

    Source: the paper's section 3.3, "Binary"; supsup card, O8: 36, 18, 9, 5, 3, 2, 1.
    """

    def halve(_: int, good: Array) -> Array:
        return better_half(slopes(good / jnp.maximum(good.sum(), 1)), good)

    rounds = (len(known) - 1).bit_length()
    return jnp.argmax(jax.lax.fori_loop(0, rounds, halve, known)).astype(jnp.int32)


def better_half(slopes: Array, good: Array) -> Array:
    """bool[T]: of the good masks those up to the lower median of their slopes, ``ceil(n / 2)``.

    Args:
      slopes: float32[T].
      good: bool[T].
    """
    rank = jnp.argsort(jnp.argsort(jnp.where(good, slopes, jnp.inf)))
    return good & (rank < (good.sum() + 1) // 2)


def is_new(slopes: Array, compared: Array, bound: Scalar, rate: Scalar) -> tuple[Array, Array]:
    """Whether no mask stands out, and which one stands out most.

    With ``nu = softmax(-slopes)`` over the k' compared masks, a task is new if
    ``max nu < min(bound / k', rate)``. That is not free of scale: the slopes are not normalised.

    Args:
      slopes: float32[T], at equal shares of the compared masks.
      compared: bool[T].
      bound: the paper's 1 + epsilon.
      rate: a nu of so much is never new, whatever k' is; 1 leaves this out.

    Returns:
      bool[], and nu float32[T], 0 where not compared.

    Source: the paper's section 3.4, Algorithm 1; supsup card, O7.
    """
    nu = jax.nn.softmax(-slopes, where=compared)
    return nu.max() < jnp.minimum(bound / compared.sum(), rate), nu


UNCERTAINTIES = {"H": entropy, "G": superfluous}
INFERENCES = {"one_shot": one_shot, "binary": binary}
