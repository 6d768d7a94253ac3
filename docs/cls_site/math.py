"""Equations as MathML, which browsers draw by themselves: no script, no font, no network."""

from collections.abc import Mapping
from html import escape
from typing import Any


def mathml(latex: str) -> str:
    """A displayed equation; as LaTeX where latex2mathml is not installed."""
    try:
        from latex2mathml.converter import convert
    except ImportError:
        return f"<pre>{escape(latex)}</pre>"
    shown = convert(latex, display="block")
    return shown.replace("<math ", f'<math alttext="{escape(latex)}" ', 1)


def fence(
    source: str,
    language: str,
    css_class: str,
    options: Mapping[str, Any],
    md: Any,
    **more: Any,
) -> str:
    """What a fence ```math becomes: an equation a line; see pymdownx.superfences.

    Args:
      source: LaTeX, one equation a line.
      language, css_class, options, md, more: of superfences; not used.
    """
    del language, css_class, options, md, more
    shown = (mathml(line) for line in source.splitlines() if line.strip())
    return "".join(f'<div class="equation">{one}</div>' for one in shown)
