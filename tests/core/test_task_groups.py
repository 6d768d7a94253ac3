"""Groups and routing against the card's hand numbers."""

import jax
import numpy as np
import pytest

from cls_jax.core.similarity import Labelled
from cls_jax.core.task_groups import choose_group, group_means, nearest_task

SIMILARITY = np.array(
    [[0, 0, 0, 0], [0.2, 0, 0, 0], [0.7, 0.1, 0, 0], [0.5, 0.65, 0.4, 0]], np.float32
)
choose = jax.jit(choose_group, static_argnums=3)


@pytest.mark.parametrize(
    ("threshold", "room", "expected"),
    [(0.6, 4, [0, 1, 0, 1]), (0.7, 4, [0, 1, 0, 2]), (0.7, 2, [0, 1, 0, 1]), (0.7, 1, [0] * 4)],
)
def test_oracle_2_groups(threshold, room, expected):
    group = np.full(4, -1, np.int32)
    for task, row in enumerate(SIMILARITY):
        group[task] = choose(row, group.copy(), threshold, room)
    np.testing.assert_array_equal(group, expected)


def test_oracle_2_the_mean_over_a_group():
    means, opened = group_means(SIMILARITY[3], np.array([0, 1, 0, -1]), 3)
    np.testing.assert_allclose(means, [0.45, 0.65, 0], rtol=1e-6)
    np.testing.assert_array_equal(opened, [True, True, False])


nearest = jax.jit(nearest_task, static_argnums=3)


def test_oracle_of_the_router():
    """Exemplars 0 and 2 of class A (task 1), 10 of class B (task 0): 4 is nearer to A, 6 to B."""
    stored = Labelled(
        np.array([[0.0], [5], [10], [2]], np.float32),
        np.array([0, 0, 1, 0]),
        np.array([True, False, True, True]),
    )
    task = np.array([1, 0, 0, 1], np.int32)
    np.testing.assert_array_equal(nearest(np.array([[4.0], [6]]), stored, task, 2), [1, 0])


def test_the_router_against_a_loop():
    rng = np.random.default_rng(0)
    x, stored = rng.normal(size=(9, 5)), rng.normal(size=(40, 5))
    y, task, valid = rng.integers(0, 3, 40), rng.integers(0, 4, 40), rng.random(40) < 0.8
    means = {
        (t, c): stored[valid & (task == t) & (y == c)].mean(0)
        for t in range(4)
        for c in range(3)
        if (valid & (task == t) & (y == c)).any()
    }
    expected = [min(means, key=lambda k: np.square(row - means[k]).sum())[0] for row in x]
    rows = Labelled(stored.astype(np.float32), y, valid)
    np.testing.assert_array_equal(nearest(x.astype(np.float32), rows, task, 3), expected)


def test_the_router_of_one_class_and_of_nothing():
    stored = Labelled(np.ones((3, 2), np.float32), np.zeros(3, int), np.ones(3, bool))
    task = np.full(3, 2, np.int32)
    np.testing.assert_array_equal(nearest(np.zeros((1, 2)), stored, task, 4), [2])
    empty = stored._replace(valid=np.zeros(3, bool))
    assert nearest(np.zeros((1, 2)), empty, task, 4).shape == (1,)
