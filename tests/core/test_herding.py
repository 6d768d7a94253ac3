"""Herding against the published loop, one example at a time, and class means against NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cls_jax.core.herding import class_means, herd, in_chunks, unit


def slow_herd(features, size):
    """The order of one class: the loop of aimagelab/mammoth's fill_buffer, in float64."""
    features = np.asarray(features, np.float64)
    mean, chosen, order = features.mean(0), np.zeros(features.shape[1]), []
    for i in range(min(size, len(features))):
        cost = np.linalg.norm(mean - (features + chosen) / (i + 1), axis=1)
        cost[order] = np.inf
        order.append(int(cost.argmin()))
        chosen += features[order[-1]]
    return order


def mixed(seed, n=60, d=5, num_classes=4):
    """Features, classes and validity; class 3 is missing, class 2 has few."""
    rng = np.random.default_rng(seed)
    features = rng.normal(size=(n, d)).astype(np.float32)
    y = rng.choice(3, n, p=[0.5, 0.4, 0.1]).astype(np.int32)
    valid = rng.random(n) < 0.8
    return features, y, valid, num_classes


@pytest.mark.parametrize("seed", range(8))
def test_every_class_is_ordered_as_by_the_published_loop(seed):
    features, y, valid, num_classes = mixed(seed)
    rank = np.asarray(jax.jit(herd, static_argnums=4)(features, y, valid, 12, num_classes))
    expected = np.full(len(y), len(y))
    for c in range(num_classes):
        rows = np.flatnonzero(valid & (y == c))
        for place, row in enumerate(slow_herd(features[rows], 12) if rows.size else []):
            expected[rows[row]] = place
    np.testing.assert_array_equal(rank, expected)
    assert (rank[~valid] == len(y)).all()
    assert sorted(rank[valid & (y == 0)])[:12] == list(range(12))


def test_order_by_hand():
    """Mean 3: 2 is nearest; (2 + 1) / 2 beats (2 + 0) / 2 and (2 + 9) / 2; then 9, then 0."""
    features, yes = jnp.array([[0.0], [1.0], [2.0], [9.0]]), jnp.ones(4, bool)
    y = jnp.zeros(4, jnp.int32)
    assert herd(features, y, yes, 4, 1).tolist() == [3, 1, 0, 2]
    assert herd(features, y, yes, 2, 1).tolist() == [4, 1, 0, 4]
    assert herd(features, y, yes, 9, 1).tolist() == [3, 1, 0, 2]
    assert herd(features, y, yes, 0, 1).tolist() == [4] * 4


def test_of_equals_the_first_is_chosen():
    features, y = jnp.ones((3, 2)), jnp.zeros(3, jnp.int32)
    assert herd(features, y, jnp.ones(3, bool), 3, 1).tolist() == [0, 1, 2]


def test_a_prefix_is_the_herding_of_its_length():
    features, y, valid, num_classes = mixed(3)
    whole = np.asarray(herd(features, y, valid, len(y), num_classes))
    for size in (1, 4, 9):
        part = herd(features, y, valid, size, num_classes)
        np.testing.assert_array_equal(part, np.where(whole < size, whole, len(y)))


def test_invalid_rows_have_no_influence():
    features, y, valid, num_classes = mixed(1)
    rubbish = np.where(valid[:, None], features, np.nan), np.where(valid, y, -1)
    for fn in (lambda f, c: herd(f, c, valid, 7, num_classes), means_of(valid, num_classes)):
        np.testing.assert_array_equal(fn(features, y), fn(*rubbish))


def means_of(valid, num_classes):
    return lambda features, y: class_means(features, y, valid, num_classes)


def test_class_means():
    features, y, valid, num_classes = mixed(3)
    means = np.asarray(means_of(valid, num_classes)(features, y))
    for c in range(3):
        expected = features[valid & (y == c)].mean(0)
        np.testing.assert_allclose(means[c], expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(means[3], 0)


def test_unit_rows():
    rows = unit(jnp.array([[3.0, 4.0], [0.0, 0.0], [-2e-3, 0.0]]))
    np.testing.assert_allclose(rows, [[0.6, 0.8], [0, 0], [-1, 0]], rtol=1e-6)


@pytest.mark.parametrize("size", [0.0, 1e-30, 1e-21, 1e-13, 1e-11, 1.0])
def test_the_gradient_of_a_unit_row_is_finite(size):
    """Shorter than 1e-12 it is left alone, so nothing is divided by what underflows."""
    slope = jax.jacobian(lambda x: unit(x[None])[0])(size * jnp.array([0.6, 0.8]))
    assert jnp.isfinite(slope).all()


@pytest.mark.parametrize("n", [1, 6, 7, 12, 13])
def test_chunks_change_nothing_and_bound_the_rows_of_a_call(n):
    sizes = []

    def fn(x):
        sizes.append(len(x))
        return jnp.stack([x.sum((1, 2)), x[:, 0, 0]], axis=1)

    x = jnp.asarray(np.random.default_rng(n).normal(size=(n, 2, 3)), jnp.float32)
    expected = np.stack([np.asarray(x).sum((1, 2)), x[:, 0, 0]], axis=1)
    np.testing.assert_allclose(in_chunks(fn, x, chunk=6), expected, rtol=1e-5, atol=1e-6)
    assert max(sizes) <= 6
