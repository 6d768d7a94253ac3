"""Published beside ours: the files of a reproduction."""

from cls_jax.app.published.compare import Cell, Published, render_reproduction, reproduction_table
from tests.report.test_summary import make_result


def test_a_reproduction_has_its_table_matrices_and_figure():
    cells = [
        Cell("clser", size, {"learning_rate": 0.1}, make_result(method=f"clser {size}"))
        for size in (200, 500)
    ]
    published = [Published("t", "clser", 200, 10, "a paper", "read", class_il=(80.0, 1.0))]
    table = reproduction_table("t", cells, published)
    files = render_reproduction(table, cells, ("svg", "pdf"))
    assert [*files] == [
        *("comparison.md", "comparison_over_tasks.svg", "comparison_over_tasks.pdf"),
        *("accuracy_clser_200.csv", "accuracy_clser_500.csv", "cells.json"),
    ]
    assert "80.00 ± 1.00" in files["comparison.md"]
    assert files["comparison_over_tasks.pdf"].startswith(b"%PDF-")
    assert "comparison_over_tasks.png" in render_reproduction(table, cells)


def test_a_published_mean_alone_has_a_difference_but_no_errors():
    cells = [Cell("clser", 200, {}, make_result(method="clser 200"))]
    published = [Published("t", "clser", 200, 10, "a paper", "read", class_il=(80.0,))]
    (first, *_) = reproduction_table("t", cells, published).rows
    assert first[3] == "80.00"
    assert float(first[5]) == float(f"{float(first[4].split()[0]) - 80:+.2f}")
