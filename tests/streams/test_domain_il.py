"""Domain-IL: whole epochs of everything under permutations and rotations of each task."""

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from cls_jax.core.errors import InputError
from cls_jax.data.dataset import Dataset, Split
from cls_jax.data.load import load
from cls_jax.streams.domain_il import dihedral, permuted, rotated
from cls_jax.streams.rotation import rotate, rotation
from cls_jax.streams.stream import look_up
from cls_jax.training.runner import run
from tests.conftest import small_method, small_source
from tests.support.schedules import check_runs, check_schedules, rows_of

MAKE = {"permuted": permuted, "rotated": rotated}


def flat_source(n=5):
    y = np.arange(n, dtype=np.int32) % 2
    x = np.arange(n * 7, dtype=np.float32).reshape(n, 7)
    return Dataset("flat", Split(x, y), Split(x, y), ("a", "b"))


def angles(matrices):
    """Counter-clockwise degrees in (-180, 180] of fixed-point matrices int32[..., 6]."""
    return np.degrees(np.arctan2(matrices[..., 3], matrices[..., 0]))


@pytest.mark.parametrize("name", MAKE)
@pytest.mark.parametrize("drop_last", [False, True])
def test_every_epoch_of_every_task_holds_every_example(name, drop_last):
    source = small_source()  # 66 training examples
    stream = MAKE[name](source, tasks=3, batch_size=8, epochs=2, drop_last=drop_last)
    table = stream.schedule(jax.random.key(0))
    for task in range(3):
        for epoch in np.split(rows_of(table, task), 2):
            numbers = epoch[epoch >= 0]
            assert len(set(numbers)) == numbers.size == (64 if drop_last else 66)
        assert (table.rows(task).context == table.test_context[task]).all()
        np.testing.assert_array_equal(table.test_index[task], np.arange(36))
    assert table.task_classes.all()
    assert stream.describe["scenario"] == "domain_il"
    assert stream.describe["domain"] == name


@pytest.mark.parametrize("name", MAKE)
def test_the_key_alone_decides(name):
    stream = MAKE[name](small_source(), tasks=3, batch_size=8)
    check_schedules(stream)
    key = jax.random.key(3)
    longer = MAKE[name](small_source(), tasks=5, batch_size=8).schedule(key)
    table = stream.schedule(key)
    for task in range(3):  # later tasks change nothing
        for mine, theirs in zip(
            *map(jax.tree.leaves, (table.rows(task), longer.rows(task))), strict=True
        ):
            np.testing.assert_array_equal(mine, theirs)
    np.testing.assert_array_equal(longer.contexts[:3], table.contexts)
    other = stream.schedule(jax.random.key(4))
    assert not np.array_equal(other.contexts, table.contexts)


def test_permutations_are_bijections_of_positions_and_channels_stay_together():
    source = small_source()
    table = permuted(source, tasks=4, batch_size=8).schedule(jax.random.key(1))
    assert table.contexts.dtype == np.uint16
    shown = look_up(table.contexts, table.test_context)
    for task, permutation in enumerate(shown):
        np.testing.assert_array_equal(np.sort(permutation), np.arange(64))
        assert not np.array_equal(permutation, np.arange(64)), "task 0 is permuted too"
        assert not np.array_equal(permutation, shown[task - 1])
    x = np.random.default_rng(0).integers(0, 256, (5, 8, 8, 3), np.uint8)
    seen = permuted(source, tasks=4, batch_size=8).transform(x, shown[2])
    assert seen.dtype == np.uint8
    expected = np.empty_like(x)
    for i, j in np.ndindex(8, 8):
        here = shown[2][8 * i + j]
        expected[:, i, j] = x[:, here // 8, here % 8]
    np.testing.assert_array_equal(seen, expected)


def test_vectors_can_be_permuted():
    source = flat_source()
    stream = permuted(source, tasks=2, batch_size=2)
    permutation = stream.schedule(jax.random.key(0)).contexts[0]
    seen = stream.transform(source.train.x, permutation)
    np.testing.assert_array_equal(seen, source.train.x[:, permutation])


@settings(max_examples=30)
@given(
    degrees=st.lists(
        st.one_of(
            st.floats(-720, 720),
            st.sampled_from([0.0, 30.0, 45.0, 60.0, 90.0, 180.0, 270.0, 360.0]),
        ),
        min_size=4,
        max_size=4,
    ),
    side=st.sampled_from([7, 8, 28]),
    seed=st.integers(0, 99),
)
def test_rotation_is_pillows_pixel_for_pixel(degrees, side, seed):
    x = np.random.default_rng(seed).integers(0, 256, (4, side, side, 2), np.uint8)
    turned = np.asarray(jax.jit(rotate)(x, rotation(np.array(degrees), side)))
    assert turned.dtype == np.uint8
    for image, ours, angle in zip(x, turned, degrees, strict=True):
        for channel in range(2):
            theirs = Image.fromarray(image[..., channel]).rotate(angle, Image.Resampling.NEAREST)
            np.testing.assert_array_equal(ours[..., channel], theirs)


def test_rotation_of_digits_at_one_angle_for_all():
    x = load("digits").test.x[:40]
    stream = rotated(load("digits"), tasks=3, batch_size=8)
    for matrix in stream.schedule(jax.random.key(0)).contexts:
        angle = float(angles(matrix))
        turned = np.asarray(stream.transform(x, matrix))
        for image, ours in zip(x, turned, strict=True):
            theirs = np.asarray(Image.fromarray(image).rotate(angle, Image.Resampling.NEAREST))
            # the angle is read back from 16 binary places, so a rare pixel may lie on an edge
            assert (theirs != ours).any(-1).sum() <= 3


def test_rotation_by_hand():
    x = np.arange(1, 10, dtype=np.uint8).reshape(1, 3, 3, 1)
    np.testing.assert_array_equal(
        rotate(x, rotation(np.array(90.0), 3))[0, ..., 0], [[3, 6, 9], [2, 5, 8], [1, 4, 7]]
    )
    np.testing.assert_array_equal(rotate(x, rotation(np.array(0.0), 3)), x)
    eighth = np.asarray(rotate(x, rotation(np.array(45.0), 3)))[0, ..., 0]
    assert eighth[1, 1] == 5
    assert eighth[0, 1] == 3  # counter-clockwise: the corner on the right comes up
    np.testing.assert_array_equal(rotation(np.array(0.0), 3), [65536, 0, 32768, 0, 65536, 32768])


def test_angles_are_uniform_over_half_a_turn():
    """2000 angles: mean and quarters within 5 standard deviations, none outside [0, 180)."""
    matrices = rotated(small_source(), tasks=2000, batch_size=66).schedule(jax.random.key(0))
    degrees = angles(matrices.contexts)
    degrees = np.where(degrees < -1, degrees + 360, degrees)
    assert degrees.min() > -0.01
    assert degrees.max() < 180.01
    assert abs(degrees.mean() - 90) < 5 * 180 / np.sqrt(12 * 2000)
    quarters = np.histogram(degrees, bins=4, range=(0, 180))[0]
    assert (abs(quarters - 500) < 5 * np.sqrt(2000 * 0.25 * 0.75)).all()


@pytest.mark.parametrize("name", MAKE)
def test_it_runs(name):
    stream = MAKE[name](small_source(), tasks=3, batch_size=8, epochs=2)
    assert (check_runs(stream)[:, -1] > 1 / 6).all()


def test_tasks_cannot_be_pooled():
    stream = rotated(small_source(), tasks=2, batch_size=6)  # as many as a matrix has numbers
    method = small_method("joint")
    with pytest.raises(InputError, match=r"transforms each task differently.*leave joint out"):
        run(method, stream)


@pytest.mark.parametrize("name", MAKE)
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"tasks": 0}, "tasks is 0; give a value at least 1"),
        ({"epochs": 0}, "epochs is 0; give a value at least 1"),
        ({"batch_size": 0}, "batch_size is 0; give a value at least 1"),
        ({"batch_size": 67}, "batch_size=67 is larger than a task of 66 examples; use at most 66"),
    ],
)
def test_bad_settings_are_named(name, change, message):
    with pytest.raises(InputError, match=message):
        MAKE[name](small_source(), **{"batch_size": 8, **change})


def test_only_square_images_can_be_rotated():
    source = small_source()
    wide = source._replace(
        train=Split(source.train.x[:, :6], source.train.y),
        test=Split(source.test.x[:, :6], source.test.y),
    )
    with pytest.raises(InputError, match="digits6 holds examples of shape 6x8x3; only square"):
        rotated(wide, batch_size=8)
    with pytest.raises(InputError, match="flat holds examples of shape 7; only square"):
        rotated(flat_source(), batch_size=2)


# --- dihedral -------------------------------------------------------------------------------------


def test_the_eight_symmetries():
    """Five of them by name, and no two alike; the key only shuffles."""
    stream = dihedral(small_source(), tasks=8, batch_size=8)
    check_schedules(stream)
    x = np.random.default_rng(0).integers(0, 256, (2, 8, 8, 3), np.uint8)
    contexts = stream.schedule(jax.random.key(0)).contexts
    seen = [np.asarray(stream.transform(x, context)) for context in contexts]

    def turned(k):
        return np.rot90(x, k, axes=(1, 2))

    known = [x, turned(1), x[:, ::-1], x.swapaxes(1, 2), turned(2), turned(3), x[:, :, ::-1]]
    for mine, expected in zip(seen, known, strict=False):
        np.testing.assert_array_equal(mine, expected)
    np.testing.assert_array_equal(seen[7], turned(2).swapaxes(1, 2))
    assert len({image.tobytes() for image in seen}) == 8
    assert stream.describe["domain"] == "dihedral"


def test_dihedral_refuses_more_tasks_than_a_square_has_symmetries():
    with pytest.raises(InputError, match=r"tasks is 9; give a value at least 1 and at most 8"):
        dihedral(small_source(), tasks=9, batch_size=8)
    with pytest.raises(InputError, match="only square images"):
        dihedral(flat_source(), tasks=2, batch_size=1)
