"""Results read back are the results that were written; several workdirs become one table."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from cls_jax.app.commands import report
from cls_jax.core.errors import InputError
from cls_jax.core.files import write_all
from cls_jax.report.result_tables import comparison_table, paired_table, result_table
from cls_jax.report.results import collect, comparison_files, read, run_files
from cls_jax.report.summary import render
from cls_jax.report.tables import markdown
from tests.report.test_summary import comparison, make_result, text_of
from tests.support.finished import finished

ROOT = Path(__file__).resolve().parents[2]
CONFIG = {"method": "er", "seeds": (0, 4, 7)}


def write(folder, *results):
    """A finished workdir, as an experiment leaves it."""
    return finished(folder, CONFIG, *results)


def on(result, scenario="domain_il", **details):
    """The same result on a stream of another kind: one score, the other as never measured."""
    matrix = result.matrix.copy()
    matrix[:, :, 1] = np.nan
    stream = {"name": f"{scenario} of digits", "scenario": scenario}
    return result._replace(matrix=matrix, details={"stream": stream, **details})


def long(**kind):
    """Twenty tasks; of so many ``make_result`` forgets some below zero."""
    result = make_result(num_tasks=20, **kind)
    return result._replace(matrix=result.matrix.clip(0, 1))


def assert_same(found, expected):
    """Everything but the final states, accuracies bit for bit as float32."""
    assert found.matrix.dtype == np.float64
    np.testing.assert_array_equal(found.matrix, np.float32(expected.matrix))
    fields = ("method", "seeds", "views", "seconds", "steps_per_second", "details", "scenarios")
    for name in fields:
        assert getattr(found, name) == getattr(expected, name), name
    assert all(type(seed) is int for seed in found.seeds)
    assert found.states == ()


SINGLE = {
    "views and seeds": make_result(),
    "one of each": make_result(seeds=(5,), views=("answer",)),
    "twenty tasks": long(seeds=(0, 1)),
    "one score": on(make_result(views=("answer", "working", "plastic"))),
    "a sweep": make_result(method="er learning_rate=0.1"),
}


@pytest.mark.parametrize("name", SINGLE)
def test_one_run_comes_back(name, tmp_path):
    result = SINGLE[name]
    (found,) = read(write(tmp_path / "run", result._replace(states=("big",))))
    assert_same(found, result)
    assert text_of(result_table(found)) == text_of(result_table(result))


@pytest.mark.parametrize("scenario", ["class_il", "domain_il"])
def test_a_comparison_comes_back(scenario, tmp_path):
    results = comparison()
    results[0] = results[0]._replace(method="er learning_rate=0.1", seeds=(3, 2, 1))
    results[2] = results[2]._replace(views=("answer", "stable"))
    if scenario == "domain_il":
        results = [on(result) for result in results]
    found = read(write(tmp_path / "run", *results))
    for mine, expected in zip(found, results, strict=True):
        assert_same(mine, expected)
    assert text_of(comparison_table(found)) == text_of(comparison_table(results))


def test_accuracies_of_a_run_come_back_bit_for_bit(tmp_path):
    """They are float32 quotients; ties in a table's last digit fall as they fell."""
    result = make_result(num_tasks=5)
    counts = np.round(1797 * result.matrix)
    result = result._replace(matrix=np.float32(counts / 1797).astype(np.float64))
    (found,) = read(write(tmp_path, result))
    np.testing.assert_array_equal(found.matrix, result.matrix)


def test_what_was_not_measured_is_nan_again(tmp_path):
    result = make_result()._replace(steps_per_second=float("nan"))
    (found,) = read(write(tmp_path, result))
    np.testing.assert_array_equal(np.isnan(found.matrix), np.isnan(result.matrix))
    assert np.isnan(found.steps_per_second)


RECORDS = [
    folder
    for folder in sorted((ROOT / "records").iterdir())
    if any((folder / name).exists() for name in ("results.json", "comparison.json"))
]


@pytest.mark.parametrize("folder", RECORDS, ids=lambda folder: folder.name)
def test_records_give_their_own_table(folder):
    results = read(folder)
    one = (folder / "results.json").exists()
    table = result_table(*results) if one else comparison_table(results)
    page = (folder / ("summary.md" if one else "comparison.md")).read_text(encoding="utf-8")
    assert markdown(table) in page


CSV = "accuracy.csv"


def replace(old, new):
    return lambda path: path.write_text(path.read_text().replace(old, new, 1))


DAMAGE = {
    "matrix missing": (CSV, Path.unlink, f"{CSV} is missing; run the command"),
    "matrix empty": (CSV, lambda path: path.write_text(""), f"{CSV} is damaged: it is empty"),
    "a row missing": (CSV, lambda path: path.write_text(path.read_text()[:150]), "is damaged"),
    "a moment missing": (CSV, replace("before,", "#,"), "after_task is not before, 1, ..., 3"),
    "a task missing": (CSV, replace(",task_3", ""), "is damaged"),
    "a word missing": (CSV, replace("before,", "before"), "not 3 accuracies in each row"),
    "no number": (CSV, replace("0.", "o."), "is damaged"),
    "another's": (
        CSV,
        lambda path: path.write_text(path.read_text().replace(",4,", ",9,")),
        "no matrix answer class_il seed 4",
    ),
    "rows of two": (CSV, replace(",4,1,", ",7,1,"), "rows of two matrices are mixed"),
    "twice": (
        CSV,
        lambda path: path.write_text(path.read_text() + path.read_text().partition("\n")[2]),
        "a matrix twice",
    ),
    "the format before": (
        CSV,
        lambda path: path.write_text("after_task,task_1,task_2,task_3\n"),
        "is damaged: another header",
    ),
    "in percent": (CSV, replace("0.", "70."), "accuracies in [0, 1]"),
    "not text": (CSV, lambda path: path.write_bytes(b"\xff\xfe\x00"), "is damaged"),
    "no json": ("results.json", lambda path: path.write_text("{"), "results.json is damaged"),
    "another json": ("results.json", lambda path: path.write_text("[1]"), "is damaged"),
    "no seeds": ("results.json", replace('"seeds"', '"sees"'), "is damaged"),
    "nested": ("results.json", lambda path: path.write_text("[" * 100_000), "is damaged"),
    "a huge seed": ("results.json", replace('"seeds": [', f'"seeds": [{10**30},'), "is damaged"),
    "no tasks": ("results.json", replace('"num_tasks": 3', '"num_tasks": "3"'), "is damaged"),
}


def told(**changes):
    """Sets fields of results.json, of its details where the name begins so; None: not there."""

    def harm(path):
        record = json.loads(path.read_text())
        for name, value in changes.items():
            part = record["details"] if name.startswith("details_") else record
            part[name.removeprefix("details_")] = value
        kept = {name: value for name, value in record.items() if value != "leave out"}
        path.write_text(json.dumps(kept))

    return harm


def deep(levels):
    return lambda path: path.write_text("[" * levels + "]" * levels)


def nested(levels):
    return lambda path: replace('"mode"', '"deep": ' + "[" * levels + "]" * levels + ', "mode"')(
        path
    )


PHASED = {"name": "digits", "scenario": "class_il", "base_classes": 6}
DAMAGE |= {
    f"{CSV} rows out of order": (CSV, replace(",4,1,", ",4,2,"), "after_task is not"),
    f"{CSV} too large for float32": (CSV, replace("0.", "1e300"), "accuracies in [0, 1]"),
    f"{CSV} is a folder": (CSV, lambda path: [path.unlink(), path.mkdir()], "is damaged"),
    f"{CSV} is a pipe": (CSV, lambda path: [path.unlink(), os.mkfifo(path)], "is damaged"),
    **{
        f"results.json {name}": ("results.json", harm, f"results.json is damaged ({words}")
        for name, harm, words in (
            ("is a folder", lambda path: [path.unlink(), path.mkdir()], "not a file"),
            ("is a pipe", lambda path: [path.unlink(), os.mkfifo(path)], "not a file"),
            ("nested 100,000 deep", deep(100_000), "nested more than 64 deep"),
            ("nested 400 deep", nested(400), "nested more than 64 deep"),
            ("a number of 5,000 digits", replace("12.34", "1" * 5000), "not JSON"),
            ("a number of 400 digits", replace("12.34", "1" * 400), "seconds is 1111"),
            ("infinite", replace("12.34", "1e999"), "seconds is inf"),
            ("NaN", replace('"num_tasks": 3', '"num_tasks": NaN'), "NaN is not JSON"),
            ("without a cost", told(seconds="leave out"), "seconds is missing"),
            ("tasks as a float", told(num_tasks=3.0), "num_tasks is 3.0"),
            ("true tasks", told(num_tasks=True), "num_tasks is True"),
            ("no task", told(num_tasks=0), "num_tasks is 0"),
            ("a seed of 1.5", told(seeds=[0, 1.5]), "seeds is [0, 1.5]"),
            ("a seed twice", told(seeds=[0, 0]), "seeds is [0, 0]"),
            ("seeds as text", told(seeds="047"), "seeds is '047'"),
            ("no seed", told(seeds=[]), "seeds is []"),
            ("a method of no name", told(method=" "), "method is ' '"),
            ("a number as method", told(method=3), "method is 3"),
            ("no view", told(scores={}), "scores is {}"),
            ("details as list", told(details=[]), "details is []"),
            ("a stream of numbers", told(details_stream=[1]), "details.stream is [1]"),
            ("a nameless stream", told(details_stream={"name": 3}), "details.stream.name is 3"),
            ("told as text", told(details_told_task="no"), "details.told_task is 'no'"),
            (
                "phases without sizes",
                told(details_stream=PHASED),
                "details.test_examples is missing",
            ),
            ("sizes of fewer tasks", told(details_test_examples=[[1, 2]] * 3), "details.test_exam"),
            ("no example", told(details_test_examples=[[0, 0, 0]] * 3), "details.test_examples"),
            ("capacity as text", told(capacity="big"), "capacity is 'big'"),
            (
                "ragged capacity",
                told(capacity={"bits": [[1], [1, 2]]}),
                "capacity.bits is [[1], [1",
            ),
            ("words kept", told(capacity={"bits": [["1"] * 3] * 3}), "capacity.bits is [['1'"),
        )
    },
}


def test_what_is_too_large_for_the_files_takes_no_memory(tmp_path):
    """A billion tasks are no reason to ask for 16 exabytes."""
    run = write(tmp_path / "run", make_result())
    told(num_tasks=10**9)(run / "results.json")
    with pytest.raises(InputError, match=r"is damaged: not 1000000000 tasks"):
        read(run)


@pytest.mark.parametrize("text", ["{}", "[]", "[[]]", "[1]", '"er"', "null", '[{"method": "er"}]'])
def test_a_comparison_that_is_none_is_named(text, tmp_path):
    (tmp_path / "comparison.json").write_text(text)
    with pytest.raises(InputError, match=r"comparison\.json is damaged \("):
        read(tmp_path)


def test_a_damaged_record_ends_the_command_in_one_sentence(tmp_path, capsys):
    run = write(tmp_path / "run", make_result())
    nested(400)(run / "results.json")
    with pytest.raises(SystemExit) as stop:
        report.start([str(run), "--out", str(tmp_path / "out")])
    out, err = capsys.readouterr()
    assert (stop.value.code, out, err.count("\n")) == (2, "", 1)
    assert not (tmp_path / "out").exists()


def test_phases_stand_beside_phases_only(tmp_path):
    result, stream = make_result(method="spb"), {**PHASED, "scenario": "class_il"}
    details = {"stream": stream, "test_examples": [[60, 20, 20]] * 3}
    phased = write(tmp_path / "phased", result._replace(details=details))
    with pytest.raises(InputError, match="has base classes and phases, class-IL and task-IL over"):
        collect([phased, write(tmp_path / "plain", make_result(method="er"))])


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    """A finished workdir."""
    return write(tmp_path_factory.mktemp("sound") / "run", make_result())


@pytest.mark.parametrize("name", DAMAGE)
def test_damage_is_named(name, sound, tmp_path):
    file, harm, words = DAMAGE[name]
    harm(shutil.copytree(sound, tmp_path / "run") / file)
    with pytest.raises(InputError) as caught:
        read(tmp_path / "run")
    assert words in str(caught.value)
    assert str(tmp_path / "run" / file) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_no_name_leads_out_of_the_folder(tmp_path):
    """Of a method or a network, which a stranger's files may give."""
    (tmp_path / "w").mkdir()
    first, second = comparison()[:2]
    views = ("answer", "../../victim", *first.views[2:])[: len(first.views)]
    results = [first._replace(method="../x", views=views), second._replace(method="é" * 300)]
    write_all(tmp_path / "w", comparison_files(results))
    assert [path.name for path in tmp_path.iterdir()] == ["w"]
    for one, again in zip(results, read(tmp_path / "w"), strict=True):
        assert (again.method, again.views) == (one.method, one.views)
        np.testing.assert_array_equal(again.matrix, np.float32(one.matrix))


def test_what_is_not_finished_is_told(tmp_path):
    with pytest.raises(InputError, match="nowhere: there is no such folder"):
        read(tmp_path / "nowhere")
    with pytest.raises(InputError, match="has no finished results; run its command to the end"):
        read(tmp_path)
    (tmp_path / "cells.json").write_text("[]")
    with pytest.raises(InputError, match=r"is a table of reproduce\.py"):
        read(tmp_path)


def test_the_json_comes_last():
    """Files are put in place in this order: a run killed then has no results, or all of them."""
    assert [*run_files(make_result())] == ["accuracy.csv", "results.json"]
    matrices = [f"accuracy_{name}.csv" for name in ("bad", "good", "joint")]
    assert [*comparison_files(comparison())] == [*matrices, "comparison.json"]
    for results in ([make_result()], comparison()):
        assert [*render(results)][-1] in ("results.json", "comparison.json")


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """Finished workdirs, written once: those of ``runs`` and ``others``."""
    folder, er = tmp_path_factory.mktemp("written"), make_result(method="er")
    write(folder / "runs" / "a", er)
    write(folder / "runs" / "b", er._replace(matrix=er.matrix / 2))
    write(folder / "runs" / "c", *comparison())
    write(folder / "others" / "domain", on(make_result(method="sgd")))
    write(folder / "others" / "long", long(seeds=(0,), method="sgd"))
    return folder


@pytest.fixture
def runs(written, tmp_path, monkeypatch):
    """Finished workdirs a (er), b (er of other accuracies), c (three methods); the cwd."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(written / "runs", "runs")
    return tmp_path


def test_collected_runs_keep_their_names_where_they_can(runs):
    labels = [result.method for result in collect(["runs/c", "runs/a"])]
    assert labels == ["bad", "good", "joint", "er"]
    labels = [result.method for result in collect(["runs/a", "runs/c", "runs/b"])]
    assert labels == ["er (a)", "bad", "good", "joint", "er (b)"]


def test_folders_of_one_name_are_told_apart(runs):
    shutil.copytree("runs/a", "old/a")
    labels = [result.method for result in collect(["runs/a", "old/a"])]
    assert labels == ["er (runs/a)", "er (old/a)"]
    report.start(["runs/a", "old/a", "--out", "both"])
    assert [result.method for result in read("both")] == labels


def test_two_streams_are_both_named(runs):
    result = make_result(method="sgd")._replace(details={"stream": {"name": "mnist, 3 tasks"}})
    results = collect(["runs/a", write("runs/m", result)])
    assert [result.method for result in results] == ["er (a)", "sgd (m)"]
    assert "digits, 3 tasks; mnist, 3 tasks" in text_of(comparison_table(results))


def test_the_command_sets_workdirs_side_by_side(runs, capsys):
    report.start(["runs/a", "runs/b", "runs/c", "--out", "runs/all"])
    out, err = capsys.readouterr()
    assert err == ""
    expected = collect(["runs/a", "runs/b", "runs/c"])
    for row in ("er (a)", "er (b)", "bad", "good", "joint", "results in runs/all"):
        assert row in out
    for line in text_of((comparison_table(expected)), width=200).splitlines():
        assert line in out
    files = {path.name for path in Path("runs/all").iterdir()}
    matrices = {name for name in files if name.startswith("accuracy_")}
    assert files - matrices == {
        *("comparison.json", "comparison.csv", "comparison.md", "comparison_over_tasks.png")
    }
    assert markdown(comparison_table(expected)) in Path("runs/all/comparison.md").read_text()
    png = Path("runs/all/comparison_over_tasks.png").read_bytes()
    assert png.startswith(b"\x89PNG\r\n")
    sources = [
        r["details"]["workdir"] for r in json.loads(Path("runs/all/comparison.json").read_text())
    ]
    assert sources == ["runs/a", "runs/b", *["runs/c"] * 3]
    report.start(["runs/all"])
    assert capsys.readouterr().out == out.replace("results in runs/all\n", "")
    report.start(["runs/a", "--out", "runs/all"])  # may be written again


def test_one_workdir_prints_its_own_table(runs, capsys):
    report.start(["runs/a"])
    assert capsys.readouterr().out == text_of(result_table(*read("runs/a")), width=200)
    report.start(["runs/c"])
    both = comparison_table(read("runs/c")), paired_table(read("runs/c"))
    assert capsys.readouterr().out == "\n".join(text_of(table, width=200) for table in both)


def test_one_that_is_not_told_stands_beside_one_that_is(tmp_path, monkeypatch):
    """In domain-IL: with the task told its score is the one it has, as where both ran at once."""
    monkeypatch.chdir(tmp_path)
    both = make_result(method="frcl")
    told = on(both, told_at_test=True)._replace(matrix=both.matrix)
    plain = on(make_result(method="er"))
    write(Path("told"), told), write(Path("plain"), plain)
    for order in (["told", "plain"], ["plain", "told"]):
        found = {result.method: result for result in collect(order)}
        assert found["er"].scenarios == found["frcl"].scenarios == ("domain-IL", "task-IL")
        matrix = found["er"].matrix
        np.testing.assert_array_equal(matrix[:, :, 1], matrix[:, :, 0])
        np.testing.assert_array_equal(matrix[:, :, 0], np.float32(plain.matrix[:, :, 0]))
        np.testing.assert_array_equal(found["frcl"].matrix, np.float32(told.matrix))


@pytest.fixture
def others(written, runs):
    """What stands in the way of some wrong command lines."""
    shutil.copytree(written / "others", "runs", dirs_exist_ok=True)
    Path("unfinished").mkdir()
    Path("file").touch()


KIND = "runs/a has class-IL and task-IL over 3 tasks"
WRONG = {
    "none": ([], "no workdir is given"),
    "nowhere": (["runs/a", "runs/x"], "workdir runs/x: there is no such folder"),
    "unfinished": (["unfinished"], "workdir unfinished has no finished results"),
    "twice": (["runs/a", "runs/b", "./runs/b"], "workdir ./runs/b is given twice"),
    "other scores": (
        ["runs/a", "runs/b", "runs/domain"],
        f"{KIND}, runs/domain has domain-IL over 3 tasks; compare runs of one kind",
    ),
    "other tasks": (
        ["runs/a", "runs/long"],
        f"{KIND}, runs/long has class-IL and task-IL over 20 tasks",
    ),
    "out is a workdir": (["runs/a", "--out", "runs/b"], "out runs/b is the workdir of an experi"),
    "out is a file": (["runs/a", "--out", "file"], "out file: file is a file; give another --out"),
    "out below a file": (["runs/a", "--out", "file/x"], "file is a file; give another --out"),
}


@pytest.mark.usefixtures("others")
@pytest.mark.parametrize("name", WRONG)
def test_wrong_input_is_one_sentence_and_exit_code_2(name, runs, capsys):
    arguments, words = WRONG[name]
    before = sorted(runs.rglob("*"))
    with pytest.raises(SystemExit) as stop:
        report.start(arguments)
    out, err = capsys.readouterr()
    assert stop.value.code == 2
    assert out == ""
    assert words in err
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert sorted(runs.rglob("*")) == before, "something was written"


def test_a_report_is_not_written_over_its_own_source(runs, capsys):
    report.start(["runs/a", "runs/b", "--out", "both"])
    with pytest.raises(SystemExit):
        report.start(["both", "runs/c", "--out", "both"])
    assert "out both is the workdir" in capsys.readouterr().err


def test_as_a_process_it_needs_no_jax(runs):
    def call(*arguments):
        flags = [sys.executable, "-X", "importtime", "-m", "cls_jax", "report", *arguments]
        env = {**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "120"}
        done = subprocess.run(flags, env=env, capture_output=True, text=True, timeout=120)
        lines = done.stderr.splitlines()
        loaded = {line.split("|")[-1].strip() for line in lines if line.startswith("import time")}
        assert not loaded & {"jax", "flax"}
        return done.returncode, done.stdout, [x for x in lines if not x.startswith("import time")]

    code, out, err = call("runs/a", "runs/b", "--out", "both")
    assert (code, err) == (0, [])
    assert "er (b)" in out
    command = "cls-jax report runs/a runs/b --out both"
    assert command in Path("both/comparison.md").read_text()
    code, out, err = call("--help")
    assert (code, err) == (0, [])
    assert "usage: cls-jax report" in out
    assert "--preset" not in out
    code, out, err = call("runs/x")
    assert (code, out) == (2, "")
    assert err == ["error: workdir runs/x: there is no such folder"]
