"""Equations as MathML, which browsers draw by themselves: no script, no font, no network."""

import re
from collections.abc import Mapping
from html import escape
from typing import Any

_LETTER = r'<mi mathvariant="normal">([^<]+)</mi>'
_WORD = re.compile(rf"(?:{_LETTER}(?:<mtext>&#x000A0;</mtext>)?){{2,}}")


def mathml(latex: str) -> str:
    """A displayed equation; as LaTeX where latex2mathml is not installed."""
    try:
        from latex2mathml.converter import convert
    except ImportError:
        return f"<pre>{escape(latex)}</pre>"
    shown = _WORD.sub(_joined, convert(latex, display="block"))
    return shown.replace("<math ", f'<math alttext="{escape(latex)}" ', 1)


def _joined(word: re.Match[str]) -> str:
    """An upright word as one piece, where the converter has a piece for each letter."""
    letters = re.sub(r"</?m(?:i|text)[^>]*>", "", word[0])
    return f"<mtext>{letters}</mtext>"


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
