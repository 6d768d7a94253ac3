"""The scripts as a user meets them: a whole run, and every wrong input answered in one sentence."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]
SCRIPT = ROOT / "experiments" / "dualnet_cifar.py"
COMPARE = ROOT / "experiments" / "compare.py"


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
    assert len(matrices) == 12  # three methods, two scenarios, two seeds
    assert [name for name in files if name not in matrices] == [
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
    assert "holds this same experiment" in err
    code, _, err = call(COMPARE, *flags, "--er.learning-rate", "0.2", cwd=tmp_path)
    assert code == 2
    assert "holds another experiment" in err
    assert "learning_rate" in err


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
    "mlp": (["--net", "mlp"], "dualnet works on feature maps"),
    "width 0": (["--width", "0"], "width"),
    "preset": (["--preset", "fast"], "--preset is one of quick, paper"),
    "chunk 0": (["--chunk", "0"], "chunk must be at least 1 step"),
    "unknown flag": (["--learnin-rate", "1"], "--learning-rate"),
    "not a number": (["--width", "wide"], "wide"),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_input_is_one_sentence_and_exit_code_2(name, tmp_path):
    flags, told = WRONG[name]
    code, out, err = call(SCRIPT, *flags, "--workdir", "out", cwd=tmp_path)
    assert code == 2, err
    assert told in err
    assert "Traceback" not in err
    assert out == ""
    assert list(tmp_path.iterdir()) == [], "something was written"
    if err.startswith("error:"):
        assert err.count("\n") == 1


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


@pytest.mark.slow
def test_the_main_job_from_start_to_figure(tmp_path):
    """The quick preset, as the README runs it: more than a minute of compute."""
    code, out, err = call(SCRIPT, "--workdir", "out", cwd=tmp_path)
    assert code == 0, err
    assert "task-IL" in out
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert (tmp_path / "out" / "accuracy_matrix.png").stat().st_size > 10_000
    assert results["seeds"] == [0]
