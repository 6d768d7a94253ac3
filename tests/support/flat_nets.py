"""DualNets without convolutions, compiled in a moment, whose statistics tell what they were shown.

An image's first number, ``id / 255``, is its name; ``stats["shown"]`` counts by name the valid rows
of every training forward. So a whole step can be asked which examples it drew, with nothing mocked.
"""

import jax
import jax.numpy as jnp

from cls_jax.core.augment import Augment
from cls_jax.core.types import Variables
from cls_jax.nets.dualnet import DualNets, Embedding

SIZE = 5
NAMES = 256


def _centre(stats, part, h, *, train, valid):
    """``h`` minus its mean, the batch's or the running one; and that running mean afterwards."""
    mean = stats[part]
    if not train:
        return h - mean, mean
    rows = jnp.ones(h.shape[0], bool) if valid is None else valid
    count = rows.sum()
    batch = jnp.where(rows[:, None], h, 0).sum(0) / jnp.maximum(count, 1)
    batch = jnp.where(count > 0, batch, mean)
    return h - batch, mean + 0.1 * (jax.lax.stop_gradient(batch) - mean) * (count > 0)


def _show(stats, kind, x, *, train, valid):
    rows = jnp.ones(x.shape[0], bool) if valid is None else valid
    names = jnp.round(x[:, 0] * 255).astype(int)
    return stats[kind].at[names].add(1.0 * (rows & train))


def flat_dualnets(num_classes: int, *, predictor: bool = False) -> DualNets:
    """A linear trunk and projector, a linear adaptation that multiplies its map, a linear head.

    Slow stats: running means, and the histograms ``shown`` (features) and ``embedded`` (embed).
    """

    def init_slow(key, x):
        keys = jax.random.split(key, 3)
        params = {
            "trunk": jax.random.normal(keys[0], (x.shape[1], SIZE)),
            "projector": jax.random.normal(keys[1], (SIZE, SIZE)),
        }
        if predictor:
            params["predictor"] = jax.random.normal(keys[2], (SIZE, SIZE))
        stats = {"trunk": jnp.zeros(SIZE), "projector": jnp.zeros(SIZE)}
        histograms = {"shown": jnp.zeros(NAMES), "embedded": jnp.zeros(NAMES)}
        return Variables(params=params, stats={**stats, **histograms})

    def init_fast(key, x):
        keys = jax.random.split(key)
        params = {
            "adapt": jax.random.normal(keys[0], (x.shape[1], SIZE)),
            "head": jax.random.normal(keys[1], (SIZE, num_classes)),
        }
        return Variables(params=params, stats={"adapt": jnp.zeros(SIZE)})

    def trunk(slow, x, **kind):
        h, mean = _centre(slow.stats, "trunk", x @ slow.params["trunk"], **kind)
        return jnp.tanh(h), {**slow.stats, "trunk": mean}

    def features(slow, x, *, train, valid=None):
        h, stats = trunk(slow, x, train=train, valid=valid)
        return (h,), {**stats, "shown": _show(stats, "shown", x, train=train, valid=valid)}

    def embed(slow, x, *, train, valid=None):
        kind = {"train": train, "valid": valid}
        h, stats = trunk(slow, x, **kind)
        z, mean = _centre(stats, "projector", h @ slow.params["projector"], **kind)
        embedded = _show(stats, "embedded", x, **kind)
        p = z @ slow.params["predictor"] if predictor else None
        return Embedding(z, p), {**stats, "projector": mean, "embedded": embedded}

    def classify(fast, x, maps, *, train, valid=None):
        h = x @ fast.params["adapt"]
        h, mean = _centre(fast.stats, "adapt", h, train=train, valid=valid)
        return (h * maps[0]) @ fast.params["head"], {"adapt": mean}

    parts = (init_slow, init_fast, features, embed, classify)
    return DualNets(*parts, predictor=predictor)


def flat_augment() -> Augment:
    """Flattened float pixels; the views add noise to all of them but the name."""

    def plain(x):
        return x.reshape(x.shape[0], -1).astype(jnp.float32) / 255

    def noisy(key, x):
        x = plain(x)
        return x.at[:, 1:].add(0.2 * jax.random.uniform(key, x[:, 1:].shape))

    return Augment(train=lambda key, x: plain(x), test=plain, view_a=noisy, view_b=noisy)
