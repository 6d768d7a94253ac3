"""A file of accuracy matrices is read as it was written, and nothing else is read."""

import importlib.util
import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from cls_jax.core.errors import InputError
from cls_jax.report import results
from cls_jax.report.matrices import Label, labelled, matrices_csv, order_text, read_matrices
from tests.report.test_summary import make_result

ROOT = Path(__file__).resolve().parents[2]
RECORDS = sorted((ROOT / "records").rglob("accuracy*.csv"))
MIXED = {
    Label("answer", "class_il", 0): np.array([[0.1, 0.2], [0.5, np.nan], [1 / 3, 1.0]]),
    Label("plastic", "task_il", 7, "2-1"): np.array([[0.0, 1e-7], [np.nan, np.nan], [0.25, 0.5]]),
}

accuracies = st.floats(0, 1, width=32) | st.just(np.float32("nan"))
words = st.text(st.characters(codec="utf-8", exclude_characters="\r\0"), max_size=9)


def test_the_format():
    assert matrices_csv(MIXED) == (
        "network,scenario,order,seed,after_task,task_1,task_2\n"
        "answer,class_il,,0,before,0.1,0.2\n"
        "answer,class_il,,0,1,0.5,\n"
        "answer,class_il,,0,2,0.33333334,1\n"
        "plastic,task_il,2-1,7,before,0,0.0000001\n"
        "plastic,task_il,2-1,7,1,,\n"
        "plastic,task_il,2-1,7,2,0.25,0.5\n"
    )
    assert order_text((2, 0, 1)) == "3-1-2"


def test_matrices_come_back(tmp_path):
    (tmp_path / "a.csv").write_text(matrices_csv(MIXED))
    found = read_matrices(tmp_path / "a.csv")
    assert [*found] == [*MIXED]
    for label, matrix in MIXED.items():
        assert found[label].dtype == np.float64
        np.testing.assert_array_equal(found[label], np.float32(matrix))


@given(
    st.integers(1, 5).flatmap(lambda t: hnp.arrays(np.float32, (2, t + 1, t), elements=accuracies)),
    words,
)
def test_every_float32_and_name_comes_back(tmp_path_factory, matrices, name):
    path = tmp_path_factory.getbasetemp() / "any.csv"
    labels = Label(name, "class_il", 3), Label(name, "class_il", 4, "1-2")
    path.write_text(matrices_csv(dict(zip(labels, matrices, strict=True))), encoding="utf-8")
    found = read_matrices(path)
    assert [*found] == [*labels]
    np.testing.assert_array_equal([*found.values()], matrices)


def test_whose_a_matrix_is():
    result = make_result(seeds=(4, 2))._replace(details={"stream": {"scenario": "domain_il"}})
    expected = [
        (Label(network, "domain_il", seed), (trial, n, 0))
        for n, network in enumerate(("answer", "plastic"))
        for trial, seed in enumerate((4, 2))
    ]
    assert labelled(result) == expected
    assert len(labelled(make_result())) == 2 * 2 * 3


DAMAGE = {
    "nothing": (lambda text: "", "it is empty"),
    "a header alone": (lambda text: text.partition("\n")[0], "not 3 rows for each matrix"),
    "the format of earlier versions": (lambda text: "after_task,task_1\n", "another header"),
    "tasks from 0": (lambda text: text.replace("task_1,task_2", "task_0,task_1"), "another header"),
    "no task": (lambda text: "network,scenario,order,seed,after_task\n", "another header"),
    "a row less": (lambda text: text[: text[:-1].rindex("\n")], "not 3 rows for each matrix"),
    "a short row": (lambda text: text.replace(",0.5,\n", ",0.5\n"), "not 2 accuracies in each row"),
    "a row of four": (lambda text: text.replace("0,1,0.5,", "0"), "not 2 accuracies in each row"),
    "an empty row": (lambda text: text.replace("plastic,task_il,2-1,7,1,,", ""), "not 2 accura"),
    "moments": (lambda text: text.replace("before", "0"), "after_task is not before, 1, ..., 2"),
    "two mixed": (lambda text: text.replace("2-1,7,1", "2-1,8,1"), "rows of two matrices"),
    "twice": (lambda text: text + text.partition("\n")[2], "a matrix twice"),
    "words": (lambda text: text.replace("0.25", "much"), "could not convert"),
    "no seed": (lambda text: text.replace(",7,", ",x,"), "invalid literal"),
    "above 1": (lambda text: text.replace("0.25", "25"), "an accuracy that is none"),
    "below 0": (lambda text: text.replace("0.25", "-0.25"), "an accuracy that is none"),
    "infinite": (lambda text: text.replace("0.25", "inf"), "an accuracy that is none"),
    "a cell without an end": (lambda text: text.replace("answer", '"' + "x" * 200_000, 1), "field"),
}


@pytest.mark.parametrize("case", DAMAGE)
def test_what_is_no_such_file_is_named(case, tmp_path):
    harm, words = DAMAGE[case]
    text = matrices_csv(MIXED)
    assert harm(text) != text
    (tmp_path / "a.csv").write_text(harm(text))
    with pytest.raises(InputError, match=r"a\.csv is damaged: ") as caught:
        read_matrices(tmp_path / "a.csv")
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_what_is_no_file_of_text_is_named(tmp_path):
    (tmp_path / "bytes").write_bytes(b"\xff\xfe\x00")
    os.mkfifo(tmp_path / "pipe")
    for name, words in (("bytes", "not text"), ("pipe", "not a file"), ("none", "not a file")):
        with pytest.raises(InputError, match=f"{name} is damaged: {words}"):
            read_matrices(tmp_path / name)


def test_every_record_is_in_this_format():
    assert len(RECORDS) > 200
    for path in RECORDS:
        assert read_matrices(path), path


@pytest.fixture(scope="module")
def script():
    """The script that joined the records' matrices."""
    spec = importlib.util.spec_from_file_location(
        "join_matrices", ROOT / "records" / "join_matrices.py"
    )
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _parted(folder, one):
    """A finished workdir, of one result or two, and the same with a file for each matrix."""
    made = [make_result(method="er 0.5"), make_result(method="b")][: 1 if one else 2]
    files = results.run_files(made[0]) if one else results.comparison_files(made)
    for name, text in files.items():
        (folder / name).write_text(text)
    whole = {path.name: path.read_text() for path in folder.glob("accuracy*.csv")}
    for name in whole:
        for of, matrix in read_matrices(folder / name).items():
            part = f"{name[:-4]}_{of.network}_{of.scenario}_seed{of.seed}.csv"
            (folder / part).write_text(matrices_csv({of: matrix}))
        (folder / name).unlink()
    return whole


@pytest.mark.parametrize("one", [True, False])
def test_a_file_for_each_matrix_becomes_one(one, script, tmp_path):
    whole = _parted(tmp_path, one)
    number = 12 if one else 24  # networks, scenarios, seeds of each
    assert script.joined(tmp_path) == number
    assert {path.name: path.read_text() for path in tmp_path.glob("*.csv")} == whole
    assert script.joined(tmp_path) == 0


def test_what_cannot_be_read_is_left(script, tmp_path):
    _parted(tmp_path, True)
    (tmp_path / "accuracy_plastic_task_il_seed4.csv").write_text("no matrix\n")
    before = {path.name: path.read_text() for path in tmp_path.iterdir()}
    with pytest.raises(InputError, match=r"seed4\.csv is damaged"):
        script.joined(tmp_path)
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == before
