"""The LaTeX of a table: what TeX would take for itself is escaped, the numbers are Markdown's."""

import io
import re

import pytest
from hypothesis import example, given

from cls_jax.app.commands import report
from cls_jax.report.latex import latex, latex_literal, latex_page, show_latex
from cls_jax.report.result_tables import comparison_table, result_table
from cls_jax.report.results import read
from cls_jax.report.summary import render_comparison
from cls_jax.report.tables import TextTable, markdown, visible
from tests.report.test_names import NASTY, names
from tests.report.test_summary import comparison, make_result
from tests.support.finished import finished

ESCAPES = {
    "a_b": r"a\_b",
    "100 %": r"100 \%",
    "$x^2$": r"\$x\textasciicircum{}2\$",
    "a & b": r"a \& b",
    "#1": r"\#1",
    "{x}": r"\{x\}",
    "~er": r"\textasciitilde{}er",
    "\\frac{": r"\textbackslash{}frac\{",
    "a|b<c>d": r"a\textbar{}b\textless{}c\textgreater{}d",
    "[red]*": r"{[}red{]}{*}",
    "a--b---c": r"a-{}-b-{}-{}-c",
    "a,,b": r"a,{},b",
    "`''": r"\textasciigrave{}\textquotesingle{}\textquotesingle{}",
    '"a"': r"{\char34}a{\char34}",
    "été Łódź ß": "été Łódź ß",
    "\u1e7d þ": r"\textbackslash{}u1e7d \textbackslash{}xfe",  # not in the encoding it starts with
    "日本": r"\textbackslash{}u65e5\textbackslash{}u672c",
    "a\nb": r"a\textbackslash{}nb",
    "5.0 ± 0.1": r"5.0 $\pm$ 0.1",
    "class-IL": "class-IL",
}

WORDS = {
    **{r"\textbackslash{}": "\\", r"\textasciitilde{}": "~", r"\textasciicircum{}": "^"},
    **{r"\textless{}": "<", r"\textgreater{}": ">", r"\textbar{}": "|", r"{\char34}": '"'},
    **{r"\textasciigrave{}": "`", r"\textquotesingle{}": "'", r"$\pm$": "±", r"$\times$": "\u00d7"},
    **{r"$\rightarrow$": "→", r"\ldots{}": "…", r"\textperiodcentered{}": "·"},
    **{f"\\{c}": c for c in "{}$&#_%"},
    **{f"{{{c}}}": c for c in "[]*"},
    "{}": "",
}
TOKEN = re.compile("|".join(re.escape(word) for word in sorted(WORDS, key=len, reverse=True)))


def printed(text):
    """What TeX prints of it."""
    return TOKEN.sub(lambda found: WORDS[found[0]], text)


@pytest.mark.parametrize("name", ESCAPES)
def test_escapes(name):
    assert latex_literal(name) == ESCAPES[name]


@given(names)
@example("\\{}$&#_%~^[]*<>|`'\"")
def test_latex_prints_the_name_itself(name):
    text = latex_literal(name)
    left = TOKEN.sub("", text)
    assert not re.search(r"[\\{}$&#_%~^\[\]*<>|`'\"]", left), "a mark of TeX is not escaped"
    assert not re.search("--|,,", left.replace("{}", " ")) or "{}" in text
    read_back = printed(text)
    if visible(name).isascii():
        assert read_back == visible(name)
    assert all(c.isascii() or c in visible(read_back) for c in read_back)


def cells(text):
    """The rows of a tabular: its cells as they are printed, and which are bold."""
    body = re.search(r"\\toprule\n(.*)\\bottomrule", text, re.DOTALL)[1].replace("\\midrule\n", "")
    rows = [line.removesuffix(r" \\").split(" & ") for line in body.splitlines()]
    bold = {(i, j) for i, row in enumerate(rows) for j, c in enumerate(row) if c[:8] == r"\textbf{"}
    plain = [[re.sub(r"^\\textbf{(.*)}$", r"\1", cell) for cell in row] for row in rows]
    return [[printed(cell) for cell in row] for row in plain], bold


def test_it_has_the_cells_and_the_bold_of_the_table():
    table = comparison_table(comparison())
    rows, bold = cells(latex(table))
    assert rows[0] == [*table.header]
    assert rows[1:] == [[c if c != "-" else "--" for c in row] for row in table.rows]
    assert bold == {(i + 1, j) for i, j in table.bold}
    assert bold
    marked = markdown(table).splitlines()[2:]
    assert [line.count("**") // 2 for line in marked] == [
        sum(i == row for i, _ in bold) for row in range(1, len(rows))
    ]
    assert latex(table).startswith(f"\\begin{{tabular}}{{l{'r' * (len(table.header) - 1)}}}\n")


@pytest.mark.parametrize("name", NASTY)
def test_a_hostile_name_breaks_no_row(name):
    result = make_result(method=name)._replace(details={"stream": {"name": name}})
    both = [result, result._replace(method="other " + name)]
    for table in (result_table(result), comparison_table(both)):
        rows, _ = cells(latex(table))
        assert {len(row) for row in rows} == {len(table.header)}
        page = latex_page(table)
        page.encode("utf-8")
        begun, ended = (
            re.findall(rf"^\\{w}{{(\w+)}}", page, re.MULTILINE) for w in ("begin", "end")
        )
        assert begun == ended[::-1] == ["table", "tabular"]
        bare = re.sub(r"\\[{}]", "", page[page.index("\n") :])  # the command is a comment
        assert bare.count("{") == bare.count("}")


def test_signs_are_mathematics_and_hyphens_are_not():
    table = TextTable("t", ("a-1", "b"), (("x-2", "-0.35 ± 0.10"), ("y", "+1.2 (-0.3 SE)")), "n")
    assert r"x-2 & $-$0.35 $\pm$ 0.10 \\" in latex(table)
    assert r"y & $+$1.2 ($-$0.3 SE) \\" in latex(table)
    assert r"a-1 & b \\" in latex(table)


def test_a_page_says_how_it_was_made_and_what_it_needs(monkeypatch):
    monkeypatch.setattr("cls_jax.report.latex.command", lambda: "python x.py 'a\nb'")
    first, second, *_, caption, end = latex_page(comparison_table(comparison())).splitlines()
    assert first == r"% python x.py 'a\nb'"
    assert second == r"% needs \usepackage{booktabs}"
    assert caption.startswith(
        r"\caption{digits, 3 tasks. Percent, mean $\pm$ sample std over 3 seeds"
    )
    assert end == r"\end{table}"


def test_it_stands_beside_the_markdown_only_if_asked_for():
    results = comparison()
    files = render_comparison(results, latex=True)
    assert files["comparison.tex"] == latex_page(comparison_table(results))
    assert "comparison.tex" not in render_comparison(results)


def test_where_stdout_is_ascii_it_is_still_utf_8(monkeypatch):
    stdout = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr("sys.stdout", stdout)
    show_latex(result_table(make_result(method="été")))
    stdout.flush()
    assert "été" in stdout.buffer.getvalue().decode("utf-8")


def test_the_command_writes_or_prints_it(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    finished("a", {}, make_result())
    finished("b", {}, *comparison())
    report.start(["b", "--latex"])
    assert capsys.readouterr().out == latex_page(comparison_table(read("b")))
    report.start(["a", "--latex"])
    assert capsys.readouterr().out == latex_page(result_table(*read("a")))
    report.start(["b", "--latex", "--out", "o", "--figure-format", "svg", "pdf"])
    assert "results in o" in capsys.readouterr().out
    made = {path.name for path in (tmp_path / "o").iterdir() if "accuracy_" not in path.name}
    assert made == {
        *("comparison.json", "comparison.csv", "comparison.md", "comparison.tex"),
        *("comparison_over_tasks.svg", "comparison_over_tasks.pdf"),
    }
    page = (tmp_path / "o" / "comparison.tex").read_text(encoding="utf-8")
    assert latex(comparison_table(read("b"))) in page
