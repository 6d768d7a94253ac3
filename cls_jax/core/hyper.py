"""The dataclass of a method's rates: flags without JAX, and data to JAX wherever it computes."""

import sys
from dataclasses import dataclass, fields, replace
from typing import TypeVar, dataclass_transform

Kind = TypeVar("Kind", bound=type)
_WAITING: list[type] = []
"""Classes that JAX does not know yet, because it was not loaded when they were made."""


@dataclass_transform(frozen_default=True)
def hyper(kind: Kind) -> Kind:
    """Makes a frozen dataclass with ``replace`` of a class; every field is a leaf to JAX."""
    kind = dataclass(frozen=True)(kind)
    kind.replace = replace
    _WAITING.append(kind)
    if "jax" in sys.modules:
        register()
    return kind


def register() -> None:
    """Tells JAX of every class made so far; types.py calls it, which all that computes imports."""
    import jax

    while _WAITING:
        kind = _WAITING.pop()
        names = [field.name for field in fields(kind)]
        jax.tree_util.register_dataclass(kind, data_fields=names, meta_fields=[])
