"""The views that SPB, SPB-I and SPB-M take of an image, and SPB-I's loss on them.

The first view is the image itself. The rotation learner and SPB-M add the image turned, the
contrastive learner adds three views in other colours.

Source: Wu, Gong and Li 2021 (ICCV), sections 3.3 and 3.4, equation 4.
Departs: the changed views are those of ``augment.view_b``, which are also cropped and now and then
blurred, and have the normalisation of views; the paper names colour jitter and grey.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from cls_jax.core.augment import Augment
from cls_jax.core.herding import unit
from cls_jax.core.losses import cross_entropy
from cls_jax.core.types import Array, PyTree, Variables
from cls_jax.methods.prototypes.cosine import contrastive, cosine_logits, initial_weights
from cls_jax.methods.prototypes.spb_config import SpbConfig, SpbHyper
from cls_jax.nets.extractor import Features
from cls_jax.nets.self_supervised import projection, rotation_learner

CHANGED = 3  # views of the contrastive learner beside the image itself


class Learner(NamedTuple):
    """A self-supervised loss on what the extractor has seen.

    Attributes:
      views: (key, raw uint8[b, ...]) -> float32[views, b, ...], the image itself first.
      init: (key, Features, scale) -> its part of the classifier's variables.
      loss: (vars, Features of all views, valid bool[b], hyper) -> (float32[], statistics).
    """

    views: Callable[[Array, Array], Array]
    init: Callable[[Array, Features, Array], Variables]
    loss: Callable[[Variables, Features, Array, SpbHyper], tuple[Array, PyTree]]


def quarters(count: int) -> range:
    """Quarter turns of ``count`` rotations that divide the circle evenly; 1, 2 or 4."""
    return range(0, 4, 4 // count)


def turn(x: Array, number: int) -> Array:
    """Images float32[b, h, h, c] turned counter-clockwise by so many quarters."""
    return jnp.rot90(x, number, axes=(1, 2)) if number else x


def turned(x: Array, count: int) -> Array:
    """float32[count, b, ...]: ``x`` in ``count`` rotations; what is not turned may be no image."""
    return jnp.stack([turn(x, number) for number in quarters(count)])


def learner(config: SpbConfig, augment: Augment) -> Learner:
    """The learner that the config names; without one the loss is 0 and the views are SPB-M's."""
    if config.learner == "rotation":
        return _rotation(augment)
    if config.learner == "contrastive":
        return _contrastive(augment)
    return Learner(
        views=lambda key, raw: turned(augment.train(key, raw), config.rotations),
        init=lambda key, seen, scale: Variables(params={}, stats={}),
        loss=lambda vars, seen, valid, hyper: (jnp.float32(0), {}),
    )


def _rotation(augment: Augment) -> Learner:
    """By how many quarters is it turned? A cosine classifier of its own says."""
    net = rotation_learner()

    def init(key: Array, seen: Features, scale: Array) -> Variables:
        key_net, key_weights = jax.random.split(key)
        made, size = net.init(key_net, seen), seen.features.shape[1]
        if seen.maps is not None:
            size = seen.maps.shape[-1]
        weights = initial_weights(key_weights, (4, size))
        params = {"learner": made.params, "learner_weights": weights, "learner_scale": scale}
        return Variables(params=params, stats=made.stats)

    def loss(
        vars: Variables, seen: Features, valid: Array, hyper: SpbHyper
    ) -> tuple[Array, PyTree]:
        own, every = vars.replace(params=vars.params["learner"]), jnp.tile(valid, 4)
        features, stats = net.apply(own, seen, train=True, valid=every)
        weights, scale = vars.params["learner_weights"], vars.params["learner_scale"]
        logits = cosine_logits(unit(features), weights, scale)
        number = jnp.repeat(jnp.arange(4), valid.size)
        return cross_entropy(logits, number, valid=every), stats

    return Learner(lambda key, raw: turned(augment.train(key, raw), 4), init, loss)


def _contrastive(augment: Augment) -> Learner:
    """Which views show the same image?"""
    net = projection()

    def views(key: Array, raw: Array) -> Array:
        key_plain, *keys = jax.random.split(key, 1 + CHANGED)
        return jnp.stack([augment.train(key_plain, raw), *(augment.view_b(k, raw) for k in keys)])

    def init(key: Array, seen: Features, scale: Array) -> Variables:
        made = net.init(key, seen)
        return Variables(params={"learner": made.params}, stats=made.stats)

    def loss(
        vars: Variables, seen: Features, valid: Array, hyper: SpbHyper
    ) -> tuple[Array, PyTree]:
        own = vars.replace(params=vars.params["learner"])
        out, stats = net.apply(own, seen, train=True)
        each = out.reshape(1 + CHANGED, valid.size, -1)
        return contrastive(each, valid, hyper.temperature), stats

    return Learner(views, init, loss)
