"""A page for each method: its docstring, its signature, its departures, its rows and its curve."""

import ast
import re
import tomllib
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from cls_jax.methods import _MODULES, signature
from cls_jax.methods.signatures import Argument
from cls_site.records import Record
from cls_site.result_pages import of_method
from cls_site.text import markdown, parts_of, prose, table

FAMILIES = {
    "baselines": "Baselines",
    "replay": "Replay",
    "cls": "Complementary learning systems",
    "regularization": "Regularization",
    "prototypes": "Prototypes",
    "architecture": "Architecture",
}
NO_ROW = "No record has a row of this method yet."
NO_DEPARTURE = "The docstring names no departure from its sources."
FACTS = tomllib.loads((Path(__file__).parent / "methods.toml").read_text(encoding="utf-8"))


@cache
def docstring(path: Path) -> str:
    """Of the module in a file."""
    return ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""


def file_of(root: Path, name: str) -> Path:
    """Where a method stands."""
    return root / "cls_jax" / "methods" / f"{_MODULES[name].replace('.', '/')}.py"


def pages(root: Path, records: Sequence[Record]) -> dict[str, str]:
    """Address -> page: the index, then a page a method, family by family."""
    ordered = sorted(_MODULES, key=lambda name: list(FAMILIES).index(_family(name)))
    made = {f"methods/{name}.md": page(root, name, records) for name in ordered}
    return {"methods/index.md": _index(ordered, records), **made}


def navigation() -> list[dict[str, list[str]]]:
    """The pages of the methods, family by family."""
    return [
        {title: [f"methods/{name}.md" for name in _MODULES if _family(name) == family]}
        for family, title in FAMILIES.items()
    ]


def _family(name: str) -> str:
    return _MODULES[name].partition(".")[0]


def _index(names: Sequence[str], records: Sequence[Record]) -> str:
    known = [row.method for record in records for row in record.rows]
    rows = [
        (
            f"[{FACTS[name]['title']}]({name}.md)",
            f"`{name}`",
            FAMILIES[_family(name)],
            FACTS[name]["told"],
            FACTS[name]["keeps"],
            str(known.count(name)),
        )
        for name in names
    ]
    drawn = table(("method", "name", "family", "told", "keeps", "rows"), rows, ("rows",))
    return f"""# Methods

{len(names)} methods, each one function of keywords: `cls.er(problem, memory_size=200)` from Python,
`cls-jax run er --memory-size 200` from a command line. The pages are made of the code: a module's
docstring says where a method comes from and where it departs from that. "Told" is what the runner
hands over beside the examples, and nothing else reaches a method; "rows" counts the scores in
[our records](../results/index.md).

<div class="sortable" markdown="1">

{drawn}

</div>
"""


def page(root: Path, name: str, records: Sequence[Record]) -> str:
    """The page of one method."""
    path, facts = file_of(root, name), FACTS[name]
    doc = parts_of(docstring(path))
    parts = [
        f"---\ntitle: {facts['title']}\n---\n\n# {facts['title']}",
        doc.title,
        f"`cls.{name}` · {FAMILIES[_family(name)]} · "
        f"`{path.relative_to(root).as_posix()}`{_variant(name)}",
        f"* **Told:** {prose(facts['told'])}.\n* **Keeps:** {prose(facts['keeps'])}.\n"
        f"* **Run it:** {_commands(root, name)}.",
        "## How it works",
        _linked(doc.body, name),
    ]
    if equations := facts.get("equations"):
        parts.append("```math\n" + "\n".join(equations) + "\n```")
    parts += [
        f"## Source\n\n{_linked(doc.source, name)}",
        f"## Departures\n\n{_linked(doc.departs, name) or NO_DEPARTURE}",
        _parts(root, path),
        f"## Arguments\n\n{_arguments(name)}",
        f"## Results\n\n{_results(root, name, records)}",
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _linked(text: str, own: str) -> str:
    """A docstring in which the file of another method leads to its page."""
    for name in _MODULES:
        if name != own:
            shown = prose(name)
            found = rf"(?<![\w/`]){re.escape(shown)}\.py|(?<=^As ){re.escape(shown)}(?=\.)"
            text = re.sub(found, f"[{prose(FACTS[name]['title'])}]({name}.md)", text)
    return text


def _commands(root: Path, name: str) -> str:
    """How it is run from a command line, with the script of its own if there is one."""
    scripts = sorted((root / "experiments").glob(f"{name}_*.py"))
    own = "".join(f"; with its presets `python experiments/{script.name}`" for script in scripts)
    return f"`cls-jax run {name} --workdir runs/{name}`{own}"


def _variant(name: str) -> str:
    """Which method it is a variant of, where it is one."""
    if name not in ("spb_i", "spb_m"):
        return ""
    usual, own = signature("spb").arguments, signature(name).arguments
    changed = [f"{k}={v.default!r}" for k, v in own.items() if v.default != usual[k].default]
    return f" · [SPB](spb.md) with `{', '.join(changed)}`"


def _parts(root: Path, path: Path) -> str:
    """The modules beside it that it is made of, each with its docstring."""
    found = dict.fromkeys(_neighbours(path))
    for other in list(found):
        found |= dict.fromkeys(_neighbours(other))
    found.pop(path, None)
    if not found:
        return ""
    shown = ["## Its parts"]
    for other in found:
        text = markdown(docstring(other))
        title = docstring(other).splitlines()[0].replace("`", "").replace('"', "'")
        inside = f"`{other.relative_to(root).as_posix()}`\n\n{text}"
        lines = (f"    {line}" if line else "" for line in inside.splitlines())
        shown.append(f'??? note "{title}"\n\n' + "\n".join(lines))
    return "\n\n".join(shown)


@cache
def _neighbours(path: Path) -> tuple[Path, ...]:
    """The modules of the same folder that a module imports and that are no method of the table."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    here = f"cls_jax.methods.{path.parent.name}."
    names = [node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    own = [name.removeprefix(here) for name in names if name and name.startswith(here)]
    methods = {module.rpartition(".")[2] for module in _MODULES.values()}
    return tuple(path.with_name(f"{name}.py") for name in own if name not in methods)


def _arguments(name: str) -> str:
    """The call, and a row an argument."""
    found = signature(name)
    rows = [
        (f"`{key}`", _kind(one), f"`{one.default!r}`".replace("|", r"\|"), prose(one.help))
        for key, one in found.arguments.items()
    ]
    said = markdown(found.doc.partition("Args:")[0].strip())
    note = (
        f"{said}\n\nArguments of kind float are data: a sweep over them is one program. All others "
        "fix the program. "
        f"On a command line they are the flags of `cls-jax run {name}`, which starts from a "
        "preset: its help tells the values."
    )
    return f"{note}\n\n{table(('name', 'kind', 'default', 'what it is'), rows)}"


def _kind(one: Argument) -> str:
    """An annotation in words."""
    if get_origin(one.kind) is Literal:
        return ", ".join(f"`{choice}`" for choice in get_args(one.kind))
    text = one.kind.__name__ if isinstance(one.kind, type) and not get_args(one.kind) else one.kind
    return str(text).replace("|", r"\|")


def _results(root: Path, name: str, records: Sequence[Record]) -> str:
    """Rows of records, the curve of one of them, and what is known to be published."""
    rows = [row for record in records for row in record.rows if row.method == name]
    parts = [of_method(rows) if rows else NO_ROW]
    if found := _curve(name, records):
        record, figure = found
        shown = f"![accuracy over tasks]({'../results/'}{record.name}/{figure})"
        label = f"[{prose(record.name)}](../results/{record.name}.md)"
        parts.append(f"{shown}\n\nAccuracy over tasks; record {label}.")
    parts.append(_published(root, name))
    return "\n\n".join(part for part in parts if part)


def _curve(name: str, records: Sequence[Record]) -> tuple[Record, str] | None:
    """The figure of a record with this method that shows accuracy over tasks: fewest rows first."""
    found = [
        (len(record.rows), record.name, record, figure)
        for record in records
        if any(row.method == name for row in record.rows)
        for figure, _ in record.figures
        if figure.endswith("over_tasks.png")
    ]
    return min(found, key=lambda one: one[:2])[2:] if found else None


def _published(root: Path, name: str) -> str:
    """The published numbers that the library knows."""
    text = (root / "cls_jax" / "app" / "published" / "results.toml").read_text(encoding="utf-8")
    known = [one for one in tomllib.loads(text)["result"] if one["method"] == name]
    known = [one for one in known if one.get("view", "answer") == "answer"]
    if not known:
        return "The library knows no published number of this method that could be checked."
    rows = [
        (
            f"`{one['table']}`",
            str(one["memory_size"] or ""),
            _class_il(one),
            _mean(one.get("task_il")),
            str(one["n"]),
            prose(f"{one['source']}; {one['trust']}"),
        )
        for one in known
    ]
    header = ("table", "buffer", "class-IL", "task-IL", "runs", "source")
    drawn = table(header, rows, header[1:5])
    return (
        f"### Published numbers\n\nOf `cls_jax/app/published/results.toml`, in percent.\n\n{drawn}"
    )


def _class_il(one: Mapping[str, Any]) -> str:
    """Its score after the last task; where published, also the mean of the scores after each."""
    if "last" in one:
        return f"{one['last']:.2f}, mean of the tasks {one['average']:.2f}"
    return _mean(one.get("class_il"))


def _mean(value: Sequence[float] | None) -> str:
    return " ± ".join(f"{one:.2f}" for one in value or ())
