"""Two workers on one study, one of them killed: in the end the study is whole."""

import csv
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
TRIALS = 5


def worker(workdir, log):
    """``cls-jax tune`` on the digits, with everything that it says in a file."""
    words = ("tune", "sgd", "--net", "mlp", "--hidden", "16", "--image-size", "8", "--epochs", "3")
    words += ("--space", "learning_rate", "log", "0.01", "1", "--trials", str(TRIALS), "--no-prune")
    command = [sys.executable, "-m", "cls_jax", *words, "--workdir", str(workdir)]
    with open(log, "w") as said:
        return subprocess.Popen(command, cwd=ROOT, stdout=said, stderr=said)


def wait_for(happened, process, what):
    """Until it has happened; a process that ends before is a failure."""
    for _ in range(2400):
        if happened():
            return
        assert process.poll() is None, f"it ended before it {what}"
        time.sleep(0.05)
    raise AssertionError(f"it never {what}")


@pytest.mark.more
def test_a_killed_worker_leaves_a_study_that_becomes_whole(tmp_path):
    optuna = pytest.importorskip("optuna")
    workdir, journal = tmp_path / "w", tmp_path / "w" / "validation" / "study.journal"

    def signed():
        return journal.exists() and f"worker_{first.pid}_" in journal.read_text()

    first = worker(workdir, tmp_path / "first.log")
    try:
        wait_for(signed, first, "took a trial")
        second = worker(workdir, tmp_path / "second.log")
        os.kill(first.pid, signal.SIGKILL)  # in its first trial, which compiles for seconds
        assert first.wait() == -signal.SIGKILL
        assert second.wait(timeout=300) == 0, (tmp_path / "second.log").read_text()
    finally:
        first.kill()
    backend = optuna.storages.journal.JournalFileBackend(str(journal))
    storage = optuna.storages.JournalStorage(backend)
    (summary,) = optuna.get_all_study_summaries(storage)
    trials = optuna.load_study(study_name=summary.study_name, storage=storage).trials
    states = [trial.state.name for trial in trials]
    assert sorted(states) == ["COMPLETE"] * TRIALS + ["FAIL"]
    (lost,) = (trial for trial in trials if trial.state.name == "FAIL")
    again = [trial for trial in trials if trial.params == lost.params and trial is not lost]
    assert [trial.user_attrs["first"] for trial in again] == [lost.number]
    with open(workdir / "tuning.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert sorted(int(row["trial"]) for row in rows) == sorted(
        trial.user_attrs["first"] for trial in trials if trial is not lost
    )
    best = max(rows, key=lambda row: float(row["validation"]))
    assert [row["trial"] for row in rows if row["state"] == "winner"] == [best["trial"]]
    assert float(best["test"]) > 0
    assert (workdir / "results.json").exists()
