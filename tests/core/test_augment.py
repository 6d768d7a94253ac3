"""Recipes: what reaches the network, and what a wrong choice is told."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cls_jax.core import augment, image_ops
from cls_jax.core.errors import InputError

KEY = jax.random.key(0)


def pixels(b=6, h=7, w=5, c=3, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (b, h, w, c), dtype=np.uint8)


@functools.cache
def views_of(kind):
    made = augment.recipe((8, 6, 3), normalisation="half", views=kind, view_padding=2)
    view = jax.jit(made.view)
    return (lambda key, x: view(key, x, 0)), (lambda key, x: view(key, x, 1))


@pytest.mark.parametrize(
    ("name", "channels", "level", "expected"),
    [  # (level / 255 - mean) / std by hand, first and last channel
        ("imagenet", 3, 255, (2.2489083, 2.64)),
        ("cifar10", 3, 0, (-1.9894737, -1.7074570)),
        ("cifar100", 3, 0, (-1.8957009, -1.5965230)),
        ("tinyimagenet", 3, 0, (-1.7335740, -1.4090748)),
        ("mnist", 1, 255, (2.8214866, 2.8214866)),
        ("half", 3, 0, (-1.0, -1.0)),
        ("none", 1, 51, (0.2, 0.2)),
    ],
)
def test_constants(name, channels, level, expected):
    made = augment.recipe((4, 4, channels), normalisation=name)
    x = np.full((2, 4, 4, channels), level, np.uint8)
    out = made.test(x)
    assert out.dtype == jnp.float32
    np.testing.assert_allclose(out[0, 0, 0, [0, -1]], expected, rtol=1e-5)
    chex.assert_trees_all_equal(made.train(KEY, x), out)  # nothing was asked for, nothing drawn


def test_vectors_are_only_normalised():
    made = augment.recipe((9,), normalisation="mnist")
    x = np.random.default_rng(0).random((5, 9), dtype=np.float32)
    np.testing.assert_allclose(made.test(x), (x - 0.1307) / 0.3081, rtol=1e-5, atol=1e-6)
    chex.assert_trees_all_equal(made.train(KEY, x), made.test(x))
    assert made.view is None


def test_training_crops_and_flips_and_pads_with_black():
    made = augment.recipe((7, 5, 3), normalisation="cifar10", crop_padding=2, flip=True)
    x = np.full((100, 7, 5, 3), 255, np.uint8)
    out = jax.jit(made.train)(KEY, x)
    assert out.shape == (100, 7, 5, 3)
    white, black = made.test(x[:1])[0, 0, 0], made.test(0 * x[:1])[0, 0, 0]
    is_white, is_black = (np.isclose(out, level).all(axis=-1) for level in (white, black))
    assert (is_white | is_black).all()
    # 1 of 25 windows has no black pixel: 4 of 100 images, and 20 would be eight sigma off.
    assert 0 < is_white.all(axis=(1, 2)).sum() < 20
    chex.assert_trees_all_equal(made.test(x), jnp.broadcast_to(white, x.shape))


def test_training_flips_half_of_the_images():
    made = augment.recipe((2, 3, 1), normalisation="none", flip=True)
    x = pixels(b=2000, h=2, w=3, c=1)
    out, plain = jax.jit(made.train)(KEY, x), jax.jit(made.test)(x)
    flipped = np.asarray((out == plain[:, :, ::-1]).all(axis=(1, 2, 3)))
    assert (flipped | np.asarray((out == plain).all(axis=(1, 2, 3)))).all()
    assert abs(flipped.mean() - 0.5) < 4 * np.sqrt(0.25 / 2000)


def test_supervised_images_are_resized_before_they_are_cropped():
    made = augment.recipe((7, 5, 3), normalisation="none", size=(9, 8), crop_padding=1)
    x = pixels()
    resized = image_ops.resize(image_ops.to_float(x), (9, 8))
    np.testing.assert_allclose(made.test(x), resized, atol=1e-6)
    padded = np.pad(resized, ((0, 0), (1, 1), (1, 1), (0, 0)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (9, 8), axis=(1, 2))
    out = np.moveaxis(made.train(KEY, x), -1, 1)[:, None, None]
    assert np.isclose(windows, out, atol=1e-6).all(axis=(3, 4, 5)).any(axis=(1, 2)).all()


@pytest.mark.parametrize("kind", ["kornia050", "standard"])
def test_views_are_normalised_draws_of_their_own(kind):
    view_a, view_b = views_of(kind)
    x = np.broadcast_to(pixels(b=1, h=8, w=6), (1000, 8, 6, 3))
    for view in (view_a, view_b):
        out = view(KEY, x)
        assert out.dtype == jnp.float32
        assert out.shape == x.shape
        assert out.min() >= -1 - 1e-5
        assert out.max() <= 1 + 1e-5
        # A fifth escapes the jitter, and may be drawn twice.
        assert len(np.unique(out.reshape(1000, -1), axis=0)) > 750
        chex.assert_trees_all_equal(out, view(KEY, x))
        assert np.any(out != view(jax.random.key(1), x))


def test_views_differ_in_how_often_they_blur():
    view_a, view_b = views_of("kornia050")
    x = pixels(b=1000, h=8, w=6)
    a, b = np.asarray(view_a(KEY, x)), view_b(KEY, x)  # one key: the same draws in both
    blurred = np.asarray((abs(a - b) < 1e-5).all(axis=(1, 2, 3)))
    assert abs(blurred.mean() - 0.1) < 4 * np.sqrt(0.09 / 1000)
    again = 2 * image_ops.kornia_blur(b / 2 + 0.5) - 1
    np.testing.assert_allclose(a[~blurred], again[~blurred], atol=1e-5)


def test_standard_views_blur_at_the_same_rates():
    view_a, view_b = views_of("standard")
    x = pixels(b=1000, h=8, w=6)
    same = (abs(view_a(KEY, x) - view_b(KEY, x)) < 1e-5).all(axis=(1, 2, 3))
    # The identity to 1e-5 needs sigma < .21, a draw of 6 percent.
    assert abs(same.mean() - (0.1 + 0.9 * 0.06)) < 0.05


def test_a_fifth_of_the_views_is_grey():
    view_a, _ = views_of("kornia050")
    x = np.full((1000, 8, 6, 3), (200, 100, 50), np.uint8)
    grey = np.ptp(np.asarray(view_a(KEY, x))[:, 4, 3], axis=-1) < 1e-5
    # 4 sigma; clamping makes no pixel of this colour grey.
    assert abs(grey.mean() - 0.2) < 4 * np.sqrt(0.16 / 1000)


def test_dualnet_crops_views_out_of_what_it_resizes_for_the_classifier():
    made = augment.recipe(
        (12, 12, 3), normalisation="imagenet", views="kornia050", view_padding=0, size=8
    )
    x = pixels(b=2, h=12, w=12)
    assert made.test(x).shape == (2, 8, 8, 3)
    assert jax.eval_shape(made.view, KEY, x, 0).shape == (2, 8, 8, 3)


def test_views_of_grey_images_and_without_a_flip():
    made = augment.recipe(
        (5, 5, 1), normalisation="mnist", views="kornia050", view_padding=0, view_flip=False
    )
    x = pixels(h=5, w=5, c=1)
    blurred = image_ops.kornia_blur(image_ops.to_float(x))
    np.testing.assert_allclose(made.view(KEY, x, 0), 2 * blurred - 1, atol=1e-6)


def test_seeds_may_be_vmapped():
    view_a, _ = views_of("kornia050")
    keys = jax.random.split(KEY, 2)
    x = pixels(b=1000, h=8, w=6)
    trials = jax.jit(jax.vmap(view_a, in_axes=(0, None)))(keys, x)
    np.testing.assert_allclose(trials, jnp.stack([view_a(k, x) for k in keys]), atol=1e-5)


@pytest.mark.parametrize(
    ("shape", "options", "message"),
    [
        ((8, 8, 3), {"normalisation": "cifar"}, "normalisation='cifar': give one of imagenet"),
        ((8, 8, 1), {"normalisation": "cifar10"}, "for 3 channels and .* has 1; give 'half'"),
        ((8, 8), {"normalisation": "none"}, r"source_shape=\(8, 8\): give \(h, w, c\)"),
        ((9,), {"normalisation": "none", "flip": True}, "vectors have no crop, flip"),
        ((9,), {"normalisation": "none", "crop_padding": 4}, "vectors have no crop, flip"),
        ((9,), {"normalisation": "none", "views": "standard"}, "vectors have no crop, flip"),
        ((3,), {"normalisation": "none", "size": 3}, "vectors have no crop, flip"),
        ((8, 8, 3), {"normalisation": "half", "crop_padding": -1}, "crop_padding=-1: give 0"),
        ((8, 8, 3), {"normalisation": "half", "views": "simclr"}, "views='simclr': give 'kor"),
        ((8, 8, 2), {"normalisation": "half", "views": "standard"}, "views need 3 channels"),
        (
            (8, 8, 3),
            {"normalisation": "half", "views": "standard", "view_padding": -1},
            "view_padding=-1: give 0",
        ),
        ((8, 8, 3), {"normalisation": "half", "size": 0}, "size=0: give at least 1 pixel"),
        (
            (8, 8, 3),
            {"normalisation": "half", "views": "standard", "size": 20},
            "size=20, view_padding=4: images of 8x8 have no such window",
        ),
    ],
)
def test_a_wrong_choice_is_told(shape, options, message):
    with pytest.raises(InputError, match=message):
        augment.recipe(shape, **options)


def test_pipelines_check_what_recipe_cannot_get_wrong():
    with pytest.raises(InputError, match="std > 0"):
        augment.supervised(mean=(0.5,), std=(0.0,))
    with pytest.raises(InputError, match="as many of each"):
        augment.supervised(mean=(0.5,), std=(0.5, 0.5))
    with pytest.raises(InputError, match="kind='simclr': give"):
        augment.views("simclr", size=8)
    with pytest.raises(InputError, match="padding=-1: give 0 or more"):
        augment.views("standard", size=8, padding=-1)
