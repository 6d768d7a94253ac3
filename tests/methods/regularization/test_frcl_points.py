"""Which inputs stand for a task: the trace of the card, its search, and draws."""

from itertools import combinations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cls_jax.methods.regularization.frcl_points import first_points, improved_points, trace_of

first_points = jax.jit(first_points, static_argnums=3, static_argnames="balanced")
improved_points, trace_of = jax.jit(improved_points), jax.jit(trace_of)

INPUTS = np.array([[1.0, 0, 1], [0, 2, 1], [1, 1, 0], [2, 0, 0]])
TRACES = {
    (0, 1): 2.7778, (0, 2): 4.3333, (0, 3): 5, (1, 2): 2.1667, (1, 3): 1, (2, 3): 2
}  # fmt: skip


def test_oracle_6_the_trace_of_every_pair():
    with jax.enable_x64(True):
        gram = jnp.asarray(INPUTS.T @ INPUTS)
        for pair in combinations(range(4), 2):
            found = trace_of(jnp.asarray(INPUTS[[*pair]]), gram)
            np.testing.assert_allclose(found, TRACES[pair], atol=1e-4)


@pytest.mark.parametrize("start", [(0, 1), (0, 2), (2, 3)])
def test_oracle_6_the_search_finds_the_best_pair(start):
    """Whatever stands in rows that are not there."""
    features = jnp.asarray(np.vstack([INPUTS, [[50.0, 50, 50]]]), jnp.float32)
    valid = jnp.arange(5) < 4
    for seed in range(3):
        rows = improved_points(jax.random.key(seed), features, valid, jnp.array(start, jnp.int32))
        assert sorted(np.asarray(rows)) == [1, 3]


def drawn(size, *, balanced, seed=0, n=40):
    """The rows drawn from ``n``, of which the odd ones are valid; classes 0 (a quarter) and 1."""
    y = jnp.where(jnp.arange(n) % 8 == 1, 0, 1).astype(jnp.int32)
    valid = jnp.arange(n) % 2 == 1
    rows, there = first_points(jax.random.key(seed), y, valid, size, balanced=balanced)
    rows = np.asarray(rows)[np.asarray(there)]
    assert len({*rows}) == len(rows)
    assert (rows % 2 == 1).all()
    return rows, np.asarray(y)[rows]


def test_draws_are_different_valid_rows():
    first, second = drawn(6, balanced=False), drawn(6, balanced=False, seed=1)
    assert len(first[0]) == 6
    assert {*first[0]} != {*second[0]}
    often = np.concatenate([drawn(6, balanced=False, seed=s)[1] for s in range(60)])
    assert abs((often == 0).mean() - 0.25) < 0.07  # as often as there are, standard error .02


def test_balanced_draws_have_as_many_of_each_class_as_there_are():
    for seed in range(3):
        _, y = drawn(6, balanced=True, seed=seed)
        assert np.bincount(y).tolist() == [3, 3]
    _, y = drawn(16, balanced=True)
    assert np.bincount(y).tolist() == [5, 11]


@pytest.mark.parametrize("balanced", [True, False])
def test_a_small_task_gives_all_that_it_has(balanced):
    assert sorted(drawn(50, balanced=balanced)[0]) == list(range(1, 40, 2))
