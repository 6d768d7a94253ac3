"""Scrambled images: the card's pixels, and that nothing else of the data moves."""

import numpy as np
import pytest

from cls_jax.app.build import StreamConfig, make_stream
from cls_jax.core.errors import InputError
from cls_jax.data.dataset import Dataset, Split
from cls_jax.data.scramble import scrambled


def cifar_like(n=2):
    x = np.random.default_rng(0).integers(0, 256, (n, 32, 32, 3), np.uint8)
    split = Split(x, np.arange(n, dtype=np.int32))
    return Dataset("cifar", split, split, ("a", "b"))


def test_pixels_of_the_card():
    """apd card, oracle 8: flat[5] is red, row 0, column 5; flat[1056] green, row 1, column 0."""
    source = cifar_like()
    seen, x = scrambled(source).train.x, source.train.x
    np.testing.assert_array_equal(seen[:, 0, 1, 2], x[:, 0, 5, 0])
    np.testing.assert_array_equal(seen[:, 11, 0, 0], x[:, 1, 0, 1])
    flat = np.concatenate([x[..., c].reshape(2, -1) for c in range(3)], 1)
    for h, w, c in ((0, 0, 0), (31, 31, 2), (20, 7, 1)):
        np.testing.assert_array_equal(seen[:, h, w, c], flat[:, 96 * h + 3 * w + c])


def test_shapes_labels_and_the_original_stay():
    source = cifar_like()
    before = source.train.x.copy()
    found = scrambled(source)
    assert found.train.x.dtype == np.uint8
    assert found.train.x.shape == before.shape
    np.testing.assert_array_equal(source.train.x, before)
    np.testing.assert_array_equal(found.test.y, source.test.y)
    assert found.name == "cifar scrambled"


def test_it_can_be_asked_for_and_is_not_the_default():
    config = StreamConfig(image_size=8)
    plain = make_stream(config).source.train.x
    for flag in (True, False):
        asked = make_stream(StreamConfig(image_size=8, scrambled=flag)).source.train.x
        assert np.array_equal(asked, plain) != flag


def test_vectors_are_refused():
    split = Split(np.zeros((2, 5), np.float32), np.zeros(2, np.int32))
    with pytest.raises(InputError, match="flat holds vectors"):
        scrambled(Dataset("flat", split, split, ("a",)))
