"""A method's arguments as the flags of a command line; needs no JAX."""

from collections.abc import Callable, Collection, Mapping
from dataclasses import fields, make_dataclass
from functools import cache
from typing import Any

from cls_jax.app.flags import explained, stop
from cls_jax.methods import METHODS, signature
from cls_jax.methods.optimizer import OptimizerConfig

OPEN_OPTIMIZER = {
    *("sgd", "joint", "er", "er_ace", "er_mir", "der", "derpp", "agem", "clser", "mean_er"),
    *("clser_masked", "esmer", "group_ema", "ewc_online", "si"),
}
"""Methods of the library whose paper leaves the optimizer open."""


@cache
def flags_of(*methods: str) -> Callable[..., Any]:
    """A frozen dataclass, keyword-only: a field for each argument of a method, with its help.

    Args:
      methods: of METHODS; of several, an argument that more than one has is that of the first.
        ``flags_of("er")(memory_size=200)`` are er's flags, starting from there.
    """
    merged = {}
    for method in methods:
        merged = {**signature(method).arguments, **merged}
    return make_dataclass(
        "_".join((*methods, "flags")),
        [(name, explained(one.kind, one.help), one.default) for name, one in merged.items()],
        frozen=True,
        kw_only=True,
        namespace={"__doc__": f"Arguments of {', '.join(methods)}."},
    )


def shared(method: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """Those of ``values`` that the method has an argument for."""
    known = signature(method).arguments
    return {name: value for name, value in values.items() if name in known}


def with_memory() -> list[str]:
    """Names of the methods whose memory has a size."""
    return [name for name in METHODS if "memory_size" in signature(name).arguments]


def takes_optimizer(method: str) -> bool:
    """Whether a method learns with the optimizer that is asked for: of one's own all do that have
    no argument for it themselves."""
    if method in METHODS.own:
        return not signature(method).arguments.keys() & vars(OptimizerConfig()).keys()
    return method in OPEN_OPTIMIZER


def no_clash(config_class: type, arguments: Collection[str], method: str) -> None:
    """Ends the process with code 2, in one sentence, where an argument of a method has the name of
    another flag of the command.

    Args:
      config_class: the command's config; the method's flags are its field ``method``.
      arguments: of the method, by name.
      method: whose they are.
    """
    groups: list[Any] = [one.default for one in fields(config_class) if one.name != "method"]
    known = {one.name for group in groups for one in fields(group)}
    for name in sorted({*arguments} & known):
        flag = name.replace("_", "-")
        stop(
            f"error: {method} has an argument {name!r}, and --{flag} is a flag of this command; "
            "give the argument another name, or use compare, where it is "
            f"--{method.replace('_', '-')}.{flag}",
            2,
        )
