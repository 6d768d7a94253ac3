"""A table of text, drawn for the terminal or as Markdown."""

import io
import re
import sys
from typing import NamedTuple

import numpy as np
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from cls_jax.core.metrics import Summary
from cls_jax.training.runtime.provenance import command

_MARKS = re.compile(r"[\\`*\[\]<>|~&$#]|(?<!\w)_|_(?!\w)")
"""What Markdown, GitHub's mathematics included, would take for itself; not the "_" of a word."""


class TextTable(NamedTuple):
    """A table before it is drawn: plain text, so that the terminal and Markdown agree."""

    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    note: str
    bold: frozenset[tuple[int, int]] = frozenset()


def visible(text: str) -> str:
    """``text`` with every character that does not print as its escape: line breaks, surrogates.

    A name that a user gave can then be shown, and written as UTF-8, wherever it goes.
    """

    def escaped(c: str) -> str:
        if c.isprintable():
            return c
        return c.encode("unicode_escape", "backslashreplace").decode("ascii")

    return "".join(map(escaped, text))


def percent(summary: Summary) -> str:
    """ "91.35 ± 0.42", without ± for a single run; "-" for what was not scored."""
    if not np.isfinite(summary.mean):
        return "-"
    mean = f"{round(100 * summary.mean, 2) + 0.0:.2f}"  # + 0.0: no "-0.00"
    return mean if summary.n == 1 else f"{mean} ± {100 * summary.std:.2f}"


def show(table: Table) -> None:
    """Prints a table on stdout; a pipe or a file gets it in full width.

    Where stdout is ASCII, "±" is printed as its escape from here on: the results come first.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    to = Console(highlight=False)
    (to if to.is_terminal else Console(highlight=False, width=200)).print(table)


def rich_table(table: TextTable) -> Table:
    """For the terminal; see ``show``."""
    drawn = Table(
        title=Text(visible(table.title)),
        caption=Text(visible(table.note)),
        title_justify="left",
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
    )
    for number, name in enumerate(table.header):
        justify = "left" if number == 0 else "right"
        drawn.add_column(Text(visible(name)), justify=justify, overflow="fold")
    for i, row in enumerate(table.rows):
        style = ["bold" if (i, j) in table.bold else "" for j in range(len(row))]
        drawn.add_row(*(Text(visible(text), style=style[j]) for j, text in enumerate(row)))
    return drawn


def as_text(sheet: TextTable) -> str:
    """The table as a terminal of 120 columns shows it, without colours."""
    out = io.StringIO()
    Console(file=out, width=120).print(rich_table(sheet))
    return "\n".join(line.rstrip() for line in out.getvalue().splitlines())


def literal(text: str) -> str:
    """Markdown that is read as ``text`` itself, in a cell of a table too."""
    return _MARKS.sub(r"\\\g<0>", visible(text))


def markdown(table: TextTable) -> str:
    """The table alone."""
    lines = [
        "| " + " | ".join(map(literal, table.header)) + " |",
        "|---" + "|---:" * (len(table.header) - 1) + "|",
    ]
    for i, row in enumerate(table.rows):
        plain = enumerate(map(literal, row))
        cells = (f"**{text}**" if (i, j) in table.bold else text for j, text in plain)
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def markdown_page(table: TextTable, *more: TextTable) -> str:
    """A page: title, table and note of each, and the command that made it."""
    made_by = visible(command())
    fence = max(["``", *re.findall("`+", made_by)], key=len) + "`"  # longer than any inside
    parts = []
    for marks, one in zip(["#", *["##"] * len(more)], (table, *more), strict=True):
        note = literal(one.note[:1].upper() + one.note[1:])
        parts.append(f"{marks} {literal(one.title)}\n\n{markdown(one)}\n\n{note}.\n\n")
    return f"{''.join(parts)}{fence}\n{made_by}\n{fence}\n"
