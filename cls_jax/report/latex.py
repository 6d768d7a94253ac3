"""A table as LaTeX, for a paper: what stands in it is what the Markdown table has."""

import io
import re
import sys
import unicodedata

from cls_jax.report.tables import TextTable, visible
from cls_jax.training.runtime.provenance import command

_MARKS = {
    **{c: f"\\{c}" for c in "{}$&#_%"},
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "`": r"\textasciigrave{}",
    "'": r"\textquotesingle{}",
    '"': r"{\char34}",
    **{c: f"{{{c}}}" for c in "[]*"},
    "±": r"$\pm$",
    "\u00d7": r"$\times$",
    "→": r"$\rightarrow$",
    "…": r"\ldots{}",
    "·": r"\textperiodcentered{}",
}
"""What LaTeX would take for itself: its marks, quotes, and "[" and "*" after the end of a line."""

_LIGATURES = re.compile(r"-(?=-)|,(?=,)")
_SIGN = re.compile(r"(?<![\w.])([+-])(?=\d)")
_ACCENTS = frozenset("\u0300\u0301\u0302\u0303\u0304\u0306\u0307\u0308\u030a\u030b\u030c\u0327")
_LETTERS = frozenset("ßæœøłÆŒØŁ")
_LAST_LETTER = "\u017f"
"""Accents and letters that every font of LaTeX has; later letters with such an accent it lacks."""


def latex_literal(text: str) -> str:
    """LaTeX that prints ``text`` itself, in a cell, a caption or anywhere else in a text.

    Letters that no font of LaTeX's own has (Chinese, say) are printed as their code.
    """
    escaped = "".join(map(_literal, visible(unicodedata.normalize("NFC", text))))
    return _LIGATURES.sub(r"\g<0>{}", escaped)


def latex(table: TextTable) -> str:
    """The table alone, a ``tabular`` with the rules of the package booktabs."""
    lines = [
        f"\\begin{{tabular}}{{l{'r' * (len(table.header) - 1)}}}",
        r"\toprule",
        " & ".join(map(latex_literal, table.header)) + r" \\",
        r"\midrule",
    ]
    for i, row in enumerate(table.rows):
        plain = [latex_literal(row[0]), *map(_cell, row[1:])]
        cells = (f"\\textbf{{{c}}}" if (i, j) in table.bold else c for j, c in enumerate(plain))
        lines.append(" & ".join(cells) + r" \\")
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}"])


def latex_page(table: TextTable) -> str:
    """A file to ``\\input``: the table with its title and note as caption, and the command."""
    note = latex_literal(table.note[:1].upper() + table.note[1:])
    return (
        f"% {visible(command())}\n% needs \\usepackage{{booktabs}}\n"
        f"\\begin{{table}}\n\\centering\\small\\tabcolsep=4pt\n{latex(table)}\n"
        f"\\caption{{{latex_literal(table.title)}. {note}.}}\n\\end{{table}}\n"
    )


def show_latex(table: TextTable) -> None:
    """Prints ``latex_page`` on stdout, in UTF-8 as a file has it, whatever the terminal's is."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(encoding="utf-8")
    print(latex_page(table), end="")


def _literal(c: str) -> str:
    """One character."""
    if c in _MARKS:
        return _MARKS[c]
    base, *accents = unicodedata.normalize("NFD", c)
    known = base.isascii() and len(accents) <= 1 and _ACCENTS.issuperset(accents)
    if (known and c <= _LAST_LETTER) or c in _LETTERS:
        return c
    return "".join(_MARKS.get(x, x) for x in c.encode("ascii", "backslashreplace").decode())


def _cell(text: str) -> str:
    """A number with the sign that mathematics has; "-", not measured, as a dash; or words."""
    if text == "-":
        return "--"
    parts = _SIGN.split(text)  # words and signs in turn
    return "".join(f"${x}$" if n % 2 else latex_literal(x) for n, x in enumerate(parts))
