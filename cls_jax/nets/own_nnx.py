"""An ordinary Flax nnx module as a network of the library."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from flax.traverse_util import flatten_dict, unflatten_dict

from cls_jax.core.errors import InputError
from cls_jax.core.sharding import spread
from cls_jax.core.sync import select
from cls_jax.core.types import Array, PyTree, Variables
from cls_jax.nets.base import Net
from cls_jax.nets.linen import as_float32, rows_that_count
from cls_jax.nets.own_linen import accepted, told, unmasked

Make = Callable[[nnx.Rngs], nnx.Module]


def net_from_nnx(module: nnx.Module | Make, *, head: str | None = None) -> Net:
    """The network that an nnx module is: its Params become ``params``, its BatchStats ``stats``.

    It is split and merged again in every call, so nothing of it changes in place. In training it is
    set so by ``train()``, else by ``eval()``. Padded rows stay out of batch statistics: every
    ``nnx.BatchNorm`` in it is given a ``mask`` of the valid rows, and a batch that has none leaves
    the statistics as they are.

    Args:
      module: a function of ``nnx.Rngs``, e.g. ``lambda rngs: MyNet(10, rngs=rngs)``, by which each
        seed draws weights of its own; or a module, whose weights every seed then starts from (one
        that was trained before). x float32[b, ...] to logits [b, num_outputs]; ``__call__`` may
        also take the words that ``net_from_linen`` names. It must draw nothing at random.
      head: name of its last layer, an nnx.Linear with a bias behind which nothing comes, for
        methods that compare features or give each task a head.

    Raises:
      InputError: it is none, holds what a network may not keep (Dropout's random stream, a cache),
        has no such head, or its ``__call__`` wants more.

    Example:
      >>> net = net_from_nnx(lambda rngs: nnx.Linear(8, 4, rngs=rngs))
      >>> vars = net.init(jax.random.key(0), jnp.zeros((2, 8)))
      >>> {name: leaf.shape for name, leaf in vars.params.items()}
      {'bias': (4,), 'kernel': (8, 4)}
    """
    make = partial(_copy, module) if isinstance(module, nnx.Module) else module
    whole = _taken_apart(make, None)
    apply = partial(_apply, whole)
    if head is None:
        return Net(partial(_init, make, whole), apply, name=whole.name)
    features = partial(_apply, _taken_apart(make, head))
    return Net(partial(_init, make, whole), apply, features=features, head=head, name=whole.name)


class _Apart(NamedTuple):
    """A module without its numbers: what is needed to put it together again.

    ``params`` and ``stats`` are its States, of shapes and dtypes.
    """

    graph: Any
    params: Any
    stats: Any
    name: str
    takes: tuple[str, ...]


class _Masked(nnx.BatchNorm):
    """A BatchNorm over the rows that count: what one becomes in a module that was just merged."""

    padding: tuple[str, Array | None]
    """Where it is, and bool[b]: the valid rows."""

    def __call__(
        self, x: Array, use_running_average: bool | None = None, *, mask: Array | None = None
    ) -> Array:
        """Normalises ``x``."""
        where, valid = self.padding
        if mask is None and valid is not None:
            mask = rows_that_count(where, x, valid)
        return super().__call__(x, use_running_average, mask=mask)


class _Same(nnx.Module):
    """In the place of a head: what comes out is what goes in."""

    def __call__(self, x: Array) -> Array:
        """``x``."""
        return x


def _copy(module: nnx.Module, rngs: nnx.Rngs) -> nnx.Module:
    """The module as it is, on buffers of its own; nothing is drawn."""
    del rngs
    graph, state = nnx.split(module)
    return nnx.merge(graph, jax.tree.map(jnp.copy, state))


def _taken_apart(make: Make, without: str | None) -> _Apart:
    """What ``make`` gives, as shapes; its layer ``without`` lets through what it is shown."""

    def shaped() -> nnx.Module:
        module = make(nnx.Rngs(0))
        if not isinstance(module, nnx.Module):
            raise InputError(
                f"module gives {type(module).__name__}; give an nnx module, or a function of "
                "nnx.Rngs that makes one"
            )
        if without is not None:
            if not isinstance(getattr(module, without, None), nnx.Linear):
                raise InputError(
                    f"net {type(module).__name__} has no nnx.Linear named {without!r}; give as "
                    "head the name of its last layer"
                )
            setattr(module, without, _Same())
        return module

    module = nnx.eval_shape(shaped)
    name = type(module).__name__
    graph, params, stats, rest = nnx.split(module, nnx.Param, nnx.BatchStat, ...)
    for path, variable in nnx.to_flat_state(rest):
        kind, place = type(variable).__name__, "/".join(map(str, path))
        why = "draws at random, and a network is given no key; leave its Dropout out"
        if not isinstance(variable, nnx.RngState):
            why = f"keeps {place}, of kind {kind}; it may keep Param and BatchStat alone"
        raise InputError(f"net {name} {why}")
    takes = accepted(name, type(module))
    norms = {path for path, part in nnx.iter_modules(module) if type(part) is nnx.BatchNorm}
    for path in () if "valid" in takes else _paths(stats):
        if path[:-1] not in norms:
            raise unmasked(name, "/".join(map(str, path)), "nnx.BatchNorm")
    return _Apart(graph, params, stats, name, takes)


def _paths(state: Any) -> list[tuple[Any, ...]]:
    """Of a State's variables, in the order in which it is flattened."""
    return [tuple(path) for path, _ in nnx.to_flat_state(state)]


def _tree(state: Any) -> PyTree:
    """A State as nested dicts of arrays, whose keys are texts."""
    named = [tuple(map(str, path)) for path in _paths(state)]
    return unflatten_dict(dict(zip(named, jax.tree.leaves(state), strict=True)))


def _state(like: Any, tree: PyTree) -> Any:
    """The State of which ``tree`` holds the arrays (it may hold more)."""
    flat = flatten_dict(tree)
    leaves = [flat[tuple(map(str, path))] for path in _paths(like)]
    return jax.tree.unflatten(jax.tree.structure(like), leaves)


def _init(make: Make, apart: _Apart, key: Array, x: Array) -> Variables:
    del x  # an nnx module knows its sizes
    _, params, stats = nnx.split(make(nnx.Rngs(key)), nnx.Param, nnx.BatchStat)
    return Variables(params=_tree(params), stats=_tree(stats))


def _apply(
    apart: _Apart, vars: Variables, x: Array, *, train: bool, valid: Array | None = None
) -> tuple[Array, PyTree]:
    states = _state(apart.params, vars.params), _state(apart.stats, vars.stats)
    module = nnx.merge(apart.graph, *states)
    (module.train if train else module.eval)()
    for path, part in nnx.iter_modules(module):
        if train and type(part) is nnx.BatchNorm:
            part.__class__ = _Masked
            where = f"net {apart.name}: {'/'.join(map(str, path))}"
            object.__setattr__(part, "padding", (where, valid))
    outputs = as_float32(apart.name, module(spread(x), **told(apart.takes, train, valid)))
    if not train:
        return outputs, vars.stats
    stats = _tree(nnx.state(module, nnx.BatchStat))
    if valid is not None:
        stats = select(valid.any(), stats, vars.stats)
    return outputs, stats
