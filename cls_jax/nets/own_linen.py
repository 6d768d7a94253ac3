"""An ordinary Flax linen module as a network of the library."""

import inspect
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import flax.linen as nn
from flax.traverse_util import flatten_dict

from cls_jax.core.errors import InputError
from cls_jax.core.sharding import spread
from cls_jax.core.sync import select
from cls_jax.core.types import Array, PyTree, Variables
from cls_jax.nets.base import Net
from cls_jax.nets.linen import as_float32, rows_that_count

_COLLECTIONS = {"params", "batch_stats", "intermediates"}
"""Of a module: what is learned, what is counted, and what ``sow`` shows (that is left out)."""


class _Own(NamedTuple):
    """A module, its name, its last layer's, and the words that its ``__call__`` takes."""

    module: nn.Module
    name: str
    head: str | None
    takes: tuple[str, ...]


def net_from_linen(module: nn.Module, *, head: str | None = None) -> Net:
    """The network that ``module(x)`` is; its collection "batch_stats" becomes ``stats``.

    Padded rows stay out of batch statistics: every ``nn.BatchNorm`` in it is given a ``mask`` of
    the valid rows, and a batch that has none leaves the statistics as they are. A layer of your own
    with statistics gets those rows where ``__call__`` takes ``valid`` (bool[b]; None: every row),
    and is refused where it does not. A module without statistics needs no mask.

    Args:
      module: x float32[b, ...] to logits [b, num_outputs]. ``__call__`` may also take ``train``,
        ``deterministic``, ``use_running_average`` (each a bool) and ``valid``. It must draw nothing
        at random: a network is given no key, so Dropout is refused.
      head: name of its last layer, an nn.Dense with a bias behind which nothing comes, e.g. "head"
        or "Dense_1", for methods that compare features or give each task a head.

    Raises:
      InputError: it is no linen module, or its ``__call__`` wants more than that.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> import flax.linen as nn
      >>> layers = [nn.Dense(16), nn.BatchNorm(), nn.relu, nn.Dense(4)]
      >>> net = net_from_linen(nn.Sequential(layers), head="layers_3")
      >>> vars = net.init(jax.random.key(0), jnp.zeros((2, 8)))
      >>> sorted(vars.params), sorted(vars.stats["layers_1"])
      (['layers_0', 'layers_1', 'layers_3'], ['mean', 'var'])
    """
    if not isinstance(module, nn.Module):
        raise InputError(f"module is {module!r:.80}; give a flax.linen module that is made")
    name = type(module).__name__
    own = _Own(module, name, head, accepted(name, type(module)))
    apply = partial(_apply, own)
    features = None if head is None else partial(apply, features=True)
    return Net(partial(_init, own), apply, features=features, head=head, name=name)


def accepted(name: str, module: type) -> tuple[str, ...]:
    """Which of the four words a module's ``__call__`` takes beside ``x``.

    Raises:
      InputError: it has no ``__call__``, or that wants other arguments.
    """
    words = ("train", "deterministic", "use_running_average", "valid")
    parameters = [*inspect.signature(module.__call__).parameters.values()][2:]  # behind self, x
    for one in parameters:
        several = one.kind in (one.VAR_POSITIONAL, one.VAR_KEYWORD)
        if one.default is one.empty and not several and one.name not in words:
            raise InputError(
                f"net {name}: its __call__ wants {one.name!r} beside x, and a network is told "
                f"{', '.join(words)} at most; give it a default"
            )
    return tuple(one.name for one in parameters if one.name in words)


def unmasked(name: str, place: str, norm: str) -> InputError:
    """The sentence for statistics that padded rows would enter."""
    return InputError(
        f"net {name} keeps the statistics {place} without a mask, so padded rows would enter them; "
        f"use {norm}, or take valid (bool[b]) in its __call__ and leave the other rows out"
    )


def told(takes: tuple[str, ...], train: bool, valid: Array | None) -> Mapping[str, Any]:
    """The words that a module takes, and what each says."""
    answering = {"deterministic": not train, "use_running_average": not train}
    words = {"train": train, "valid": valid, **answering}
    return {word: words[word] for word in takes}


def _forward(
    own: _Own,
    run: Callable[..., Any],
    x: Array,
    *,
    train: bool,
    valid: Array | None = None,
    features: bool = False,
    norms: set[tuple[str, ...]] | None = None,
) -> Any:
    """What ``run(x, ...)`` gives, which runs the module, while its layers are told ``valid``.

    ``norms`` is filled with the paths of its BatchNorms.
    """

    def intercept(
        step: Callable[..., Any], args: tuple, kwargs: dict[str, Any], context: Any
    ) -> Any:
        layer = context.module
        if context.method_name != "__call__":
            return step(*args, **kwargs)
        if features and layer.path == (own.head,):
            return args[0]
        if isinstance(layer, nn.BatchNorm):
            if norms is not None:
                norms.add(layer.path)
            if layer.use_running_average is None and len(args) == 1:  # nobody says it
                kwargs.setdefault("use_running_average", not train)
            if train and valid is not None and kwargs.get("mask") is None:
                where = f"net {own.name}: {'/'.join(layer.path)}"
                kwargs["mask"] = rows_that_count(where, args[0], valid)
        return step(*args, **kwargs)

    with nn.intercept_methods(intercept):
        return run(x, **told(own.takes, train, valid))


def _init(own: _Own, key: Array, x: Array) -> Variables:
    norms: set[tuple[str, ...]] = set()
    made = _forward(own, partial(own.module.init, key), x, train=False, norms=norms)
    if unknown := sorted({*made} - _COLLECTIONS):
        raise InputError(
            f"net {own.name} keeps the collection {unknown[0]!r}; a network may keep params and "
            "batch_stats alone"
        )
    for path in () if "valid" in own.takes else flatten_dict(made.get("batch_stats", {})):
        if not any(path[: len(norm)] == norm for norm in norms):
            raise unmasked(own.name, "/".join(path), "nn.BatchNorm")
    return Variables(params=made.get("params", {}), stats=made.get("batch_stats", {}))


def _apply(
    own: _Own,
    vars: Variables,
    x: Array,
    *,
    train: bool,
    valid: Array | None = None,
    features: bool = False,
) -> tuple[Array, PyTree]:
    run = partial(own.module.apply, {"params": vars.params, "batch_stats": vars.stats})
    how = {"train": train, "valid": valid, "features": features}
    if not train:
        return as_float32(own.name, _forward(own, run, spread(x), **how)), vars.stats
    outputs, after = _forward(own, partial(run, mutable=["batch_stats"]), spread(x), **how)
    stats = after.get("batch_stats", vars.stats)
    if valid is not None:
        stats = select(valid.any(), stats, vars.stats)
    return as_float32(own.name, outputs), stats
