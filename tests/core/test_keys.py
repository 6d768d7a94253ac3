"""Purposes of keys: the numbers are part of every result, and a member folds as its number does."""

import jax
import numpy as np
import pytest

from cls_jax.core.keys import PhaseKey, RunKey, ScheduleKey, ShuffleKey

NUMBERS = {
    RunKey: {"SCHEDULE": 0, "INIT": 1, "STEPS": 2, "BOUNDARIES": 3},
    ScheduleKey: {
        **{"CLASS_ORDER": 0, "DOMAINS": 0, "PHASES": 0, "DRAW": 0, "SHUFFLE": 1, "IMAGES": 1},
        **{"MINOR": 2, "PHASE_SHUFFLE": 2, "TURNS": 3, "POOL": 7, "TASK_ORDER": 8},
        **{"LABEL_NOISE": 9, "RARE": 10},
    },
    PhaseKey: {"NUMBER": 0, "CLASSES": 1, "DRAWS": 2},
    ShuffleKey: {"LABELS": 2},
}


@pytest.mark.parametrize("kind", NUMBERS)
def test_the_numbers_stay(kind):
    assert {name: int(one) for name, one in kind.__members__.items()} == NUMBERS[kind]


def test_a_member_folds_as_its_number():
    key = jax.random.key(3)
    for one in (*RunKey, *ScheduleKey):
        want = jax.random.key_data(jax.random.fold_in(key, int(one)))
        inside = jax.jit(lambda key, one=one: jax.random.fold_in(key, one))(key)
        for found in (jax.random.fold_in(key, one), inside):
            np.testing.assert_array_equal(jax.random.key_data(found), want)
