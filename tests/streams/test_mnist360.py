"""MNIST-360 against a transcription of the official loader, Pillow, and rows made by hand."""

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from cls_jax.core.errors import InputError
from cls_jax.data.dataset import Dataset, Split
from cls_jax.data.load import load
from cls_jax.methods import METHODS
from cls_jax.streams.mnist360 import mnist360
from cls_jax.streams.rotation import rotation
from cls_jax.streams.stream import look_up, pooled
from cls_jax.training.runner import run
from tests.conftest import small_problem, small_source
from tests.support.schedules import check_runs, check_schedules

MNIST_COUNTS = [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851]


def source_of(counts, seed=0):
    """Images of one pixel in random order of classes; a tenth class of five comes on top."""
    y = np.repeat(np.arange(len(counts) + 1), [*counts, 5]).astype(np.int32)
    y = np.random.default_rng(seed).permutation(y)
    x = np.ones((y.size, 1, 1, 1), np.uint8)
    return Dataset("dots", Split(x, y), Split(x[:20], np.arange(20) % 10), tuple("0123456789"))


def small_digits():
    """All ten digits, 8x8 pixels and three channels, 60 of each for training and 12 for testing."""
    whole = load("digits", size=8)

    def take(split, n):
        index = np.sort(np.concatenate([np.flatnonzero(split.y == c)[:n] for c in range(10)]))
        return Split(split.x[index], split.y[index])

    return Dataset("digits", take(whole.train, 60), take(whole.test, 12), whole.label_names)


def official(counts, batch_size):
    """(class, chunk, degrees) of every served image, a list a batch, the official way."""
    chunks, angle = [], []
    for j, n in enumerate(counts):
        step = n // 6 + 1
        chunks.append([len(range(n)[k * step : (k + 1) * step]) for k in range(6)])
        angle.append([(j - 1) * 60, 360.0 / n, 0])
    batches, classes, rounds = [], [0, 1], 0
    numbers = [len(chunks[j]) - 1 for j in classes]
    left = [chunks[j].pop() for j in classes]
    while True:
        batch = []
        first = min(round(left[0] / (left[0] + left[1]) * batch_size), left[0])
        takes = [first, min(batch_size - first, left[1])]
        for i in range(2):
            for _ in range(takes[i]):
                start, increase, served = angle[classes[i]]
                batch.append((classes[i], numbers[i], (served * increase + start) % 360))
                angle[classes[i]][2] += 1
            left[i] -= takes[i]
        batches.append(batch)
        if left[0] <= 0 or left[1] <= 0:
            classes = [(j + 1) % 9 for j in classes]
            rounds += classes[0] == 0
            if rounds == 3:
                return batches
            numbers = [len(chunks[j]) - 1 for j in classes]
            left = [chunks[j].pop() for j in classes]


def chunk_of(labels):
    """The number of the chunk that each example belongs to: sixths of its class, in order."""
    chunk = np.zeros(labels.size, int)
    for j in range(9):
        mine = np.flatnonzero(labels == j)
        chunk[mine] = np.arange(mine.size) // (mine.size // 6 + 1)
    return chunk


def check_against_official(stream, counts, batch_size):
    y = stream.source.train.y
    chunk = chunk_of(y)
    table = stream.schedule(jax.random.key(7))
    batches = official(counts, batch_size)
    assert len(table.rows().index) == len(batches)
    side = stream.source.train.x.shape[1]
    rows = table.rows()
    contexts = look_up(table.contexts, rows.context)
    for row, context, batch in zip(rows.index, contexts, batches, strict=True):
        assert (row[len(batch) :] == -1).all()
        numbers = row[: len(batch)]
        assert [(y[i], chunk[i]) for i in numbers] == [(j, k) for j, k, _ in batch]
        degrees = np.array([degrees for *_, degrees in batch])
        assert abs(context[: len(batch)] - rotation(degrees, side)).max() <= 1  # last place of 16


@settings(max_examples=15)
@given(
    counts=st.lists(st.integers(36, 60), min_size=9, max_size=9),
    batch_size=st.integers(1, 9),
    replacement=st.booleans(),
)
def test_classes_chunks_and_angles_are_the_official_ones(counts, batch_size, replacement):
    stream = mnist360(source_of(counts), batch_size=batch_size, replacement=replacement)
    check_against_official(stream, counts, batch_size)


def test_on_the_sizes_of_mnist():
    """The shares use up both chunks of every pair: 54,051 images, as mammoth states the length."""
    stream = mnist360(source_of(MNIST_COUNTS), replacement=False)
    check_against_official(stream, MNIST_COUNTS, 16)
    index = stream.schedule(jax.random.key(0)).rows().index
    np.testing.assert_array_equal(np.sort(index[index >= 0]), np.arange(54051))


def test_the_first_rows_by_hand():
    """36 of each: chunks of 7, 7, 7, 7, 7, 1, the last first. Batches of 4."""
    stream = mnist360(source_of([36] * 9), batch_size=4, replacement=False)
    table = stream.schedule(jax.random.key(0))
    classes = np.where(table.rows().index < 0, -1, stream.source.train.y[table.rows().index])
    assert classes[:5].tolist() == [
        [0, 1, -1, -1],
        [1, 1, 1, 1],  # 7 and 1 left: round(3.5) = 4 of class 1
        [1, 1, 1, 2],
        [2, 2, 2, 2],
        [2, 2, 2, 3],
    ]
    degrees = np.array([-60, 0]), 10.0 * np.arange(1, 5)
    contexts = table.contexts[table.rows().context]
    np.testing.assert_array_equal(contexts[0, :2], rotation(degrees[0], 1))
    np.testing.assert_array_equal(contexts[0, 2:], rotation(np.zeros(2), 1))  # padding
    np.testing.assert_array_equal(contexts[1], rotation(degrees[1], 1))


def test_without_replacement_nothing_is_served_twice_in_a_pass():
    source = source_of([50] * 9)
    key = jax.random.key(1)
    stream = mnist360(source, batch_size=4, epochs=2, replacement=False)
    index = stream.schedule(key).rows().index
    for part in np.split(index, 2):
        numbers = part[part >= 0]
        assert len(set(numbers)) == numbers.size
    again = mnist360(source, batch_size=4, epochs=2).schedule(key).rows().index
    np.testing.assert_array_equal(again < 0, index < 0)
    assert len(set(again.ravel())) < len(set(index[: len(index) // 2].ravel()))


@pytest.mark.parametrize("replacement", [True, False])
def test_every_image_of_a_chunk_is_equally_likely(replacement):
    """400 passes: how often each image comes, within 5 standard deviations."""
    stream = mnist360(source_of([40] * 9), batch_size=4, epochs=400, replacement=replacement)
    y, index = stream.source.train.y, stream.schedule(jax.random.key(2)).rows().index
    counts = np.bincount(index[index >= 0], minlength=y.size)
    group = 6 * y + chunk_of(y)
    for g in np.unique(group):
        mine = counts[group == g] / 400
        expected = mine.mean()  # served images of the chunk over its size
        if replacement:
            spread = np.sqrt(expected / 400)
        else:
            spread = np.sqrt(max(expected * (1 - expected), 0) / 400)
        assert abs(mine - expected).max() <= 5 * spread + 1e-9


def test_test_images_turn_once_around_each_class():
    source = small_digits()
    stream = mnist360(source, batch_size=8)
    table = stream.schedule(jax.random.key(0))
    x, y = stream.source.test
    np.testing.assert_array_equal(y, source.test.y[source.test.y < 9])
    np.testing.assert_array_equal(table.test_index, np.arange(108)[None])
    before = source.test.x[source.test.y < 9]
    served = dict.fromkeys(range(9), 0)
    for image, label, ours in zip(before, y, x, strict=True):
        angle = served[int(label)] * 30.0  # twelve of each
        theirs = Image.fromarray(image).rotate(angle, Image.Resampling.NEAREST)
        np.testing.assert_array_equal(ours, theirs)
        served[int(label)] += 1
    assert not np.array_equal(x, before)
    np.testing.assert_array_equal(stream.transform(x, table.contexts[table.test_context[0]]), x)


def test_it_is_one_task_of_nine_classes_and_the_key_alone_decides():
    source = small_digits()
    stream = mnist360(source, batch_size=8)
    assert (stream.num_tasks, stream.num_classes) == (1, 10)  # as many as the published networks
    classes = stream.schedule(jax.random.key(0)).task_classes
    assert classes.tolist() == [[True] * 9 + [False]]
    assert stream.describe["scenario"] == "general"
    np.testing.assert_array_equal(stream.source.train.x, source.train.x[source.train.y < 9])
    check_schedules(stream)
    check_schedules(mnist360(source, batch_size=8, replacement=False))
    one, two = (stream.schedule(jax.random.key(s)) for s in (0, 1))
    np.testing.assert_array_equal(one.rows().context, two.rows().context)
    np.testing.assert_array_equal(one.contexts, two.contexts)  # only the draws depend on the key


def test_it_runs():
    assert (check_runs(mnist360(small_digits(), batch_size=8))[:, -1] > 1 / 9).all()


def test_joint_keeps_the_angle_of_each_example():
    stream = mnist360(small_digits(), batch_size=8, replacement=False)
    key = jax.random.key(5)
    table, joint = stream.schedule(key), pooled(stream).schedule(key)

    def pairs(table):
        contexts = look_up(table.contexts, table.rows().context)
        rows = np.concatenate([table.rows().index[..., None], contexts], axis=-1).reshape(-1, 7)
        return rows[rows[:, 0] >= 0]

    before, after = pairs(table), pairs(joint)
    assert not np.array_equal(before, after)
    np.testing.assert_array_equal(*[rows[np.argsort(rows[:, 0])] for rows in (before, after)])
    assert len(set(stream.source.train.y[joint.rows().index[0]])) > 2  # more than a pair

    method = METHODS["joint"](small_problem()._replace(num_classes=10, num_tasks=1))
    result = run(method, mnist360(small_digits(), batch_size=8))
    assert np.isfinite(result.matrix[0, 0, 0, -1, 0])


def test_bad_settings_are_named():
    dots = source_of([40] * 9)
    with pytest.raises(InputError, match="digits6 has 6 classes but MNIST-360 needs nine"):
        mnist360(small_source())
    with pytest.raises(InputError, match=r"batch_size=15 is larger than a pair of chunks of 14 ex"):
        mnist360(dots, batch_size=15)
    with pytest.raises(InputError, match="batch_size is 0; give a value at least 1"):
        mnist360(dots, batch_size=0)
    with pytest.raises(InputError, match="epochs is 0; give a value at least 1"):
        mnist360(dots, epochs=0)
    few = source_of([40, 40, 40, 24, 40, 40, 40, 40, 40])
    with pytest.raises(InputError, match=r"dots has 24 training examples of class 3, which cannot"):
        mnist360(few)

    def stretch(split):
        return Split(np.repeat(split.x, 2, axis=2), split.y)

    wide = dots._replace(train=stretch(dots.train), test=stretch(dots.test))
    with pytest.raises(InputError, match="only square images can be rotated"):
        mnist360(wide)
