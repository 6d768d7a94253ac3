"""Blurry boundaries: partitions, how much of each class is where, and the test sets."""

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cls_jax.core.errors import InputError
from cls_jax.streams.blurry import blurry
from cls_jax.streams.class_il import class_il
from cls_jax.streams.stream import pooled
from tests.conftest import small_source
from tests.streams.test_class_il import source_of
from tests.support.schedules import check_runs, check_schedules, examples_of, rows_of


@settings(max_examples=15)
@given(
    counts=st.lists(st.integers(5, 30), min_size=6, max_size=6),
    seed=st.integers(0, 2**32 - 1),
    tasks=st.sampled_from([2, 3, 6, (1, 2, 3), (4, 1, 1)]),
    epochs=st.integers(1, 3),
    order=st.sampled_from(["shuffled", "label"]),
    blur=st.sampled_from([0.0, 0.1, 0.3, 0.5, 0.95]),
    drop_last=st.booleans(),
)
def test_every_epoch_is_a_partition_with_the_stated_shares(
    counts, seed, tasks, epochs, order, blur, drop_last
):
    source = source_of(counts)
    settings_ = {"batch_size": 2, "epochs": epochs, "class_order": order, "drop_last": drop_last}
    stream = blurry(source, tasks=tasks, blur=blur, **settings_)
    table = stream.schedule(jax.random.key(seed))
    num_tasks, y = stream.num_tasks, source.train.y
    held = np.zeros((num_tasks, 6), int)
    for task in range(num_tasks):
        parts = np.split(rows_of(table, task), epochs)
        for part in parts:
            numbers = part[part >= 0]
            assert len(set(numbers)) == numbers.size
            if not drop_last:  # the same examples in every epoch
                assert set(numbers) == set(examples_of(table, task))
        held[task] = np.bincount(y[sorted(set(examples_of(table, task)))], minlength=6)
        tests = table.test_index[task]
        major = table.task_classes[task]
        assert set(tests[tests >= 0]) == set(np.flatnonzero(major[source.test.y]))
    sizes = (6 // tasks,) * tasks if isinstance(tasks, int) else tasks
    np.testing.assert_array_equal(table.task_classes.sum(1), sizes)
    np.testing.assert_array_equal(table.task_classes.sum(0), 1)
    if drop_last:
        return
    np.testing.assert_array_equal(held.sum(0), counts)  # each example in one task
    minor = np.floor(np.round(blur * np.array(counts), 6))
    np.testing.assert_array_equal(held[table.task_classes.argmax(0), np.arange(6)], counts - minor)
    for label in range(6):
        elsewhere = held[~table.task_classes[:, label], label]
        assert elsewhere.max() - elsewhere.min() <= 1  # evenly


def test_no_blur_is_class_il():
    source = source_of([9, 8, 7, 6])
    table = blurry(source, tasks=2, batch_size=4, blur=0.0).schedule(jax.random.key(0))
    other = class_il(source, tasks=2, batch_size=4).schedule(jax.random.key(0))
    for task in range(2):
        np.testing.assert_array_equal(
            np.sort(examples_of(table, task)), np.sort(examples_of(other, task))
        )
    assert table.rows().index.shape == other.rows().index.shape


def test_shapes_hold_the_largest_task_and_no_more():
    """3 of 10 are minor, two other tasks: one gets 2 and one gets 1."""
    source = source_of([10, 10, 10])
    stream = blurry(source, tasks=3, batch_size=1, blur=0.3)
    tables = [stream.schedule(jax.random.key(s)) for s in range(60)]
    held = np.array([[examples_of(t, task).size for task in range(3)] for t in tables])
    assert held.max() == 7 + 2 + 2 == len(tables[0].rows().index) / 3
    assert held.min() == 7 + 1 + 1
    np.testing.assert_array_equal(held.sum(1), 30)


def test_minor_examples_and_their_tasks_are_drawn_at_random():
    """Over 600 keys each of 10 examples is minor in 3 of 10, and goes left or right equally."""
    source = source_of([10, 10, 10])
    stream = blurry(source, tasks=3, batch_size=1, blur=0.3, class_order="label")
    away, where = np.zeros(10), np.zeros(3)
    for key in range(600):
        table = stream.schedule(jax.random.key(key))
        for task in (1, 2):
            mine = [i for i in examples_of(table, task) if i < 10]
            away[mine] += 1
            where[task] += len(mine)
    assert (abs(away - 180) < 5 * np.sqrt(600 * 0.3 * 0.7)).all()
    assert abs(where[1] - 900) < 5 * np.sqrt(600) * 0.5  # one of three flips a coin


def test_the_key_alone_decides():
    stream = blurry(source_of([12] * 6), tasks=3, batch_size=4, blur=0.25)
    check_schedules(stream)
    key = jax.random.key(2)
    np.testing.assert_array_equal(  # majors do not depend on the blur
        stream.schedule(key).task_classes,
        blurry(source_of([12] * 6), tasks=3, batch_size=4).schedule(key).task_classes,
    )
    assert stream.describe["scenario"] == "blurry"
    assert stream.describe["blur"] == 0.25


def test_it_runs():
    stream = blurry(small_source(), tasks=3, batch_size=4, blur=0.3, epochs=2)
    assert (check_runs(stream)[:, -1].mean(-1) > 1 / 6).all()
    joint, key = pooled(stream), jax.random.key(0)
    np.testing.assert_array_equal(
        np.sort(joint.schedule(key).rows().index.ravel()),
        np.sort(stream.schedule(key).rows().index.ravel()),
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"tasks": 0}, r"tasks=0 does not divide the 6 classes"),
        ({"tasks": 4}, r"tasks=4 does not divide the 6 classes of toy; use one of \[1, 2, 3, 6\]"),
        ({"tasks": 1}, "blur is 0.5 but there is only one task; give tasks at least 2"),
        ({"blur": 1.0}, "blur is 1.0; give a value at least 0 and below 1"),
        ({"blur": -0.1}, "blur is -0.1; give a value at least 0 and below 1"),
        ({"blur": float("nan")}, "blur is nan; give a finite number"),
        ({"batch_size": 0}, "batch_size is 0; give a value at least 1"),
        ({"epochs": 0}, "epochs is 0; give a value at least 1"),
        # two classes keep 4 of 8, four classes give 4 // 2
        ({"batch_size": 17}, "batch_size=17 is larger than a task of 16 examples; use at most 16"),
        ({"class_order": "any"}, "class_order must be 'shuffled' or 'label', got 'any'"),
    ],
)
def test_bad_settings_are_named(change, message):
    with pytest.raises(InputError, match=message):
        blurry(source_of([8] * 6), **{"tasks": 3, "batch_size": 4, "blur": 0.5, **change})
