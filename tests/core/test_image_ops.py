"""Image operations against dm_pix, colorsys and NumPy; what is drawn, how often and for whom."""

import colorsys
import functools
import inspect

import chex
import dm_pix as pix
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl.testing import parameterized

from cls_jax.core import image_ops as ops
from cls_jax.core.errors import InputError

STRENGTHS = {"brightness": 0.4, "contrast": 0.4, "saturation": 0.2, "hue": 0.1}
STILL = dict.fromkeys(STRENGTHS, 0.0)
KEYED = ("colour_jitter", "gaussian_blur")  # with random_*, what takes a key
LUMA = np.array([0.299, 0.587, 0.114])


def images(b=6, h=7, w=5, c=3, seed=0):
    return np.random.default_rng(seed).random((b, h, w, c), dtype=np.float32)


def pixels(b=6, h=7, w=5, c=3, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (b, h, w, c), dtype=np.uint8)


def jitter(kind, rate=1.0, **strengths):
    return functools.partial(ops.colour_jitter, kind=kind, rate=rate, **{**STILL, **strengths})


RANDOM = {
    "crop": functools.partial(ops.random_crop, size=5, padding=3),
    "flip": ops.random_flip,
    "jitter, kornia": jitter("kornia050", **STRENGTHS),
    "jitter, multiplicative": jitter("multiplicative", **STRENGTHS),
    "grey": functools.partial(ops.random_grey, rate=0.5),
    "blur": ops.gaussian_blur,
}


@functools.cache
def jitted(name):
    return jax.jit(RANDOM[name])


class RandomOperations(chex.TestCase, parameterized.TestCase):
    @chex.variants(with_jit=True, without_jit=True)
    @parameterized.named_parameters(*((name, name) for name in RANDOM))
    def test_the_same_with_and_without_jit(self, name):
        out = self.variant(RANDOM[name])(jax.random.key(1), images())
        # Jit fuses, so it rounds differently; with other draws it would differ by far more.
        np.testing.assert_allclose(out, jitted(name)(jax.random.key(1), images()), atol=1e-5)


@pytest.mark.parametrize("name", RANDOM)
def test_the_key_decides_and_every_image_has_its_own_draw(name):
    x = np.broadcast_to(images(b=1), (6, 7, 5, 3))
    first = jitted(name)(jax.random.key(1), x)
    assert first.dtype == jnp.float32
    chex.assert_trees_all_equal(first, jitted(name)(jax.random.key(1), x))
    assert np.any(first != jitted(name)(jax.random.key(2), x))
    assert np.any(first != first[:1])


@pytest.mark.parametrize("name", RANDOM)
def test_black_grey_and_white_stay_finite_and_in_range(name):
    x = np.repeat(np.float32([0, 0.5, 1]), 2).reshape(6, 1, 1, 1)
    out = jitted(name)(jax.random.key(0), np.broadcast_to(x, (6, 7, 5, 3)))
    assert np.isfinite(out).all()
    assert out.min() >= 0
    assert out.max() <= 1 + 1e-6  # taps of a blur sum to 1 but for rounding
    np.testing.assert_allclose(out, np.broadcast_to(out[..., :1], out.shape), atol=1e-6)


@pytest.mark.parametrize("name", RANDOM)
def test_seeds_may_be_vmapped(name):
    keys = jax.random.split(jax.random.key(0), 3)
    x = images()
    trials = jax.jit(jax.vmap(RANDOM[name], in_axes=(0, None)))(keys, x)
    one_by_one = jnp.stack([jitted(name)(key, x) for key in keys])
    np.testing.assert_allclose(trials, one_by_one, atol=1e-5)


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_crops_are_windows_of_the_zero_padded_image(dtype):
    x = (255 * images(b=40)).astype(dtype)
    out = np.asarray(ops.random_crop(jax.random.key(0), x, size=(4, 6), padding=2))
    assert out.dtype == dtype
    assert out.shape == (40, 4, 6, 3)
    padded = np.pad(x, ((0, 0), (2, 2), (2, 2), (0, 0)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (4, 6), axis=(1, 2))
    windows = np.moveaxis(windows, 3, -1)  # [b, top, left, h, w, c]
    hits = (windows == out[:, None, None]).all(axis=(3, 4, 5))
    assert hits.any(axis=(1, 2)).all()
    assert (hits.sum(axis=(1, 2)) == 1).mean() > 0.9  # so a hit says where the window was
    assert hits.any(axis=0).sum() > 18  # 40 draws from 32 windows hit 23 of them on average


def test_every_window_can_be_drawn_and_none_is_preferred():
    x = np.broadcast_to(np.arange(1, 10, dtype=np.uint8).reshape(1, 3, 3, 1), (9000, 3, 3, 1))
    counts = np.bincount(np.ravel(ops.random_crop(jax.random.key(3), x, size=1)), minlength=10)
    assert counts[0] == 0
    assert abs(counts[1:] - 1000).max() < 4 * np.sqrt(9000 / 9 * 8 / 9)  # four sigma


def test_a_crop_of_the_whole_is_the_whole():
    x = pixels()
    chex.assert_trees_all_equal(ops.random_crop(jax.random.key(0), x, size=(7, 5)), x)


def test_a_crop_that_does_not_fit_is_refused():
    with pytest.raises(InputError, match=r"size=10: images of 7x5 with padding=1"):
        ops.random_crop(jax.random.key(0), images(), size=10, padding=1)


def test_flips_mirror_half_of_the_images():
    x = pixels(b=4000, h=2, w=3)
    out = ops.random_flip(jax.random.key(0), x)
    mirrored = np.asarray((out == x[:, :, ::-1]).all(axis=(1, 2, 3)))
    same = np.asarray((out == x).all(axis=(1, 2, 3)))
    assert (mirrored | same).all()
    assert abs(mirrored.mean() - 0.5) < 4 * np.sqrt(0.25 / 4000)


def test_grey_replaces_an_image_at_its_rate():
    x = images(b=4000, h=2, w=2)
    out = ops.random_grey(jax.random.key(0), x, rate=0.2)
    touched = np.asarray((out != x).any(axis=(1, 2, 3)))
    assert abs(touched.mean() - 0.2) < 4 * np.sqrt(0.16 / 4000)
    np.testing.assert_allclose(
        out[touched], np.repeat((x[touched] @ LUMA)[..., None], 3, axis=-1), rtol=1e-5
    )
    # dm_pix's luma has .2989 for red, so it differs by 1e-4 at most.
    theirs = pix.rgb_to_grayscale(x[touched], keep_dims=True)
    np.testing.assert_allclose(out[touched], theirs, atol=1.1e-4)


@pytest.mark.parametrize("kind", ["kornia050", "multiplicative"])
def test_jitter_touches_images_at_its_rate(kind):
    x = images(b=4000, h=2, w=2)
    out = jax.jit(jitter(kind, rate=0.8, **STRENGTHS))(jax.random.key(0), x)
    touched = np.asarray((out != x).any(axis=(1, 2, 3)))
    assert abs(touched.mean() - 0.8) < 4 * np.sqrt(0.16 / 4000)
    assert out.min() >= 0
    assert out.max() <= 1


@pytest.mark.parametrize("kind", ["kornia050", "multiplicative"])
def test_jitter_at_rate_zero_touches_nothing(kind):
    out = jitter(kind, rate=0.0, **STRENGTHS)(jax.random.key(0), images())
    chex.assert_trees_all_equal(out, images())


@pytest.mark.parametrize("kind", ["kornia050", "multiplicative"])
def test_jitter_without_strength_is_the_identity(kind):
    np.testing.assert_allclose(jitter(kind)(jax.random.key(0), images()), images(), atol=2e-6)


def hsv_with(x, factor=1.0, turn=0.0):
    hue, saturation, value = np.vectorize(colorsys.rgb_to_hsv)(*np.moveaxis(x, -1, 0))
    saturation = np.clip(saturation * factor, 0, 1)
    return np.stack(np.vectorize(colorsys.hsv_to_rgb)((hue + turn) % 1, saturation, value), -1)


def sequential_jitter(key, x, kind):
    """The table of colour_jitter's docstring, one operation after another, in NumPy."""
    key_draw, key_time = jax.random.split(key)
    draws = np.float64(jax.random.uniform(key_draw, (5, len(x), 1, 1, 1), minval=-1))
    b, c, s, turn = (draws[i] * strength for i, strength in enumerate(STRENGTHS.values()))
    turn, s_plane = turn[..., 0], s[..., 0]
    if kind == "kornia050":
        operations = [
            lambda x: x + b,
            lambda x: (1 + c) * x,
            lambda x: hsv_with(x, factor=1 + s_plane),
            lambda x: hsv_with(x, turn=turn),
        ]
    else:
        operations = [
            lambda x: (1 + b) * x,
            lambda x: (1 + c) * x - c * (x @ LUMA).mean((1, 2))[:, None, None, None],
            lambda x: (1 + s) * x - s * (x @ LUMA)[..., None],
            lambda x: hsv_with(x, turn=turn),
        ]
    order = tuple(np.argsort(jax.random.permutation(key_time, 4)).tolist())
    for index in order:
        x = np.clip(operations[index](x), 0, 1)
    return x, order


@pytest.mark.parametrize("kind", ["kornia050", "multiplicative"])
def test_jitter_is_its_four_operations_in_the_drawn_order(kind):
    x = images(b=3, h=3, w=4)
    operation = jax.jit(jitter(kind, **STRENGTHS))
    orders = set()
    for key in jax.random.split(jax.random.key(5), 60):
        expected, order = sequential_jitter(key, np.float64(x), kind)
        orders.add(order)
        np.testing.assert_allclose(operation(key, x), expected, atol=1e-5)
    assert len(orders) > 16  # of 24; 60 draws meet 22 on average


def test_hsv_operations_agree_with_dm_pix():
    x = images()
    key = jax.random.key(0)
    out = jitter("kornia050", hue=0.1)(key, x)
    turn = 0.1 * jax.random.uniform(jax.random.split(key)[0], (5, 6, 1, 1, 1), minval=-1)[3]
    np.testing.assert_allclose(out, pix.adjust_hue(x, turn[..., 0]), atol=1e-5)


def test_brightness_adds_in_kornia_and_multiplies_in_torchvision():
    x = np.full((6, 7, 5, 3), 0.5, np.float32) * np.array([0.5, 1, 1.1], np.float32)
    added = jitter("kornia050", brightness=0.1)(jax.random.key(0), x) - x
    np.testing.assert_allclose(added, np.broadcast_to(added[:, :1, :1, :1], x.shape), atol=2e-6)
    assert 0.05 < abs(added).max() <= 0.1 + 1e-6
    factor = jitter("multiplicative", brightness=0.1)(jax.random.key(0), x) / x
    np.testing.assert_allclose(factor, np.broadcast_to(factor[:, :1, :1, :1], x.shape), rtol=1e-5)
    assert 0.05 < abs(factor - 1).max() <= 0.1 + 1e-5


def test_kornia_blur_of_an_impulse():  # dualnet card, oracle 12
    x = np.zeros((1, 5, 5, 1), np.float32)
    x[0, 2, 2] = 1
    out = ops.kornia_blur(x)[0, :, :, 0]
    np.testing.assert_allclose(out[2], [0, 0.31917, 0.36166, 0.31917, 0], atol=5e-6)
    assert not np.delete(out, 2, axis=0).any()


def test_kornia_blur_reflects_without_repeating_the_border():
    x = np.arange(4, dtype=np.float32).reshape(1, 1, 4, 1) ** 2
    side, middle = 0.31916777, 0.36166446
    out = np.ravel(ops.kornia_blur(x))
    np.testing.assert_allclose(out[0], 2 * side * 1, rtol=1e-6)
    np.testing.assert_allclose(out[3], middle * 9 + 2 * side * 4, rtol=1e-6)


@pytest.mark.parametrize("kernel_size", [1, 3, 5])
@pytest.mark.parametrize("sigma", [0.3, 1.7])
def test_gaussian_blur_is_a_separable_gaussian(kernel_size, sigma):
    x = images(h=9, w=8)
    options = {"sigma": (sigma, sigma), "kernel_size": kernel_size}
    out = ops.gaussian_blur(jax.random.key(0), x, **options)
    reach = kernel_size // 2
    taps = np.exp(-0.5 * (np.arange(-reach, reach + 1) / sigma) ** 2)
    taps /= taps.sum()
    padded = np.pad(x, ((0, 0), (reach, reach), (reach, reach), (0, 0)), mode="reflect")
    expected = sum(
        taps[i] * taps[j] * padded[:, i : i + 9, j : j + 8]
        for i in range(kernel_size)
        for j in range(kernel_size)
    )
    np.testing.assert_allclose(out, expected, atol=1e-6)
    inside = np.s_[:, 2:-2, 2:-2]  # dm_pix pads with zeros
    theirs = pix.gaussian_blur(jnp.asarray(x), sigma, kernel_size)
    np.testing.assert_allclose(out[inside], theirs[inside], atol=1e-6)


def test_an_even_kernel_is_refused():
    with pytest.raises(InputError, match="kernel_size=4: give an odd number"):
        ops.gaussian_blur(jax.random.key(0), images(), kernel_size=4)


@pytest.mark.parametrize("size", [(4, 3), (12, 13), (7, 5)])
def test_resize_interpolates_between_pixel_centres_without_antialiasing(size):
    x = images()
    expected = np.float64(x)
    for axis, length in zip((1, 2), size, strict=True):
        old = x.shape[axis]
        centre = np.clip((np.arange(length) + 0.5) * old / length - 0.5, 0, old - 1)
        low = np.floor(centre).astype(int)
        high = np.minimum(low + 1, old - 1)
        share = np.expand_dims(centre - low, [i for i in range(4) if i != axis])
        expected = expected.take(low, axis) * (1 - share) + expected.take(high, axis) * share
    np.testing.assert_allclose(ops.resize(x, size), expected, atol=1e-6)


def test_to_float_and_normalise():
    levels = np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1)
    out = ops.to_float(levels)
    assert out.dtype == jnp.float32
    np.testing.assert_array_equal(out, levels.astype(np.float32) / np.float32(255))
    chex.assert_trees_all_equal(ops.to_float(images()), images())
    x = images()
    mean, std = (0.1, 0.2, 0.3), (0.5, 0.6, 0.7)
    np.testing.assert_allclose(ops.normalise(x, mean, std), (x - mean) / std, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("shape", [(2, 1, 1, 1), (2, 1, 9, 3)])
@pytest.mark.parametrize("name", RANDOM)
def test_odd_shapes_and_grey_images(name, shape):
    x = images(*shape)
    if name == "crop":
        assert jitted(name)(jax.random.key(0), x).shape == (2, 5, 5, shape[3])
        return
    out = jitted(name)(jax.random.key(0), x)
    assert out.shape == shape
    assert np.isfinite(out).all()
    if shape[3] == 1 and name.startswith(("jitter", "grey")):
        chex.assert_trees_all_equal(out, x)


@pytest.mark.parametrize("name", ["jitter, kornia", "grey"])
def test_colour_needs_one_or_three_channels(name):
    with pytest.raises(InputError, match="2 channels"):
        RANDOM[name](jax.random.key(0), images(c=2))


def test_an_unknown_jitter_is_refused():
    with pytest.raises(InputError, match=r"kind='hsv'.*multiplicative"):
        jitter("hsv")(jax.random.key(0), images())


def test_the_key_comes_first_and_options_are_keywords():
    for name, function in inspect.getmembers(ops, inspect.isfunction):
        if function.__module__ != ops.__name__ or name.startswith("_") or name == "as_pair":
            continue
        parameters = list(inspect.signature(function).parameters.values())
        names = [parameter.name for parameter in parameters]
        assert names[: 1 + ("key" in names)] == ["key", "x"][-1 - ("key" in names) :], name
        assert ("key" in names) == (name.startswith("random_") or name in KEYED), name
        for parameter in parameters:
            optional = parameter.default is not parameter.empty
            assert not optional or parameter.kind is parameter.KEYWORD_ONLY, (name, parameter)
