"""APD's consolidation: the card's numbers, k-means against a plain one, what no one may notice."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cls_jax.methods.architecture.apd_consolidation import (
    Groups,
    consolidate,
    group_residue,
    kmeans,
    no_groups,
    num_groups,
)


def whole(residues, groups):
    """float64[T, ...]: residues with what groups hold."""
    mine = jax.vmap(group_residue, (None, 0))(groups, jnp.arange(len(residues)))
    return np.asarray(residues + mine, np.float64)


def test_two_tasks_of_the_card():
    """apd card, oracle 4, beside a task that is not learned."""
    residues = jnp.array([[0.50, 0.10, -0.300], [0.505, 0.30, -0.308], [7.0, 7.0, 7.0]])
    seen, one, none = jnp.array([True, True, False]), jnp.int32(1), jnp.int32(0)
    key = jax.random.key(0)
    found, groups = consolidate(key, residues, no_groups(residues, 2), seen, one, none, 0.01)
    np.testing.assert_allclose(groups.common[0], [0.5025, 0, -0.304], rtol=1e-6)
    np.testing.assert_allclose(found, [[0, 0.10, 0], [0, 0.30, 0], [7, 7, 7]])
    np.testing.assert_array_equal(groups.member, [0, 0, -1])
    assert np.abs(whole(found, groups) - residues).max() <= 0.004 + 1e-6
    stored = np.count_nonzero(found[:2]) + np.count_nonzero(groups.common)
    assert (np.count_nonzero(residues[:2]), stored) == (6, 4)


def test_numbers_of_groups_of_the_card():
    """apd card, oracle 5."""
    assert [int(num_groups(jnp.int32(n), 5, 2)) for n in (5, 10, 15, 20)] == [2, 4, 6, 8]


def test_clusters_of_matrices_are_found_and_a_lone_task_keeps_its_own():
    rng = np.random.default_rng(0)
    centres = rng.normal(0, 1, (3, 4, 5))
    near = rng.uniform(-0.01, 0.01, (6, 4, 5))
    residues = jnp.asarray(centres[[0, 1, 0, 2, 1, 0]] + near, jnp.float32)
    seen, fits = jnp.ones(6, bool), []
    for seed in range(8):  # k-means may end in a worse split; most starts find the three
        key, three = jax.random.key(seed), jnp.int32(3)
        found, groups = consolidate(
            key, residues, no_groups(residues, 4), seen, three, jnp.int32(0), 0.02
        )
        error = np.abs(whole(found, groups) - np.asarray(residues))
        assert error.max() <= 0.01 + 1e-6
        member = np.asarray(groups.member)
        fits.append(member[0] == member[2] == member[5] != member[1] == member[4])
        if fits[-1]:
            assert member[3] == -1
            np.testing.assert_array_equal(found[3], residues[3])
            assert (np.asarray(found)[[0, 1, 2, 4, 5]] == 0).all()
    assert sum(fits) >= 4, fits


def test_what_a_group_held_is_given_back_before_it_is_grouped_anew():
    """A second consolidation of the same tasks moves nothing further than the first."""
    rng = np.random.default_rng(1)
    residues = jnp.asarray(rng.normal(0, 0.02, (4, 30)), jnp.float32)
    seen, two, key = jnp.ones(4, bool), jnp.int32(2), jax.random.key(0)
    first = consolidate(key, residues, no_groups(residues, 2), seen, two, jnp.int32(0), 0.02)
    second = consolidate(jax.random.key(1), *first, seen, two, two, 0.02)
    np.testing.assert_array_equal(first[1].member, second[1].member)
    np.testing.assert_allclose(whole(*second), whole(*first), atol=1e-6)
    # With nothing agreed upon, all are their own again, whatever groups held.
    alone = consolidate(key, *first, seen, two, two, -1.0)
    np.testing.assert_allclose(alone[0], whole(*first), atol=1e-7)
    assert (alone[1].common == 0).all()


def plain_kmeans(points, centres):
    """Lloyd's algorithm in float64; a centre without points stays."""
    for _ in range(100):
        nearest = np.square(points[:, None] - centres).sum(-1).argmin(1)
        for c in range(len(centres)):
            if (nearest == c).any():
                centres[c] = points[nearest == c].mean(0)
    return np.square(points[:, None] - centres).sum(-1).argmin(1), centres


@pytest.mark.parametrize("seed", range(4))
def test_kmeans_is_the_plain_one_from_given_centres(seed):
    """All centres but one from before, the last one a point; two rows do not count."""
    rng = np.random.default_rng(seed)
    points = rng.normal(5, 1, (9, 40))
    points[6] += 3
    before = points[:3] + rng.normal(0, 0.1, (3, 40))
    seen = np.ones(9, bool)
    seen[[2, 7]] = False
    room = np.concatenate([before, np.zeros((2, 40))])
    arrays = jnp.asarray(points, jnp.float32), jnp.asarray(seen), jnp.int32(4)
    nearest, centres = kmeans(
        jax.random.key(seed), *arrays, jnp.asarray(room, jnp.float32), jnp.int32(3)
    )
    expected = [
        plain_kmeans(points[seen], np.concatenate([before, points[[p]]]))
        for p in np.flatnonzero(seen)
    ]
    fits = [np.array_equal(np.asarray(nearest)[seen], near) for near, _ in expected]
    assert any(fits), "no point as the fourth centre leads here"
    mine = expected[fits.index(True)][1]
    np.testing.assert_allclose(centres[:4], mine, atol=1e-4)


def test_an_empty_group_keeps_its_centre():
    """The card's quirk 3: the official code divides by 0."""
    points = jnp.asarray([[0.0, 0], [0, 1], [1, 0]])
    before = jnp.asarray([[0.3, 0.3], [50.0, 50]])
    two, seen = jnp.int32(2), jnp.ones(3, bool)
    nearest, centres = kmeans(jax.random.key(0), points, seen, two, before, two)
    np.testing.assert_array_equal(nearest, [0, 0, 0])
    np.testing.assert_allclose(centres, [[1 / 3, 1 / 3], [50, 50]], rtol=1e-6)


def test_a_task_without_a_group_is_held_nothing():
    groups = Groups(jnp.full((2, 3), 7.0), jnp.zeros((2, 3)), jnp.array([-1, 1]))
    np.testing.assert_array_equal(group_residue(groups, jnp.int32(0)), jnp.zeros(3))
    np.testing.assert_array_equal(group_residue(groups, jnp.int32(1)), jnp.full(3, 7.0))
