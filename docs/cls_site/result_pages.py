"""The pages of records/: an index that is sorted and filtered in the browser, a page a record."""

import json
import re
from collections.abc import Iterable, Iterator, Sequence

from cls_site.records import Record, Row, date_of, read
from cls_site.speed import speed
from cls_site.text import prose, table, tables_of

__all__ = ["pages", "read"]

INDEX = """---
hide: [toc]
---

# Results

Every score of our records, made of the files in `records/`: mean ± sample standard deviation over
the seeds, in percent. Click on a column to sort by it, and type to filter: all words must occur in
a row.

Where a method is told its task (DualNet, DEN, SupSup, LwF, A-GEM, ...) the tables of its records
lead with ACC, clipped forgetting and LA with the task told, as its paper's do, and others with
class-IL; [scores](../concepts/scores.md) says what each of them is. Published numbers stand beside
ours where they could be read at a source, with the difference in points and in standard errors
(SE). No table of the DualNet papers could be read, and neither paper has a CIFAR or digits setting.
Most streams here are ours, so no published number belongs to them.

"""
HEADER = ("method", "stream", "buffer", "score", "published", "ours", "difference", "record")
COSTS = ["results/speed.md", "results/survival.md"]
KILLS = ("script", "kills", "differences")


def pages(records: Sequence[Record]) -> dict[str, str]:
    """Address -> page, in the order of the navigation."""
    rows = [row for record in records for row in record.rows]
    timed = [one for one in records if "benchmark" in one.name]
    survived = [one for one in records if one.name.endswith("_survival")]
    return {
        "results/index.md": INDEX + index(rows) + "\n",
        "results/speed.md": _several("Speed", timed),
        "results/survival.md": _survival(survived),
        **{f"results/{one.name}.md": page(one, records) for one in filter(_has_page, records)},
    }


def _has_page(record: Record) -> bool:
    """Whether it has a page of its own: records of speed and of survival share one."""
    return "benchmark" not in record.name and not record.name.endswith("_survival")


def navigation(records: Sequence[Record]) -> list[dict[str, list[str]]]:
    """The pages of the records in groups."""
    groups: dict[str, list[str]] = {"Published tables": [], "Other streams": [], "Costs": COSTS}
    for one in filter(_has_page, records):
        own = "Published tables" if one.published else "Other streams" if one.page else "Costs"
        groups[own] = [*groups[own], f"results/{one.name}.md"]
    return [{title: entries} for title, entries in groups.items()]


def index(rows: Sequence[Row]) -> str:
    """The table of all rows, from within the folder of results."""
    cells = [(f"[{row[0]}](../methods/{own.method}.md)", *row[1:]) for own, row in _drawn(rows, "")]
    return sortable(HEADER, cells)


def of_method(rows: Sequence[Row]) -> str:
    """The table of one method, from its page; columns in which nothing stands are left out."""
    cells = [row for _, row in _drawn(rows, "../results/")]
    used = [place for place in range(len(HEADER)) if any(row[place] for row in cells)]
    return sortable([HEADER[i] for i in used], [[row[i] for i in used] for row in cells])


def _drawn(rows: Sequence[Row], to_record: str) -> Iterator[tuple[Row, tuple[str, ...]]]:
    for row in rows:
        record = f"[{prose(row.record.partition('_')[2])}]({to_record}{row.record}.md)"
        scores = row.score, row.published, row.ours, row.difference
        yield row, (prose(row.label), row.stream, row.buffer, *scores, record)


def sortable(header: Sequence[str], cells: Iterable[Sequence[str]]) -> str:
    """A table of results that the browser sorts and filters."""
    drawn = table(header, cells, ("buffer", "published", "ours", "difference"))
    return f'<div class="sortable results" markdown="1">\n\n{drawn}\n\n</div>'


def linked(text: str, own: str, records: Sequence[Record]) -> str:
    """A note in which the name of another record leads to its page."""
    names = sorted((one.name for one in records if one.page and one.name != own), reverse=True)
    return re.sub(rf"(?<![\w/`])({'|'.join(names)})(?!\w)", r"[\1](\1.md)", text)


def page(record: Record, records: Sequence[Record]) -> str:
    """The page of one record: its note, its table, its figures, and how it was made."""
    parts = [f"---\ntitle: {record.short}\nhide: [toc]\n---\n\n# {prose(record.title)}"]
    parts.append(f"Record `{record.name}`, of {date_of(record)}.")
    if record.page:
        for table_text, legend in zip(tables_of(record.page), _legends(record.page), strict=True):
            parts += [table_text, legend]
    parts.append(f"## Note\n\n{linked(record.note, record.name, records)}")
    if record.figures:
        shown = (f"![{prose(name)}]({record.name}/{name})" for name, _ in record.figures)
        parts.append("## Figures\n\n" + "\n\n".join(shown))
    parts.append(f"## How it was made\n\n{_provenance(record)}")
    return "\n\n".join(part for part in parts if part) + "\n"


def _legends(text: str) -> list[str]:
    """Under each table the line that says what its columns are; "" where none stands there."""
    found = re.findall(r"^\|.*\n(?!\|)\n*(.*)", text, re.MULTILINE)
    return ["" if line.startswith("`") else line for line in found]


def _provenance(record: Record) -> str:
    """Commands, commits, versions, device, and the resolved settings."""
    parts = []
    if configs := record.configs:
        commands = "\n".join(dict.fromkeys(one["command"] for one in configs))
        first = configs[0]
        versions = ", ".join(f"{name} {one}" for name, one in sorted(first["versions"].items()))
        device = first["device"]
        known = (f"`{one['commit'][:10]}`" if one["commit"] else "no checkout" for one in configs)
        commits = ", ".join(dict.fromkeys(known))
        told = f"* Commit: {commits}\n* Versions: {versions}\n* Device: "
        told += f"{device['count']} x {device['kind']}"
        settings = json.dumps(first["config"], indent=1)
        parts += [f"```bash\n{commands}\n```", told]
        parts.append('??? note "Resolved settings"\n\n' + _indented(f"```json\n{settings}\n```"))
    there = (path for path in record.folder.rglob("*") if path.is_file())
    names = sorted(path.relative_to(record.folder).as_posix() for path in there)
    kinds = [n for n in names if not n.endswith((".png", ".csv"))]
    matrices = sum(n.endswith(".csv") for n in names)
    listed = ", ".join(f"`{name}`" for name in kinds)
    csv = "a CSV file" if matrices == 1 else f"{matrices} CSV files"
    more = f", and {csv} of accuracies by seed and task" if matrices else ""
    parts.append(f"In the folder `records/{record.name}`: {listed}{more}.")
    return "\n\n".join(parts)


def _indented(text: str) -> str:
    return "\n".join(f"    {line}" if line else "" for line in text.splitlines())


def _several(title: str, records: Sequence[Record]) -> str:
    """The records of speed on one page."""
    parts = [f"# {title}\n\nThe records of `experiments/benchmark`, a table each."]
    for one in records:
        parts.append(f"## {one.name}\n\n{speed(one.folder)}\n\n{one.note}")
    return "\n\n".join(parts) + "\n"


def _survival(found: Sequence[Record]) -> str:
    """Runs that were killed, and what it costs to survive."""
    parts = ["# Survival\n\nWhat a run outlives, and how, stands in [resume](../howto/resume.md)."]
    for one in found:
        kills = [
            json.loads(p.read_text(encoding="utf-8")) for p in sorted(one.folder.glob("kills_*"))
        ]
        names = [p.stem.removeprefix("kills_") for p in sorted(one.folder.glob("kills_*"))]
        told = [
            (f"`{name}.py`", str(run["killed"]), str(len(run["differences"])))
            for name, run in zip(names, kills, strict=True)
        ]
        parts += [f"## {one.name}", one.note]
        parts.append(table(KILLS, told, KILLS[1:]))
        parts += ["What it costs, in seconds from a process's start:", costs(one)]
    return "\n\n".join(parts) + "\n"


def costs(record: Record) -> str:
    """The table of what saving and resuming cost, of a record of survival."""
    header = ("script", "whole run", "of it spent saving", "first chunk, empty cache")
    header += ("first chunk, started again", "resumed: without imports and compiling")
    rows = []
    for path in sorted(record.folder.glob("saving_*.json"), reverse=True):
        n = json.loads(path.read_text(encoding="utf-8"))
        seconds = (n[f"{name}_first_chunk_seconds"] for name in ("cold", "warm"))
        rows.append(
            (
                f"`{path.stem.removeprefix('saving_')}.py`",
                f"{n['whole_run_seconds']:.0f}",
                f"{100 * n['saving_fraction']:.1f} %",
                *(f"{value:.1f}" for value in seconds),
                f"{n['resumed_apart_from_these_seconds']:.1f}",
            )
        )
    return table(header, rows, header[1:])
