"""Tables as text, files read back, figures that are figures."""

import builtins
import csv
import io
import json
import shutil
import sys

import numpy as np
import pytest
from rich.console import Console

from cls_jax.core import metrics
from cls_jax.core.errors import InputError
from cls_jax.report import figures
from cls_jax.report import results as stored
from cls_jax.report.result_tables import comparison_table, paired_table, result_table
from cls_jax.report.summary import render, report, tables_of
from cls_jax.report.tables import markdown, markdown_page, rich_table, show
from cls_jax.training.events import Result
from tests.support.finished import finished

CONFIG = {"method": "dualnet", "seeds": (0, 4, 7)}


def make_result(num_tasks=3, seeds=(0, 4, 7), views=("answer", "plastic"), method="dualnet"):
    """Plausible accuracies: lower with every task, chance above the diagonal, NaN beyond."""
    rng = np.random.default_rng(num_tasks)
    i, j = np.indices((num_tasks + 1, num_tasks))
    matrix = 0.9 * 0.8 ** (i - 1.0 - j) + rng.uniform(
        -0.05, 0.05, (len(seeds), len(views), 2, num_tasks + 1, num_tasks)
    )
    matrix = np.where(j > i - 1, 0.1, matrix)
    matrix = np.where((j > i) & (i > 0), np.nan, matrix)
    details = {"stream": {"name": "digits, 3 tasks"}, "mode": "scan"}
    return Result(method, seeds, views, matrix, (), 12.34, 1234.5, details)


def text_of(table, width=140):
    """A TextTable as a terminal shows it."""
    to = Console(file=io.StringIO(), width=width)
    to.print(rich_table(table))
    return to.file.getvalue()


def cells(line):
    return [cell.strip() for cell in line.split("  ") if cell.strip()]


def test_table_has_every_view_and_scenario_as_mean_and_std():
    result = make_result()
    lines = [cells(line) for line in text_of(result_table(result)).splitlines()]
    assert ["dualnet on digits, 3 tasks"] in lines
    assert ["network", "scenario", "ACC", "forgetting", "BWT", "FWT", "LA"] in lines
    rows = [line for line in lines if line and line[0] in result.views]
    assert [row[:2] for row in rows] == [
        [view, scenario] for view in result.views for scenario in ("class-IL", "task-IL")
    ]
    acc = 100 * result.matrix[:, 1, 0, -1].mean(-1)
    assert rows[2][2] == f"{acc.mean():.2f} ± {acc.std(ddof=1):.2f}"
    loss = 100 * metrics.forgetting(result.matrix[:, 0, 1, 1:])
    assert rows[1][3] == f"{loss.mean():.2f} ± {loss.std(ddof=1):.2f}"
    assert "over 3 seeds; 12.3 s, 1,234 steps/s" in " ".join(map(" ".join, lines))


def test_one_seed_has_no_spread():
    text = text_of(result_table(make_result(seeds=(5,))))
    assert "±" not in text
    assert "nan" not in text
    assert "one seed (5)" in text


def test_nothing_is_minus_zero():
    result = make_result(seeds=(0, 1))
    result.matrix[:, :, :, 1:] = 0.5
    result.matrix[:, :, :, 3, 0] += 1e-5  # forgetting -0.0005 percent
    assert "-0.00" not in text_of(result_table(result))


def test_names_are_not_read_as_markup():
    text = text_of(result_table(make_result(method="er[bold]")))
    assert "er[bold] on digits" in text


def test_a_narrow_terminal_loses_no_number():
    text = text_of(result_table(make_result()), width=60)
    assert "…" not in text.split("LA")[1]


def comparison():
    good, bad, joint = (make_result(method=name) for name in ("good", "bad", "joint"))
    bad = bad._replace(matrix=bad.matrix - 0.05)
    bad.matrix[:, :, :, 3, :2] -= 0.01  # forgets more
    joint.matrix[:, :, :, 1:-1] = np.nan
    joint.matrix[:, :, :, -1] = 0.97
    return [bad, good, joint]


def test_comparison_marks_the_best_of_each_column(tmp_path):
    results = comparison()
    text = text_of(comparison_table(results))
    assert "digits, 3 tasks" in text
    finished(tmp_path, CONFIG, *results)
    first, _, _ = (tmp_path / "comparison.md").read_text().partition("\n## ")
    rows = {
        row[1]: row[2:-1]
        for row in (
            [cell.strip() for cell in line.split("|")]
            for line in first.splitlines()
            if line.startswith("|")
        )
    }
    assert rows["method"] == [
        *("class-IL ACC", "task-IL ACC", "forgetting", "LA"),
        *("seconds", "steps/s"),
    ]
    assert rows["joint"][:4] == ["**97.00 ± 0.00**", "**97.00 ± 0.00**", "-", "-"]
    is_bold = {name: [cell.startswith("**") for cell in row] for name, row in rows.items()}
    assert is_bold["good"] == [False, False, True, True, False, False]
    assert is_bold["bad"] == [False] * 6
    for name in ("good", "bad"):
        for cell in rows[name]:
            assert cell.strip("*") in text


def test_comparison_files(tmp_path):
    results = comparison()
    finished(tmp_path, CONFIG, *results)
    assert {path.name for path in tmp_path.iterdir()} == {
        *("accuracy_bad.csv", "accuracy_good.csv", "accuracy_joint.csv"),
        *(".lock", "config.json", "comparison.json", "comparison.csv", "comparison.md"),
        "comparison_over_tasks.png",
    }
    with (tmp_path / "comparison.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 3 * 2 * 2 * 3
    by_place = {tuple(r[n] for n in ("method", "network", "scenario", "seed")): r for r in rows}
    for v, view in enumerate(results[1].views):
        expected = metrics.scores(results[1].matrix[1, v, 1])
        for name, value in expected.items():
            found = float(by_place["good", view, "task_il", "4"][name])
            assert found == pytest.approx(value, abs=5e-7)
    records = json.loads((tmp_path / "comparison.json").read_text())
    assert [record["method"] for record in records] == ["bad", "good", "joint"]
    assert records[2]["scores"]["answer"]["class_il"]["forgetting"]["mean"] is None


def test_who_is_better_is_told_seed_by_seed(tmp_path):
    """Against the best by mean, over common seeds alone; the standard error is of the pairs."""
    bad, good, joint = comparison()
    joint = joint._replace(method="same", matrix=good.matrix[[2, 0, 1]], seeds=(7, 0, 9))
    joint.matrix[1, :, :, -1] += 0.02
    joint.matrix[0, :, :, -1] -= 0.01
    expected = 100 * (bad.matrix - joint.matrix[[1, 2, 0]])[[0, 2], 0, 0, -1].mean(-1)
    table = paired_table([bad, good, joint])
    assert table.header == ("method", "class-IL ACC minus same's", "seeds above")
    error = abs(expected[0] - expected[1]) / 2
    assert table.rows == (
        ("bad", f"{expected.mean():+.2f} ± {error:.2f}", "0 of 2"),
        ("good", "-0.50 ± 1.50", "1 of 2"),
    )
    assert table.note == "points, mean ± standard error over 2 seeds"
    finished(tmp_path, CONFIG, bad, good, joint)
    assert markdown(table) in (tmp_path / "comparison.md").read_text()


@pytest.mark.parametrize("seeds", [(1, 2, 3), (0, 1, 2)])  # the first has 0, 4, 7
def test_one_common_seed_is_no_pair(seeds):
    good = make_result(method="good")
    other = make_result(method="other")._replace(seeds=seeds)
    assert paired_table([good, other]) is None
    assert paired_table([good]) is None
    assert tables_of([good, other]) == [comparison_table([good, other])]


@pytest.mark.parametrize("names", [(), ("er", "er")])
def test_comparison_needs_different_names(names):
    with pytest.raises(InputError, match="different names"):
        comparison_table([make_result(method=name) for name in names])


def test_write_leaves_these_files(tmp_path):
    assert finished(tmp_path / "run", CONFIG, make_result()) == tmp_path / "run"
    assert {path.name for path in (tmp_path / "run").iterdir()} == {
        *(".lock", "config.json", "accuracy.csv", "results.json", "summary.md"),
        *("accuracy_matrix.png", "accuracy_over_tasks.png"),
    }


def test_csv_holds_the_matrix(tmp_path):
    result = make_result()
    finished(tmp_path, CONFIG, result)
    with (tmp_path / "accuracy.csv").open() as file:
        header, *rows = csv.reader(file)
    names = ["network", "scenario", "order", "seed", "after_task"]
    assert header == [*names, "task_1", "task_2", "task_3"]
    for trial, seed in enumerate(result.seeds):
        mine = [row for row in rows if row[:4] == ["plastic", "task_il", "", str(seed)]]
        assert [row[4] for row in mine] == ["before", "1", "2", "3"]
        values = [[float(cell) if cell else np.nan for cell in row[5:]] for row in mine]
        np.testing.assert_array_equal(np.float32(values), np.float32(result.matrix[trial, 1, 1]))
    assert len(rows) == 2 * 2 * 3 * 4  # networks, scenarios, seeds, moments


def test_results_json_holds_every_score(tmp_path):
    result = make_result()
    finished(tmp_path, CONFIG, result)
    record = json.loads((tmp_path / "results.json").read_text(), parse_constant=pytest.fail)
    assert record["method"] == "dualnet"
    assert record["seeds"] == [0, 4, 7]
    assert record["num_tasks"] == 3
    assert (record["seconds"], record["steps_per_second"]) == (12.34, 1234.5)
    assert record["details"]["mode"] == "scan"
    for v, view in enumerate(result.views):
        for s, scenario in enumerate(("class_il", "task_il")):
            every = metrics.scores(result.matrix[:, v, s])
            assert set(record["scores"][view][scenario]) == set(every)
            for name, values in every.items():
                got = record["scores"][view][scenario][name]
                np.testing.assert_allclose(got["values"], values)
                assert metrics.Summary(
                    got["mean"], got["std"], got["standard_error"], got["n"]
                ) == pytest.approx(metrics.summarise(values))


def test_summary_has_the_table_and_the_command(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "orig_argv", ["python3", "experiments/x.py", "--preset", "quick"])
    finished(tmp_path, CONFIG, make_result())
    text = (tmp_path / "summary.md").read_text()
    assert text.startswith("# dualnet on digits, 3 tasks\n")
    assert "| network | scenario | ACC |" in text
    assert "```\npython experiments/x.py --preset quick\n```" in text


def test_rendering_writes_nothing_and_is_what_is_written(tmp_path, monkeypatch):
    """Of one run and of several; a figure is the same bytes each time."""
    monkeypatch.chdir(tmp_path)
    for results in ([make_result()], comparison()):
        files = render(results)
        assert not any(tmp_path.iterdir())
        folder = finished(tmp_path / "w", CONFIG, *results)
        for name, content in files.items():
            expected = content if isinstance(content, bytes) else content.encode()
            assert (folder / name).read_bytes() == expected
        assert {path.name for path in folder.iterdir()} == {*files, "config.json", ".lock"}
        shutil.rmtree(folder)


def test_a_full_disk_is_one_sentence_and_changes_nothing(tmp_path, monkeypatch, capsys):
    """Also where it is full after half of the files."""
    folder = finished(tmp_path / "w", CONFIG, make_result())
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    opened, room = builtins.open, iter(range(3))

    def full(path, mode="r", **kind):
        if mode == "xb" and next(room, None) is None:
            raise OSError(28, "No space left on device")
        return opened(path, mode, **kind)

    monkeypatch.setattr("builtins.open", full)
    other = make_result(num_tasks=2)
    with pytest.raises(InputError, match="w: No space left on device; mend that"):
        report([other], folder)
    monkeypatch.undo()
    assert next(room, None) is None, "the disk was never full"
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert "results in" not in capsys.readouterr().out


def test_writing_twice_is_allowed_and_another_experiment_is_not(tmp_path):
    finished(tmp_path, CONFIG, make_result())
    finished(tmp_path, CONFIG, make_result(seeds=(0, 4, 7)))
    before = (tmp_path / "results.json").read_bytes()
    with pytest.raises(InputError, match="another experiment"):
        finished(tmp_path, {**CONFIG, "method": "er"}, make_result())
    assert (tmp_path / "results.json").read_bytes() == before


def test_show_gives_a_pipe_the_full_width(capsys):
    show(rich_table(result_table(make_result())))
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) > 80
    assert sum("±" in line for line in lines) == 5  # four rows and the note


def phased_result(method="spb", bits=(8192.0, 16384.0, 16384.0)):
    """On base classes and phases, with what it keeps."""
    result = make_result(method=method)
    stream = {"name": "digits, 6 + 2 x 2 classes", "scenario": "class_il", "base_classes": 6}
    details = {"stream": stream, "test_examples": [[60, 20, 20]] * 3}
    capacity = {"bits": np.tile(bits, (3, 1)), "units of layer 1": np.tile([64, 70, 75], (3, 1))}
    return result._replace(details=details, capacity=capacity)


def test_base_classes_and_phases_have_the_columns_of_their_literature():
    results = [phased_result("spb"), phased_result("ucir")]
    lines = [cells(line) for line in text_of(comparison_table(results)).splitlines()]
    header = ["method", "average", "phase 1", "last", "old classes", "new classes", "KiB"]
    assert [*header, "seconds", "steps/s"] in lines
    (row,) = [line for line in lines if line and line[0] == "spb"]
    a = results[0].matrix[:, 0, 0, 1:]
    last = 100 * (a[:, 2] @ [0.6, 0.2, 0.2])
    assert row[3] == f"{last.mean():.2f} ± {last.std(ddof=1):.2f}"
    assert row[6] == "2"
    alone = text_of(result_table(results[0]))
    assert "old classes" in alone
    assert "2 KiB must be kept to answer" in " ".join(alone.split())


def test_what_grows_has_a_figure_and_is_read_back(tmp_path):
    growing, fixed = phased_result("spb"), phased_result("sgd", bits=(8192.0,) * 3)
    assert figures.grows(growing)
    assert not figures.grows(fixed)
    finished(tmp_path / "one", CONFIG, growing)
    finished(tmp_path / "two", CONFIG, growing, fixed)
    for folder in ("one", "two"):
        assert (tmp_path / folder / "capacity.png").stat().st_size > 10_000
        first = stored.read(tmp_path / folder)[0]
        np.testing.assert_array_equal(first.capacity["bits"], growing.capacity["bits"])
    assert (tmp_path / "two" / "accuracy_by_capacity.png").stat().st_size > 10_000
    finished(tmp_path / "three", CONFIG, fixed)
    assert not (tmp_path / "three" / "capacity.png").exists()


def test_a_method_told_the_task_at_test_has_a_second_score_on_domains():
    stream = {"name": "permuted", "scenario": "domain_il"}
    details = {"stream": stream, "told_at_test": True}
    told = make_result()._replace(details=details)
    assert told.scenarios == ("domain-IL", "task-IL")
    assert told._replace(details={"stream": stream}).scenarios == ("domain-IL",)
    text = " ".join(text_of(comparison_table([told])).split())
    assert "forgetting and LA are task-IL" in text


TOLD = {"told_task": True, "told_at_test": False, "class_il": False}


def told(result, **changes):
    """The same result of a method that is told its task."""
    return result._replace(details={**result.details, **TOLD, **changes})


def table_of(lines):
    """Cells of the rows of a Markdown table."""
    return [[c.strip(" *") for c in x.split("|")[1:-1]] for x in lines if x.startswith("| ")]


def test_one_method_told_its_task_decides_what_a_comparison_leads_with(tmp_path, capsys):
    bad, good, _ = comparison()
    results = [bad, told(good)]
    report(results, tmp_path)
    screen = capsys.readouterr().out
    header, *rows = table_of((tmp_path / "comparison.md").read_text().splitlines())
    assert header[:5] == ["method", "task-IL ACC", "clipped forgetting", "LA", "class-IL ACC"]
    a = bad.matrix[:, 0, 1, 1:]
    expected = metrics.average_accuracy(a), metrics.forgetting_clipped(a)
    expected += (metrics.learning_accuracy(a), metrics.average_accuracy(bad.matrix[:, 0, 0, 1:]))
    assert rows[0][1:5] == [
        f"{100 * each.mean():.2f} ± {100 * each.std(ddof=1):.2f}" for each in expected
    ]
    assert all(cell in screen for cell in (*header[:5], *rows[0][:5]))
    assert "clipped forgetting and LA are task-IL" in " ".join(screen.split())
    assert "told the task in training: good;" in " ".join(screen.split())


def test_the_table_of_a_method_told_its_task_leads_with_the_task_told():
    result = told(make_result())
    header, *rows = table_of(markdown_page(result_table(result)).splitlines())
    assert header == ["network", "scenario", "ACC", "clipped forgetting", "LA", "BWT", "FWT"]
    assert [row[:2] for row in rows] == [
        [view, scenario]
        for view in result.views
        for scenario in ("task-IL (task told)", "class-IL")
    ]
    clipped = 100 * metrics.forgetting_clipped(result.matrix[:, 1, 0, 1:])
    assert rows[3][3] == f"{clipped.mean():.2f} ± {clipped.std(ddof=1):.2f}"


def test_made_to_tell_all_classes_apart_leads_with_class_il():
    """iCaRL is told which classes a task has, and its paper's measure is class-IL all the same."""
    result = told(make_result(), class_il=True)
    assert comparison_table([result]).header[1] == "class-IL ACC"
    assert "forgetting and LA are class-IL" in markdown_page(comparison_table([result]))


def test_where_no_score_has_the_task_told_the_only_one_leads():
    stream = {"name": "permuted", "scenario": "domain_il"}
    table = comparison_table([told(make_result(), stream=stream)])
    assert table.header[:4] == ("method", "domain-IL ACC", "clipped forgetting", "LA")
    assert "LA are domain-IL" in table.note
