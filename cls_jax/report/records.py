"""The tables of a folder of records as Markdown, for a page that quotes them."""

import json
from pathlib import Path

PAGES = "comparison.md", "summary.md"
NO_TABLE = "_survival", "_schedule", "_test_durations"
"""How the names of records end that have no table: the page quotes their numbers."""

BEGIN, END = "<!-- records: made by experiments/records.py -->", "<!-- end of records -->"


def block(records: Path) -> str:
    """Markdown: of every record its stream, note, table and folder."""
    parts = []
    tables = [f for f in records.iterdir() if f.is_dir() and not f.name.endswith(NO_TABLE)]
    for folder in sorted(tables, key=_place):
        note = (folder / "NOTE.md").read_text(encoding="utf-8").strip()
        page = next((p for p in PAGES if (folder / p).exists()), None)
        if page is None:
            parts.append(
                f"**Speed** ([record](records/{folder.name}))\n\n{speed(folder)}\n\n{note}"
            )
            continue
        lines = (folder / page).read_text(encoding="utf-8").splitlines()
        title = lines[0].removeprefix("# ")
        if (folder / "cells.json").exists():
            cells = json.loads((folder / "cells.json").read_text(encoding="utf-8"))
            title += f": {cells[0]['details']['stream']['name']}"
        table = "\n".join(line for line in lines if line.startswith("|"))
        parts.append(f"**{title}** ([record](records/{folder.name}))\n\n{table}\n\n{note}")
    return "\n\n".join(parts)


def _place(folder: Path) -> tuple[bool, bool, bool, str]:
    """Published tables first, Split MNIST before the others; speed last."""
    ours = not (folder / "cells.json").exists()
    return "benchmark" in folder.name, ours, "s_mnist" not in folder.name, folder.name


def speed(folder: Path) -> str:
    """A row for every JSON file that benchmark/run.py wrote; a step is one seed's.

    Torch.compile has a column where it was timed.
    """
    paths = sorted(folder.glob("*.json"))
    numbers = [json.loads(path.read_text(encoding="utf-8")) for path in paths]
    compiled = any(n.get("compiled_ratio") is not None for n in numbers)
    names = "method", "net", "seeds", "ms a step", "examples/s", "compile s", "of ceiling"
    names += ("ours / PyTorch", *["ours / torch.compile"] * compiled)
    rows = ["| " + " | ".join(names) + " |", "|---|---|" + "---:|" * (len(names) - 2)]
    for n in numbers:
        net, ms, rate = n["net"]["net"], 1e3 * n["seconds_per_step"], n["examples_per_second"]
        top = n["products_fraction" if net == "mlp" else "convolution_fraction"]
        ratios = [n.get("ratio"), *[n.get("compiled_ratio")] * compiled]
        beside = " | ".join("" if ratio is None else f"{ratio:.2f}" for ratio in ratios)
        rows.append(
            f"| {n['method']} | {net} | {n.get('seeds', 1)} | {ms:.3g} | {rate:,.0f} "
            f"| {n['compile_seconds']:.0f} | {top:.2f} | {beside} |"
        )
    return "\n".join(rows)


def with_block(readme: str, records: str) -> str:
    """The README with its table replaced."""
    before, rest = readme.split(BEGIN)
    _, after = rest.split(END)
    return f"{before}{BEGIN}\n\n{records}\n\n{END}{after}"
