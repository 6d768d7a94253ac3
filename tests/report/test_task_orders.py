"""Results in several orders: what the table says, by hand, and what is written."""

import csv
import json

import numpy as np
import pytest

from cls_jax.core.errors import InputError
from cls_jax.report.matrices import Label, read_matrices
from cls_jax.report.task_orders import (
    Ordered,
    orders_table,
    read_orders,
    report_orders,
    scores_of_orders,
)
from cls_jax.training.events import Result

ORDERS = (0, 1, 2), (2, 0, 1)
FINAL = np.array([[0.9, 0.8, 0.7], [0.6, 0.9, 0.9]])  # by place: tasks 0 1 2, then 2 0 1


def result(final, order, lift=0.0):
    """Two seeds; the score with the task hidden is never looked at."""
    matrix = np.full((2, 1, 2, 4, 3), 0.123)
    told = np.full((4, 3), np.nan)
    told[1:] = np.where(np.tri(3, dtype=bool), 1.0, np.nan)
    told[3] = final
    matrix[0, 0, 1], matrix[1, 0, 1] = told, np.minimum(told, 1.0) - lift
    return Result(
        method=f"m {order}",
        seeds=(0, 5),
        views=("answer",),
        matrix=matrix,
        states=(),
        seconds=2.0,
        steps_per_second=1.0,
        details={"stream": {"name": "digits, 3 tasks, in order " + "-".join(map(str, order))}},
        capacity={"bits": np.array([[8192.0, 16384, 24576], [8192, 16384, 32768]])},
    )


def ordered(label="m", lift=0.0):
    results = tuple(result(f, o, lift) for f, o in zip(FINAL, ORDERS, strict=True))
    return Ordered(label, ORDERS, results)


def test_scores_by_hand():
    """Task 0: .9 first and .9 second; task 1: .8 and .9; task 2: .7 and .6."""
    scores = scores_of_orders(ordered(lift=0.1))
    np.testing.assert_allclose(scores["OPD"], [[0.0, 0.1, 0.1]] * 2, atol=1e-12)
    np.testing.assert_allclose(scores["AOPD"], [0.2 / 3] * 2)
    np.testing.assert_allclose(scores["MOPD"], [0.1] * 2)
    np.testing.assert_allclose(scores["ACC"], [0.8, 0.7])
    np.testing.assert_allclose(scores["clipped forgetting"], [0.2, 0.2])
    np.testing.assert_allclose(scores["LA"], [(0.9 + 2.9 / 3) / 2, (0.9 + 2.9 / 3) / 2 - 0.1])


def test_what_was_not_scored_is_a_dash():
    last = [r._replace(matrix=r.matrix.copy()) for r in ordered().results]
    for r in last:
        r.matrix[..., 1:-1, :] = np.nan
    (row,) = orders_table("digits", [Ordered("m", ORDERS, tuple(last))]).rows
    assert row[1] == "80.00 ± 0.00"
    assert row[2:4] == ("-", "-")


def test_the_table():
    table = orders_table("digits", [ordered(), ordered("other", 0.1)])
    scores = "ACC", "clipped forgetting", "LA", "AOPD", "MOPD"
    assert table.header == ("method", *scores, "KiB", "seconds")
    assert table.rows[0] == (
        *("m", "80.00 ± 0.00", "20.00 ± 0.00", "93.33 ± 0.00", "6.67 ± 0.00", "10.00 ± 0.00"),
        *("3.5", "4"),
    )
    assert table.rows[1][:2] == ("other", "75.00 ± 7.07")


def test_a_count_in_percent_has_a_column():
    """Of the method that has it; its mean over orders and seeds, in the end."""
    name, counted = "percent, official count", np.array([[1.0, 2, 104], [1, 2, 105]])
    mine = [r._replace(capacity={**r.capacity, name: counted}) for r in ordered().results]
    table = orders_table("digits", [Ordered("m", ORDERS, tuple(mine)), ordered("other")])
    assert table.header[-3:] == ("KiB", name, "seconds")
    assert [row[-3:] for row in table.rows] == [("3.5", "104.5", "4"), ("3.5", "-", "4")]


def test_what_is_written(tmp_path, capsys):
    texts, one = ("0-1-2", "2-0-1"), ordered()
    report_orders(["m", "n n"], texts, [*one.results, *one.results], tmp_path)
    assert "digits, 3 tasks" in capsys.readouterr().out
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {
        *("comparison.md", "order_disparity.json", "capacity.png"),
        *("accuracy_m.csv", "accuracy_n_n.csv"),
    }
    found = json.loads((tmp_path / "order_disparity.json").read_text())
    assert [entry["label"] for entry in found] == ["m", "n n"]
    assert found[0]["MOPD"]["mean"] == pytest.approx(0.1)
    assert found[0]["capacity after each task"]["bits"] == [8192, 16384, 28672]
    rows = list(csv.DictReader((tmp_path / "accuracy_m.csv").open()))
    assert len(rows) == 2 * 2 * 4
    last = next(r for r in rows if (r["order"], r["seed"], r["after_task"]) == ("3-1-2", "0", "3"))
    assert [last[f"task_{j}"] for j in (1, 2, 3)] == ["0.9", "0.9", "0.6"]
    first = next(r for r in rows if (r["order"], r["after_task"]) == ("3-1-2", "1"))
    assert [first[f"task_{j}"] for j in (1, 2, 3)] == ["", "", "1"]
    matrices = read_matrices(tmp_path / "accuracy_m.csv")
    places = [(o, seed) for o in ("1-2-3", "3-1-2") for seed in (0, 5)]
    assert [*matrices] == [Label("answer", "task_il", seed, o) for o, seed in places]
    np.testing.assert_array_equal(
        matrices[Label("answer", "task_il", 5, "3-1-2")][2], np.float32([1.0, np.nan, 1.0])
    )
    assert (tmp_path / "comparison.md").read_text().startswith("# digits, 3 tasks\n")


def test_the_figure_has_the_formats_asked_for(tmp_path):
    report_orders(["m"], ("0-1-2", "2-0-1"), ordered().results, tmp_path, ("svg", "pdf"))
    drawn = {path.name for path in tmp_path.iterdir()} - {"comparison.md", "order_disparity.json"}
    assert drawn == {"capacity.svg", "capacity.pdf", "accuracy_m.csv"}


def test_orders_are_read():
    assert read_orders(("0-1-2", "2-0-1")) == ORDERS
    for wrong in (("0-1",), ("0-1", "0-1"), ("0-1", "1;0"), ()):
        with pytest.raises(InputError, match="orders has"):
            read_orders(wrong)
