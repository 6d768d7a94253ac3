"""A label space with room: the same examples, labels that moved, columns that are free."""

import jax
import numpy as np
import pytest

from cls_jax.core.errors import InputError
from cls_jax.data.checked import checked
from cls_jax.streams.class_il import class_il
from cls_jax.streams.reserve import reserve
from tests.conftest import CLASSES, TASKS, small_source
from tests.support.schedules import check_schedules


@pytest.fixture(scope="module")
def split():
    return class_il(small_source(), tasks=TASKS, batch_size=4)


def test_labels_move_and_examples_stay(split):
    moved = reserve(split, max_classes=9, max_tasks=5, first_class=2)
    assert (moved.num_classes, moved.num_tasks, moved.task_room) == (9, TASKS, 5)
    assert moved.first_class == 2
    for one, other in zip(split.source[1:3], moved.source[1:3], strict=True):
        assert one.x is other.x
        np.testing.assert_array_equal(other.y, one.y + 2)
    names = moved.source.label_names
    assert names[2 : 2 + CLASSES] == split.source.label_names
    assert (names[0], names[8]) == ("class 0", "class 8")
    assert checked(moved.source, every_class=False) is moved.source
    key = jax.random.key(3)
    given, wide = split.schedule(key), moved.schedule(key)
    np.testing.assert_array_equal(wide.rows().index, given.rows().index)
    np.testing.assert_array_equal(wide.test_index, given.test_index)
    np.testing.assert_array_equal(wide.task_classes[:, 2 : 2 + CLASSES], given.task_classes)
    assert wide.task_classes.sum() == CLASSES
    check_schedules(moved)


def test_room_can_grow_and_keeps_what_was_said(split):
    twice = reserve(reserve(split, max_tasks=5, first_class=1), max_classes=9, first_class=1)
    assert (twice.num_classes, twice.first_class, twice.task_room) == (9, 2, 5)
    assert twice.source.train.y.min() == 2


def test_without_it_there_is_none(split):
    assert (split.first_class, split.max_tasks, split.task_room) == (None, None, TASKS)


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ({"max_classes": 5}, "max_classes is 5, but digits6 has 6 classes; give at least 6"),
        ({"max_classes": 8, "first_class": 3}, "6 classes from label 3 on; give at least 9"),
        ({"max_tasks": 2}, "max_tasks is 2, but the stream has 3 tasks"),
        ({"first_class": -1}, "first_class"),
        ({"max_classes": 9.5}, "max_classes is 9.5; give a whole number"),
    ],
)
def test_room_that_is_none_is_refused(split, given, why):
    with pytest.raises(InputError, match=why):
        reserve(split, **given)
