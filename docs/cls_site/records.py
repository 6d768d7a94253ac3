"""What a record holds, read for the site: its stream, its table as rows of one index, its files."""

import json
import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

from cls_jax.app.published.spb_variants import VARIANTS
from cls_jax.methods import METHODS, signature
from cls_site.text import Table, table_of

PAGES = "comparison.md", "summary.md"
"""Where a record's table stands."""

_ALIASES = {
    **{"EWC": "ewc_online", "online": "ewc_online", "L2": "l2_transfer"},
    **{"L2-transfer": "l2_transfer", "APD-Fixed": "apd", "APD(1)": "apd", "APD(2)": "apd"},
    **{name: "spb" for name in VARIANTS if name not in METHODS},
    **dict.fromkeys(("similarity", "random", "snapshots", "told"), "group_ema"),
    **dict.fromkeys(("conf", "soft", "literal", "rates"), "group_ema"),
    **dict.fromkeys(("masks", "fast", "slow", "mid", "flat", "shuffle"), "clser_masked"),
    **{"spb_i_contrastive": "spb_i", "spb_m_logits": "spb_m", "ucir_no_exemplars": "ucir"},
    **dict.fromkeys(("dytox+", "dytox++"), "dytox"),
    **{"dualnet_tf": "dualnet", "er_own": "er", "derpp_own": "derpp"},
}
"""First word of a row -> the method, where it is not the method's name."""

_OF_ONE = "der_expandable", "rpsnet", "co2l", "dytox"
"""Methods whose records, <date>_<method>_<data>, have rows of that method alone."""

_NO_MEMORY = "fine-tune", "joint"
"""Rows of them without a memory."""

_SCORES = {
    "ACC": "task-IL, mean of the orders",
    "average": "class-IL, mean of the phases",
    "last": "class-IL, last phase",
}
"""Title of a column -> the score it holds; those like "class-IL ACC" speak for themselves."""


class Row(NamedTuple):
    """One score of one row of a record's table.

    Attributes:
      label: as the table names it.
      method: the one of METHODS that it is of.
      stream, buffer, score: what was learned, with how many slots, and how it was scored.
      published, ours, difference: percent, as text; "" where there is none.
      record: name of the folder.
    """

    label: str
    method: str
    stream: str
    buffer: str
    score: str
    published: str
    ours: str
    difference: str
    record: str


def method_of(label: str, record: str) -> str:
    """The method that a row of a record's table is of."""
    first = label.split()[0]
    if own := next((one for one in _OF_ONE if f"_{one}_" in record), None):
        return own
    if first == "joint" and "_spb_" in record:  # SPB's own network, of all classes at once
        return "spb"
    return first if first in METHODS else _ALIASES[first]


@dataclass(frozen=True)
class Record:
    """A folder of records/."""

    folder: Path

    @property
    def name(self) -> str:
        """Of the folder, e.g. "2026-11-21_s_mnist"."""
        return self.folder.name

    @property
    def published(self) -> bool:
        """Whether it is of a table that papers publish."""
        return (self.folder / "cells.json").exists()

    @property
    def note(self) -> str:
        """NOTE.md."""
        return (self.folder / "NOTE.md").read_text(encoding="utf-8").strip()

    @cached_property
    def page(self) -> str:
        """The page with its table, or ""."""
        found = (self.folder / page for page in PAGES)
        return next((p.read_text(encoding="utf-8") for p in found if p.exists()), "")

    @cached_property
    def table(self) -> Table:
        """Its table; of no rows where it has none."""
        return table_of(self.page) if self.page else Table((), ())

    @property
    def title(self) -> str:
        """Its short name, and what was learned."""
        if not self.page:
            return self.short
        told = self.stream if self.published else self.page.splitlines()[0][2:]
        return f"{self.short}: {told}"

    @property
    def short(self) -> str:
        """As the navigation names it: without the date."""
        return self.name.partition("_")[2]

    @property
    def stream(self) -> str:
        """What was learned."""
        cells = self.json("cells.json")
        if cells:
            return cells[0]["details"]["stream"]["name"]
        return (
            self.page.splitlines()[0].removeprefix("# ").rpartition(" on ")[2] if self.page else ""
        )

    @property
    def configs(self) -> list[dict[str, Any]]:
        """Every config.json, those of its parts too."""
        return [
            json.loads(p.read_text(encoding="utf-8"))
            for p in sorted(self.folder.rglob("config*.json"))
        ]

    @property
    def figures(self) -> list[tuple[str, Path]]:
        """Name within the record's pages, and file, of every figure."""
        found = sorted(self.folder.rglob("*.png"))
        return [("_".join(path.relative_to(self.folder).parts), path) for path in found]

    def json(self, name: str) -> Any:
        """What a JSON file of it holds; None where there is no such file."""
        path = self.folder / name
        return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None

    @cached_property
    def rows(self) -> list[Row]:
        """Its scores, a row each, in the order of its table."""
        if "published" in self.table.header:
            return [self._reproduced(row) for row in self.table.rows]
        if "network" in self.table.header:
            return [self._of_network(row) for row in self.table.rows]
        return [
            self._row(row[0], _SCORES.get(name, name.removesuffix(" ACC")), value)
            for row in self.table.rows
            for name, value in zip(self.table.header, row, strict=True)
            if (name in _SCORES or name.endswith(" ACC")) and value != "-"
        ]

    def _reproduced(self, row: tuple[str, ...]) -> Row:
        label, buffer, score, published, ours, difference = row[:6]
        names = self.stream, buffer, score, published, ours, difference
        return Row(label, method_of(label, self.name), *names, self.name)

    def _of_network(self, row: tuple[str, ...]) -> Row:
        method = self.page.splitlines()[0].removeprefix("# ").partition(" on ")[0]
        view = "" if row[0] == "answer" else f" ({row[0]})"
        name = "supsup_nns" if "_nns" in self.name else method
        return self._row(f"{method}{view}", row[1], row[2], name)

    def _row(self, label: str, score: str, ours: str, method: str | None = None) -> Row:
        method = method or method_of(label, self.name)
        buffer = "" if label in _NO_MEMORY else self._buffer(method)
        return Row(label, method, self.stream, buffer, score, "", ours, "", self.name)

    def _buffer(self, method: str) -> str:
        """Slots of a method of ``compare.py`` or of a script of its own; "" without a memory."""
        if not self.configs or "memory_size" not in signature(method).arguments:
            return ""
        config = self.configs[0]["config"]
        own = config.get(method) or config.get("method") or {}
        sizes = config.get("memory_size"), own.get("memory_size")
        return next((str(size) for size in sizes if size is not None), "")


def read(folder: Path) -> list[Record]:
    """Every record by name; first those of published tables, and Split MNIST before the others."""
    found = [Record(path) for path in folder.iterdir() if path.is_dir()]
    return sorted(found, key=_place)


def _place(record: Record) -> tuple[bool, bool, str]:
    return not record.published, "_s_mnist" not in record.name, record.name


def date_of(record: Record) -> str:
    """YYYY-MM-DD, as its folder says."""
    return re.match(r"[\d-]+", record.name)[0].strip("-")
