"""The scripts as a user meets them: a whole run, and every wrong input answered in one sentence."""

import json
import os
import runpy
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.support.ask import ask

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "experiments" / "dualnet_cifar.py"
COMPARE = ROOT / "experiments" / "compare.py"
CLSER = ROOT / "experiments" / "clser_mnist.py"
APD = ROOT / "experiments" / "apd_cifar.py"
DEN = ROOT / "experiments" / "den_mnist.py"
REPRODUCE = ROOT / "experiments" / "reproduce.py"
SPB = ROOT / "experiments" / "spb_cifar.py"


def call(script, *flags, cwd, **environment):
    """Runs a script in a process of its own; (exit code, stdout, stderr)."""
    env = {**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "120", **environment}
    command = [sys.executable, str(script), *map(str, flags)]
    done = subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, timeout=300)
    return done.returncode, done.stdout, done.stderr


def tiny_npz(path: Path) -> Path:
    """Four classes of eight 16x16 pictures, told apart by their brightness."""
    rng, y = np.random.default_rng(0), np.repeat(np.arange(4), 8)
    x = (rng.integers(0, 40, (32, 16, 16, 3)) + 60 * y[:, None, None, None]).astype(np.uint8)
    np.savez(path, train_x=x, train_y=y, test_x=x[::2], test_y=y[::2])
    return path


@pytest.mark.more
def test_compare_runs_from_flags_to_files(tmp_path):
    """sgd, er and joint on an npz file: table, files, and a second run in the same workdir."""
    data = tiny_npz(tmp_path / "tiny.npz")
    flags = ["--methods", "sgd", "er", "joint", "--data", f"npz:{data}", "--tasks", "2"]
    flags += ["--batch-size", "4", "--net", "mlp", "--seeds", "0", "1", "--memory-size", "8"]
    flags += ["--er.replay-size", "4", "--workdir", "out"]
    code, out, err = call(COMPARE, *flags, cwd=tmp_path)
    assert code == 0, err
    assert err.startswith("tiny.npz, 2 tasks x 2 classes (4 in all); 32 training and 16 test")
    assert all(name in out for name in ("sgd", "er", "joint", "class-IL ACC", "results in out"))
    files = sorted(path.name for path in (tmp_path / "out").iterdir())
    matrices = [name for name in files if name.startswith("accuracy_")]
    assert matrices == ["accuracy_er.csv", "accuracy_joint.csv", "accuracy_sgd.csv"]
    assert [name for name in files if name not in matrices] == [
        ".lock",
        "checkpoints",
        "comparison.csv",
        "comparison.json",
        "comparison.md",
        "comparison_over_tasks.png",
        "config.json",
    ]
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["config"]["memory_size"] == 8
    code, _, err = call(COMPARE, *flags, cwd=tmp_path)
    assert code == 0
    assert "er is finished in out/checkpoints/er; --restart begins anew" in err
    code, _, err = call(COMPARE, *flags, "--er.learning-rate", "0.2", cwd=tmp_path)
    assert code == 2
    assert "holds another experiment" in err
    assert "learning_rate" in err


def test_clser_sweeps_from_flags_to_files(tmp_path):
    """Two values by two seeds in one program: a row each, matrices of both."""
    flags = ["--data", f"npz:{tiny_npz(tmp_path / 'tiny.npz')}", "--tasks", "2", "--batch-size"]
    flags += ["4", "--memory-size", "8", "--replay-size", "4", "--seeds", "0", "1"]
    flags += ["--sweep", "consistency_weight", "0.5", "2", "--workdir", "out"]
    code, out, err = call(CLSER, *flags, cwd=tmp_path)
    assert code == 0, err
    for value in ("0.5", "2"):
        assert f"clser consistency_weight={value}" in out
        name = f"accuracy_clser_consistency_weight={value}.csv"
        rows = (tmp_path / "out" / name).read_text().splitlines()
        assert any(row.startswith("answer,class_il,,1,2,") for row in rows)


@pytest.mark.more
def test_apd_runs_from_orders_to_their_disparity(tmp_path):
    """Two tasks in both orders, APD and a rival: the table, a matrix file a method, the figure."""
    data = tiny_npz(tmp_path / "tiny.npz")
    flags = ["--data", f"npz:{data}", "--scenario", "class_il", "--class-order", "label"]
    flags += ["--tasks", "2", "--batch-size", "4", "--epochs", "2", "--orders", "0-1", "1-0"]
    flags += ["--variants", "APD(2)", "L2-transfer 10", "--consolidate-every", "2"]
    code, out, err = call(APD, *flags, "--workdir", "out", cwd=tmp_path)
    assert code == 0, err
    assert all(name in out for name in ("APD(2)", "L2-transfer 10", "AOPD", "results in out"))
    assert err.startswith("tiny.npz, 2 tasks x 2 classes, in order 0-1 (4 in all)")
    files = {path.name for path in (tmp_path / "out").iterdir()} - {".lock", "checkpoints"}
    matrices = {"accuracy_APD(2).csv", "accuracy_L2-transfer_10.csv"}
    tables = {"config.json", "comparison.md", "order_disparity.json", "capacity.png"}
    assert files == matrices | tables
    rows = (tmp_path / "out" / "accuracy_APD(2).csv").read_text().splitlines()
    assert rows[0] == "network,scenario,order,seed,after_task,task_1,task_2"
    assert [row.split(",")[2] for row in rows[1:]] == ["1-2"] * 3 + ["2-1"] * 3
    assert len(rows) == 1 + 2 * 3
    found = json.loads((tmp_path / "out" / "order_disparity.json").read_text())
    assert [len(entry["OPD of each seed and task"][0]) for entry in found] == [2, 2]


@pytest.mark.more
def test_reproduce_runs_from_a_table_to_its_record(tmp_path):
    """Two cells on a data set of ours: the table says so, and what was published stands there."""
    rng, y = np.random.default_rng(0), np.repeat(np.arange(10), 24)
    x = (rng.integers(0, 30, (240, 28, 28)) + 22 * y[:, None, None]).astype(np.uint8)
    np.savez(tmp_path / "ten.npz", train_x=x, train_y=y, test_x=x[::4], test_y=y[::4])
    flags = ["s_mnist", "--methods", "sgd", "clser", "--memory-sizes", "200", "--seeds", "0", "1"]
    flags += ["--data", "npz:ten.npz", "--workdir", "out"]
    code, out, err = call(REPRODUCE, *flags, cwd=tmp_path)
    assert code == 0, err
    assert "89.54 ± 0.21" in out
    assert "changed: data npz:ten.npz" in (tmp_path / "out" / "comparison.md").read_text()
    files = {path.name for path in (tmp_path / "out").iterdir()}
    matrices = {"accuracy_sgd_0.csv", "accuracy_clser_200.csv"}
    kept = {".lock", "checkpoints"}
    pages = {"config.json", "cells.json", "comparison.md", "comparison_over_tasks.png"}
    assert files - kept == {*pages, *matrices}
    assert {p.name for p in (tmp_path / "out" / "checkpoints").iterdir()} == {"sgd", "clser_200"}
    rows = (tmp_path / "out" / "accuracy_clser_200.csv").read_text().splitlines()
    tasks = "task_1,task_2,task_3,task_4,task_5"
    assert rows[0] == f"network,scenario,order,seed,after_task,{tasks}"
    assert len(rows) == 1 + 3 * 2 * 2 * 6  # networks, scores, seeds, rows of a matrix
    cells = json.loads((tmp_path / "out" / "cells.json").read_text())
    assert cells[1]["settings"]["source"]["stream.data"] == "ours"
    ours = np.mean(cells[1]["scores"]["answer"]["class-IL"]["average_accuracy"]["values"])
    assert f"{100 * ours:.2f}" in (tmp_path / "out" / "comparison.md").read_text()


@pytest.mark.more
def test_spb_and_its_controls_run_from_flags_to_files(tmp_path):
    """Base classes and phases: the columns of their tables; joint has a last score alone."""
    flags = ["--data", f"npz:{tiny_npz(tmp_path / 'tiny.npz')}", "--variants", "spb", "joint"]
    flags += ["--image-size", "16", "--base-classes", "2", "--tasks", "3", "--batch-size", "4"]
    flags += ["--base-epochs", "2", "--epochs", "1", "--width", "2", "--workdir", "out"]
    code, out, err = call(SPB, *flags, cwd=tmp_path)
    assert code == 0, err
    assert "old classes" in out
    table = (tmp_path / "out" / "comparison.md").read_text()
    (joint,) = [line for line in table.splitlines() if line.startswith("| joint")]
    assert joint.startswith("| joint | - | - | ")


def test_only_square_images_can_be_turned(tmp_path):
    x, y = np.zeros((12, 8, 10, 3), np.uint8), np.repeat(np.arange(3), 4)
    np.savez(tmp_path / "wide.npz", train_x=x, train_y=y, test_x=x, test_y=y)
    flags = ["--data", "npz:wide.npz", "--image-size", "None", "--base-classes", "1", "--tasks"]
    flags += ["3", "--batch-size", "2", "--variants", "spb_m", "--workdir", "out"]
    code, _, err = call(SPB, *flags, cwd=tmp_path)
    assert code == 2
    assert "turns square images, and the examples have shape 8x10x3; give --image-size" in err
    assert not (tmp_path / "out").exists()


WRONG = {
    "unknown data": (["--data", "cifar11"], "cifar11"),
    "missing npz": (["--data", "npz:nowhere.npz"], "nowhere.npz"),
    "missing folder": (["--data", "folder:nowhere"], "nowhere"),
    "tasks do not divide": (["--tasks", "3"], "tasks=3 does not divide the 10 classes of digits"),
    "batch larger than a task": (["--batch-size", "400"], "batch_size=400 is larger than a task"),
    "memory 0": (["--memory-size", "0"], "memory_size=0 leaves nothing to replay"),
    "memory not divisible": (["--memory-size", "251"], "cannot be divided evenly among 5 tasks"),
    "seeds twice": (["--seeds", "1", "1"], "seeds holds 1 more than once"),
    "rate not finite": (["--learning-rate", "nan"], "learning_rate is nan; give a finite number"),
    "step size above 1": (["--lookahead-step-size", "1.5"], "lookahead_step_size is 1.5"),
    "label fraction 0": (["--label-fraction", "0"], "label_fraction is 0.0"),
    "label fraction above 1": (["--label-fraction", "1.5"], "label_fraction is 1.5"),
    "no choice of a net": (["--net", "mlp"], "--net"),
    "width 0": (["--width", "0"], "width"),
    "preset": (["--preset", "fast"], "--preset is one of quick, paper"),
    "chunk 0": (["--chunk", "0"], "chunk must be at least 1 step"),
    "unknown flag": (["--learnin-rate", "1"], "--learning-rate"),
    "not a number": (["--width", "wide"], "wide"),
}


WRONG_ELSEWHERE = {
    "buffer smaller than replay": (
        CLSER,
        ["--memory-size", "20", "--replay-size", "21"],
        "replay_size=21 must be between 1 and the memory's 20 slots",
    ),
    "rate above 1": (
        CLSER,
        ["--stable-rate", "1.1"],
        "stable_rate is 1.1; give a value at least 0",
    ),
    "decay 1": (CLSER, ["--plastic-decay", "1"], "plastic_decay is 1.0; give a value at least 0"),
    "sweep unknown": (
        CLSER,
        ["--sweep", "temperature", "1", "2"],
        "sweep names 'temperature'; the method has memory_size",
    ),
    "sweep no number": (CLSER, ["--sweep", "stable_rate", "often"], "give numbers"),
    "sweep without values": (CLSER, ["--sweep", "stable_rate"], "give each once, at least one"),
    "sweep out of range": (CLSER, ["--sweep", "stable_rate", "0.5", "2"], "stable_rate is 2"),
    "a setting of another scenario": (CLSER, ["--blur", "0.2"], "has no such setting"),
    "digits as vectors of 9 classes": (CLSER, ["--scenario", "mnist360", "--tasks", "3"], "tasks"),
    "blur 1": (CLSER, ["--scenario", "blurry", "--blur", "1"], "blur"),
    "one order": (APD, ["--orders", "0-1-2-3-4"], "give at least two, each once"),
    "no order": (APD, ["--orders", "0-1", "1-x"], "write each as task numbers, e.g. 2-0-1"),
    "tasks not there": (APD, ["--orders", "0-1", "1-0"], "name each of the tasks 0 to 4 once"),
    "variant": (APD, ["--variants", "APD(3)"], "APD(3)"),
    "clusters": (APD, ["--clusters", "6"], "clusters=6 of 5 tasks cannot be"),
    "a convolutional den": (DEN, ["--net", "resnet18"], "--net"),
    "room below 0": (DEN, ["--room", "-1"], "room=-1 would cut the first task's units"),
    "threshold below 0": (DEN, ["--split-threshold", "-1"], "split_threshold is -1.0; give"),
    "base classes": (SPB, ["--base-classes", "4"], "base_classes=4 leaves 6 of the 10 classes"),
    "three rotations": (SPB, ["--rotations", "3"], "rotations is 3; an image has 1, 2 or 4"),
    "an unknown variant": (SPB, ["--variants", "spbm"], "name each once, from finetune, no_raw"),
    "table": (REPRODUCE, ["s_mist"], "table is 's_mist'; use one of s_mnist"),
    "row": (REPRODUCE, ["s_mnist", "--methods", "dualnet"], "s_mnist has no row 'dualnet'"),
    "buffer": (
        REPRODUCE,
        ["s_mnist", "--methods", "er", "--memory-sizes", "300"],
        "s_mnist has no er with memory_size=300; use one of 200, 500, 5120",
    ),
    "seeds": (REPRODUCE, ["--data", "digits", "--seeds", "1", "1"], "seeds holds 1 more than once"),
}


@pytest.mark.parametrize("name", WRONG | WRONG_ELSEWHERE)
def test_wrong_input_is_one_sentence_and_exit_code_2(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    script, flags, expected = WRONG_ELSEWHERE.get(name) or (SCRIPT, *WRONG[name])
    code, out, err = ask(script.name, *flags, "--workdir", "out")
    assert code == 2, err
    assert expected in err
    assert out == ""
    assert list(tmp_path.iterdir()) == [], "something was written"
    if err.startswith("error:"):
        assert err.count("\n") == 1


@pytest.mark.parametrize("script", [SCRIPT, COMPARE, REPRODUCE], ids=lambda path: path.stem)
def test_a_process_ends_as_it_should(script, tmp_path):
    """What only a process shows: its exit code, and no traceback."""
    code, out, err = call(script, "--seeds", "1", "1", "--workdir", "out", cwd=tmp_path)
    assert code == 2, err
    assert err == f"{err.strip()}\n"
    assert "seeds holds 1 more than once" in err
    assert "Traceback" not in err
    assert out == ""
    assert list(tmp_path.iterdir()) == [], "something was written"


def test_no_network_is_said_within_seconds(tmp_path):
    """Every host unreachable: the data set, the directory and the remedy, nothing written."""
    flags = ["--data", "cifar100", "--data-dir", tmp_path / "sets", "--workdir", "out"]
    proxy = {"https_proxy": "http://127.0.0.1:9", "http_proxy": "http://127.0.0.1:9"}
    code, _, err = call(SCRIPT, *flags, cwd=tmp_path, **proxy)
    assert code == 2, err
    assert "cifar100" in err
    assert "sets" in err
    assert "Traceback" not in err
    assert list(tmp_path.iterdir()) == []


def test_a_corrupt_image_is_named(tmp_path):
    for split in ("train", "test"):
        for label in ("cat", "dog"):
            folder = tmp_path / "pets" / split / label
            folder.mkdir(parents=True)
            for i in range(3):
                Image.new("RGB", (9, 9), (40 * i, 0, 0)).save(folder / f"{i}.png")
    (tmp_path / "pets" / "train" / "dog" / "1.png").write_bytes(b"not a picture")
    flags = ["--data", "folder:pets", "--tasks", "2", "--batch-size", "2", "--workdir", "out"]
    code, _, err = call(SCRIPT, *flags, cwd=tmp_path)
    assert code == 2, err
    assert "1.png" in err
    assert not (tmp_path / "out").exists()


@pytest.mark.more
def test_den_runs_from_flags_to_files(tmp_path):
    """Two tasks of four classes: the table of both networks, its units, both scenarios."""
    flags = ["--data", f"npz:{tiny_npz(tmp_path / 'tiny.npz')}", "--tasks", "2", "--batch-size"]
    flags += ["8", "--epochs", "1", "--head-epochs", "1", "--hidden", "5", "4", "--added-units"]
    code, out, err = call(DEN, *flags, "1", "--workdir", "out", cwd=tmp_path)
    assert code == 0, err
    assert all(name in out for name in ("answer", "no_stamps", "domain-IL", "task-IL", "KiB"))
    result = json.loads((tmp_path / "out" / "results.json").read_text())
    (first,), (second,) = (result["capacity"][f"units of layer {n}"] for n in (1, 2))
    assert first[0] == 5 <= first[1] <= 7
    assert second[0] == 4 <= second[1] <= 6


def test_what_stands_beside_den():
    """Six networks of each width, told by their names."""
    from cls_jax.app.den_controls import fixed

    config = runpy.run_path(str(DEN))["PRESETS"]["quick"]
    names = [learner.method.name for learner in fixed(config, (9, 8))]
    kinds = ("L2 0", "L2 0.01", "L2 0.5", "sgd", "EWC 90", "EWC 10")
    assert names == [f"{kind} {width}" for width in ("64-32", "9-8") for kind in kinds]


@pytest.mark.slow
def test_the_main_job_from_start_to_figure(tmp_path):
    """The quick preset, as the README runs it: more than a minute of compute.

    Seeds 0 and 1 over six programs that differ in rounding or rates: task-IL .932 to .994; of sgd
    on this stream .626 to .947 (tests/learning/test_bounds.py).
    """
    code, out, err = call(SCRIPT, "--workdir", "out", cwd=tmp_path)
    assert code == 0, err
    assert "task-IL" in out
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert (tmp_path / "out" / "accuracy_matrix.png").stat().st_size > 10_000
    assert results["seeds"] == [0]
    assert results["scores"]["answer"]["task_il"]["average_accuracy"]["mean"] > 0.85
