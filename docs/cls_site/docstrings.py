"""Docstrings as mkdocstrings wants them: plain text is no Markdown, and each name has its own entry.

A griffe extension; mkdocs.yml names this file.
"""

import re
from typing import Any

import griffe

_CODE = re.compile(r"(``.+?``|`[^`]+`)", re.DOTALL)
_SEVERAL = re.compile(r"^(  )(\w+(?:, \w+)+): (.*(?:\n   .*)*)", re.MULTILINE)
_PARAGRAPH = re.compile(r"^(Source|Departs): ", re.MULTILINE)


def as_markdown(docstring: str) -> str:
    """The docstring with what Markdown would take for itself escaped, examples aside."""
    text, example, code = docstring.partition("\nExample:\n")
    parts = (part if part.startswith("`") else _plain(part) for part in _CODE.split(text))
    text = _SEVERAL.sub(_apart, "".join(parts))
    return _PARAGRAPH.sub(r"**\1:** ", text) + example + code


def _plain(text: str) -> str:
    return re.sub(r"([\[\]<*|])", r"\\\1", text)


def _apart(found: re.Match[str]) -> str:
    indent, names, said = found.groups()
    return "\n".join(f"{indent}{name}: {said}" for name in names.split(", "))


class Docstrings(griffe.Extension):
    """Rewrites the docstring of everything that is read."""

    def on_instance(self, *, obj: griffe.Object, **kwargs: Any) -> None:
        """Called for each module, class, function and attribute."""
        del kwargs
        if obj.docstring:
            obj.docstring.value = as_markdown(obj.docstring.value)
