"""The validation split: of the training set alone, of every class, the same for whoever asks."""

import hashlib

import numpy as np
import pytest

from cls_jax.app.build import make_stream
from cls_jax.core.errors import InputError
from cls_jax.data.dataset import Dataset, Split
from cls_jax.data.hold_out import hold_out
from cls_jax.streams.config import StreamConfig

COUNTS = (40, 10, 3)
FIRST = [2, 3, 5, 6, 9, 11, 18, 19, 20, 22, 28, 29, 30, 32, 33, 34, 37, 38, 39, 40, 41, 44, 45]
FIRST += [46, 47, 51, 52]


def numbered():
    """Examples whose first number is their place; those of the test split are below 0."""
    y = np.random.default_rng(0).permutation(np.repeat(np.arange(3, dtype=np.int32), COUNTS))
    x = np.stack([np.arange(y.size), y], 1).astype(np.float32)
    test = Split(np.array([[-1, 0], [-2, 1], [-3, 2]], np.float32), np.arange(3, dtype=np.int32))
    return Dataset("numbered", Split(x, y), test, tuple("abc"))


@pytest.mark.parametrize(("fraction", "held"), [(0.1, (4, 1, 1)), (0.5, (20, 5, 2))])
def test_each_class_gives_its_share_and_nothing_is_on_both_sides(fraction, held):
    source = numbered()
    made = hold_out(source, fraction)
    train, test = (part.x[:, 0].astype(int) for part in (made.train, made.test))
    assert not {*train} & {*test}
    assert sorted([*train, *test]) == list(range(sum(COUNTS)))  # and no test example
    assert np.bincount(made.test.y).tolist() == list(held)
    for part, split in ((train, made.train), (test, made.test)):
        assert (np.diff(part) > 0).all()  # in their order
        np.testing.assert_array_equal(split.y, source.train.y[part])
    assert made.label_names == source.label_names
    assert made.name == f"numbered (scored on {100 * fraction:g} % of its training set)"


def test_the_split_is_of_its_own_seed_and_of_nothing_else():
    source = numbered()
    first, again, other = (hold_out(source, 0.5, seed).test.x for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)
    # The same in every process and version: these numbers are part of every choice.
    assert first[:, 0].astype(int).tolist() == FIRST


def test_the_stream_of_a_command_is_scored_on_it_alone():
    """Whatever the method or its seeds: neither is asked."""
    flags = {"image_size": 8, "batch_size": 50, "tasks": 2}
    whole = make_stream(StreamConfig(**flags)).source
    held = make_stream(StreamConfig(**flags, validation_fraction=0.2)).source
    names = [{hashlib.sha256(one).digest() for one in x} for x in (whole.test.x, held.test.x)]
    assert not names[0] & names[1]
    assert len(held.test.y) + len(held.train.y) == len(whole.train.y)
    np.testing.assert_array_equal(held.test.x, hold_out(whole, 0.2).test.x)


@pytest.mark.parametrize("fraction", [0, 1, -0.1, float("nan"), "much", 0.9])
def test_a_fraction_that_leaves_nothing_on_one_side_is_refused(fraction):
    with pytest.raises(InputError, match="validation_fraction"):
        hold_out(numbered(), fraction)
