"""Names that users give, in every table, file and figure: shown as they are, and nothing ends."""

import csv
import io
import json
import re
import warnings

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from cls_jax.report import figures
from cls_jax.report.console import console
from cls_jax.report.result_tables import comparison_csv, comparison_table, result_table
from cls_jax.report.summary import report
from cls_jax.report.tables import literal, markdown, markdown_page, visible
from cls_jax.report.task_orders import Ordered, orders_table
from cls_jax.training.events import Started
from tests.report.test_summary import make_result, phased_result, text_of

NASTY = (
    "a$^$b",
    "$x_1^2$",
    "$\\frac{",
    "\\alpha_{",
    "100 % of {x}",
    "été 日本 😀",
    "Latin-1 \udce9t\udce9",
    "[red]er[/red]",
    "[/]",
    "a|b`c*d_e_ <b>&amp;</b> #",
    "line\nbreak\r\ttab \x1b[31m",
    'comma, "quote"\n',
    "_hidden",
    "```",
    "x" * 2000,
    " " + "y " * 500,
)
names = st.text(st.characters(codec=None), min_size=1, max_size=40) | st.sampled_from(NASTY)


def on(stream, **kind):
    result = make_result(num_tasks=2, seeds=(0, 1), **kind)
    return result._replace(details={"stream": {"name": stream}})


PIPE = re.compile(r"(?:\\.|[^|\\])+")
"""A cell of a row: a bar that follows a backslash belongs to it."""


@settings(deadline=None)
@given(method=names, stream=names, view=names)
@example("a | b", "`$`\n# title", "\udcff")
def test_tables_and_csv_hold_every_name(method, stream, view):
    result = on(stream, method=method, views=("answer", view))
    both = [result, result._replace(method="other " + method)]
    for table in (result_table(result), comparison_table(both)):
        text = markdown_page(table)
        text.encode("utf-8")
        rows = markdown(table).splitlines()
        assert text.count("\n") == len(rows) + 8  # no name breaks a line
        assert {len(PIPE.findall(row)) for row in rows} == {len(table.header)}
        screen = text_of(table, width=20_000)
        screen.encode("utf-8")
        for name in (row[0] for row in table.rows):
            assert visible(name).strip() in screen
    header, *lines = csv.reader(io.StringIO(comparison_csv(both)))
    assert len(lines) == 2 * 2 * 2 * 2
    assert {len(line) for line in lines} == {len(header)}
    assert {line[0] for line in lines} == {visible(one.method) for one in both}
    assert {line[1] for line in lines} == {"answer", visible(view)}


@given(names)
def test_markdown_is_read_as_the_name_itself(name):
    """Without its backslashes it is the name; no mark of Markdown stands without one."""
    assert re.sub(r"\\([!-/:-@\[-`{-~])", r"\1", literal(name)) == visible(name)
    assert not re.search(r"[`*\[\]<>|~&$#]", re.sub(r"\\.", "", literal(name)))


def test_a_command_cannot_leave_its_fence(monkeypatch):
    monkeypatch.setattr("cls_jax.report.tables.command", lambda: "python x.py 'a```\n# b'")
    assert "\n````\npython x.py 'a```\\n# b'\n````\n" in markdown_page(result_table(make_result()))


def drawn(monkeypatch, draw):
    """The texts of a figure as they are drawn; any warning is an error."""
    texts = []
    monkeypatch.setattr(
        figures,
        "_literal",
        lambda text, do=figures._literal: [do(text), texts.append(text.get_text())],
    )
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert draw().startswith(b"\x89PNG")
    return texts


@pytest.mark.parametrize("name", NASTY)
def test_every_figure_is_drawn_whatever_the_names(name, monkeypatch):
    result = on(name, method=name)
    kept = phased_result(name)
    other = phased_result("other")
    monkeypatch.setattr(figures, "DPI", 40)
    for draw in (
        lambda: figures.accuracy_matrix(result),
        lambda: figures.accuracy_over_tasks(result),
        lambda: figures.comparison_over_tasks([result, on(name, method=name + "2")]),
        lambda: figures.capacity(
            [kept._replace(capacity={**kept.capacity, name: kept.capacity["units of layer 1"]})]
        ),
        lambda: figures.capacity([kept, other]),
    ):
        drawn(monkeypatch, draw)


def test_a_figure_shows_names_as_they_are(monkeypatch):
    monkeypatch.setattr(figures, "DPI", 40)
    long = "x" * 2000
    odd = ["$a$", "_b", "日", "\udce9", f"{long}1", f"{long}2{long}", f"{long}3{long}"]
    results = [on("a$^$b", method=name) for name in odd]
    texts = drawn(monkeypatch, lambda: figures.comparison_over_tasks(results))
    assert "a$^$b" in texts
    labels = texts[-len(odd) :]
    assert labels[:4] == ["$a$", " _b", "\\u65e5", "\\udce9"]
    assert len(set(labels)) == len(odd)
    assert max(map(len, labels)) < 70


def test_a_users_matplotlibrc_does_not_end_a_run(monkeypatch):
    import matplotlib

    with matplotlib.rc_context({"text.usetex": True}):
        drawn(monkeypatch, lambda: figures.accuracy_over_tasks(on("a_b $ %")))


@pytest.mark.parametrize("name", NASTY)
def test_a_whole_run_is_written_and_told(name, tmp_path, capfd, monkeypatch):
    """After the training nothing may fail; the page and the table say the name."""
    monkeypatch.setattr(
        "cls_jax.report.tables.command", lambda: f"python x.py --data 'folder:{name}'"
    )
    monkeypatch.setattr(figures, "DPI", 40)
    workdir = tmp_path / "été [x]"
    workdir.mkdir()
    report([on(name)], workdir)
    assert f"# dualnet on {literal(name)}" in (workdir / "summary.md").read_text(encoding="utf-8")
    assert json.loads((workdir / "results.json").read_text())["details"]["stream"]["name"] == name
    assert "été [x]" in capfd.readouterr().out


def test_a_terminal_without_unicode_gets_the_table(tmp_path, monkeypatch):
    stdout = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr("sys.stdout", stdout)
    report([on("日")], tmp_path)
    stdout.flush()
    text = stdout.buffer.getvalue().decode("ascii")
    assert "dualnet on \\u65e5" in text
    assert "\\xb1" in text
    assert "results in" in text


@pytest.mark.parametrize("name", NASTY)
def test_the_console_shows_the_headline_as_it_is(name, capfd):
    with console() as observe:
        observe(Started(name, name, (0,), 2, 20, "loop"))
    assert visible(name).strip() in capfd.readouterr().err


def test_labels_of_orders_too():
    result = make_result(num_tasks=2, seeds=(0,))._replace(capacity={"bits": np.ones((1, 2))})
    table = orders_table("digits", [Ordered("a|b\n$", ((0, 1), (1, 0)), (result, result))])
    assert r"| a\|b\\n\$ |" in markdown_page(table)
