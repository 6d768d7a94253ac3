"""A network of the user's own: which forms it may have, and whether it fits the problem."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import flax.errors
import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import nnx

from cls_jax.core.errors import InputError
from cls_jax.core.types import Array, PyTree, Variables
from cls_jax.nets.base import Net, no_head
from cls_jax.nets.extractor import Extractor, Features
from cls_jax.nets.own_linen import net_from_linen
from cls_jax.nets.own_nnx import net_from_nnx


@dataclass(frozen=True, eq=False)
class Always:
    """A network that was given as it is, for so many outputs; equal for equal networks."""

    net: nn.Module | nnx.Module | Net
    num_outputs: int

    def __call__(self, num_outputs: int) -> nn.Module | nnx.Module | Net:
        """The network.

        Raises:
          InputError: another number of outputs is asked for.
        """
        if num_outputs != self.num_outputs:
            raise InputError(
                f"net {own_name(self.net)} is one of {self.num_outputs} outputs, and this method "
                f"asks for {num_outputs}; give a function from the number of outputs to the network"
            )
        return self.net

    def __hash__(self) -> int:
        """Of what the network holds; of itself where that has no hash, as lists of layers."""
        try:
            return hash((self.net, self.num_outputs))
        except TypeError:
            return hash((id(self.net), self.num_outputs))

    def __eq__(self, other: object) -> bool:
        """Whether it is the same, or holds the same."""
        if not isinstance(other, Always) or self.num_outputs != other.num_outputs:
            return False
        return self.net is other.net or bool(self.net == other.net)


def own_name(net: Any) -> str:
    """What a network of one's own is called."""
    if isinstance(net, Net):
        return net.name or "Net"
    return getattr(net, "__name__", type(net).__name__)


def maker_of(net: Any, num_outputs: int) -> Callable[[int], Any]:
    """A function from the number of outputs to the network: of a network itself, that one.

    Raises:
      InputError: it is neither.
    """
    if isinstance(net, nn.Module | nnx.Module | Net):
        return Always(net, num_outputs)
    if not callable(net):
        raise InputError(
            f"net is {net!r:.80}; give a name, a module of flax.linen or nnx that is made, a Net, "
            "or a function from the number of outputs to one of them"
        )
    return net


def as_net(made: Any, name: str) -> Net:
    """What a user's factory gave, as a Net of this name.

    Raises:
      InputError: it is neither a module of Flax nor a Net.
    """
    if isinstance(made, nn.Module):
        made = net_from_linen(made)
    elif isinstance(made, nnx.Module):
        made = net_from_nnx(made)
    if not isinstance(made, Net):
        raise InputError(
            f"net {name!r} gave {made!r:.80}; give a module of flax.linen or nnx, or a Net"
        )
    return made._replace(name=name)


def extractor_of(net: Net) -> Extractor:
    """The same network up to its features; its last layer is not there.

    Raises:
      InputError: it names no last layer.
    """
    features, head = net.features, net.head
    if features is None or head is None:
        raise no_head("spb and ucir put a cosine classifier in place of the last layer", net)

    def init(key: Array, x: Array) -> Variables:
        vars = net.init(key, x)
        return vars.replace(params={n: leaf for n, leaf in vars.params.items() if n != head})

    def apply(
        vars: Variables, x: Array, /, *, train: bool, valid: Array | None = None
    ) -> tuple[Features, PyTree]:
        seen, stats = features(vars, x, train=train, valid=valid)
        return Features(seen, None), stats

    return Extractor(init, apply)


def check_own(net: Net, x: jax.ShapeDtypeStruct, num_outputs: int) -> None:
    """Whether a network of one's own does what a Net promises; nothing is computed.

    Args:
      net: has a name.
      x: float32[b, ...], what it will be shown.
      num_outputs: that it must have.

    Raises:
      InputError: it fails on such inputs, draws at random, or gives other shapes.
    """
    valid = jax.ShapeDtypeStruct(x.shape[:1], jnp.bool_)
    try:
        vars = jax.eval_shape(net.init, jax.random.key(0), x)
        seen = {}
        for train in (True, False):
            seen[train] = jax.eval_shape(
                lambda vars, x, valid, train=train: net.apply(vars, x, train=train, valid=valid),
                *(vars, x, valid),
            )
    except InputError:
        raise
    except flax.errors.InvalidRngError as error:
        raise InputError(
            f"net {net.name} draws at random, and a network is given no key; leave its Dropout out"
        ) from error
    except flax.errors.ModifyScopeVariableError as error:
        raise InputError(
            f"net {net.name} changes its statistics when it answers, too; let its __call__ take "
            "train, and give use_running_average=not train to its norms"
        ) from error
    except Exception as error:  # the user's own code
        why = " ".join(str(error).split())[:200] or type(error).__name__
        raise InputError(f"net {net.name} fails on x {x.dtype}{[*x.shape]}: {why}") from error
    wanted = (x.shape[0], num_outputs)
    for outputs, stats in seen.values():
        if getattr(outputs, "shape", None) != wanted:
            raise InputError(
                f"net {net.name} gives {getattr(outputs, 'shape', outputs)} for x {[*x.shape]}; "
                f"it must give {[*wanted]}, a logit a class"
            )
        if jax.tree.map(_kind, stats) != jax.tree.map(_kind, vars.stats):
            raise InputError(
                f"net {net.name} gives statistics of another form than its init; give the same"
            )
    if net.head is not None:
        _check_head(net, vars.params, num_outputs)


def _kind(leaf: Any) -> tuple[Any, ...]:
    return leaf.shape, leaf.dtype


def _check_head(net: Net, params: PyTree, num_outputs: int) -> None:
    head = params.get(net.head, {})
    shapes = {name: getattr(leaf, "shape", ()) for name, leaf in head.items()}
    kernel = shapes.get("kernel", ())
    if {*shapes} != {"kernel", "bias"} or kernel[1:] != (num_outputs,):
        raise InputError(
            f"net {net.name} has the head {net.head!r} with {shapes or 'no parameters'} among "
            f"{', '.join(params)}; name its last layer, one with a kernel [d, {num_outputs}] and a "
            "bias"
        )
