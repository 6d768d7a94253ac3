"""Similarity of tasks against numbers by hand, and against tasks whose likeness is known."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cls_jax.core.similarity import (
    Labelled,
    Prototypes,
    affinity,
    calibrate,
    class_cosine,
    class_null,
    class_prototypes,
    domain_cosine,
    gradient_cosine,
    halves,
    representation_similarity,
    task_prototypes,
    task_similarity,
)


def prototypes(*means):
    means = np.array(means, np.float32)
    return Prototypes(means, np.ones(len(means), np.int32))


domain = jax.jit(domain_cosine)
by_class = jax.jit(class_cosine)


@pytest.mark.parametrize(
    ("other", "expected"),
    [([[3, 1], [1, 3]], 1), ([[0, 2], [2, 0]], -1), ([[2, 0], [2, 2]], 0.707107)],
)
def test_oracle_1_shared_classes(other, expected):
    """Uncentred these would be .948683, 0 and .816497."""
    np.testing.assert_allclose(
        domain(prototypes([2, 0], [0, 2]), prototypes(*other)), expected, atol=1e-6
    )


def test_only_classes_that_both_have_are_compared():
    """The third class of each is missing in the other; of one shared class nothing is known."""
    one, other = prototypes([2, 0], [0, 2], [9, 9]), prototypes([2, 0], [2, 2], [-7, 1])
    one, other = (
        one._replace(counts=np.array([1, 3, 0])),
        other._replace(counts=np.array([2, 1, 4])),
    )
    np.testing.assert_allclose(domain(one, other), 0.707107, atol=1e-6)
    assert domain(one._replace(counts=np.array([1, 0, 1])), other) != 0
    assert domain(one._replace(counts=np.array([1, 0, 0])), other) == 0


def test_oracle_1_other_classes():
    new, old, centre = prototypes([1, 0], [0, 1]), prototypes([0.6, 0.8], [-1, 0]), np.zeros(2)
    np.testing.assert_allclose(by_class(new, old, centre), 0.7, atol=1e-6)
    shifted = (Prototypes(one.means + 5, one.counts) for one in (new, old))
    np.testing.assert_allclose(by_class(*shifted, centre + 5), 0.7, atol=1e-5)
    assert by_class(new, old._replace(counts=np.zeros(2)), centre) == 0


def test_prototypes_are_means_of_the_valid_rows():
    features = np.array([[1, 0], [3, 0], [5, 5], [np.nan, 1]], np.float32)
    rows = Labelled(features, np.array([0, 0, 2, 1]), np.array([True, True, True, False]))
    found = jax.jit(class_prototypes, static_argnums=1)(rows, 3)
    np.testing.assert_array_equal(found.means, [[2, 0], [0, 0], [5, 5]])
    np.testing.assert_array_equal(found.counts, [2, 0, 1])
    found = jax.jit(task_prototypes, static_argnums=(2, 3))(rows, np.array([0, 1, 1, 0]), 2, 3)
    np.testing.assert_array_equal(found.counts, [[1, 0, 0], [1, 0, 1]])
    np.testing.assert_array_equal(found.means[1], [[3, 0], [0, 0], [5, 5]])


# --- the other estimators -------------------------------------------------------------------------


def test_oracle_5_the_gain_is_absolute():
    """One step on .5 (x - 1)^2 from 0; relative to the losses they would be .36, -.21 and -15."""

    @jax.jit
    def gains(targets):
        gradient = jax.grad(lambda x: 0.5 * (x - 1) ** 2)(0.0)
        loss = lambda target: lambda x: 0.5 * (x - target) ** 2  # noqa: E731
        return jnp.stack([affinity(loss(c), 0.0, gradient, 0.1) for c in targets])

    found, targets = gains(jnp.array([0.5, -1, 0.02])), np.array([0.5, -1, 0.02])
    np.testing.assert_allclose(found, [0.045, -0.105, -0.003], atol=1e-7)
    np.testing.assert_allclose(found / (0.5 * targets**2), [0.36, -0.21, -15], rtol=1e-4)


def test_the_cosine_of_gradients_leaves_the_head_out():
    one = {"fc1": np.array([3.0, 4]), "fc2": np.array([100.0])}
    other = {"fc1": np.array([4.0, 3]), "fc2": np.array([-100.0])}
    found = jax.jit(gradient_cosine, static_argnums=2)
    np.testing.assert_allclose(found(one, other, "fc2"), 24 / 25, rtol=1e-6)
    assert found(one, other, None) < -0.99
    assert found(one, jax.tree.map(np.zeros_like, other), None) == 0


def test_representations_alike_up_to_a_scale_are_alike():
    rng = np.random.default_rng(0)
    one, noise = rng.normal(size=(8, 5)), rng.normal(size=(8, 7))
    found = jax.jit(representation_similarity)
    np.testing.assert_allclose(found(one, 3 * one + 1), 1, rtol=1e-5)
    assert abs(float(found(one, noise))) < 0.9
    # Spearman's correlation by hand: distances 0, 1 and 2 (of three images) against 2, 1 and 0.
    a = np.array([[0, 1.0, 0], [0, 1, 0.1], [1, 0, 0.2]])
    np.testing.assert_allclose(found(a, a[[0, 2, 1]]), spearman(a, a[[0, 2, 1]]), atol=1e-5)


def spearman(one, other):
    pair = np.triu_indices(len(one), 1)
    ranks = [np.argsort(np.argsort(1 - np.corrcoef(x)[pair])) for x in (one, other)]
    return np.corrcoef(*ranks)[0, 1]


# --- calibration ----------------------------------------------------------------------------------


def test_calibrated_is_between_chance_and_the_same_task():
    found = calibrate(jnp.array([0.0, 0.2, 0.5, 0.8, 2.0]), 0.2, 0.8)
    np.testing.assert_allclose(found, [0, 0, 0.5, 1, 1], atol=1e-6)
    np.testing.assert_array_equal(calibrate(jnp.array([0.1, 0.5]), 0.4, 0.2), [0, 1])


@pytest.mark.parametrize("size", [1, 3])
def test_halves_are_disjoint_and_balanced(size):
    y, valid = np.repeat([0, 1, 2, 0], [10, 5, 1, 4]), np.arange(20) < 16
    both = jax.jit(halves, static_argnums=4)(jax.random.key(3), y, valid, size, 4)
    a, b = map(np.asarray, both)
    assert not (a & b).any()
    assert not ((a | b) & ~valid).any()
    for half in (a, b):
        expected = [size, min(size, 2), 0, 0]  # of five rows two in each; of one none
        np.testing.assert_array_equal(np.bincount(y[half], minlength=4), expected)


def test_the_null_of_other_classes_is_that_of_random_sets():
    """Orthogonal classes: any two different ones have cosine 0, so has chance."""
    classes = prototypes(*np.eye(6))
    found = jax.jit(class_null)(jax.random.key(0), classes, np.zeros(6), 2)
    np.testing.assert_allclose(found, 0, atol=1e-6)
    same = prototypes(*np.ones((6, 6)))
    np.testing.assert_allclose(
        jax.jit(class_null)(jax.random.key(0), same, np.zeros(6), 2), 1, rtol=1e-6
    )


DIM, EACH = 16, 12
similar = jax.jit(task_similarity, static_argnums=(4, 5))


def examples(centres, labels, rng, noise=0.3):
    """EACH examples about the centre of each label."""
    y = np.repeat(labels, EACH)
    x = centres[y] + noise * rng.normal(size=(len(y), DIM))
    return Labelled(x.astype(np.float32), y.astype(np.int32), np.ones(len(y), bool))


def joined(*tasks):
    rows = Labelled(*(np.concatenate(leaves) for leaves in zip(*tasks, strict=True)))
    return rows, np.repeat(np.arange(len(tasks)), [len(one.y) for one in tasks]).astype(np.int32)


def test_a_task_like_its_own_and_one_like_no_other():
    """Old tasks 0 (the same classes in the same places) and 1 (in others); 2 is not there yet."""
    rng = np.random.default_rng(0)
    here, there = (rng.normal(size=(4, DIM)) for _ in range(2))
    labels = range(4)
    old, task = joined(examples(here, labels, rng), examples(there, labels, rng))
    new = examples(here + 0.1 * rng.normal(size=here.shape), labels, rng)
    raw, calibrated = similar(jax.random.key(0), new, old, task, 3, 4)
    assert raw[0] > 0.9
    assert abs(raw[1]) < 0.6
    assert calibrated[0] > 0.95
    assert calibrated[1] < 0.6
    assert raw[2] == calibrated[2] == 0


def test_other_classes_near_the_old_ones_are_alike_beyond_chance():
    """Classes 4 and 5 lie beside 0 and 1 of task 0, far from 2 and 3 of task 1."""
    rng = np.random.default_rng(1)
    centres = 3 * rng.normal(size=(6, DIM))
    centres[4:] = centres[:2] + 0.3 * rng.normal(size=(2, DIM))
    old, task = joined(examples(centres, [0, 1], rng), examples(centres, [2, 3], rng))
    new = examples(centres, [4, 5], rng)
    _, calibrated = similar(jax.random.key(0), new, old, task, 2, 6)
    assert calibrated[0] > 0.8
    assert calibrated[1] < 0.4


def test_with_fewer_than_four_old_classes_chance_decides():
    rng = np.random.default_rng(2)
    centres = rng.normal(size=(4, DIM))
    old, task = joined(examples(centres, [0, 1], rng))
    new = examples(centres, [2, 3], rng)
    keys = jax.random.split(jax.random.key(0), 64)
    many = jax.jit(jax.vmap(lambda key: task_similarity(key, new, old, task, 1, 4)))
    raw, calibrated = many(keys)
    assert (raw == raw[0]).all()
    assert 0.35 < np.mean(calibrated) < 0.65
    assert calibrated.min() < 0.1 < 0.9 < calibrated.max()
