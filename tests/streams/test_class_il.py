"""Split streams are partitions, pure functions of the key, with shapes that no key can change."""

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cls_jax.core.errors import InputError
from cls_jax.data.dataset import Dataset, Split
from cls_jax.streams.class_il import class_il
from cls_jax.streams.indexing import class_groups
from cls_jax.streams.stream import pooled


def source_of(counts, test_counts=None, name="toy"):
    """A source with this many examples of each class; pixel value = example number."""

    def split(counts):
        y = np.repeat(np.arange(len(counts)), counts).astype(np.int32)
        return Split(np.arange(y.size, dtype=np.float32)[:, None], y)

    test = split(test_counts or [2] * len(counts))
    return Dataset(name, split(counts), test, tuple(f"c{i}" for i in range(len(counts))))


@settings(max_examples=40)
@given(
    counts=st.lists(st.integers(4, 9), min_size=6, max_size=6),
    seed=st.integers(0, 2**32 - 1),
    tasks=st.sampled_from([1, 2, 3, 6, (1, 2, 3), (4, 1, 1)]),
    epochs=st.integers(1, 3),
    order=st.sampled_from(["shuffled", "label"]),
    drop_last=st.booleans(),
)
def test_every_epoch_of_every_task_is_a_partition(counts, seed, tasks, epochs, order, drop_last):
    source = source_of(counts)
    settings_ = {"batch_size": 4, "epochs": epochs, "class_order": order, "drop_last": drop_last}
    stream = class_il(source, tasks=tasks, **settings_)
    table = stream.schedule(jax.random.key(seed))
    other = stream.schedule(jax.random.key(seed + 1))
    for leaf, leaf_of_other in zip(jax.tree.leaves(table), jax.tree.leaves(other), strict=True):
        assert leaf.shape == leaf_of_other.shape  # seeds stack
    assert (table.task_classes.sum(0) == 1).all()  # each class in one task
    if order == "label":
        assert (np.diff(table.task_classes.argmax(0)) >= 0).all()
    assert (np.diff(table.rows().task) >= 0).all()
    for task, classes in enumerate(table.task_classes):
        members = np.flatnonzero(classes[source.train.y])
        rows = table.rows(task).index
        used = rows[rows >= 0]
        for epoch in np.split(rows, epochs):
            numbers = epoch[epoch >= 0]
            assert len(set(numbers)) == numbers.size  # nothing twice in an epoch
            assert set(numbers) <= set(members)
            whole = members.size // 4 * 4 if drop_last else members.size
            assert numbers.size == whole
        assert used.size == epochs * whole
        tests = table.test_index[task]
        assert set(tests[tests >= 0]) == set(np.flatnonzero(classes[source.test.y]))
    assert table.rows().labelled.all()


def test_the_key_alone_decides():
    stream = class_il(source_of([9] * 6), tasks=3, batch_size=4, epochs=2)
    key = jax.random.key(5)
    one, two = stream.schedule(key), stream.schedule(key)
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(two), strict=True):
        np.testing.assert_array_equal(a, b)
    second = stream.schedule(key, epochs=1, shuffle=1)
    np.testing.assert_array_equal(second.task_classes, one.task_classes)
    assert len(second.rows().index) * 2 == len(one.rows().index)
    assert not np.array_equal(second.rows().index, one.rows().index[np.r_[0:5, 10:15, 20:25]])
    orders = {stream.schedule(jax.random.key(s)).task_classes.tobytes() for s in range(8)}
    assert len(orders) > 1
    epochs = one.rows().index[:10].reshape(2, 5, 4)
    assert not np.array_equal(epochs[0], epochs[1])  # a fresh shuffle each epoch


def test_schedules_do_not_change_between_versions():
    """A golden table: published numbers depend on it."""
    stream = class_il(source_of([3] * 4), tasks=2, batch_size=2)
    table = stream.schedule(jax.random.key(0))
    assert table.task_classes.argmax(0).tolist() == GOLDEN_TASK_OF_CLASS
    assert table.rows().index.tolist() == GOLDEN_INDEX


GOLDEN_TASK_OF_CLASS = [1, 0, 1, 0]
GOLDEN_INDEX = [[4, 3], [10, 5], [11, 9], [2, 1], [8, 0], [7, 6]]


def test_label_fraction_takes_labels_from_whole_batches():
    """2000 batches at 0.25: within 4 standard deviations (0.0097) of the rate."""
    stream = class_il(source_of([8000]), tasks=1, batch_size=4, label_fraction=0.25)
    labelled = stream.schedule(jax.random.key(0)).rows().labelled
    assert (labelled.all(1) | ~labelled.any(1)).all()
    assert abs(labelled.mean() - 0.25) < 0.04


def test_pooled_holds_the_same_examples_in_the_last_task():
    stream = class_il(source_of([5, 6, 7, 8]), tasks=2, batch_size=4, epochs=2)
    key = jax.random.key(1)
    table, joint = stream.schedule(key), pooled(stream).schedule(key)
    assert (joint.rows().task == 1).all()

    def count(index):
        return np.bincount(index[index >= 0], minlength=26)

    np.testing.assert_array_equal(count(joint.rows().index), count(table.rows().index))
    first = joint.rows().index.ravel()[:26]
    np.testing.assert_array_equal(count(first), np.ones(26))  # epoch by epoch
    first = joint.rows().index[:6].ravel()
    assert len(set(table.task_classes.argmax(0)[stream.source.train.y[first]])) == 2  # mixed
    np.testing.assert_array_equal(pooled(stream).schedule(key).rows().index, joint.rows().index)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"tasks": 4}, r"tasks=4 does not divide the 6 classes of toy; use one of \[1, 2, 3, 6\]"),
        ({"tasks": (2, 2)}, r"tasks=\(2, 2\) adds up to 4 classes but toy has 6"),
        ({"tasks": (7, -1)}, "give positive sizes that add up to 6"),
        ({"batch_size": 19}, "batch_size=19 is larger than a task of 18 examples; use at most 18"),
        ({"batch_size": 0}, "batch_size is 0; give a value at least 1"),
        ({"epochs": 0}, "epochs is 0; give a value at least 1"),
        ({"label_fraction": 0.0}, "label_fraction is 0.0; give a value above 0 and at most 1"),
        ({"label_fraction": float("nan")}, "label_fraction is nan; give a finite number"),
        ({"class_order": "random"}, "class_order must be 'shuffled' or 'label' or '1993', got 'r"),
        (
            {"base_classes": 2, "tasks": 4},
            r"base_classes=2 leaves 4 of the 6 classes of toy to 3 further tasks, which is no "
            r"equal split; use tasks from \[2, 3, 5\]",
        ),
        ({"base_classes": 6}, "base_classes=6 leaves 0 of the 6 classes of toy"),
        ({"base_classes": 0}, "base_classes=0 leaves 6 of the 6 classes .*; give other numbers"),
        ({"base_classes": 2, "tasks": 1}, "to 0 further tasks"),
        ({"base_classes": 2, "tasks": (2, 4)}, "both say how many classes the first task has"),
    ],
)
def test_bad_settings_are_named(change, message):
    settings_ = {"tasks": 2, "batch_size": 4, **change}
    with pytest.raises(InputError, match=message):
        class_il(source_of([6] * 6), **settings_)


def test_a_task_smaller_than_a_batch_is_padded():
    """The largest task of any order bounds the batch; without padding the smallest does."""
    source = source_of([1, 9, 9, 9])
    stream = class_il(source, tasks=4, batch_size=9)
    for seed in range(4):
        table = stream.schedule(jax.random.key(seed))
        rows = [table.rows(task).index for task in range(4)]
        assert sorted((r >= 0).sum() for r in rows) == [1, 9, 9, 9]
        assert table.rows().index.shape == (4, 9)
    with pytest.raises(InputError, match="batch_size=28 is larger than a task of 27 examples; use"):
        class_il(source, tasks=(3, 1), batch_size=28)
    with pytest.raises(InputError, match="larger than a task of 19 examples"):
        class_il(source, tasks=(3, 1), batch_size=20, class_order="label")
    dropped = {"tasks": (3, 1), "drop_last": True}
    words = (
        "larger than a task of 1 examples, of which drop_last would leave nothing; use at most 1"
    )
    with pytest.raises(InputError, match=words):
        class_il(source, batch_size=2, **dropped)
    with pytest.raises(InputError, match="larger than a task of 9 examples, of which"):
        class_il(source, batch_size=10, class_order="label", **dropped)
    class_il(source, batch_size=9, class_order="label", **dropped)


def test_a_class_without_examples_is_named():
    with pytest.raises(InputError, match=r"the test split of toy has no example of class 1 \(c1\)"):
        class_il(source_of([5, 5], [2, 0]), tasks=2, batch_size=2)


def test_base_classes_and_equal_phases():
    stream = class_il(
        source_of([5] * 6), tasks=5, base_classes=2, batch_size=4, class_order="label"
    )
    classes = stream.schedule(jax.random.key(0)).task_classes
    assert classes.sum(axis=1).tolist() == [2, 1, 1, 1, 1]
    assert stream.name == "toy, 2 + 4 x 1 classes"


def test_the_class_order_of_the_published_tables_is_the_same_for_every_key():
    """CIFAR-100's order with seed 1993 begins 68, 56, 78, 8, 23, ... in iCaRL's and UCIR's code."""
    sizes = (1,) * 5 + (95,)
    for seed in (0, 1):
        groups = class_groups(jax.random.key(seed), sizes, "1993")
        assert groups[:5].argmax(axis=1).tolist() == [68, 56, 78, 8, 23]
