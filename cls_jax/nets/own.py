"""An ordinary Flax linen module as a network of the library."""

import inspect
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax.numpy as jnp

from cls_jax.core.errors import InputError
from cls_jax.core.types import Array, PyTree, Variables
from cls_jax.nets.base import Net
from cls_jax.nets.linen import outputs_of


def net_from_linen(module: nn.Module) -> Net:
    """The network that ``module(x)`` is.

    ``__call__`` may also take ``train`` (bool) and ``valid`` (bool[b], or None: padded rows that
    a BatchNorm's ``mask`` should leave out); its collection "batch_stats" becomes ``stats``.

    Args:
      module: x float32[b, ...] to logits [b, num_outputs]; without random streams of its own.
    """
    takes = inspect.signature(type(module).__call__).parameters

    def options(**given: Any) -> dict[str, Any]:
        return {name: value for name, value in given.items() if name in takes}

    def init(key: Array, x: Array) -> Variables:
        made = module.init(key, x, **options(train=False))
        return Variables(params=made.get("params", {}), stats=made.get("batch_stats", {}))

    def apply(
        vars: Variables, x: Array, *, train: bool, valid: Array | None = None
    ) -> tuple[Array, PyTree]:
        variables = {"params": vars.params, "batch_stats": vars.stats}
        given = options(train=train, valid=valid)
        if not train:
            return outputs_of(module, variables, x, **given).astype(jnp.float32), vars.stats
        logits, after = module.apply(variables, x, mutable=["batch_stats"], **given)
        return logits.astype(jnp.float32), after.get("batch_stats", vars.stats)

    return Net(init, apply)


class Always(NamedTuple):
    """A network whatever the number of outputs; equal for equal networks."""

    net: nn.Module | Net

    def __call__(self, num_outputs: int) -> nn.Module | Net:
        """The network."""
        return self.net


def maker_of(net: nn.Module | Net | Callable[[int], Any]) -> Callable[[int], Any]:
    """A function from the number of outputs to the network: of a network itself, that one."""
    return Always(net) if isinstance(net, nn.Module | Net) else net


def as_net(made: Any, name: str) -> Net:
    """What a user's factory gave, as a Net.

    Raises:
      InputError: it is neither a linen module nor a Net.
    """
    if isinstance(made, Net):
        return made
    if isinstance(made, nn.Module):
        return net_from_linen(made)
    raise InputError(f"net {name!r} gave {made!r}; give a flax.linen module, or a Net")
