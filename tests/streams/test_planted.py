"""Domains in groups: tasks of a group are near each other, those of different groups are not."""

import jax
import numpy as np
import pytest

from cls_jax.core.errors import InputError
from cls_jax.streams.domain_il import permuted, rotated
from cls_jax.streams.planted import near_angles, near_permutations, planted_groups
from tests.conftest import small_source

KEY = jax.random.key(3)


def shares_of_equal_places(permutations):
    return (permutations[:, None] == permutations).mean(axis=2)


@pytest.mark.parametrize("spread", [0, 0.25, 0.5, 1])
def test_tasks_of_a_group_share_all_but_the_spread(spread):
    found = near_permutations(KEY, 9, 3, 64, spread)
    np.testing.assert_array_equal(np.sort(found), np.tile(np.arange(64), (9, 1)))
    same = shares_of_equal_places(found)
    of_one_group = np.equal.outer(*2 * [np.arange(9) % 3])
    assert same[~of_one_group].max() < 0.15
    for first in range(3):  # a random permutation of n places leaves one of them where it was
        for task in range(first + 3, 9, 3):
            assert 1 - spread <= same[first, task] <= 1 - spread + 5 / 64
    assert planted_groups(5, 3) == (0, 1, 2, 0, 1)


@pytest.mark.parametrize("spread", [0, 0.5])
def test_angles_of_a_group_are_about_its_centre(spread):
    found = near_angles(KEY, 60, 3, spread)
    assert ((found >= -30) & (found < 210)).all()
    widest = np.ptp(found - 60 * (np.arange(60) % 3))
    assert widest < 1e-9 if spread == 0 else 25 < widest <= 30


@pytest.mark.parametrize("make", [permuted, rotated])
def test_a_stream_of_groups(make):
    kind = {"batch_size": 8, "groups": 2, "group_spread": 0.25}
    stream = make(small_source(), tasks=4, **kind)
    assert stream.describe["groups"] == 2
    assert stream.describe["group_spread"] == 0.25
    assert stream.name.endswith(", 2 groups")
    contexts = stream.schedule(KEY).contexts.astype(float)
    gap = np.abs(contexts[:, None] - contexts).mean(axis=2)
    assert max(gap[0, 2], gap[1, 3]) < min(gap[0, 1], gap[0, 3], gap[1, 2], gap[2, 3])
    longer = make(small_source(), tasks=6, **kind).schedule(KEY)
    np.testing.assert_array_equal(longer.contexts[:4], contexts)
    assert not np.array_equal(stream.schedule(jax.random.key(4)).contexts, contexts)
    alone = make(small_source(), tasks=4, batch_size=8)
    assert "groups" not in alone.describe


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"groups": 0}, "groups is 0; give a value at least 1 and at most 3"),
        ({"groups": 4}, "groups is 4; give a value at least 1 and at most 3"),
        ({"groups": 2, "group_spread": 1.5}, "group_spread is 1.5; give a value at least 0 and at"),
    ],
)
def test_what_cannot_be_is_refused(change, sentence):
    with pytest.raises(InputError, match=sentence):
        permuted(small_source(), tasks=3, batch_size=8, **change)
