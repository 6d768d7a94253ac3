"""What a Gaussian last layer makes of a network: distributions of function values, and their KLs.

With weights ``w ~ N(0, I)`` on features ``phi(x)`` the function values ``u = phi_Z w`` at points Z
are ``N(0, K)``, ``K = phi_Z phi_Z^T``: a Gaussian process whose kernel moves with the network. A
learned function is kept as ``q(u) = N(m, S)``, its values at the points.

All of it needs one linear map: P from values at the points to the weights that give them. K and S
get the same jitter e. Where there are more points than features, K and S have no full rank, and the
same numbers are found in the space of the weights, by matrices of the features' size.

Source: Titsias et al. 2020 (ICLR; arXiv 1901.11356), sections 2.2 to 2.5.
Departs: AndreevP/FRCL, which is not by the authors, adds jitters of 1e-6 to 1e-3 that differ from
place to place and inverts matrices of the points' size, so that with more points than features the
ratio of two jitters is the answer.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import struct
from jax.custom_batching import sequential_vmap
from jax.scipy.linalg import cho_solve

from cls_jax.core.types import Array

_SOFTPLUS_OF_1 = 0.5413248546129181
"""softplus of it is 1."""


class Weights(struct.PyTreeNode):
    """``q(w) = N(mean, L L^T)`` of each output, L lower triangular with a positive diagonal.

    Attributes:
      mean: float32[D, K].
      scale: float32[D, K, K]; L below the diagonal, and on it what softplus makes L's.
    """

    mean: Array
    scale: Array


class Values(struct.PyTreeNode):
    """``q(u) = N(mean, R R^T)`` of each output at M points, all with leading axes of their own.

    Of more points than features all values lie in a space of K dimensions, and are kept there.

    Attributes:
      valid: bool[M]; a point that is not valid is not there.
      basis: float32[M, K] B, whose columns are orthonormal: values at the points are B times the
        numbers below; None where M <= K, and B is I.
      mean: float32[D, r], r = min(M, K).
      factor: float32[D, r, r] R, whose columns are orthogonal.
    """

    valid: Array
    basis: Array | None
    mean: Array
    factor: Array


def first_weights(mean: Array) -> Weights:
    """q(w) with the prior's covariance, I, and this mean, float32[D, K]."""
    num_outputs, num_features = mean.shape
    scale = jnp.eye(num_features, dtype=mean.dtype) * _SOFTPLUS_OF_1
    return Weights(mean=mean, scale=jnp.repeat(scale[None], num_outputs, axis=0))


def no_values(
    num_tasks: int, num_points: int, num_outputs: int, num_features: int, dtype: jnp.dtype
) -> Values:
    """Values of no function: no point is there.

    Args:
      num_tasks, num_points, num_outputs, num_features: T, M, D, K.
      dtype: of the numbers.

    Returns:
      Values, leaves [T, ...].
    """
    rank = min(num_points, num_features)
    wide = num_points > num_features
    return Values(
        valid=jnp.zeros((num_tasks, num_points), bool),
        basis=jnp.zeros((num_tasks, num_points, rank), dtype) if wide else None,
        mean=jnp.zeros((num_tasks, num_outputs, rank), dtype),
        factor=jnp.zeros((num_tasks, num_outputs, rank, rank), dtype),
    )


def cholesky_factor(weights: Weights) -> Array:
    """float32[D, K, K]: L."""
    raw = weights.scale
    diagonal = jax.nn.softplus(jnp.diagonal(raw, axis1=1, axis2=2))
    return jnp.tril(raw, -1) + diagonal[:, :, None] * jnp.eye(raw.shape[1], dtype=raw.dtype)


def weight_kl(weights: Weights) -> Array:
    """``KL(q(w) || N(0, I))`` of each output.

    Returns:
      float32[D], in nats, >= 0.
    """
    factor = cholesky_factor(weights)
    logdet = 2 * jnp.log(jnp.diagonal(factor, axis1=1, axis2=2)).sum(axis=1)
    square = jnp.square(factor).sum(axis=(1, 2)) + jnp.square(weights.mean).sum(axis=1)
    return 0.5 * (square - weights.mean.shape[1] - logdet)


def marginals(features: Array, weights: Weights) -> tuple[Array, Array]:
    """Mean and variance, float32[b, D] each, of the function values that q(w) gives at examples.

    Args:
      features: float32[b, K].
      weights: q(w).
    """
    spread = jnp.einsum("bk,dkl->bdl", features, cholesky_factor(weights), precision="highest")
    mean = jnp.matmul(features, weights.mean.T, precision="highest")
    return mean, jnp.square(spread).sum(axis=2)


def values_at(features: Array, valid: Array, weights: Weights) -> Values:
    """``q(u)``, the image of q(w) at points: ``m = phi mu, S = phi L L^T phi^T``.

    Args:
      features: float32[M, K].
      valid: bool[M] points that are there.
      weights: q(w).
    """
    features, basis = jnp.where(valid[:, None], features, 0), None
    if features.shape[0] > features.shape[1]:
        basis, features = on_a_cpu_one_by_one(_qr)(features)
    mean = jnp.matmul(weights.mean, features.T, precision="highest")
    image = jnp.matmul(features, cholesky_factor(weights), precision="highest")
    left, singular = jax.vmap(on_a_cpu_one_by_one(_svd))(image)
    return Values(valid=valid, basis=basis, mean=mean, factor=left * singular[:, None, :])


def jitter_of(features: Array) -> Array:
    """e, float32[]: 1e-4 (1e-6 in float64) of the mean of K's diagonal.

    Args:
      features: float32[M, K], zeros for a point that is not there.
    """
    square = jnp.square(features).sum(axis=1)
    mean = square.sum() / jnp.maximum((square > 0).sum(), 1)
    share = 1e-6 if features.dtype == jnp.float64 else 1e-4
    return share * jnp.where(mean > 0, mean, 1)


def on_a_cpu_one_by_one(function: Callable) -> Callable:
    """The function, which ``vmap`` calls for one matrix after another on a CPU.

    jaxlib 0.10 gives the matrices of a batch to the threads of the pool that LAPACK's caller stands
    in, and waits for them there. Two batches at a time, on two cores, wait for each other forever;
    single matrices wait for nobody. It has no gradient.
    """
    return sequential_vmap(function) if jax.default_backend() == "cpu" else function


def _solution(matrix: Array, columns: Array) -> tuple[Array, Array]:
    factor = jnp.linalg.cholesky(matrix)
    logdet = 2 * jnp.log(jnp.diagonal(factor)).sum()
    return cho_solve((factor, True), columns), logdet


def _qr(matrix: Array) -> tuple[Array, Array]:
    orthonormal, triangular = jnp.linalg.qr(matrix)
    return orthonormal, triangular


def _svd(matrix: Array) -> tuple[Array, Array]:
    left, singular, _ = jnp.linalg.svd(matrix, full_matrices=False)
    return left, singular


def weights_of_values(features: Array, jitter: Array | float) -> tuple[Array, Array]:
    """The map from values at points to weights, and the size of the prior.

    ``P = phi^T (phi phi^T + e I)^-1``: the weights ``P u`` have the least ``|w|^2 + |u - phi w|^2 /
    e``, and that is ``u^T (phi phi^T + e I)^-1 u``.

    Args:
      features: float32[M, K].
      jitter: e.

    Returns:
      P float32[K, M], and float32[] the logarithm of the determinant of ``phi phi^T + e I``.
    """
    num_points, num_features = features.shape
    of_points = num_points <= num_features
    thin = features if of_points else features.T
    gram = jnp.matmul(thin, thin.T, precision="highest")
    full = gram + jitter * jnp.eye(len(gram), dtype=gram.dtype)
    solved, logdet = on_a_cpu_one_by_one(_solution)(full, thin)
    rest = max(num_points - num_features, 0)
    return (solved.T if of_points else solved), logdet + rest * jnp.log(jitter)


def function_kl(features: Array, values: Values, jitter: Array | float | None = None) -> Array:
    """``KL(q(u) || N(0, K))``: what the kept function costs under the features as they are now.

    With unmoved features and more points than features it is ``weight_kl``, up to the jitter.

    Args:
      features: float32[M, K] of the points, from the present network.
      values: q(u).
      jitter: e, added to S and K; that of ``jitter_of`` if not given.

    Returns:
      float32[D], in nats, >= 0 up to rounding; 0 if no point is there.

    Source: section 2.3, equation 7.
    """
    features = jnp.where(values.valid[:, None], features, 0)
    still = jax.lax.stop_gradient(features)
    jitter = jitter_of(still) if jitter is None else jitter
    to_weights, logdet = weights_of_values(still, jitter)
    # P u are the best weights, so that they move does not matter, and d logdet = 2 tr(P d phi): the
    # gradient is exact without one through the factorisation.
    logdet += 2 * (to_weights.T * (features - still)).sum()

    num_points, rank = len(features), values.factor.shape[-1]
    identity = jnp.eye(num_points, dtype=features.dtype)
    spent = jnp.matmul(features, to_weights, precision="highest")
    trace = jitter * jnp.square(to_weights).sum() + jnp.square(identity - spent).sum()
    basis = identity if values.basis is None else values.basis
    found = jnp.matmul(to_weights, basis, precision="highest")
    left = basis - jnp.matmul(features, found, precision="highest")
    # B^T (K + e)^-1 B, as the two squares that P makes least.
    within = jnp.concatenate([found, left / jnp.sqrt(jitter)])
    within = jnp.matmul(within.T, within, precision="highest")
    kept = jnp.concatenate([values.mean[:, :, None], values.factor], axis=2)
    squares = jnp.matmul(kept, jnp.swapaxes(kept, 1, 2), precision="highest")
    total = (within * squares).sum(axis=(1, 2)) + trace
    logs = jnp.log(jnp.square(values.factor).sum(axis=1) + jitter).sum(axis=1)
    return 0.5 * (total - num_points + logdet - logs - (num_points - rank) * jnp.log(jitter))


def predictive(
    features: Array, at_points: Array, values: Values, jitter: Array | float | None = None
) -> tuple[Array, Array]:
    """Mean and variance, float32[b, D] each, of the function values at examples, given q(u).

    ``A = k_xZ K^-1``; the mean is ``A m``, the variance ``k_xx + A (S - K) A^T``.

    Args:
      features: float32[b, K] of the examples.
      at_points: float32[M, K] of the points, from the same network.
      values: q(u).
      jitter: e, added to S and K; that of ``jitter_of`` if not given.

    Source: section 2.5.
    """
    at_points = jnp.where(values.valid[:, None], at_points, 0)
    jitter = jitter_of(at_points) if jitter is None else jitter
    to_weights, _ = weights_of_values(at_points, jitter)
    gain = jnp.matmul(features, to_weights, precision="highest")
    explained = jnp.square(jnp.matmul(gain, at_points, precision="highest")).sum(axis=1)
    if values.basis is not None:
        gain = jnp.matmul(gain, values.basis, precision="highest")
    kept = jnp.einsum("bm,dmr->bdr", gain, values.factor, precision="highest")
    rest = jnp.maximum(jnp.square(features).sum(axis=1) - explained, 0)
    mean = jnp.matmul(gain, values.mean.T, precision="highest")
    return mean, rest[:, None] + jnp.square(kept).sum(axis=2)
