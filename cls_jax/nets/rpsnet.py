"""RPS-Net's networks: layers of M modules of equal shape, of which some are there; one last layer.

A layer gives ``relu([x] + sum of its modules that are there)``. Roles, int32[L, M], say what each
module does: it is OFF, it RESTS (it answers, learns nothing, and its statistics stay), or it
LEARNS. They are data, so another path is the same program. A module that is off is not computed,
except in a perceptron, where the weights of a layer's modules are added first: it costs as much as
one module.

Variables have "modules", for each layer a tree with leaves [M, ...], and "shared": the last layer,
and in the residual network what takes the skip's place where the width changes.

Source: Rajasegaran et al. 2019 (NeurIPS; arXiv 1906.01120), section 3; brjathu/RPSnet, rps_net.py.
Departs: a module at rest is not normalised by the batch, and its running statistics do not move.
"""

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import flax.linen as nn
import jax
import jax.numpy as jnp

from cls_jax.core.errors import InputError
from cls_jax.core.sharding import spread
from cls_jax.core.types import Array, PyTree, Variables
from cls_jax.nets.base import InitVarsFn
from cls_jax.nets.convolution import as_products
from cls_jax.nets.layers import BatchNorm, Conv, Dense, keeping_dtype
from cls_jax.nets.linen import apply_linen, check_net, init_linen
from cls_jax.nets.pooling import max_pool_2x2

OFF, RESTS, LEARNS = 0, 1, 2
"""The roles of a module."""


class ApplyPathFn(Protocol):
    """float32[b, C] logits by the modules that are there, and the statistics after them."""

    def __call__(
        self, vars: Variables, roles: Array, x: Array, /, *, train: bool, valid: Array | None = None
    ) -> tuple[Array, PyTree]: ...


class PathNet(NamedTuple):
    """``init(key, x) -> Variables`` and ``apply(vars, roles, x, train=…)``.

    Attributes:
      init, apply: the network.
      num_layers: L.
    """

    init: InitVarsFn
    apply: ApplyPathFn
    num_layers: int


def perceptron_paths(
    num_classes: int, num_modules: int, hidden: Sequence[int], dtype: str = "float32"
) -> PathNet:
    """The network for MNIST: each module is an affine map; it has no skips and no statistics.

    Args:
      num_classes: of the last layer.
      num_modules: M.
      hidden: outputs of each layer.
      dtype: compute dtype of the layers; parameters and logits are float32.

    Raises:
      InputError: there is no layer, a size is below 1, or the dtype is unknown.
    """
    check_net(num_classes, dtype)
    if not hidden or min(hidden) < 1:
        raise InputError(
            f"hidden is {tuple(hidden)}; rpsnet needs a layer with modules, each of at least 1 unit"
        )
    layers = [Dense(size, dtype=dtype) for size in hidden]
    last, keep = Dense(num_classes, dtype=keeping_dtype(dtype).name), keeping_dtype(dtype)

    def init(key: Array, x: Array) -> Variables:
        x, modules = x.reshape(x.shape[0], -1).astype(keep), []
        key_last, *keys = jax.random.split(key, len(hidden) + 1)
        for key_layer, layer, size in zip(keys, layers, hidden, strict=True):
            modules.append(_stacked(key_layer, num_modules, _Plain(layer), x).params)
            x = jnp.zeros((x.shape[0], size), keep)
        shared = {"head": init_linen(key_last, _Plain(last), x).params}
        none = {"modules": tuple({} for _ in hidden), "shared": {}}
        return Variables({"modules": tuple(modules), "shared": shared}, none)

    def apply(
        vars: Variables, roles: Array, x: Array, *, train: bool, valid: Array | None = None
    ) -> tuple[Array, PyTree]:
        del train, valid
        h = spread(x.reshape(x.shape[0], -1))
        for layer, modules, role in zip(layers, vars.params["modules"], roles, strict=True):
            added = jax.tree.map(lambda leaf, role=role: _added(leaf, role), modules)
            h = nn.relu(apply_linen(_Plain(layer), Variables(added, {}), h, train=False)[0])
        head = Variables(vars.params["shared"]["head"], {})
        return apply_linen(_Plain(last), head, h.astype(keep), train=False)[0], vars.stats

    return PathNet(init, apply, len(hidden))


def residual_paths(
    num_classes: int, num_modules: int, width: int = 64, dtype: str = "float32"
) -> PathNet:
    """The network for CIFAR, nine layers; images of another size than 32x32 will do, too.

    With 100 classes and 8 modules it has 89,593,572 parameters, 12,601,188 of them on one path.

    Args:
      num_classes: of the last layer.
      num_modules: M.
      width: channels of the first three layers; the others have 2, 4 and 8 times as many.
      dtype: compute dtype of the layers; parameters, statistics and logits are float32.

    Raises:
      InputError: a size is below 1, or the dtype is unknown.
    """
    check_net(num_classes, dtype, width)
    keep, widths = keeping_dtype(dtype), [layer.factor * width for layer in _LAYERS]
    modules = [layer.module(size, dtype) for layer, size in zip(_LAYERS, widths, strict=True)]
    skips = {
        f"skip{number}": _ConvNorm(widths[number], dtype)
        for number, layer in enumerate(_LAYERS)
        if layer.skip == "convolution"
    }
    last = _Plain(Dense(num_classes, dtype=keep.name))

    def init(key: Array, x: Array) -> Variables:
        if x.ndim != 4:
            raise InputError(
                f"rpsnet's residual network is for images, and these are vectors of {x.shape[1:]}; "
                "use net 'mlp'"
            )
        key_last, *keys = jax.random.split(key, 2 * len(_LAYERS) + 1)
        x, stacks, shared = jnp.zeros((1, *x.shape[1:]), keep), [], {}
        for number, module in enumerate(modules):
            stacks.append(_stacked(keys[2 * number], num_modules, module, x))
            if (name := f"skip{number}") in skips:
                shared[name] = init_linen(keys[2 * number + 1], skips[name], x)
            x = jnp.zeros((*x.shape[:3], widths[number]), keep)
        shared["head"] = init_linen(key_last, last, x[:, 0, 0])

        def gathered(kind: str) -> PyTree:
            return {
                "modules": tuple(getattr(stack, kind) for stack in stacks),
                "shared": {name: getattr(one, kind) for name, one in shared.items()},
            }

        return Variables(gathered("params"), gathered("stats"))

    def apply(
        vars: Variables, roles: Array, x: Array, *, train: bool, valid: Array | None = None
    ) -> tuple[Array, PyTree]:
        params, stats = vars.params, vars.stats
        after, shared_after, kind = [], dict(stats["shared"]), {"train": train, "valid": valid}
        for number, (layer, module) in enumerate(zip(_LAYERS, modules, strict=True)):
            stack = Variables(params["modules"][number], stats["modules"][number])
            y, moved = _sum_of(module, stack, roles[number], x, **kind)
            after.append(moved)
            if layer.skip == "identity":
                y = y + x
            elif layer.skip == "convolution":
                name = f"skip{number}"
                own = Variables(params["shared"][name], stats["shared"][name])
                skip, shared_after[name] = apply_linen(skips[name], own, x, **kind)
                y = y + skip
            x = nn.relu(y)
            x = max_pool_2x2(x) if layer.pool else x
        head = Variables(params["shared"]["head"], {})
        logits, _ = apply_linen(last, head, x.astype(keep).mean((1, 2)), train=False)
        return logits, {"modules": tuple(after), "shared": shared_after}

    on_cpu = jax.default_backend() == "cpu"  # the modules stand in a loop's branches
    return PathNet(init, as_products(apply) if on_cpu else apply, len(_LAYERS))


class _Plain(nn.Module):
    """A layer that is the same in training."""

    layer: nn.Module

    def __call__(self, x: Array, *, train: bool, valid: Array | None = None) -> Array:
        del train, valid
        return self.layer(x)


class _ConvNorm(nn.Module):
    """float[b, h, w, features]: convolution, BatchNorm, ReLU."""

    features: int
    dtype: str

    @nn.compact
    def __call__(self, x: Array, *, train: bool, valid: Array | None = None) -> Array:
        y = Conv(self.features, use_bias=True, dtype=self.dtype, name="conv1")(x)
        return nn.relu(BatchNorm(dtype=self.dtype, name="bn1")(y, train=train, valid=valid))


class _Block(nn.Module):
    """float[b, h, w, features]: the same, and another convolution with BatchNorm."""

    features: int
    dtype: str

    @nn.compact
    def __call__(self, x: Array, *, train: bool, valid: Array | None = None) -> Array:
        y = _ConvNorm(self.features, self.dtype, name="first")(x, train=train, valid=valid)
        y = Conv(self.features, use_bias=True, dtype=self.dtype, name="conv2")(y)
        return BatchNorm(dtype=self.dtype, name="bn2")(y, train=train, valid=valid)


class _Layer(NamedTuple):
    """Width (times that of the first), kind of module, what is added, and whether it is pooled."""

    factor: int
    module: type[nn.Module]
    skip: str
    pool: bool = False


_LAYERS = (
    _Layer(1, _ConvNorm, "none"),
    _Layer(1, _Block, "identity"),
    _Layer(1, _Block, "identity"),
    _Layer(2, _Block, "convolution"),
    _Layer(2, _Block, "identity", pool=True),
    _Layer(4, _Block, "convolution"),
    _Layer(4, _Block, "none", pool=True),
    _Layer(8, _Block, "convolution"),
    _Layer(8, _Block, "identity"),
)
"""Layer 7 has no skip in the official code either."""


def _stacked(key: Array, num_modules: int, module: nn.Module, x: Array) -> Variables:
    """M modules, drawn independently, leaves [M, ...]."""
    keys = jax.random.split(key, num_modules)
    return jax.vmap(lambda key: init_linen(key, module, x))(keys)


def _added(leaf: Array, role: Array) -> Array:
    """The sum over [M, ...] of what is there; what rests gets no gradient."""
    there, learns = (
        jnp.reshape(mask, (-1, *(1,) * (leaf.ndim - 1))) for mask in (role > OFF, role == LEARNS)
    )
    return jnp.where(there, jnp.where(learns, leaf, jax.lax.stop_gradient(leaf)), 0).sum(0)


def _sum_of(
    module: nn.Module, stack: Variables, roles: Array, x: Array, *, train: bool, valid: Array | None
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
