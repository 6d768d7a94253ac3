"""RPS-Net's networks: layers of M modules of equal shape, of which some are there; one last layer.

A layer gives ``relu([x] + sum of its modules that are there)``. Roles, int32[L, M], say what each
module does: it is OFF, it RESTS (it answers, learns nothing, and its statistics stay), or it
LEARNS, as at most one of a layer does. They are data, so another path is the same program. In a
perceptron the weights of a layer's modules are added first: it costs as much as one module. In the
residual network a module that is off is not computed; on a CPU, whose convolutions are many times
slower in branches, those at rest are one module with the channels of as many as paths can be there.

Variables have "modules", for each layer a tree with leaves [M, ...], and "shared": the last layer,
and in the residual network what takes the skip's place where the width changes.

Source: Rajasegaran et al. 2019 (NeurIPS; arXiv 1906.01120), section 3; brjathu/RPSnet, rps_net.py.
Departs: a module at rest is not normalised by the batch, and its running statistics do not move.
"""

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple, Protocol

import flax.linen as nn
import jax
import jax.numpy as jnp

from cls_jax.core.errors import InputError
from cls_jax.core.sharding import spread
from cls_jax.core.types import Array, PyTree, Variables
from cls_jax.nets.base import InitVarsFn
from cls_jax.nets.layers import Dense, keeping_dtype
from cls_jax.nets.linen import apply_linen, check_net, init_linen
from cls_jax.nets.path_modules import Block, ConvNorm, PathModule, Plain, here, in_turn, together
from cls_jax.nets.pooling import max_pool_2x2


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
            modules.append(_stacked(key_layer, num_modules, Plain(layer), x).params)
            x = jnp.zeros((x.shape[0], size), keep)
        shared = {"head": init_linen(key_last, Plain(last), x).params}
        none = {"modules": tuple({} for _ in hidden), "shared": {}}
        return Variables({"modules": tuple(modules), "shared": shared}, none)

    def apply(
        vars: Variables, roles: Array, x: Array, *, train: bool, valid: Array | None = None
    ) -> tuple[Array, PyTree]:
        del train, valid
        h = spread(x.reshape(x.shape[0], -1))
        for layer, modules, role in zip(layers, vars.params["modules"], roles, strict=True):
            added = jax.tree.map(lambda leaf: leaf.sum(0), here(modules, role))
            h = nn.relu(apply_linen(Plain(layer), Variables(added, {}), h, train=False)[0])
        head = Variables(vars.params["shared"]["head"], {})
        return apply_linen(Plain(last), head, h.astype(keep), train=False)[0], vars.stats

    return PathNet(init, apply, len(hidden))


def residual_paths(
    num_classes: int,
    num_modules: int,
    width: int = 64,
    dtype: str = "float32",
    num_paths: int | None = None,
) -> PathNet:
    """The network for CIFAR, nine layers; images of another size than 32x32 will do, too.

    With 100 classes and 8 modules it has 89,593,572 parameters, 12,601,188 of them on one path.

    Args:
      num_classes: of the last layer.
      num_modules: M.
      width: channels of the first three layers; the others have 2, 4 and 8 times as many.
      dtype: compute dtype of the layers; parameters, statistics and logits are float32.
      num_paths: D, how many there will be: D modules of a layer are there at most, D - 1 while
        another learns. If not given any may.

    Raises:
      InputError: a size is below 1, or the dtype is unknown.
    """
    check_net(num_classes, dtype, width)
    paths = num_modules + 1 if num_paths is None else num_paths
    add = partial(together, num_paths=paths) if jax.default_backend() == "cpu" else in_turn
    keep, widths = keeping_dtype(dtype), [layer.factor * width for layer in _LAYERS]
    modules = [layer.module(size, dtype) for layer, size in zip(_LAYERS, widths, strict=True)]
    skips = {
        f"skip{number}": ConvNorm(widths[number], dtype)
        for number, layer in enumerate(_LAYERS)
        if layer.skip == "convolution"
    }
    last = Plain(Dense(num_classes, dtype=keep.name))

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
            y, moved = add(module, stack, roles[number], x, **kind)
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

    return PathNet(init, apply, len(_LAYERS))


class _Layer(NamedTuple):
    """Width (times that of the first), kind of module, what is added, and whether it is pooled."""

    factor: int
    module: type[PathModule]
    skip: str
    pool: bool = False


_LAYERS = (
    _Layer(1, ConvNorm, "none"),
    _Layer(1, Block, "identity"),
    _Layer(1, Block, "identity"),
    _Layer(2, Block, "convolution"),
    _Layer(2, Block, "identity", pool=True),
    _Layer(4, Block, "convolution"),
    _Layer(4, Block, "none", pool=True),
    _Layer(8, Block, "convolution"),
    _Layer(8, Block, "identity"),
)
"""Layer 7 has no skip in the official code either."""


def _stacked(key: Array, num_modules: int, module: nn.Module, x: Array) -> Variables:
    """M modules, drawn independently, leaves [M, ...]."""
    keys = jax.random.split(key, num_modules)
    return jax.vmap(lambda key: init_linen(key, module, x))(keys)
