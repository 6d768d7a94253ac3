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

from cls_jax.report import canvas, figures
from cls_jax.report.canvas import encode
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


STARTS = {"png": b"\x89PNG", "svg": b"<?xml", "pdf": b"%PDF-"}


def drawn(draw, *formats):
    """The figure, written as PNG and so; any warning is an error, and no text is mathematics."""
    from matplotlib.text import Text

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        figure = draw()
        for format in ("png", *formats):
            assert encode(figure, format).startswith(STARTS[format])
    texts = figure.findobj(Text)
    assert not any(text.get_parse_math() or text.get_usetex() for text in texts)
    return figure


def inside(figure, artist):
    """Whether all of it is on the page."""
    box, page = artist.get_window_extent(), figure.bbox
    return box.x0 >= 0 and box.y0 >= -1 and box.x1 <= page.x1 + 1 and box.y1 <= page.y1 + 1


@pytest.mark.parametrize(
    "name", [*NASTY[:4], *(pytest.param(name, marks=pytest.mark.more) for name in NASTY[4:])]
)
def test_every_figure_is_drawn_whatever_the_names(name, monkeypatch):
    result = on(name, method=name)
    kept = phased_result(name)
    other = phased_result("other")
    monkeypatch.setattr(canvas, "DPI", 100)
    for draw in (
        lambda: figures.accuracy_matrix(result),
        lambda: figures.comparison_over_tasks([result, on(name, method=name + "2")]),
        lambda: figures.capacity(
            [kept._replace(capacity={**kept.capacity, name: kept.capacity["units of layer 1"]})]
        ),
        lambda: figures.capacity([kept, other]),
    ):
        figure = drawn(draw)
        assert all(inside(figure, one) for one in (*figure.texts, *figure.legends))
    drawn(lambda: figures.accuracy_over_tasks(result), "svg", "pdf")


def test_a_figure_shows_names_as_they_are():
    long = "x" * 2000
    odd = ["$a$", "_b", "日", "\udce9", f"{long}1", f"{long}2{long}", f"{long}3{long}"]
    results = [on("a$^$b", method=name) for name in odd]
    figure = drawn(lambda: figures.comparison_over_tasks(results))
    assert figure.get_suptitle() == "a$^$b"
    (legend,) = figure.legends
    labels = [text.get_text() for text in legend.get_texts()]
    assert labels[:4] == ["$a$", " _b", "\\u65e5", "\\udce9"]
    assert len(set(labels)) == len(odd)
    assert max(map(len, labels)) < 70
    assert inside(figure, legend)
    axes = figure.axes[0].get_window_extent()
    assert axes.height > figure.bbox.height / 3, "the names leave no room for the curves"
    assert legend.get_window_extent().y1 < axes.y0, "the names lie over the curves"


def test_a_users_matplotlibrc_changes_no_figure():
    import matplotlib

    result = on("a_b $ %")
    expected = encode(figures.accuracy_over_tasks(result), "png")
    theirs = {"text.usetex": True, "font.size": 30, "axes.facecolor": "red", "savefig.dpi": 20}
    with matplotlib.rc_context(theirs):
        assert encode(drawn(lambda: figures.accuracy_over_tasks(result)), "png") == expected
        assert matplotlib.rcParams["font.size"] == 30


@pytest.mark.parametrize("name", NASTY)
def test_a_whole_run_is_written_and_told(name, tmp_path, capfd, monkeypatch):
    """After the training nothing may fail; the page and the table say the name."""
    monkeypatch.setattr(
        "cls_jax.report.tables.command", lambda: f"python x.py --data 'folder:{name}'"
    )
    monkeypatch.setattr(canvas, "DPI", 40)
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
    console()(Started(name, name, (0,), 2, 20, "loop"))
    assert visible(name).strip() in capfd.readouterr().err


def test_labels_of_orders_too():
    result = make_result(num_tasks=2, seeds=(0,))._replace(capacity={"bits": np.ones((1, 2))})
    table = orders_table("digits", [Ordered("a|b\n$", ((0, 1), (1, 0)), (result, result))])
    assert r"| a\|b\\n\$ |" in markdown_page(table)
