"""Labels of uncertain functions: the expected log-likelihood, and the probabilities of an answer.

One output is the logit of the second of two classes, and its expectations are integrals over one
Gaussian, by 20 Gauss-Hermite nodes. Several outputs are the logits of a softmax, by samples. Labels
are places among a task's classes, from 0.

Source: Titsias et al. 2020 (ICLR; arXiv 1901.11356), sections 2.2 and 3; AndreevP/FRCL samples for
two classes too, 20 times.
"""

import jax
import jax.numpy as jnp
import numpy as np

from cls_jax.core.losses import mask_logits
from cls_jax.core.types import Array

_NODES, _NODE_WEIGHTS = np.polynomial.hermite.hermgauss(20)
_ANSWER_DRAWS = 32
"""Samples of an answer, each with its mirror image: always the same, so an answer is a function."""


def expected_log_likelihood(
    key: Array,
    mean: Array,
    variance: Array,
    place: Array,
    num_labels: Array,
    num_samples: int,
) -> Array:
    """``E log p(y | f)`` of each row, f of independent Gaussians.

    Args:
      key: for the samples; one output needs none.
      mean, variance: float32[b, D].
      place: int32[b] labels, 0 or 1 with one output, below ``num_labels`` with several.
      num_labels: int32[] the softmax runs over the first so many outputs.
      num_samples: of each row.

    Returns:
      float32[b], in nats, <= 0.

    Source: frcl card, oracle 5.
    """
    std = _square_root(variance)
    if mean.shape[1] == 1:
        sign = 2.0 * place - 1
        logs = jax.nn.log_sigmoid(sign[:, None] * _at_nodes(mean, std))
        return (logs * _shares(mean.dtype)).sum(axis=1)
    noise = jax.random.normal(key, (num_samples, *mean.shape), mean.dtype)
    logs = _log_softmax(mean + std * noise, num_labels)
    return jnp.take_along_axis(logs, place[None, :, None], axis=2)[..., 0].mean(axis=0)


def log_probabilities(mean: Array, variance: Array, num_labels: Array) -> Array:
    """``log E p(y | f)`` of every label, f of independent Gaussians.

    Args:
      mean, variance: float32[b, D].
      num_labels: as of ``expected_log_likelihood``.

    Returns:
      float32[b, 2] of one output, else float32[b, D].
    """
    std = _square_root(variance)
    if mean.shape[1] == 1:
        at = _at_nodes(mean, std)
        both = jnp.stack([jax.nn.log_sigmoid(-at), jax.nn.log_sigmoid(at)], axis=1)
        return jax.nn.logsumexp(both, axis=2, b=_shares(mean.dtype))
    noise = jax.random.normal(jax.random.key(0), (_ANSWER_DRAWS, 1, mean.shape[1]), mean.dtype)
    logs = _log_softmax(mean + std * jnp.concatenate([noise, -noise]), num_labels)
    return jax.nn.logsumexp(logs, axis=0) - jnp.log(2.0 * _ANSWER_DRAWS).astype(mean.dtype)


def _at_nodes(mean: Array, std: Array) -> Array:
    """float32[b, 20]: the one output at the nodes."""
    return mean + std * (2**0.5 * _NODES).astype(mean.dtype)


def _shares(dtype: jnp.dtype) -> np.ndarray:
    """float32[20], of sum 1."""
    return (_NODE_WEIGHTS / np.pi**0.5).astype(dtype)


def _log_softmax(logits: Array, num_labels: Array) -> Array:
    """Over the first so many outputs; the others are impossible."""
    return jax.nn.log_softmax(mask_logits(logits, jnp.arange(logits.shape[-1]) < num_labels))


def _square_root(variance: Array) -> Array:
    """With gradient 0 at 0."""
    positive = variance > 0
    return jnp.where(positive, jnp.sqrt(jnp.where(positive, variance, 1)), 0)
