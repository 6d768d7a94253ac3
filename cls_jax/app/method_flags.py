"""A method's arguments as the flags of a command line; needs no JAX."""

from collections.abc import Callable, Mapping
from dataclasses import make_dataclass
from functools import cache
from typing import Annotated, Any

from tyro.conf import arg

from cls_jax.methods import METHODS, signature


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
        [
            (name, Annotated[one.kind, arg(help=one.help)], one.default)
            for name, one in merged.items()
        ],
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
