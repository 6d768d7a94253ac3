"""The views that SPB, SPB-I and SPB-M take of an image, and SPB-I's self-supervised loss on them.

The first view is the image itself. The rotation learner and SPB-M add the image turned, the
contrastive learner adds three views in other colours.

Source: Wu, Gong and Li 2021 (ICCV), sections 3.3 and 3.4, equation 4.
Departs: the changed views are view B of ``augment.view``, which is also cropped and now and then
blurred, and has the normalisation of views; the paper names colour jitter and grey.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from cls_jax.core.augment import Augment
from cls_jax.core.errors import InputError
from cls_jax.core.herding import unit
from cls_jax.core.losses import cross_entropy
from cls_jax.core.types import Array, PyTree, Scalar, Variables
from cls_jax.methods.problem import Problem
from cls_jax.methods.prototypes.cosine import contrastive, cosine_logits, initial_weights
from cls_jax.nets.extractor import Features
from cls_jax.nets.self_supervised import projection, rotation_learner

CHANGED = 3  # views of the contrastive learner beside the image itself


class PretextTask(NamedTuple):
    """A self-supervised loss on the features of several views of each image.

    Attributes:
      views: (key, raw uint8[b, ...]) -> float32[views, b, ...], the image itself first.
      init: (key, Features, scale) -> its part of the classifier's variables.
      loss: (vars, Features of all views, valid bool[b]) -> (float32[], statistics).
    """

    views: Callable[[Array, Array], Array]
    init: Callable[[Array, Features, Array], Variables]
    loss: Callable[[Variables, Features, Array], tuple[Array, PyTree]]


def quarter_turns(count: int) -> range:
    """Quarter turns of ``count`` rotations that divide the circle evenly; 1, 2 or 4."""
    return range(0, 4, 4 // count)


def rotate(x: Array, quarters: int) -> Array:
    """Images float32[b, h, h, c] turned counter-clockwise by so many quarters."""
    return jnp.rot90(x, quarters, axes=(1, 2)) if quarters else x


def all_rotations(x: Array, count: int) -> Array:
    """float32[count, b, ...]: ``x`` in ``count`` rotations; what is not turned may be no image."""
    return jnp.stack([rotate(x, quarters) for quarters in quarter_turns(count)])


def pretext_task(
    problem: Problem, learner: str, rotations: int, temperature: Scalar
) -> PretextTask:
    """The views and the self-supervised loss that SPB's arguments name.

    Args:
      problem: its examples and their augmentation.
      learner: "none", "rotation" or "contrastive".
      rotations: of SPB-M: 1, 2 or 4.
      temperature: float32[] of the contrastive learner.

    Raises:
      InputError: for views that exclude each other, or that such examples do not have.
    """
    _check_views(problem, learner, rotations)
    if learner == "rotation":
        return _rotation(problem.augment)
    if learner == "contrastive":
        return _contrastive(problem.augment, temperature)
    return _no_learner(problem.augment, rotations)


def _no_learner(augment: Augment, rotations: int) -> PretextTask:
    """The views of SPB and SPB-M, each image in ``rotations`` of them, and a loss of 0."""

    def views(key: Array, raw: Array) -> Array:
        return all_rotations(augment.train(key, raw), rotations)

    def init(key: Array, features: Features, scale: Array) -> Variables:
        return Variables(params={}, stats={})

    def loss(vars: Variables, features: Features, valid: Array) -> tuple[Array, PyTree]:
        return jnp.float32(0), {}

    return PretextTask(views, init, loss)


def _rotation(augment: Augment) -> PretextTask:
    """By how many quarters is it turned? A cosine classifier of its own says."""
    net = rotation_learner()

    def views(key: Array, raw: Array) -> Array:
        return all_rotations(augment.train(key, raw), 4)

    def init(key: Array, features: Features, scale: Array) -> Variables:
        key_net, key_weights = jax.random.split(key)
        made, size = net.init(key_net, features), features.features.shape[1]
        if features.maps is not None:
            size = features.maps.shape[-1]
        weights = initial_weights(key_weights, (4, size))
        params = {"learner": made.params, "learner_weights": weights, "learner_scale": scale}
        return Variables(params=params, stats=made.stats)

    def loss(vars: Variables, features: Features, valid: Array) -> tuple[Array, PyTree]:
        own, every = vars.replace(params=vars.params["learner"]), jnp.tile(valid, 4)
        of_rotation, stats = net.apply(own, features, train=True, valid=every)
        weights, scale = vars.params["learner_weights"], vars.params["learner_scale"]
        logits = cosine_logits(unit(of_rotation), weights, scale)
        quarters = jnp.repeat(jnp.arange(4), valid.size)
        return cross_entropy(logits, quarters, valid=every), stats

    return PretextTask(views, init, loss)


def _contrastive(augment: Augment, temperature: Scalar) -> PretextTask:
    """Which views show the same image?"""
    net, view = projection(), augment.view
    assert view is not None  # _check_views

    def views(key: Array, raw: Array) -> Array:
        key_plain, *keys = jax.random.split(key, 1 + CHANGED)
        return jnp.stack([augment.train(key_plain, raw), *(view(k, raw, 1) for k in keys)])

    def init(key: Array, features: Features, scale: Array) -> Variables:
        made = net.init(key, features)
        return Variables(params={"learner": made.params}, stats=made.stats)

    def loss(vars: Variables, features: Features, valid: Array) -> tuple[Array, PyTree]:
        own = vars.replace(params=vars.params["learner"])
        projected, stats = net.apply(own, features, train=True)
        each = projected.reshape(1 + CHANGED, valid.size, -1)
        return contrastive(each, valid, temperature), stats

    return PretextTask(views, init, loss)


def _check_views(problem: Problem, learner: str, rotations: int) -> None:
    """Raises InputError for views that exclude each other, or that such examples do not have."""
    if rotations not in (1, 2, 4):
        raise InputError(f"rotations is {rotations}; an image has 1, 2 or 4 of them")
    if rotations > 1 and learner != "none":
        raise InputError(
            f"rotations is {rotations} and learner {learner!r}: SPB-M and SPB-I "
            "exclude each other; use rotations 1 or learner 'none'"
        )
    shape, turned = problem.shape, rotations > 1 or learner == "rotation"
    if turned and shape is not None and (len(shape) != 3 or shape[0] != shape[1]):
        why = f"rotations {rotations}" if rotations > 1 else "learner 'rotation'"
        raise InputError(
            f"{why} turns square images, and the examples have shape {'x'.join(map(str, shape))}; "
            "give --image-size or another method"
        )
    if learner == "contrastive" and problem.augment.view is None:
        raise InputError(
            "learner is 'contrastive' and there are no changed views of vectors; give images, or "
            "use learner 'none'"
        )
