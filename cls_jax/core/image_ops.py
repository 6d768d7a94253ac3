"""Batched image operations on the device, each a function of a key and a batch.

They take float images [b, h, w, c] in [0, 1] unless they say otherwise, and draw anew for every
image; only the order of the colour operations is one draw a batch, as in kornia. dm_pix is
underneath where its meaning is the recipe's (crop, flip, HSV); own code stands where the published
recipes mean something else (jitter factors, luma, kornia's quirks), and for blur, which dm_pix
convolves: 20 times slower on a CPU than shifted adds.
"""

import math
from itertools import pairwise
from typing import Literal

import dm_pix as pix
import jax
import jax.numpy as jnp

from cls_jax.core.errors import InputError
from cls_jax.core.types import Array

Size = int | tuple[int, int]


def to_float(x: Array) -> Array:
    """float32 of the same shape: uint8 divided by 255, anything else as it is."""
    return x.astype(jnp.float32) / 255 if x.dtype == jnp.uint8 else x.astype(jnp.float32)


def normalise(x: Array, mean: tuple[float, ...], std: tuple[float, ...]) -> Array:
    """``(x - mean) / std``, float32, over the last axis (constants of length 1 broadcast)."""
    return (x - jnp.asarray(mean, jnp.float32)) / jnp.asarray(std, jnp.float32)


def resize(x: Array, size: Size) -> Array:
    """float32[b, size, size, c] by bilinear interpolation without antialiasing.

    That is torchvision 0.9's resize of a tensor, with which the DualNet results were made.

    Source: dualnet card section 3.
    """
    h, w = as_pair(size)
    return jax.image.resize(x, (x.shape[0], h, w, x.shape[3]), "bilinear", antialias=False)


def random_crop(key: Array, x: Array, *, size: Size, padding: int = 0) -> Array:
    """A window of every image, drawn uniformly, after ``padding`` zeros on each side.

    Args:
      key: PRNG key.
      x: [b, h, w, c], uint8 or float.
      size: height and width of the window, in pixels.
      padding: pixels, >= 0.

    Returns:
      [b, size, size, c] of the dtype of ``x``.

    Raises:
      InputError: the window is larger than the padded image.
    """
    b, h, w, c = x.shape
    window = as_pair(size)
    if window[0] > h + 2 * padding or window[1] > w + 2 * padding:
        raise InputError(
            f"size={size}: images of {h}x{w} with padding={padding} have no such window; "
            "give a smaller size or more padding"
        )
    x = jnp.pad(x, ((0, 0), (padding, padding), (padding, padding), (0, 0)))
    crop = jax.vmap(lambda k, image: pix.random_crop(k, image, (*window, c)))
    return jnp.asarray(crop(jax.random.split(key, b), x))


def random_flip(key: Array, x: Array) -> Array:
    """Every image mirrored left to right with probability 0.5; any dtype."""
    flip = jax.vmap(pix.random_flip_left_right)
    return jnp.asarray(flip(jax.random.split(key, x.shape[0]), x))


def colour_jitter(
    key: Array,
    x: Array,
    *,
    brightness: float,
    contrast: float,
    saturation: float,
    hue: float,
    kind: Literal["multiplicative", "kornia050"] = "multiplicative",
    rate: float = 0.8,
) -> Array:
    """Images with brightness, contrast, saturation and hue changed at random, in [0, 1].

    With f = 1 + U(-strength, strength) (not below 0) and d = U(-strength, strength), an image each:

    | operation  | "multiplicative" (torchvision)   | "kornia050"      |
    |------------|----------------------------------|------------------|
    | brightness | f x                              | x + d            |
    | contrast   | f x + (1 - f) mean(grey(x))      | f x              |
    | saturation | f x + (1 - f) grey(x)            | HSV S times f    |
    | hue        | HSV H + d turns                  | HSV H + d turns  |

    Each result is clamped to [0, 1]. Grey images (c = 1) come back unchanged.

    Args:
      key: PRNG key.
      x: float32[b, h, w, c] in [0, 1], c = 1 or 3.
      brightness, contrast, saturation: strengths, >= 0, usually 0 to 0.8.
      hue: strength in turns, 0 to 0.5.
      kind: which meaning.
      rate: probability that an image is touched at all.

    Returns:
      float32[b, h, w, c] in [0, 1].

    Raises:
      InputError: unknown ``kind``, or c neither 1 nor 3.

    Source: dualnet card section 3 ("Exact kornia 0.5.0 semantics"); torchvision ColorJitter.
    Departs: one order of the four operations a batch in both kinds (torchvision: an image each).
    """
    if kind not in ("multiplicative", "kornia050"):
        raise InputError(f"kind={kind!r}: give 'multiplicative' or 'kornia050'")
    if not _is_colour(x):
        return x
    key_draw, key_time = jax.random.split(key)
    draws = jax.random.uniform(key_draw, (5, x.shape[0], 1, 1, 1), minval=-1)
    strengths = (brightness, contrast, saturation, hue)
    b, c, s, turn = (draws[i] * strength for i, strength in enumerate(strengths))
    fb, fc, fs = (jnp.maximum(1 + strength, 0) for strength in (b, c, s))
    zero, one = jnp.zeros_like(b), jnp.ones_like(b)
    time = jax.random.permutation(key_time, 4)  # of brightness, contrast, saturation, hue
    if kind == "kornia050":
        in_rgb = _by_time(time[:2], (one, fc), (b, zero), (zero, zero), (zero, zero))
        in_hsv = _by_time(time[2:], (fs, one), (zero, turn))
    else:
        in_rgb = _by_time(
            time[:3], (fb, fc, fs), (zero, zero, zero), (zero, 1 - fc, zero), (zero, zero, 1 - fs)
        )
        in_hsv = _by_time(time[3:], (one,), (turn,))
    # Under vmap lax.switch runs all four operations at all four times and XLA:CPU multiplies the
    # work further (20 times slower). So: every RGB operation before, between and after the HSV
    # operations, and an identity where that is not its time.
    out = x
    edges = [-1, *(when for when, *_ in in_hsv), 4]
    for slot, (start, end) in enumerate(pairwise(edges)):
        for when, *blend in in_rgb:
            out = jnp.where((start < when) & (when < end), _blend(out, *blend), out)
        if slot < len(in_hsv):
            out = _shift_hsv(out, *in_hsv[slot][1:])
    return jnp.where(draws[4] < 2 * rate - 1, out, x)


def random_grey(key: Array, x: Array, *, rate: float) -> Array:
    """Every image replaced by its luma in all three channels with probability ``rate``.

    ``.299 R + .587 G + .114 B``, as PIL, kornia and torchvision mean it; dm_pix has .2989 R.
    Grey images (c = 1) come back unchanged.
    """
    if not _is_colour(x):
        return x
    return jnp.where(jax.random.bernoulli(key, rate, (x.shape[0], 1, 1, 1)), _grey(x), x)


def kornia_blur(x: Array) -> Array:
    """Images smeared along rows by [.31917, .36166, .31917], reflected at the border.

    A Gaussian of sigma 2 on 3 taps across columns and of sigma 0.1, which is the identity, across
    rows: ``(0.1, 2.0)``, meant as a range, is that pair of sigmas in kornia 0.5.0.

    Source: dualnet card section 3 ("Blur quirk"), oracle 12.
    """
    side = math.exp(-1 / 8)
    taps = [side / (1 + 2 * side), 1 / (1 + 2 * side), side / (1 + 2 * side)]
    return _weighted_shifts(x, taps, axis=2)


def gaussian_blur(
    key: Array, x: Array, *, sigma: tuple[float, float] = (0.1, 2.0), kernel_size: int = 3
) -> Array:
    """Every image blurred by a Gaussian of its own width, reflected at the border.

    Args:
      key: PRNG key.
      x: float32[b, h, w, c].
      sigma: range of the uniform draw of the standard deviation, in pixels, > 0.
      kernel_size: taps in each direction, odd.

    Returns:
      float32[b, h, w, c].

    Raises:
      InputError: ``kernel_size`` is even or not positive.
    """
    if kernel_size < 1 or kernel_size % 2 == 0:
        raise InputError(f"kernel_size={kernel_size}: give an odd number, usually 3 or 5")
    width = jax.random.uniform(key, (x.shape[0], 1, 1, 1), minval=sigma[0], maxval=sigma[1])
    reach = range(-(kernel_size // 2), kernel_size // 2 + 1)
    taps = [jnp.exp(-0.5 * jnp.square(offset / width)) for offset in reach]
    taps = [tap / sum(taps) for tap in taps]
    return _weighted_shifts(_weighted_shifts(x, taps, axis=1), taps, axis=2)


def _weighted_shifts(x: Array, taps: list, axis: int) -> Array:
    """The correlation of ``x`` with ``taps`` along an axis: shifted adds, not a convolution."""
    reach, length = len(taps) // 2, x.shape[axis]
    border = [(reach, reach) if i == axis else (0, 0) for i in range(x.ndim)]
    padded = jnp.pad(x, border, mode="reflect")
    shifted = (
        tap * jax.lax.slice_in_dim(padded, i, i + length, axis=axis) for i, tap in enumerate(taps)
    )
    return jnp.asarray(sum(shifted))


def _by_time(time: Array, *columns: tuple[Array, ...]) -> list[tuple[Array, ...]]:
    """(time, an entry of every column) for each operation, the earliest first."""
    order = jnp.argsort(time)
    return list(zip(time[order], *(jnp.stack(c)[order] for c in columns), strict=True))


def _blend(x: Array, factor: Array, shift: Array, mean_share: Array, grey_share: Array) -> Array:
    """``factor x + shift + mean_share mean(grey(x)) + grey_share grey(x)``, clamped."""
    grey = _grey(x)
    mean = grey.mean((1, 2), keepdims=True)
    return jnp.clip(factor * x + shift + mean_share * mean + grey_share * grey, 0, 1)


def _shift_hsv(x: Array, factor: Array, turn: Array) -> Array:
    """Images with HSV saturation times ``factor`` and hue plus ``turn``, clamped."""
    hue, saturation, value = jnp.moveaxis(pix.rgb_to_hsv(x), -1, 0)
    saturation = jnp.clip(saturation * factor[..., 0], 0, 1)
    out = pix.hsv_to_rgb(jnp.stack([hue + turn[..., 0], saturation, value], axis=-1))
    return jnp.clip(out, 0, 1)


def _grey(x: Array) -> Array:
    """The luma float32[b, h, w, 1] of Rec. 601."""
    return (0.299 * x[..., 0] + 0.587 * x[..., 1] + 0.114 * x[..., 2])[..., None]


def _is_colour(x: Array) -> bool:
    if x.shape[-1] not in (1, 3):
        raise InputError(f"x has {x.shape[-1]} channels; colour operations need 3, or 1 (grey)")
    return x.shape[-1] == 3


def as_pair(size: Size) -> tuple[int, int]:
    """(height, width) of a size given as one number or as two; InputError below 1."""
    height, width = (size, size) if isinstance(size, int) else size
    if min(height, width) < 1:
        raise InputError(f"size={size}: give at least 1 pixel")
    return height, width
