"""What a method's factory can be given: read from its signature and its ``Args:``, without JAX.

Command lines are made of this, so their help waits for no compiler: of the library's own methods
the ``def`` lines alone are evaluated, not the modules in which they stand.
"""

import ast
import inspect
import re
import typing
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any, Literal, NamedTuple

from cls_jax.core import choices
from cls_jax.core.errors import InputError


class Argument(NamedTuple):
    """One keyword of a factory.

    Attributes:
      kind: its annotation. ``float`` is data: a hyper-parameter that a sweep may vary in one
        program; anything else fixes the program.
      default: its value if not given.
      help: what ``Args:`` says of it.
    """

    kind: Any
    default: Any
    help: str


class Signature(NamedTuple):
    """Of a factory: its name, its docstring, and its keywords by name."""

    name: str
    doc: str
    arguments: Mapping[str, Argument]

    @property
    def hyper(self) -> tuple[str, ...]:
        """Names of the arguments that are data."""
        return tuple(name for name, one in self.arguments.items() if one.kind is float)

    def variant(self, name: str, **defaults: Any) -> "Signature":
        """The signature under another name, with other defaults."""
        changed = {k: self.arguments[k]._replace(default=value) for k, value in defaults.items()}
        return Signature(name, self.doc, {**self.arguments, **changed})


def signature_of(factory: Callable[..., Any]) -> Signature:
    """Reads a factory ``(problem, *, name: kind = default, ...)``.

    Raises:
      InputError: for an argument without an annotation or a default, or one that is not explained.
    """
    doc, hints = inspect.getdoc(factory) or "", typing.get_type_hints(factory)
    explained = explanations(doc)
    arguments = {}
    for parameter in list(inspect.signature(factory).parameters.values())[1:]:
        name = parameter.name
        if parameter.kind is not parameter.KEYWORD_ONLY or parameter.default is parameter.empty:
            raise InputError(
                f"the method {factory.__name__} has the argument {name}; give it a default and put "
                "it behind a *, so that it goes by name"
            )
        if name not in hints or name not in explained:
            raise InputError(
                f"the method {factory.__name__} has the argument {name}; annotate it (float is a "
                'hyper-parameter, anything else fixes the program) and explain it in "Args:"'
            )
        arguments[name] = Argument(hints[name], parameter.default, explained[name])
    return Signature(factory.__name__, doc, arguments)


def explanations(doc: str) -> dict[str, str]:
    """Name -> what the section ``Args:`` of a docstring says of it, on one line."""
    if "Args:\n" not in doc:
        return {}
    section = re.split(r"\n\n(?=\S)|\n(?=\S)", doc.split("Args:\n")[1])[0]
    entries = re.findall(r"^  (\w[\w, ]*): (.*(?:\n   .*)*)", section, re.MULTILINE)
    return {
        name.strip(): " ".join(text.split()) for names, text in entries for name in names.split(",")
    }


@cache
def read_signatures(path: Path) -> dict[str, Signature]:
    """The signatures of every ``@method`` and ``variant(...)`` of a file of the library."""
    kept: list[ast.stmt] = []
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.FunctionDef) and "method" in map(ast.unparse, node.decorator_list):
            node.returns, node.args.args[0].annotation = None, None
            node.body = [node.body[0]]  # the docstring
            kept.append(node)
        if isinstance(node, ast.Assign) and ast.unparse(node.value).startswith("variant("):
            kept.append(node)
    names = {
        "Literal": Literal,
        **vars(choices),
        "method": signature_of,
        "variant": lambda name, base, **defaults: base.variant(name, **defaults),
    }
    exec(compile(ast.Module(kept, []), str(path), "exec"), names)
    return {one.name: one for one in names.values() if isinstance(one, Signature)}
