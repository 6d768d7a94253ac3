"""Augmentation recipes: what the published methods do between raw pixels and the network.

The operations are in ``image_ops``; here they are put together once, outside the step, into
functions that take raw uint8 images and give normalised float32. ``recipe`` is the front door:
it checks a choice against the shape of the data and says what is wrong before anything compiles.
"""

from collections.abc import Callable
from functools import lru_cache
from typing import NamedTuple

import jax
import jax.numpy as jnp

from cls_jax.core.checks import check_literals
from cls_jax.core.choices import Kind as Kind
from cls_jax.core.choices import Normalisation as Normalisation
from cls_jax.core.errors import InputError
from cls_jax.core.image_ops import (
    Size,
    as_pair,
    colour_jitter,
    gaussian_blur,
    kornia_blur,
    normalise,
    random_crop,
    random_flip,
    random_grey,
    resize,
    to_float,
)
from cls_jax.core.types import Array, AugmentFn, ViewFn

NORMALISATIONS = {
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "cifar10": ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2615)),
    "cifar100": ((0.5071, 0.4867, 0.4408), (0.2675, 0.2565, 0.2761)),
    "tinyimagenet": ((0.4802, 0.4480, 0.3975), (0.2770, 0.2691, 0.2821)),
    "mnist": ((0.1307,), (0.3081,)),
    "half": ((0.5,), (0.5,)),
    "none": ((0.0,), (1.0,)),
}
"""Mean and standard deviation by name, an entry a channel or one for all. Source: dualnet card
section 3; baselines card section 1; supsup card (mnist)."""

TestFn = Callable[[Array], Array]


class Augment(NamedTuple):
    """The ways from raw examples to network input that a method may take.

    Attributes:
      train: supervised and replayed examples.
      test: the same without a draw.
      view: two views for a self-supervised loss, by their number, or None.
    """

    train: AugmentFn
    test: TestFn
    view: ViewFn | None = None


def supervised(
    *,
    mean: tuple[float, ...],
    std: tuple[float, ...],
    size: Size | None = None,
    crop_padding: int | None = None,
    flip: bool = False,
) -> AugmentFn:
    """The function from raw examples to supervised input: resize, crop, flip, normalise.

    What is not asked for is not done, and without a crop or a flip the key is not looked at (None
    will do). Vectors float32[b, d] are only normalised. Padding is zero before normalisation, so
    black, as torchvision pads.

    Args:
      mean, std: constants in units of [0, 1] pixels, one a channel or one for all.
      size: what images are resized to, in pixels; None keeps their size.
      crop_padding: zeros around an image before a random crop of the same size; None: no crop.
      flip: mirror with probability 0.5.

    Returns:
      ``(key, x uint8[b, h, w, c] or float32[b, d]) -> float32`` of the input's rank.

    Raises:
      InputError: ``mean`` and ``std`` differ in length, ``std`` is not positive, or
        ``crop_padding`` or ``size`` is out of range.

    Source: dualnet card section 3; baselines card section 1.
    """
    if len(mean) != len(std) or min(std) <= 0:
        raise InputError(f"mean={mean}, std={std}: give as many of each, std > 0")
    _check_padding("crop_padding", crop_padding or 0)
    size = None if size is None else as_pair(size)

    def apply(key: Array, x: Array) -> Array:
        if x.ndim == 2:
            return normalise(to_float(x), mean, std)
        if size is not None:
            x = resize(to_float(x), size)
        if crop_padding is not None:
            key, key_crop = jax.random.split(key)
            x = random_crop(key_crop, x, size=(x.shape[1], x.shape[2]), padding=crop_padding)
        if flip:
            x = random_flip(key, x)
        return normalise(to_float(x), mean, std)

    return apply


def views(kind: Kind, *, size: Size, padding: int = 0, flip: bool = True) -> ViewFn:
    """The function that makes the two views of a self-supervised loss; they differ in blur alone.

    Random crop, flip (p .5), colour jitter (.4, .4, .2, .1; p .8), grey (p .2), blur (p 1 in view
    A, p .1 in view B), then mean .5 and std .5. Every draw is an image's own; the order of the
    colour operations is the batch's.

    Args:
      kind: "kornia050" is what DualNet's code does (additive brightness, fixed blur along rows);
        "standard" is what it means to do (torchvision's jitter, sigma ~ U(.1, 2), 3 taps).
      size: of the crop, in pixels; images are never resized here.
      padding: zeros around an image before the crop, in pixels.
      flip: mirror with probability 0.5.

    Returns:
      ``(key, x uint8[b, h, w, c], number) -> float32[b, size, size, c]``. Give its two views
      different keys.

    Raises:
      InputError: unknown ``kind``, or ``padding`` or ``size`` out of range.

    Source: dualnet card section 3 and quirk 10.
    """
    check_literals(views, {"kind": kind}, "{name}={value!r}: give {either}")
    _check_padding("padding", padding)
    size = as_pair(size)
    meaning = "kornia050" if kind == "kornia050" else "multiplicative"

    def view(key: Array, x: Array, number: Array | int) -> Array:
        key_crop, key_flip, key_colour, key_grey, key_blur, key_sigma = jax.random.split(key, 6)
        x = random_crop(key_crop, x, size=size, padding=padding)
        x = to_float(random_flip(key_flip, x) if flip else x)
        x = colour_jitter(
            key_colour, x, brightness=0.4, contrast=0.4, saturation=0.2, hue=0.1, kind=meaning
        )
        x = random_grey(key_grey, x, rate=0.2)
        blurred = kornia_blur(x) if kind == "kornia050" else gaussian_blur(key_sigma, x)
        blur_rate = jnp.where(number == 0, 1.0, 0.1)
        drawn = jax.random.bernoulli(key_blur, blur_rate, (x.shape[0], 1, 1, 1))
        return normalise(jnp.where(drawn, blurred, x), *NORMALISATIONS["half"])

    return view


_views = views  # recipe has an argument of that name


@lru_cache
def recipe(
    source_shape: tuple[int, ...],
    *,
    normalisation: Normalisation,
    crop_padding: int | None = None,
    flip: bool = False,
    views: Kind | None = None,
    view_padding: int = 4,
    view_flip: bool = True,
    size: Size | None = None,
) -> Augment:
    """The Augment for examples of ``source_shape``, checked as it is built.

    Published settings: S-CIFAR ``normalisation="cifar10", crop_padding=4, flip=True``; DualNet on
    128x128 images ``normalisation="imagenet", views="kornia050", view_padding=0, size=84``.

    Args:
      source_shape: (h, w, c) of images or (d,) of vectors, without the batch axis.
      normalisation: of the supervised input; views always use mean 0.5 and std 0.5, as DualNet
        does, so "half" gives one normalisation to both.
      crop_padding: zeros around training images before a random crop; None does not crop.
      flip: mirror training images with probability 0.5.
      views: how the two views are made, or None for no views.
      view_padding, view_flip: the same two for the views; crops are always drawn.
      size: what supervised images are resized and views cropped to, in pixels; None keeps h, w.

    Returns:
      Augment; equal arguments give the same one, so that methods made of it are equal too.

    Raises:
      InputError: an unknown name, constants that do not fit the channels, an image operation on
        vectors, or a crop that does not fit.
    """
    named = {"normalisation": normalisation}
    check_literals(recipe, named, "{name}={value!r}: give one of {listed}")
    mean, std = NORMALISATIONS[normalisation]
    if len(source_shape) not in (1, 3):
        raise InputError(f"source_shape={source_shape}: give (h, w, c) or (d,), without a batch")
    if len(source_shape) == 1 and (
        crop_padding is not None or flip or views is not None or size is not None
    ):
        raise InputError(
            f"source_shape={source_shape}: vectors have no crop, flip, size or views; "
            "leave these out or give images (h, w, c)"
        )
    if len(mean) > 1 and source_shape[-1] != len(mean):
        raise InputError(
            f"normalisation={normalisation!r} is for {len(mean)} channels and "
            f"source_shape={source_shape} has {source_shape[-1]}; give 'half' or 'none'"
        )
    plain = supervised(mean=mean, std=std, size=size)
    train = supervised(mean=mean, std=std, size=size, crop_padding=crop_padding, flip=flip)
    # Without a draw there is no key.
    augment = Augment(train=train, test=lambda x: plain(None, x))  # pyright: ignore[reportArgumentType]
    if views is None:
        return augment
    check_literals(recipe, {"views": views}, "{name}={value!r}: give {either}")
    _check_padding("view_padding", view_padding)
    if source_shape[-1] not in (1, 3):
        raise InputError(f"source_shape={source_shape}: views need 3 channels, or 1 (grey)")
    assert len(source_shape) == 3
    height, width = source_shape[:2]
    window = as_pair((height, width) if size is None else size)
    if window[0] > height + 2 * view_padding or window[1] > width + 2 * view_padding:
        raise InputError(
            f"size={size}, view_padding={view_padding}: images of {height}x{width} have no such "
            "window; give a smaller size or more padding"
        )
    view = _views(views, size=window, padding=view_padding, flip=view_flip)
    return augment._replace(view=view)


def _check_padding(name: str, padding: int) -> None:
    if padding < 0:
        raise InputError(f"{name}={padding}: give 0 or more pixels")
