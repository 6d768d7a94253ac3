"""A table of text, drawn for the terminal or as Markdown."""

from typing import NamedTuple

import numpy as np
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from cls_jax.metrics import Summary
from cls_jax.workdir import command


class Sheet(NamedTuple):
    """A table before it is drawn: plain text, so that the terminal and Markdown agree."""

    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    note: str
    bold: frozenset[tuple[int, int]] = frozenset()


def percent(summary: Summary) -> str:
    """ "91.35 ± 0.42", without ± for a single run; "-" for what was not scored."""
    if not np.isfinite(summary.mean):
        return "-"
    mean = f"{round(100 * summary.mean, 2) + 0.0:.2f}"  # + 0.0: no "-0.00"
    return mean if summary.n == 1 else f"{mean} ± {100 * summary.std:.2f}"


def show(table: Table) -> None:
    """Prints a table on stdout; a pipe or a file gets it in full width."""
    to = Console(highlight=False)
    (to if to.is_terminal else Console(highlight=False, width=200)).print(table)


def rich_table(sheet: Sheet) -> Table:
    """For the terminal; see ``show``."""
    table = Table(
        title=Text(sheet.title),
        caption=Text(sheet.note),
        title_justify="left",
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
    )
    for number, name in enumerate(sheet.header):
        table.add_column(Text(name), justify="left" if number == 0 else "right", overflow="fold")
    for i, row in enumerate(sheet.rows):
        style = ["bold" if (i, j) in sheet.bold else "" for j in range(len(row))]
        table.add_row(*(Text(text, style=style[j]) for j, text in enumerate(row)))
    return table


def markdown(sheet: Sheet) -> str:
    """The table alone."""
    lines = [
        "| " + " | ".join(sheet.header) + " |",
        "|---" + "|---:" * (len(sheet.header) - 1) + "|",
    ]
    for i, row in enumerate(sheet.rows):
        cells = (f"**{text}**" if (i, j) in sheet.bold else text for j, text in enumerate(row))
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def page(sheet: Sheet) -> str:
    """A page: title, table, note, and the command that made it."""
    note = sheet.note[:1].upper() + sheet.note[1:]
    return f"# {sheet.title}\n\n{markdown(sheet)}\n\n{note}.\n\n```\n{command()}\n```\n"
