"""Docstrings and Markdown tables as the site needs them."""

import re
from collections.abc import Collection, Iterable, Sequence
from typing import NamedTuple

_CODE = re.compile(r"``(.+?)``|`([^`]+)`", re.DOTALL)
_SEVERAL = re.compile(r"^(  )(\w+(?:, \w+)+): (.*(?:\n   .*)*)", re.MULTILINE)
_MARKS = re.compile(r"([\\*_\[\]|~])")


class Doc(NamedTuple):
    """A module's docstring in its parts, each of them Markdown.

    Attributes:
      title: its first sentence.
      body: what follows, up to the source.
      source: what stands behind "Source:", or "".
      departs: what stands behind "Departs:", or "".
    """

    title: str
    body: str
    source: str
    departs: str


def parts_of(docstring: str) -> Doc:
    """A docstring of the library taken apart."""
    head, _, rest = docstring.partition("\nSource: ")
    source, departs = rest, ""
    if found := re.search(r"(?:^|(?<=\s))Departs[:,] ", rest):
        source, departs = rest[: found.start()], rest[found.end() :]
    title, _, body = head.strip().partition("\n\n")
    shown = (markdown(part) for part in (body, source, departs[:1].upper() + departs[1:]))
    return Doc(prose(title), *shown)


def markdown(docstring: str) -> str:
    """Paragraphs of a docstring; indented ones become code or, where they are, equations."""
    return "\n\n".join(_paragraph(one) for one in re.split(r"\n\s*\n", docstring.strip("\n")))


def _paragraph(text: str) -> str:
    lines = [line for line in text.splitlines() if line.strip()]
    if not lines:
        return ""
    if all(line.startswith("  ") for line in lines) and "``" not in text:
        indent = min(len(line) - len(line.lstrip()) for line in lines)
        return "\n".join(["```text", *(line[indent:] for line in lines), "```"])
    if all(re.match(r"\* |  ", line) for line in lines):
        return "\n".join(_bullet(line) for line in lines)
    return prose(" ".join(line.strip() for line in lines))


def _bullet(line: str) -> str:
    return f"* {prose(line[2:])}" if line.startswith("* ") else f"  {prose(line.strip())}"


def prose(text: str) -> str:
    """Running text on one line, in which nothing but code in backticks is Markdown."""
    text, out, last = " ".join(text.split()), [], 0
    for found in _CODE.finditer(text):
        out += [_plain(text[last : found.start()]), f"`{found[1] or found[2]}`"]
        last = found.end()
    return "".join([*out, _plain(text[last:])])


def _plain(text: str) -> str:
    return _MARKS.sub(r"\\\1", text.replace("&", "&amp;").replace("<", "&lt;"))


def as_markdown(docstring: str) -> str:
    """A docstring in Google's style, its sections kept, without accidental Markdown.

    Each name has an entry of its own, and the example stays as it is.
    """
    text, example, code = docstring.partition("\nExample:\n")
    parts, last = [], 0
    for found in _CODE.finditer(text):
        parts += [re.sub(r"([\[\]<*|])", r"\\\1", text[last : found.start()]), found[0]]
        last = found.end()
    text = "".join([*parts, re.sub(r"([\[\]<*|])", r"\\\1", text[last:])])
    text = re.sub(r"^(Source|Departs): ", r"**\1:** ", _SEVERAL.sub(_apart, text), flags=re.M)
    return text + example + code


def _apart(found: re.Match[str]) -> str:
    indent, names, said = found.groups()
    return "\n".join(f"{indent}{name}: {said}" for name in names.split(", "))


class Table(NamedTuple):
    """A Markdown table as text: its header and its rows, marks and bold taken away."""

    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]

    def column(self, name: str) -> list[str]:
        """The cells below a title."""
        place = self.header.index(name)
        return [row[place] for row in self.rows]


def tables_of(page: str) -> list[str]:
    """The tables of a page of Markdown, as they stand there."""
    return [found.rstrip() for found in re.findall(r"^(?:\|.*(?:\n|$))+", page, re.MULTILINE)]


def table_of(page: str) -> Table:
    """The first table of a page of Markdown."""
    cells = [_cells(line) for line in tables_of(page)[0].splitlines()]
    return Table(cells[0], tuple(cells[2:]))


def _cells(line: str) -> tuple[str, ...]:
    parts = re.split(r"(?<!\\)\|", line.strip()[1:-1])
    return tuple(re.sub(r"\\(.)", r"\1", part.strip().strip("*")) for part in parts)


def table(
    header: Sequence[str], rows: Iterable[Sequence[str]], numbers: Collection[str] = ()
) -> str:
    """A Markdown table of cells that are Markdown.

    Args:
      header: titles of the columns.
      rows: as many cells each.
      numbers: the columns whose cells stand on the right.
    """
    ruler = ["---:" if name in numbers else "---" for name in header]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in (header, ruler, *rows))
