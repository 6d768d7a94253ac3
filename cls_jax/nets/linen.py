"""From linen modules to pure functions over Variables, and the checks every network shares."""

from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from cls_jax.core.errors import InputError
from cls_jax.core.sharding import spread
from cls_jax.core.types import Array, PyTree, Variables
from cls_jax.nets.base import InitVarsFn, Net

COMPUTE_DTYPES = ("float32", "bfloat16", "float64")


def check_net(num_classes: int, dtype: str, width: int | None = None) -> None:
    """Raises InputError unless a network of this size and compute dtype can be built.

    Args:
      num_classes: size of the output.
      dtype: compute dtype.
      width: channels of the first stage; None: the network has no such number.
    """
    if num_classes < 1:
        raise InputError(f"num_classes = {num_classes}: give the number of classes, at least 1.")
    if width is not None and width < 1:
        raise InputError(f"width = {width}: give the channels of the first stage, at least 1.")
    if dtype not in COMPUTE_DTYPES:
        raise InputError(f"dtype = {dtype!r}: give one of {', '.join(COMPUTE_DTYPES)}.")


@partial(jax.jit, static_argnums=1)
def init_linen(key: Array, module: nn.Module, *inputs: Array) -> Variables:
    """Fresh variables of a linen module, without computing its forward pass.

    Args:
      key: typed PRNG key.
      module: its ``__call__`` takes ``inputs`` and ``train``.
      *inputs: arrays of which only the shapes matter.

    Returns:
      Variables; ``stats`` is the collection "batch_stats".
    """
    made = module.init(key, *inputs, train=False)
    return Variables(params=made.get("params", {}), stats=made.get("batch_stats", {}))


def net_of_module(module: nn.Module, head: str) -> Net:
    """The network that a classifier of ours is.

    Args:
      module: its ``__call__`` takes x, ``train``, ``valid`` and ``features``.
      head: name of its last layer.
    """
    apply = partial(apply_linen, module)
    return Net(init_of(module), apply, features=partial(apply, features=True), head=head)


def init_of(module: nn.Module) -> InitVarsFn:
    """``init(key, x)`` of a module; see ``init_linen``."""

    def init(key: Array, x: Array) -> Variables:
        return init_linen(key, module, x)

    return init


def as_float32(name: str, outputs: Any) -> Array:
    """What a module of one's own gave, as float32[...]; raises InputError if it is no array."""
    if not isinstance(outputs, jax.Array):
        raise InputError(f"net {name} gives {type(outputs).__name__}; it must give one array")
    return outputs.astype(jnp.promote_types(outputs.dtype, jnp.float32))


def rows_that_count(where: str, x: Array, valid: Array) -> Array:
    """bool[b, 1, ...]: the mask under which a BatchNorm of Flax leaves padded rows out.

    Where no row is valid it holds for all of them, since Flax's mean of none is NaN.

    Args:
      where: name of the layer.
      x: float[b, ..., c], what it is shown.
      valid: bool[b].

    Raises:
      InputError: ``x`` has another number of rows, so nobody knows which of them are padding.
    """
    if x.shape[0] != valid.shape[0]:
        raise InputError(
            f"{where} is shown {x.shape[0]} rows for a batch of {valid.shape[0]}, so padded ones "
            "cannot be told from others; keep the batch's axis, or use a norm without statistics"
        )
    rows = valid | ~valid.any()
    return rows.reshape(-1, *(1,) * (x.ndim - 1))


def outputs_of(module: nn.Module, variables: PyTree, *inputs: PyTree, **options: Any) -> PyTree:
    """What a linen module gives where no collection is mutable; else Flax gives a pair."""
    return module.apply(variables, *inputs, **options)


def apply_linen(
    module: nn.Module,
    vars: Variables,
    *inputs: PyTree,
    train: bool,
    valid: Array | None = None,
    method: str | None = None,
    **options: Any,
) -> tuple[PyTree, PyTree]:
    """What a linen module (or one of its methods) gives, and the whole stats tree after it."""
    variables = {"params": vars.params, "batch_stats": vars.stats}
    options = {**options, "train": train, "valid": valid, "method": method}
    call = partial(module.apply, variables, jax.tree.map(spread, inputs[0]), *inputs[1:], **options)
    if not train:
        return call(), vars.stats
    outputs, after = call(mutable=["batch_stats"])
    return outputs, after.get("batch_stats", {})
