"""FRCL's Gaussians: the card's oracles in double precision, and dense formulas beside ours."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cls_jax.methods.regularization.frcl_likelihood import (
    expected_log_likelihood,
    log_probabilities,
)
from cls_jax.methods.regularization.frcl_posterior import (
    Values,
    Weights,
    cholesky_factor,
    first_weights,
    function_kl,
    jitter_of,
    marginals,
    predictive,
    values_at,
    weight_kl,
)

function_kl, predictive, values_at = map(jax.jit, (function_kl, predictive, values_at))
expected_log_likelihood = jax.jit(expected_log_likelihood, static_argnums=5)
log_probabilities, weight_kl = jax.jit(log_probabilities), jax.jit(weight_kl)

NONE = 1e-13
"""A jitter that leaves the oracles' digits alone."""
POINTS = np.array([[1.0, 0, 1], [0, 2, 1]])
MEAN = np.array([1, -1, 0.5])
FACTOR = np.array([[1, 0, 0], [0.5, 0.5, 0], [0, 0.2, 0.3]])
HERE = jnp.ones(2, bool)


@pytest.fixture(autouse=True)
def x64():
    with jax.enable_x64(True):
        yield


def weights_of(mean, factor):
    """q(w) of one output with this L."""
    diagonal = np.diag(factor)
    raw = factor + np.diag(np.log(np.expm1(diagonal)) - diagonal)
    return Weights(mean=jnp.asarray(mean)[None], scale=jnp.asarray(raw)[None])


def learned():
    """The card's q(w), and its values at the card's points."""
    weights = weights_of(MEAN, FACTOR)
    return weights, values_at(jnp.asarray(POINTS), HERE, weights)


def at_points(values, numbers):
    """[D, M, ...] of what is kept [D, r, ...] in the values' own basis."""
    numbers = np.asarray(numbers)
    if values.basis is None:
        return numbers
    return np.einsum("mr,dr...->dm...", np.asarray(values.basis), numbers)


def mean_at(values):
    return at_points(values, values.mean)


def covariance(values):
    factor = at_points(values, values.factor)
    return factor @ factor.swapaxes(1, 2)


def dense_kl(mean, cov, prior):
    """KL(N(mean, cov) || N(0, prior))."""
    inverse = np.linalg.inv(prior)
    logs = np.linalg.slogdet(prior)[1] - np.linalg.slogdet(cov)[1]
    return 0.5 * (np.trace(inverse @ cov) + mean @ inverse @ mean - len(mean) + logs)


def random_case(num_points, num_features, num_outputs=2, seed=0):
    """(features then, features now, q(w), q(u))."""
    rng = np.random.default_rng(seed)
    then = rng.normal(size=(num_points, num_features))
    now = then + 0.3 * rng.normal(size=then.shape)
    mean = rng.normal(size=(num_outputs, num_features))
    scale = 0.5 * rng.normal(size=(num_outputs, num_features, num_features))
    weights = Weights(jnp.asarray(mean), jnp.asarray(scale))
    there = jnp.ones(num_points, bool)
    return then, now, weights, values_at(jnp.asarray(then), there, weights)


def test_oracle_1_between_two_normals():
    values = Values(valid=HERE, basis=None, mean=jnp.array([[1.0, 0]]), factor=jnp.eye(2)[None])
    kl = function_kl(2**0.5 * jnp.eye(2), values, NONE)
    np.testing.assert_allclose(kl, [0.4431471806], atol=1e-10)


def test_oracle_2_values_and_their_divergence():
    weights, values = learned()
    np.testing.assert_allclose(cholesky_factor(weights)[0], FACTOR, atol=1e-14)
    np.testing.assert_allclose(values.mean, [[1.5, -1.5]], atol=1e-14)
    np.testing.assert_allclose(covariance(values), [[[1.13, 1.33], [1.33, 2.53]]], atol=1e-14)
    kl = function_kl(jnp.asarray(POINTS), values, NONE)
    np.testing.assert_allclose(kl, [1.6277456628], atol=1e-10)
    np.testing.assert_allclose(weight_kl(weights), [2.3371199849], atol=1e-10)


def test_oracle_3_the_predictive():
    _, values = learned()
    at = jnp.asarray(np.vstack([[1.0, 1, 0], POINTS[0]]))
    mean, variance = predictive(at, jnp.asarray(POINTS), values, NONE)
    np.testing.assert_allclose(mean[:, 0], [0, 1.5], atol=1e-10)
    np.testing.assert_allclose(variance[:, 0], [1.7022222222, 1.13], atol=1e-10)


def test_oracle_4_the_features_of_a_point_have_moved():
    _, values = learned()
    moved = jnp.array([[1, 0.5, 1], POINTS[1]])
    np.testing.assert_allclose(function_kl(moved, values, NONE), [2.1084463691], atol=1e-10)


@pytest.mark.parametrize(
    ("mean", "variance", "expected"), [(0.0, 1.0, -0.8060591834), (1.0, 2.0, -0.4918017113)]
)
def test_oracle_5_the_expected_log_of_a_sigmoid(mean, variance, expected):
    """By 20 nodes; the other label is that of the mirrored function."""
    for sign, place in ((1, 1), (-1, 0)):
        given = jnp.array([[sign * mean]]), jnp.array([[variance]]), jnp.array([place])
        found = expected_log_likelihood(jax.random.key(0), *given, jnp.int32(2), 20)
        np.testing.assert_allclose(found, [expected], atol=1e-10)


@pytest.mark.parametrize("sizes", [(3, 5), (7, 4)])
def test_oracle_8_never_negative_zero_at_the_prior_and_no_order_of_points(sizes):
    then, now, weights, values = random_case(*sizes)
    kl = function_kl(jnp.asarray(now), values)
    assert (kl > 0.1).all()
    prior = values_at(jnp.asarray(now), values.valid, first_weights(jnp.zeros_like(weights.mean)))
    np.testing.assert_allclose(function_kl(jnp.asarray(now), prior), 0, atol=1e-9)
    order = np.random.default_rng(1).permutation(len(then))
    turned = values_at(jnp.asarray(then[order]), values.valid, weights)
    np.testing.assert_allclose(function_kl(jnp.asarray(now[order]), turned), kl, rtol=1e-9)


@pytest.mark.parametrize("sizes", [(3, 5), (4, 4), (9, 4)])
def test_a_divergence_is_that_of_dense_matrices_with_one_jitter(sizes):
    """More points than features too, where the matrices have no full rank."""
    _, now, _, values = random_case(*sizes)
    jitter = float(jitter_of(jnp.asarray(now)))
    np.testing.assert_allclose(jitter, 1e-6 * np.square(now).sum(1).mean(), rtol=1e-12)
    extra = jitter * np.eye(len(now))
    cov = covariance(values) + extra
    prior, means = now @ now.T + extra, mean_at(values)
    expected = [dense_kl(m, c, prior) for m, c in zip(means, cov, strict=True)]
    np.testing.assert_allclose(function_kl(jnp.asarray(now), values), expected, rtol=1e-5)


@pytest.mark.parametrize("sizes", [(4, 4), (9, 4)])
def test_with_features_of_full_rank_that_stay_it_is_the_divergence_of_the_weights(sizes):
    then, _, weights, values = random_case(*sizes)
    kl = function_kl(jnp.asarray(then), values, 1e-9)
    np.testing.assert_allclose(kl, weight_kl(weights), rtol=1e-6)


def test_many_points_keep_their_divergence_in_single_precision():
    """200 points, 20 features: what an inverse of 200 x 200 could not give."""
    _, now, _, values = random_case(200, 20)
    wide = function_kl(jnp.asarray(now), values, 0.02)
    narrow = jax.tree.map(lambda a: a.astype(jnp.float32) if a.dtype == jnp.float64 else a, values)
    found = function_kl(jnp.asarray(now, jnp.float32), narrow, jnp.float32(0.02))
    np.testing.assert_allclose(found, wide, rtol=1e-4)


@pytest.mark.parametrize("sizes", [(3, 5), (9, 4)])
def test_the_predictive_is_that_of_dense_matrices(sizes):
    then, now, weights, values = random_case(*sizes)
    x = np.random.default_rng(5).normal(size=(6, sizes[1]))
    mean, variance = predictive(jnp.asarray(x), jnp.asarray(now), values)
    kernel = now @ now.T + float(jitter_of(jnp.asarray(now))) * np.eye(len(now))
    gain = x @ now.T @ np.linalg.inv(kernel)
    np.testing.assert_allclose(mean, gain @ mean_at(values).T, atol=1e-8)
    change = covariance(values) - now @ now.T
    own = (x * x).sum(1)[:, None] + np.einsum("bm,dmn,bn->bd", gain, change, gain)
    np.testing.assert_allclose(variance, own, atol=1e-7)
    if sizes[0] > sizes[1]:  # as many points as the features need: nothing is lost
        kept = predictive(jnp.asarray(x), jnp.asarray(then), values, 1e-9)
        expected = marginals(jnp.asarray(x), weights)
        for one, other in zip(kept, expected, strict=True):
            np.testing.assert_allclose(one, other, atol=1e-6)


@pytest.mark.parametrize("num_features", [5, 2])
def test_a_point_that_is_not_there_says_nothing(num_features):
    then, now, weights, values = random_case(3, num_features)
    more = jnp.asarray(np.vstack([then, 99 * np.ones((2, num_features))]))
    there = jnp.arange(5) < 3
    padded = values_at(more, there, weights)
    now_padded = jnp.asarray(np.vstack([now, -7 * np.ones((2, num_features))]))
    kl = function_kl(jnp.asarray(now), values)
    np.testing.assert_allclose(function_kl(now_padded, padded), kl, rtol=1e-8)
    x = jnp.ones((2, num_features))
    for one, other in zip(
        predictive(x, now_padded, padded), predictive(x, jnp.asarray(now), values), strict=True
    ):
        np.testing.assert_allclose(one, other, rtol=1e-9)
    zeros = {"mean": jnp.zeros_like(padded.mean), "factor": jnp.zeros_like(padded.factor)}
    nothing = padded.replace(valid=jnp.zeros(5, bool), **zeros)
    np.testing.assert_allclose(function_kl(now_padded, nothing), 0, atol=1e-9)


def test_probabilities_of_two_classes_are_the_integral():
    nodes = np.linspace(-12, 12, 200_001)
    mean, variance = np.array([[0.7], [-2.0]]), np.array([[1.5], [0.3]])
    density = np.exp(-((nodes - mean) ** 2) / (2 * variance)) / np.sqrt(2 * np.pi * variance)
    second = (density / (1 + np.exp(-nodes))).sum(1) * (nodes[1] - nodes[0])
    logs = log_probabilities(jnp.asarray(mean), jnp.asarray(variance), jnp.int32(2))
    np.testing.assert_allclose(np.exp(logs), np.stack([1 - second, second], 1), atol=1e-6)


def test_probabilities_of_several_classes_sum_to_one_and_uncertainty_levels_them():
    mean = jnp.array([[2.0, 0, -1, 50]])
    certain = log_probabilities(mean, jnp.zeros((1, 4)), jnp.int32(3))
    np.testing.assert_allclose(certain[:, :3], jax.nn.log_softmax(mean[:, :3]), rtol=1e-12)
    unsure = log_probabilities(mean, jnp.full((1, 4), 9.0), jnp.int32(3))
    for logs in (certain, unsure):
        np.testing.assert_allclose(np.exp(logs).sum(1), 1, rtol=1e-12)
        np.testing.assert_allclose(np.exp(logs[:, 3]), 0, atol=1e-12)
    draws = np.random.default_rng(0).normal(size=(200_000, 3)) * 3 + np.array([2.0, 0, -1])
    expected = np.asarray(jax.nn.softmax(jnp.asarray(draws))).mean(0)
    np.testing.assert_allclose(np.exp(unsure[0, :3]), expected, atol=0.06)  # 64 draws
    assert expected[0] + 0.15 < np.exp(certain[0, 0])


def test_the_likelihood_of_several_classes_is_a_mean_over_samples():
    mean, variance = jnp.array([[1.0, 0, 5]]), jnp.array([[0.5, 2, 1]])
    given = jnp.array([1]), jnp.int32(2)
    found = expected_log_likelihood(jax.random.key(1), mean, variance, *given, 50_000)
    # Of two outputs only their difference matters: N(-1, 2.5) in favour of the second.
    pair = jnp.array([[-1.0]]), jnp.array([[2.5]]), jnp.array([1])
    expected = expected_log_likelihood(jax.random.key(1), *pair, jnp.int32(2), 1)
    np.testing.assert_allclose(found, expected, atol=0.02)


def test_a_variance_of_zero_has_a_gradient():
    def fit(variance):
        given = jnp.zeros((1, 1)), variance, jnp.array([1]), jnp.int32(2)
        return expected_log_likelihood(jax.random.key(0), *given, 1).sum()

    assert np.isfinite(jax.grad(fit)(jnp.zeros((1, 1)))).all()


@pytest.mark.parametrize("sizes", [(2, 5), (5, 2)])
@pytest.mark.parametrize("function", [function_kl, values_at, predictive])
def test_side_by_side_lapack_is_given_one_matrix_at_a_time(function, sizes):
    """Two batches at a time wait for each other forever in jaxlib 0.10, on two cores."""
    trials, num_tasks, (points, features) = 3, 4, sizes
    weights = first_weights(jnp.zeros((1, features)))
    x, there = jnp.ones((points, features)), jnp.ones(points, bool)
    values = values_at(x, there, weights)
    arguments = {
        function_kl: (x, values),
        values_at: (x, there, weights),
        predictive: (x, x, values),
    }[function]
    lead = (trials, num_tasks)
    many = jax.tree.map(lambda a: jnp.broadcast_to(a, (*lead, *a.shape)), arguments)
    text = jax.jit(jax.vmap(jax.vmap(function))).lower(*many).as_text()
    calls = [line for line in text.splitlines() if "lapack" in line or "blas" in line]
    assert jax.default_backend() != "cpu" or calls
    for call in calls:
        for shape in re.findall(r"tensor<([0-9x]*)xf64>", call):
            assert shape.count("x") <= 1, call
