"""What the site says is so: every method and name has its place, results equal the records, links
lead somewhere, and the code of its pages runs."""

import importlib
import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import cls_jax as cls
from cls_jax.core.metrics import accuracy_by_phase, summarise
from cls_jax.methods import _MODULES
from cls_jax.report.matrices import read_matrices
from tests.conftest import small_method

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
sys.path.insert(0, str(DOCS))

from cls_site import reference, site  # noqa: E402
from cls_site.method_pages import FACTS, NO_DEPARTURE, NO_ROW  # noqa: E402
from cls_site.records import read  # noqa: E402
from cls_site.speed import speed  # noqa: E402
from cls_site.text import as_markdown, parts_of, prose, table_of  # noqa: E402

SITE = site()
BY_HAND = {p.relative_to(DOCS).as_posix(): p for p in sorted(DOCS.rglob("*.md"))}
PAGES = {**{name: p.read_text(encoding="utf-8") for name, p in BY_HAND.items()}, **SITE.pages}
RECORDS = read(ROOT / "records")
"""Every page of the site, by its address."""


# --- methods --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", _MODULES)
def test_a_method_has_a_page_with_its_source_and_its_departures(name):
    text = PAGES[f"methods/{name}.md"]
    parts = dict(part.split("\n\n", 1) for part in text.split("\n## ")[1:])
    assert re.search(r"\d{4}|\w/\w", parts["Source"]), parts["Source"]
    assert parts["Departures"].strip()
    module = (ROOT / "cls_jax" / "methods" / f"{_MODULES[name].replace('.', '/')}.py").read_text()
    assert ("Departs" in module.split('"""')[1]) == (NO_DEPARTURE not in parts["Departures"])
    rows = [row for record in RECORDS for row in record.rows if row.method == name]
    assert (NO_ROW in parts["Results"]) == (not rows)
    for argument in cls.METHODS[name].signature.arguments:
        assert f"| `{argument}` |" in parts["Arguments"]


@pytest.mark.parametrize("name", _MODULES)
def test_a_page_says_what_its_method_is_told(name):
    method, told = small_method(name), FACTS[name]["told"]
    needs, ends = method.needs, method.needs.boundaries or len(method.phases) > 1
    assert needs.told_task == ("the task, in training" in told)
    assert needs.told_task_at_test == ("at test" in told)
    assert (ends and not needs.told_task) == ("where a task ends" in told.partition(";")[0])
    assert needs.pooled == ("all tasks at once" in told)


def test_a_docstring_is_taken_apart():
    doc = parts_of("Title.\n\nBody ``a*b`` c*d.\n\n  x = 1\n\nSource: here, 2020. Departs: not so.")
    assert doc == ("Title.", "Body `a*b` c\\*d.\n\n```text\nx = 1\n```", "here, 2020.", "Not so.")
    assert prose("a < b_c [1]") == "a &lt; b\\_c \\[1\\]"


def test_a_docstring_becomes_markdown():
    text = "Of [b, C].\n\nArgs:\n  low, high: the ends.\n\nSource: 2020.\n\nExample:\n  >>> a[0]"
    assert as_markdown(text) == (
        "Of \\[b, C\\].\n\nArgs:\n  low: the ends.\n  high: the ends.\n\n**Source:** 2020.\n\n"
        "Example:\n  >>> a[0]"
    )


# --- reference ------------------------------------------------------------------------------------


def test_every_public_name_has_one_entry():
    listed = [name for names in reference.names().values() for name in names]
    assert sorted(listed) == sorted(cls.__all__)
    text = "\n".join(SITE.pages[page] for page in SITE.nav["Reference"])
    entries = re.findall(r"^::: (\S+)$", text, re.MULTILINE)
    more = [f"cls_jax.{path}" for paths in reference.MORE.values() for path in paths]
    assert sorted(entries) == sorted([*map(reference.path_of, cls.__all__), *more])


@pytest.mark.parametrize("name", cls.__all__)
def test_an_entry_is_of_what_the_name_means(name):
    path = reference.path_of(name)
    if name in cls._MODULES:
        assert importlib.import_module(path) is getattr(cls, name)
        return
    module, _, own = path.rpartition(".")
    assert getattr(importlib.import_module(module), own) is getattr(cls, name)


# --- results --------------------------------------------------------------------------------------


def shown(values) -> str:
    """As a table shows the scores of all seeds."""
    told = summarise(100 * values)
    return f"{told.mean:.2f}" + (f" ± {told.std:.2f}" if told.n > 1 else "")


def told_by(record) -> set[tuple[str, str]]:
    """(row, number) of every score that a record's JSON and CSV files hold, made anew."""
    found = set()
    for cell in record.json("cells.json") or []:
        for score in cell["scores"]["answer"].values():
            found.add((cell["label"], number(score["average_accuracy"])))
    for path in [*record.folder.glob("comparison.json"), *record.folder.rglob("results.json")]:
        runs = json.loads(path.read_text())
        for run in runs if isinstance(runs, list) else [runs]:
            for view, of_view in run["scores"].items():
                for score in of_view.values():
                    found.add((row_of(record, path, run, view), number(score["average_accuracy"])))
            for scenario in ("class_il", "task_il"):  # of one record the JSON is older than these
                if (matrix := matrix_of(record, run["method"], scenario)) is not None:
                    found.add((run["method"], shown(matrix[:, -1].mean(-1))))
    for row in record.json("order_disparity.json") or []:
        found.add((row["label"], number(row["ACC"])))
    return found


def number(score) -> str:
    """Of a score in JSON."""
    std = "" if score["std"] is None else f" ± {100 * score['std']:.2f}"
    return f"{100 * score['mean']:.2f}{std}"


def row_of(record, path, run, view) -> str:
    """The row of the index that a run in a JSON file stands in."""
    inside = "" if path.parent == record.folder else f" ({path.parent.name})"
    alone = view == "answer" or len(run["scores"]) == 1
    return run["method"] + inside + ("" if alone else f" ({view})")


def test_the_index_holds_every_row_of_every_record():
    """Every number, read again from the page."""
    table = table_of(SITE.pages["results/index.md"])
    assert table.header[:3] == ("method", "stream", "buffer")
    linked = [
        re.match(r"\[(.*)\]\(\.\./methods/(\w+)\.md\)", row[0]).groups() for row in table.rows
    ]
    rows = [row for record in RECORDS for row in record.rows]
    assert len(rows) == len(linked) > 200
    for row, (label, method), drawn in zip(rows, linked, table.rows, strict=True):
        assert (label, method, *drawn[1:7]) == row[:8]
        assert drawn[7].endswith(f"]({row.record}.md)")


@pytest.mark.parametrize("record", [one for one in RECORDS if one.rows], ids=lambda one: one.name)
def test_results_equal_the_records_number_for_number(record):
    mine = {(row.label, row.ours) for row in record.rows if not row.score.endswith("phases")}
    mine -= {(row.label, row.ours) for row in record.rows if row.score == "class-IL, last phase"}
    assert mine <= told_by(record)


@pytest.mark.parametrize("name", [one.name for one in RECORDS if "_spb_" in one.name])
def test_averages_of_phases_equal_the_matrices(name):
    (record,) = (one for one in RECORDS if one.name == name)
    for run in record.json("comparison.json"):
        matrix, examples = matrix_of(record, run["method"]), run["details"]["test_examples"]
        curve = accuracy_by_phase(matrix[:, 1:], examples)
        mine = {row.score: row.ours for row in record.rows if row.label == run["method"]}
        if "class-IL, mean of the phases" in mine:
            assert mine["class-IL, mean of the phases"] == shown(curve.mean(-1))
        assert mine["class-IL, last phase"] == shown(curve[:, -1])


@pytest.mark.parametrize("record", [one for one in RECORDS if one.page], ids=lambda one: one.name)
def test_a_record_has_a_page_with_its_note_table_and_figures(record):
    text = SITE.pages[f"results/{record.name}.md"]
    assert record.note.splitlines()[-1][-20:] in text
    tables = re.findall(r"(?:^\|.*\n)+", record.page, re.MULTILINE)
    assert tables
    assert all(table in text for table in tables)
    for path in record.folder.rglob("*.png"):
        assert any(path == file for file in SITE.files.values())
    for config in record.configs:
        assert config["command"] in text


def matrix_of(record, method, scenario="class_il"):
    """float64[seeds, T + 1, T] of a method, as its CSV file has it; None: there are none."""
    path = record.folder / f"accuracy_{method}.csv"
    matrices = read_matrices(path).items() if path.exists() else ()
    found = [a for of, a in matrices if of[:2] == ("answer", scenario)]
    return np.stack(found) if found else None


def test_published_numbers_are_those_of_the_library():
    known = {(p.method, " ± ".join(f"{one:.2f}" for one in p.class_il or ())) for p in published()}
    rows = [row for record in RECORDS for row in record.rows if row.published]
    assert len(rows) == 8
    assert {(r.method, r.published) for r in rows if r.score == "class-IL"} <= known


def published():
    """With a class-IL score."""
    from cls_jax.app.published.compare import read_published

    return [one for one in read_published() if one.class_il]


# --- pages ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page):
    known = {*PAGES, *SITE.files}
    text = re.sub(r"```.*?```|`[^`\n]*`", "", PAGES[page], flags=re.DOTALL)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"https?://|#", target):
            continue
        where = os.path.normpath(Path(page).parent / target.partition("#")[0])
        assert where in known or (DOCS / where).is_file(), target


def flat(entries) -> list[str]:
    """The pages of a part of the navigation."""
    if isinstance(entries, str):
        return [entries]
    inside = entries.values() if isinstance(entries, dict) else entries
    return [page for one in inside for page in flat(one)]


def test_every_page_is_in_the_navigation_once():
    by_hand = re.findall(r" (\S+\.md)\n", (ROOT / "mkdocs.yml").read_text(encoding="utf-8"))
    assert sorted([*by_hand, *flat(SITE.nav)]) == sorted(PAGES)


def test_the_site_asks_no_other_host_for_anything():
    for page, text in PAGES.items():
        assert not re.search(
            r"<(script|link|img)[^>]+https?:|!\[[^]]*\]\(https?:|```mermaid", text
        ), page
    for path in (DOCS / "assets").iterdir():
        assert "http" not in path.read_text(encoding="utf-8"), path
    assert "font: false" in (ROOT / "mkdocs.yml").read_text(encoding="utf-8")


def test_the_script_of_tables_sorts_numbers_as_numbers():
    """Cells as the index has them; empty ones are last in either order."""
    if (node := shutil.which("node")) is None:
        pytest.skip("no node on this machine")
    cells = ["10.50 ± 1.00", "", "9.94", "-0.29 (-1.6 SE)", "1,234"]
    code = "const document = { addEventListener() {} };\n"
    code += (DOCS / "assets" / "tables.js").read_text(encoding="utf-8").replace('"use strict";', "")
    code += f"for (const sign of [1, -1]) console.log(JSON.stringify({json.dumps(cells)}"
    code += ".sort((a, b) => compareCells(a, b, sign))))"
    told = subprocess.run([node, "-e", code], capture_output=True, text=True, check=True).stdout
    up, down = map(json.loads, told.splitlines())
    assert up == ["-0.29 (-1.6 SE)", "9.94", "10.50 ± 1.00", "1,234", ""]
    assert down == ["1,234", "10.50 ± 1.00", "9.94", "-0.29 (-1.6 SE)", ""]


def test_the_files_and_tests_that_pages_name_exist():
    tests = {path.name for path in (ROOT / "tests").rglob("*")}
    for page in BY_HAND:
        for path in re.findall(r"`((?:cls_jax|experiments|tests|records)/[\w./]*\w)`", PAGES[page]):
            assert (ROOT / path).exists(), (page, path)
        for name in re.findall(r"`(test_\w+\.py)`", PAGES[page]):
            assert name in tests, (page, name)


SCRIPTS = sorted(
    {s for page in PAGES for s in re.findall(r"python experiments/(\S+\.py)", PAGES[page])}
)
FLAGS = re.compile(r"--[\w.-]*\w").findall


@pytest.mark.parametrize("script", SCRIPTS)
def test_the_flags_of_a_script_that_a_page_names_exist(script):
    """Of pages by hand: what a record was made with may be gone."""
    lines = [line for page in BY_HAND for line in PAGES[page].splitlines()]
    named = {flag for line in lines if f"experiments/{script}" in line for flag in FLAGS(line)}
    command = [sys.executable, f"experiments/{script}", "--help"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "200"}
    told = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert told.returncode == 0, told.stderr
    assert [flag for flag in named if flag not in told.stdout] == []


PYTHON = {
    page: code
    for page in BY_HAND
    if (code := re.findall(r"```python\n(.*?)```", PAGES[page], re.DOTALL))
}
"""Page -> its blocks of Python, which a reader pastes one after another."""


@pytest.mark.more
@pytest.mark.parametrize("page", PYTHON)
def test_the_python_of_a_page_runs(page, tmp_path):
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}
    command = [
        sys.executable,
        "-W",
        "error::DeprecationWarning:__main__",
        "-c",
        "\n".join(PYTHON[page]),
    ]
    done = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout


@pytest.mark.slow
def test_the_site_is_built(tmp_path):
    """Strictly: a link to nowhere or a name that is not found is an error. In under 3 minutes."""
    for package in ("mkdocs", "material", "mkdocstrings", "latex2mathml"):
        pytest.importorskip(package)
    began = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path / "site")],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert time.monotonic() - began < 180
    built = (tmp_path / "site" / "methods" / "apd" / "index.html").read_text(encoding="utf-8")
    assert "<math" in built
    assert (tmp_path / "site" / "results" / "index.html").read_text(encoding="utf-8").count(
        "<tr>"
    ) > 200


def test_the_compiled_column_is_there_only_where_it_was_timed(tmp_path):
    one = {
        "method": "clser",
        "net": {"net": "mlp"},
        "seconds_per_step": 1e-3,
        "examples_per_second": 10.0,
        "compile_seconds": 1.0,
        "products_fraction": 0.5,
        "ratio": 0.25,
    }
    (tmp_path / "benchmark_a.json").write_text(json.dumps(one))
    assert "torch.compile" not in speed(tmp_path)
    assert speed(tmp_path).endswith("| 0.50 | 0.25 |")
    (tmp_path / "benchmark_b.json").write_text(json.dumps({**one, "compiled_ratio": 0.75}))
    header, rule, *rows = speed(tmp_path).splitlines()
    assert header.endswith("| ours / PyTorch | ours / torch.compile |")
    assert [row.count("|") for row in (rule, *rows)] == [header.count("|")] * 3
    assert rows[0].endswith("| 0.25 |  |")
    assert rows[1].endswith("| 0.25 | 0.75 |")
