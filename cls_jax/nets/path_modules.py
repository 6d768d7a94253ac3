"""The modules of RPS-Net's residual network, and the sum of those of a layer that are there.

Source: Rajasegaran et al. 2019 (NeurIPS; arXiv 1906.01120), section 3; brjathu/RPSnet, rps_net.py.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from cls_jax.core.sync import select
from cls_jax.core.types import Array, PyTree, Variables
from cls_jax.nets.layers import BatchNorm, Conv
from cls_jax.nets.linen import apply_linen

OFF, RESTS, LEARNS = 0, 1, 2
"""The roles of a module."""


class Plain(nn.Module):
    """A layer that is the same in training."""

    layer: nn.Module

    def __call__(self, x: Array, *, train: bool, valid: Array | None = None) -> Array:
        del train, valid
        return self.layer(x)


class ConvNorm(nn.Module):
    """float[b, h, w, features]: convolution, BatchNorm, ReLU."""

    features: int
    dtype: str

    @nn.compact
    def __call__(self, x: Array, *, train: bool, valid: Array | None = None) -> Array:
        y = Conv(self.features, use_bias=True, dtype=self.dtype, name="conv1")(x)
        return nn.relu(BatchNorm(dtype=self.dtype, name="bn1")(y, train=train, valid=valid))


class Block(nn.Module):
    """float[b, h, w, features]: the same, and another convolution with BatchNorm."""

    features: int
    dtype: str

    @nn.compact
    def __call__(self, x: Array, *, train: bool, valid: Array | None = None) -> Array:
        y = ConvNorm(self.features, self.dtype, name="first")(x, train=train, valid=valid)
        y = Conv(self.features, use_bias=True, dtype=self.dtype, name="conv2")(y)
        return BatchNorm(dtype=self.dtype, name="bn2")(y, train=train, valid=valid)


PathModule = ConvNorm | Block
"""A module of a layer."""


def here(stack: PyTree, roles: Array) -> PyTree:
    """Leaves [M, ...]: zeros of a module that is off; no gradient goes to one that rests.

    Args:
      stack: of M modules.
      roles: int32[M].
    """
    still = jax.vmap(select)(roles == RESTS, jax.lax.stop_gradient(stack), stack)
    return jax.vmap(select)(roles > OFF, still, jax.tree.map(jnp.zeros_like, stack))


def in_turn(
    module: PathModule,
    stack: Variables,
    roles: Array,
    x: Array,
    *,
    train: bool,
    valid: Array | None,
) -> tuple[Array, PyTree]:
    """The sum of the modules that are there, and the statistics of all after it, [M, ...].

    One after another, so that a module that is off costs nothing and the program has only one.
    """

    def run(vars: Variables, train: bool) -> tuple[Array, PyTree]:
        return apply_linen(module, vars, x, train=train, valid=valid)

    first = jax.tree.map(lambda leaf: leaf[0], stack)
    shape = jax.eval_shape(lambda vars: run(vars, False)[0], first)

    def off(vars: Variables) -> tuple[Array, PyTree]:
        return jnp.zeros(shape.shape, shape.dtype), vars.stats

    def rests(vars: Variables) -> tuple[Array, PyTree]:
        return run(jax.lax.stop_gradient(vars), False)

    def learns(vars: Variables) -> tuple[Array, PyTree]:
        return run(vars, train)

    def add(total: Array, one: tuple[Variables, Array]) -> tuple[Array, PyTree]:
        y, stats = jax.lax.switch(one[1], (off, rests, learns), one[0])
        return total + y, stats

    return jax.lax.scan(add, jnp.zeros(shape.shape, shape.dtype), (stack, roles))


def together(
    module: PathModule,
    stack: Variables,
    roles: Array,
    x: Array,
    *,
    train: bool,
    valid: Array | None,
    num_paths: int,
) -> tuple[Array, PyTree]:
    """The same to rounding: the one that learns, and all others there as one module of their width.

    Args:
      module, stack, roles, x, train, valid: as there.
      num_paths: each of which has brought at most one of them, the one that learns the last.
    """
    most = min(len(roles), num_paths - train)
    if not train:
        return _as_one(module, stack, roles, x, most), stack.stats
    learns = roles == LEARNS
    at, some = learns.argmax(), learns.any()
    vars = jax.tree.map(lambda leaf: leaf[at], stack)
    own, moved = apply_linen(module, vars, x, train=True, valid=valid)
    stats = jax.tree.map(
        lambda all, one: all.at[at].set(jnp.where(some, one, all[at])), stack.stats, moved
    )
    own = jnp.where(some, own, 0)
    if most == 0:
        return own, stats
    others = jnp.where(learns, OFF, roles)
    return own + _as_one(module, jax.lax.stop_gradient(stack), others, x, most), stats


def _as_one(module: PathModule, stack: Variables, roles: Array, x: Array, most: int) -> Array:
    """The sum of the modules that are there, by their running statistics.

    Their first convolutions are one with as many times the channels, and so are the second ones,
    which take the factors of their BatchNorm with them.
    """
    slots = jnp.argsort(roles == OFF)[:most]
    chosen = here(*jax.tree.map(lambda leaf: leaf[slots], (stack, roles)))  # of zeros 0 comes out

    def wider(leaf: Array) -> Array:
        return jnp.moveaxis(leaf, 0, -2).reshape(*leaf.shape[1:-1], -1)

    block, size = isinstance(module, Block), module.features
    trees = chosen.params, chosen.stats
    first = jax.tree.map(wider, [tree["first"] if block else tree for tree in trees])
    h, _ = apply_linen(ConvNorm(most * size, module.dtype), Variables(*first), x, train=False)
    if not block:
        return h.reshape(*h.shape[:-1], most, size).sum(-2)
    conv, norm, running = trees[0]["conv2"], trees[0]["bn2"], trees[1]["bn2"]
    gain = norm["scale"] * jax.lax.rsqrt(running["var"] + BatchNorm.epsilon)
    bias = ((conv["bias"] - running["mean"]) * gain + norm["bias"]).sum(0)
    kernel = jnp.moveaxis(conv["kernel"] * gain[:, None, None, None], 0, 2)
    second = {"layer": {"kernel": kernel.reshape(*kernel.shape[:2], -1, size), "bias": bias}}
    last = Plain(Conv(size, use_bias=True, dtype=module.dtype))
    return apply_linen(last, Variables(second, {}), h, train=False)[0]
