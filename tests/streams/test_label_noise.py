"""Wrong labels: drawn once a seed, from the task's classes, and the same whoever asks, whenever."""

from functools import partial

import jax
import numpy as np
import pytest

import cls_jax as cls
from cls_jax.core.errors import InputError
from cls_jax.data.hold_out import hold_out
from cls_jax.streams.class_il import class_il
from cls_jax.streams.continued import continued
from cls_jax.streams.domain_il import permuted
from cls_jax.streams.label_noise import with_label_noise
from cls_jax.streams.reserve import reserve
from cls_jax.streams.stream import pooled
from cls_jax.streams.task_order import in_order
from cls_jax.training.group import schedule_key
from cls_jax.training.runner import Plan, run
from tests.conftest import TASKS, small_method, small_source
from tests.streams.test_class_il import source_of
from tests.support.schedules import assert_same, check_schedules

KEY = jax.random.key(3)
split = partial(class_il, tasks=TASKS, batch_size=4)


def labels_seen(table, n):
    """int[n]: the label under which each example is served, always the same one."""
    rows, found = table.rows(), np.full(n, -1)
    member = rows.index >= 0
    found[rows.index[member]] = rows.y[member]
    np.testing.assert_array_equal(found[rows.index[member]], rows.y[member])
    return found


def test_labels_are_drawn_anew_within_the_task():
    """Of 4000 in each of two tasks of two classes 60 %, half of which are right again."""
    source = source_of([2000] * 4)
    stream = class_il(source, tasks=2, batch_size=8, epochs=2, label_noise=0.6)
    table = stream.schedule(KEY)
    y = labels_seen(table, 8000)
    task = table.task_classes.argmax(0)
    np.testing.assert_array_equal(task[y], task[source.train.y])
    for label in range(4):
        wrong = (y != label)[source.train.y == label].mean()
        assert abs(wrong - 0.3) < 0.041  # four standard deviations
    clean = class_il(source, tasks=2, batch_size=8, epochs=2).schedule(KEY)
    assert_same(table.replace(make_rows=clean.make_rows), clean)  # nothing else has changed
    np.testing.assert_array_equal(table.rows().index, clean.rows().index)
    assert clean.rows().y is None


def test_the_seed_alone_decides():
    stream = split(small_source(), label_noise=0.6)
    check_schedules(stream)
    every = [labels_seen(stream.schedule(jax.random.key(seed)), 66) for seed in range(2)]
    assert not np.array_equal(*every)
    table = stream.schedule(jax.random.key(0), epochs=2, shuffle=1)  # another phase
    np.testing.assert_array_equal(labels_seen(table, 66), every[0])
    domains = permuted(small_source(), tasks=3, batch_size=8, label_noise=0.6)
    check_schedules(domains)
    labels_seen(domains.schedule(KEY), 66)  # the same in all domains


def test_none_is_the_stream_itself_and_all_is_chance():
    source = source_of([3000] * 2)
    stream = class_il(source, tasks=1, batch_size=4)
    assert with_label_noise(stream, 0) is stream
    y = labels_seen(with_label_noise(stream, 1.0).schedule(KEY), 6000)
    assert abs((y == source.train.y).mean() - 0.5) < 0.026


def test_labels_move_with_their_tasks():
    """Into a larger label space, in another order, behind tasks of before, pooled."""
    stream = split(small_source(), label_noise=0.6)
    table, y = stream.schedule(KEY), labels_seen(stream.schedule(KEY), 66)
    moved = reserve(stream, max_classes=9, first_class=2)
    np.testing.assert_array_equal(labels_seen(moved.schedule(KEY), 66), y + 2)
    turned = in_order(stream, (2, 0, 1)).schedule(KEY)
    np.testing.assert_array_equal(turned.rows(0).y, table.rows(2).y)
    later = continued(stream, 2, in_order(stream, (1, 2, 0))._replace(num_tasks=2)).schedule(KEY)
    assert later.rows(1).y.shape == (0, 4)
    np.testing.assert_array_equal(later.rows(2).y, table.rows(0).y)
    np.testing.assert_array_equal(labels_seen(pooled(stream).schedule(KEY), 66), y)


def test_a_validation_split_is_clean():
    held = hold_out(small_source(), 0.2)
    stream = split(held, label_noise=1.0)
    assert stream.source.test is held.test
    assert stream.source.train is held.train  # the noise is in the schedule


@pytest.fixture(scope="module")
def noisy():
    return split(small_source(), label_noise=0.6, label_fraction=0.7)


@pytest.mark.parametrize("name", ["er", "icarl"])
def test_every_method_learns_the_same_labels_from_device_and_host(noisy, name):
    """iCaRL is also handed whole tasks at their ends."""
    method, results = small_method(name), []
    for data in ("device", "host"):
        results.append(run(method, noisy, plan=Plan(chunk=5, data=data)))
    one, other = (result.states[0] for result in results)
    for a, b in zip(*map(jax.tree.leaves, (one, other)), strict=True):
        np.testing.assert_array_equal(a, b)
    x, y = (np.asarray(one.memory.slots[leaf]) for leaf in "xy")
    there, own = (y >= 0) & x.any(axis=(1, 2, 3)), small_source().train
    number = {image.tobytes(): i for i, image in enumerate(own.x)}
    found = [number[image.tobytes()] for image in x[there]]
    seen = labels_seen(noisy.schedule(schedule_key(0)), 66)
    np.testing.assert_array_equal(y[there], seen[found])
    assert (y[there] != own.y[found]).any()


def test_a_run_that_goes_on_sees_the_labels_of_one_on_all_tasks():
    stream = split(small_source(), label_noise=0.6, class_order="label")
    method = cls.sgd(cls.problem(stream, net="mlp", hidden=(8,)))
    whole = cls.train(method, stream).states[0][0]
    first = cls.train(method, cls.only_tasks(stream, (0, 1)))
    rest = cls.reserve(cls.only_tasks(stream, (2,)), first_class=0)
    both = cls.train(method, rest, start=first).states[0][0]
    for a, b in zip(*map(jax.tree.leaves, (whole, both)), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("value", [-0.1, 1.5, float("nan"), "0.5"])
def test_a_share_that_is_none_is_named(value):
    with pytest.raises(InputError, match="label_noise is "):
        split(small_source(), label_noise=value)
