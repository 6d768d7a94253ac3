"""The Hopfield network: the card's oracle, stored patterns as fixed points, recall."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cls_jax.methods.architecture.hopfield import empty, energy, stored, storkey

D = 200


def holding(patterns):
    """The weights after these patterns, one after another."""
    weights = jnp.zeros((patterns.shape[1],) * 2)
    for z in patterns:
        weights = storkey(weights, jnp.asarray(z, jnp.float32))
    return weights


def coins(seed, number, size=D):
    """Fair patterns, float32[number, size] of -1 and 1."""
    return np.random.default_rng(seed).choice([-1.0, 1.0], (number, size)).astype(np.float32)


def test_oracle():
    """The card's oracle 9."""
    first, second = jnp.array([1.0, 1, -1, -1]), jnp.array([1.0, -1, 1, -1])
    weights = storkey(jnp.zeros((4, 4)), first)
    expected = (np.outer(first, first) - np.eye(4)) / 4
    np.testing.assert_allclose(weights, expected, atol=1e-7)
    assert energy(weights, first) == pytest.approx(-1.5)
    weights = storkey(weights, second)
    np.testing.assert_allclose(np.diag(weights), 0.125, atol=1e-7)
    assert energy(weights, first) == pytest.approx(-1.0)
    assert energy(weights, second) == pytest.approx(-2.0)
    for z in (first, second):
        np.testing.assert_array_equal(jnp.sign(weights @ z), z)


def test_the_rule_entry_by_entry():
    """w_ij += (z_i z_j - [i = j] - z_i h_j - h_i z_j) / d, h = w z as it was before."""
    patterns, d = coins(0, 5, 30).astype(np.float64), 30
    weights = np.zeros((d, d))
    for z in patterns:
        h, before = weights @ z, weights.copy()
        for i, j in np.ndindex(d, d):
            change = z[i] * z[j] - (i == j) - z[i] * h[j] - h[i] * z[j]
            weights[i, j] = before[i, j] + change / d
    np.testing.assert_allclose(holding(patterns), weights, rtol=1e-5, atol=1e-6)


@settings(max_examples=20)
@given(st.integers(0, 2**31), st.integers(1, 12))
def test_patterns_at_low_load_are_fixed_points(seed, number):
    """Up to 12 in 200 units; Storkey's limit is about d / sqrt(2 ln d) = 61."""
    patterns = coins(seed, number)
    weights = holding(patterns)
    np.testing.assert_array_equal(np.sign(weights @ patterns.T).T, patterns)
    np.testing.assert_allclose(weights, weights.T, atol=1e-6)


def test_too_many_patterns_are_not():
    """The test above can fail: 150 patterns in 200 units are forgotten."""
    patterns = coins(0, 150)
    assert (patterns != np.sign(holding(patterns) @ patterns.T).T).mean() > 0.05


@pytest.mark.parametrize("seed", range(5))
def test_a_corrupted_pattern_falls_back(seed):
    """A fifth of its signs turned; each valley is lower than where it was entered."""
    patterns = coins(seed, 8)
    weights, rng = holding(patterns), np.random.default_rng(seed)
    for z in patterns:
        s = np.where(rng.permutation(D) < D // 5, -z, z)
        assert energy(weights, s) > energy(weights, z)
        for _ in range(10):
            s = np.sign(weights @ s)
        np.testing.assert_array_equal(s, z)


def test_layers_count_and_average_what_they_store():
    hopfield, sizes = empty({"a": 6, "b": 3}), {"a": 6, "b": 3}
    shown = [{k: jnp.asarray(coins(i, 1, n)[0]) for k, n in sizes.items()} for i in range(4)]
    for patterns in shown:
        hopfield = jax.jit(stored)(hopfield, patterns)
    assert hopfield.stored == 4
    for name in sizes:
        every = np.stack([patterns[name] for patterns in shown])
        np.testing.assert_allclose(hopfield.mean[name], every.mean(0), atol=1e-6)
        np.testing.assert_allclose(hopfield.weights[name], holding(every), atol=1e-6)
