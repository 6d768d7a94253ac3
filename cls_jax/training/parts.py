"""A function as a sequence of compiled programs, cut at the inner steps that it repeats.

Where a compiled loop is slow, ``methods.steps.repeat`` writes inner steps out one after another,
and ``compiled_once`` marks what else is called more than once, as the views of images. In one
program each call is compiled anew; here each kind is a program of its own, compiled once and called
as often as it is repeated, and so is what stands between. The numbers are those of the one program
to rounding, since XLA fuses and simplifies within a program.
"""

import os
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from typing import Any, NamedTuple

import jax
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn, Literal, Var, jaxpr_as_fun, subjaxprs

from cls_jax.core.types import Array, PyTree
from cls_jax.methods.steps import repeated

Flat = Callable[..., Sequence[Array]]
"""Arrays -> arrays."""

Options = dict[str, Any] | None
"""Of XLA, by name."""

QUICKLY = {"xla_backend_optimization_level": 1}
"""Options of XLA that compile a ResNet-18's first weights in a quarter of the time, and the views
of images in half, to the same bits and as fast; a step with convolutions would take 7 % longer."""

AT_A_TIME = os.cpu_count() or 2
"""Programs that are compiled side by side: for much of each, XLA uses one core."""


class Stage(NamedTuple):
    """One call of a sequence.

    Attributes:
      call: the program, or a sequence of its own.
      takes, gives: the arrays by the names that the whole's jaxpr has for them.
      last: those of them that it takes for the last time.
    """

    call: Flat
    takes: Sequence[Var | Literal]
    gives: Sequence[Var]
    last: Sequence[Var]


def in_parts(
    fn: Callable[..., PyTree], donate: tuple[int, ...] = (), options: Options = None
) -> Callable[..., PyTree]:
    """``jax.jit`` of ``fn``, in several programs where it repeats inner steps.

    Args:
      fn: pure, of pytrees.
      donate: positions whose buffers are given up.
      options: of the compiler.
    """
    whole = jax.jit(fn, donate_argnums=donate, compiler_options=options)
    known: dict[tuple, Callable[..., PyTree]] = {}

    def call(*arguments: PyTree) -> PyTree:
        leaves, tree = jax.tree.flatten(arguments)
        kind = tree, *((leaf.shape, leaf.dtype) for leaf in leaves)
        if kind not in known:
            traced = whole.trace(*arguments)
            cuts = _cuts(traced.jaxpr)
            known[kind] = _sequence(traced, arguments, donate, options) if cuts else whole
        return known[kind](*arguments)

    return call


def _sequence(
    traced: jax.stages.Traced,
    arguments: Sequence[PyTree],
    donate: tuple[int, ...],
    options: Options,
) -> Callable[..., PyTree]:
    """The traced function as a sequence, every program of which is compiled."""
    given = [at in donate for at, one in enumerate(arguments) for _ in jax.tree.leaves(one)]
    tree = jax.tree.structure(traced.out_info)
    with ThreadPoolExecutor(AT_A_TIME) as side_by_side:
        parts = _Parts(options, side_by_side)
        flat = parts.cut(traced.jaxpr, given)
        for compiled in parts.compiled:
            compiled.result()
    return lambda *arguments: jax.tree.unflatten(tree, flat(*jax.tree.leaves(arguments)))


class _Parts:
    """The programs of one function; a class because equal inner steps share theirs."""

    def __init__(self, options: Options, side_by_side: Executor) -> None:
        self.options, self.side_by_side = options, side_by_side
        self.compiled: list[Future] = []
        """Begun as soon as one is lowered: XLA works while JAX lowers the next."""
        self.known: dict[int, Flat] = {}
        """By the identity of a jaxpr: JAX traces an inner step once, however often it is called."""

    def program(self, jaxpr: ClosedJaxpr, donate: Sequence[int] = ()) -> Flat:
        """One program of all of ``jaxpr``."""
        options = self.options
        if not has_convolutions(jaxpr.jaxpr):
            options = {**QUICKLY, **(options or {})}
        compiled = jax.jit(jaxpr_as_fun(jaxpr), donate_argnums=donate, compiler_options=options)
        lowered = compiled.lower(*jaxpr.in_avals)
        self.compiled.append(self.side_by_side.submit(lowered.compile))
        return compiled

    def part(self, jaxpr: ClosedJaxpr) -> Flat:
        """An inner step. It gives nothing up: the first of a round gets what is needed after it."""
        key = id(jaxpr.jaxpr)
        if key not in self.known:
            kept = [False] * len(jaxpr.in_avals)
            self.known[key] = self.cut(jaxpr, kept) if _cuts(jaxpr) else self.program(jaxpr)
        return self.known[key]

    def cut(self, closed: ClosedJaxpr, given: Sequence[bool]) -> Flat:
        """A sequence.

        Args:
          closed: what is cut.
          given: which of its arguments are given up.
        """
        jaxpr, stages = closed.jaxpr, []
        kept = [var for var, mine in zip(jaxpr.invars, given, strict=True) if not mine]
        needed = {*_variables(jaxpr.outvars), *jaxpr.constvars, *kept}  # behind the stage
        for eqns in reversed(list(_stages(jaxpr))):
            own = [var for eqn in eqns for var in eqn.outvars]
            gives = [var for var in own if var in needed]
            if not gives:
                continue
            takes = [one for eqn in eqns for one in eqn.invars]
            free = {*_variables(takes)}.difference(own, needed)
            if _is_cut(eqns[0]):
                gives, call = own, self.part(eqns[0].params["jaxpr"])
            else:
                takes = [var for var in dict.fromkeys(_variables(takes)) if var not in {*own}]
                one = jaxpr.replace(constvars=(), invars=takes, outvars=gives, eqns=eqns)
                body = ClosedJaxpr(one, ())
                call = self.program(body, _usable(body, free))
            stages.append(Stage(call, takes, gives, [*free]))
            needed.update(_variables(takes))
        stages.reverse()

        def flat(*arguments: Array) -> Sequence[Array]:
            names, values = (*jaxpr.constvars, *jaxpr.invars), (*closed.consts, *arguments)
            known = dict(zip(names, values, strict=True))

            def value(one: Var | Literal) -> Array:
                return one.val if isinstance(one, Literal) else known[one]

            for stage in stages:
                known.update(zip(stage.gives, stage.call(*map(value, stage.takes)), strict=True))
                for var in stage.last:
                    del known[var]
            return [value(one) for one in jaxpr.outvars]

        return flat


def _is_cut(eqn: JaxprEqn) -> bool:
    """Whether it is an inner step, or holds some."""
    if eqn.primitive.name != "jit":
        return False
    return eqn.params["name"] == repeated.__name__ or _cuts(eqn.params["jaxpr"])


def has_convolutions(jaxpr: Jaxpr) -> bool:
    """Whether there are convolutions in it or in what it calls."""
    if any(eqn.primitive.name == "conv_general_dilated" for eqn in jaxpr.eqns):
        return True
    return any(map(has_convolutions, subjaxprs(jaxpr)))


def _cuts(closed: ClosedJaxpr) -> bool:
    return any(map(_is_cut, closed.eqns))


def _stages(jaxpr: Jaxpr) -> Iterator[list[JaxprEqn]]:
    """The equations in an order of calls: inner steps alone, and all others as early as they can be
    computed, so that they make few programs."""
    after: dict[Var, int] = {}  # number of inner steps on the longest way to it
    others: dict[int, list[JaxprEqn]] = {}
    cuts: dict[int, list[JaxprEqn]] = {}
    for eqn in jaxpr.eqns:
        level = max((after.get(var, 0) for var in _variables(eqn.invars)), default=0)
        cut = _is_cut(eqn)
        (cuts if cut else others).setdefault(level, []).append(eqn)
        after.update(dict.fromkeys(eqn.outvars, level + cut))
    for level in range(max((*others, *cuts)) + 1):
        if level in others:
            yield others[level]
        yield from ([eqn] for eqn in cuts.get(level, ()))


def _variables(some: Iterable[Var | Literal]) -> Iterator[Var]:
    return (one for one in some if isinstance(one, Var))


def _usable(body: ClosedJaxpr, free: Collection[Var]) -> list[int]:
    """Positions of the arguments that nobody needs any more and whose buffer an output can have."""
    room, found = Counter((aval.shape, aval.dtype) for aval in body.out_avals), []
    for at, (var, aval) in enumerate(zip(body.jaxpr.invars, body.in_avals, strict=True)):
        kind = aval.shape, aval.dtype
        if var in free and room[kind]:
            room[kind] -= 1
            found.append(at)
    return found
