"""Small networks, compiled in a moment: some with BatchNorm, some that tell what they were shown.

The telling ones read an image's name, its first number (``drive.pictures``), in ``stats["shown"]``
from the valid rows of training forwards. So a whole step can be asked which examples it drew, with
nothing mocked.
"""

from functools import cache, partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from cls_jax.core.types import Variables
from cls_jax.nets.base import Net
from cls_jax.nets.dualnet import DualNets, Embedding, masked_factor
from cls_jax.nets.layers import BatchNorm, Conv, Dense, masked_channels
from cls_jax.nets.linen import apply_linen, init_linen
from cls_jax.nets.mlp import mlp
from cls_jax.nets.pooling import max_pool_2x2
from tests.support.drive import CLASSES, NAMES

HIDDEN, FORWARDS = 7, 4

# --- perceptrons ----------------------------------------------------------------------------------


@cache
def perceptron():
    """The library's mlp with one hidden layer."""
    return mlp(CLASSES, (HIDDEN,))


@cache
def telling_net(*, tells=True):
    """params w1, b1, w2, b2; stats {"shown": histograms of the last forwards' names}, or {}."""

    def init(key, x):
        keys = jax.random.split(key, 4)
        shapes = {"w1": (x.shape[1], HIDDEN), "b1": (HIDDEN,), "w2": (HIDDEN, CLASSES)}
        shapes["b2"] = (CLASSES,)
        params = {
            name: 0.7 * jax.random.normal(k, shape)
            for k, (name, shape) in zip(keys, shapes.items(), strict=True)
        }
        stats = {"shown": jnp.zeros((FORWARDS, NAMES))} if tells else {}
        return Variables(params=params, stats=stats)

    def apply(vars, x, *, train, valid=None):
        p = vars.params
        logits = jnp.maximum(x @ p["w1"] + p["b1"], 0) @ p["w2"] + p["b2"]
        if not (train and tells):
            return logits, vars.stats
        names = jnp.round(x[:, 0] * 255).astype(int)
        histogram = jnp.zeros(NAMES).at[names].add(1.0 * valid)
        return logits, {"shown": jnp.roll(vars.stats["shown"], -1, 0).at[-1].set(histogram)}

    return Net(init, apply)


def names_in(histogram):
    """Each name as often as it was counted."""
    histogram = np.asarray(histogram).astype(int)
    return np.repeat(np.arange(len(histogram)), histogram)


def shown(drive, forwards):
    """The names of each of the last training forwards of ``telling_net``, in their order."""
    return [names_in(row) for row in drive.state.model.vars.stats["shown"][-forwards:]]


class Normed(nn.Module):
    num_classes: int

    @nn.compact
    def __call__(self, x, *, train, valid=None):
        x = Dense(5)(x.reshape(x.shape[0], -1))
        return Dense(self.num_classes)(nn.relu(BatchNorm()(x, train=train, valid=valid)))


@cache
def normed_net(num_classes: int) -> Net:
    """A perceptron with BatchNorm: each output depends on the whole batch."""
    module = Normed(num_classes)
    return Net(lambda key, x: init_linen(key, module, x), partial(apply_linen, module))


# --- DualNet's two networks -----------------------------------------------------------------------

WIDTHS = (2, 3)


class Slow(nn.Module):
    predictor: bool
    dtype: str

    def setup(self):
        self.convs = [Conv(width, dtype=self.dtype) for width in WIDTHS]
        self.norms = [BatchNorm(dtype=self.dtype) for _ in WIDTHS]
        self.projector = Dense(4)
        self.predictor_head = Dense(4)

    def features(self, x, *, train, valid=None, masks=()):
        maps = []
        for number, (conv, norm) in enumerate(zip(self.convs, self.norms, strict=True)):
            x = max_pool_2x2(nn.relu(norm(conv(x), train=train, valid=valid)))
            x = masked_channels(x, masks[number]) if masks else x
            maps.append(x)
        return tuple(maps)

    def __call__(self, x, *, train, valid=None, masks=()):
        last = self.features(x, train=train, valid=valid, masks=masks)[-1]
        z = self.projector(last.astype(jnp.float32).mean((1, 2)))
        return Embedding(z, self.predictor_head(z) if self.predictor else None)


class Fast(nn.Module):
    num_classes: int
    dtype: str

    @nn.compact
    def __call__(self, x, maps, *, train, valid=None, masks=(), neutral=False):
        for number, (width, slow_map) in enumerate(zip(WIDTHS, maps, strict=True)):
            x = Conv(width, dtype=self.dtype)(x)
            x = max_pool_2x2(nn.relu(BatchNorm(dtype=self.dtype)(x, train=train, valid=valid)))
            x = masked_factor(x, masks[number], neutral=neutral) if masks else x
            x = x * slow_map
        return Dense(self.num_classes)(x.astype(jnp.float32).mean((1, 2)))


def toy_dualnets(num_classes: int, *, predictor: bool = False, dtype: str = "float32") -> DualNets:
    """Two stages instead of four, one convolution each, BatchNorm included."""
    slow, fast = Slow(predictor, dtype), Fast(num_classes, dtype)

    def init_fast(key, x):
        maps, side = [], x.shape[1]
        for width in WIDTHS:
            side = -(-side // 2)
            maps.append(jnp.zeros((x.shape[0], side, side, width), x.dtype))
        return init_linen(key, fast, x, tuple(maps))

    return DualNets(
        init_slow=lambda key, x: init_linen(key, slow, x),
        init_fast=init_fast,
        features=partial(apply_linen, slow, method="features"),
        embed=partial(apply_linen, slow),
        classify=partial(apply_linen, fast),
        predictor=predictor,
    )


# --- the same without convolutions, telling -------------------------------------------------------

SIZE = 5
PICTURES = 256


def _centre(stats, part, h, *, train, valid):
    """``h`` minus its mean, the batch's or the running one; and that running mean afterwards."""
    mean = stats[part]
    if not train:
        return h - mean, mean
    rows = _rows(h, valid)
    centred = []
    for own, counts in zip(h.reshape(*rows.shape, -1), rows, strict=True):
        count = counts.sum()
        batch = jnp.where(counts[:, None], own, 0).sum(0) / jnp.maximum(count, 1)
        batch = jnp.where(count > 0, batch, mean)
        centred.append(own - batch)
        mean = mean + 0.1 * (jax.lax.stop_gradient(batch) - mean) * (count > 0)
    return jnp.concatenate(centred), mean


def _counted(stats, kind, x, *, train, valid):
    names = jnp.round(x[:, 0] * 255).astype(int)
    return stats[kind].at[names].add(1.0 * (_rows(x, valid).ravel() & train))


def _rows(x, valid):
    """bool[g, b / g]: the rows of g batches that count."""
    return jnp.ones((1, x.shape[0]), bool) if valid is None else jnp.atleast_2d(valid)


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
        histograms = {"shown": jnp.zeros(PICTURES), "embedded": jnp.zeros(PICTURES)}
        return Variables(params=params, stats={**stats, **histograms})

    def init_fast(key, x):
        keys = jax.random.split(key)
        params = {
            "adapt": jax.random.normal(keys[0], (x.shape[1], SIZE)),
            "head": jax.random.normal(keys[1], (SIZE, num_classes)),
        }
        return Variables(params=params, stats={"adapt": jnp.zeros(SIZE)})

    def trunk(slow, x, masks, **kind):
        h, mean = _centre(slow.stats, "trunk", x @ slow.params["trunk"], **kind)
        h = masked_channels(jnp.tanh(h), masks[0]) if masks else jnp.tanh(h)
        return h, {**slow.stats, "trunk": mean}

    def features(slow, x, *, train, valid=None, masks=()):
        h, stats = trunk(slow, x, masks, train=train, valid=valid)
        return (h,), {**stats, "shown": _counted(stats, "shown", x, train=train, valid=valid)}

    def embed(slow, x, *, train, valid=None, masks=()):
        kind = {"train": train, "valid": valid}
        h, stats = trunk(slow, x, masks, **kind)
        z, mean = _centre(stats, "projector", h @ slow.params["projector"], **kind)
        embedded = _counted(stats, "embedded", x, **kind)
        p = z @ slow.params["predictor"] if predictor else None
        return Embedding(z, p), {**stats, "projector": mean, "embedded": embedded}

    def classify(fast, x, maps, *, train, valid=None, masks=(), neutral=False):
        h = x @ fast.params["adapt"]
        h, mean = _centre(fast.stats, "adapt", h, train=train, valid=valid)
        h = masked_factor(h, masks[0], neutral=neutral) if masks else h
        return (h * maps[0]) @ fast.params["head"], {"adapt": mean}

    parts = (init_slow, init_fast, features, embed, classify)
    return DualNets(*parts, predictor=predictor)
