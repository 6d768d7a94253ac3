"""Real processes, killed and stopped: the same command goes on, and nothing differs in the end."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.integration.survive import differences, start, survive

ROOT = Path(__file__).resolve().parents[2]
CLSER = ["experiments/clser_mnist.py", "--seeds", "0", "1", "--chunk", "20"]
DUALNET = [
    "experiments/dualnet_cifar.py", "--width", "4", "--image-size", "8", "--tasks", "2",
    "--replay-size", "4", "--chunk", "20",
]  # fmt: skip


@pytest.mark.slow
def test_kills_of_clser_change_nothing(tmp_path):
    """Mid-chunk, as a save begins, mid-save, in an evaluation, at a boundary."""
    moments = [
        ("steps", 3, 0.01), ("save", 2, 0), ("save", 3, 0.02), ("evaluation", 2, 0.005),
        ("boundary", 3, 0),
    ]  # fmt: skip
    script = [*CLSER, "--save-every", "20steps", "--log", "csv"]
    attempts, found = survive(script, iter(moments), len(moments), tmp_path)
    assert (tmp_path / "quiet" / "losses.csv").read_text().count("\n") > 20  # compared with it
    assert [attempt.killed for attempt in attempts] == [True] * len(moments)
    assert found == []
    # The comparison itself: another seed's run differs in everything.
    other = start(["experiments/clser_mnist.py", "--seeds", "2", "1"], tmp_path / "other")
    assert other.returncode == 0
    assert {"clser seed 0", "results.json"} <= set(
        differences(tmp_path / "quiet", tmp_path / "other")
    )


@pytest.mark.slow
def test_kills_of_dualnet_change_nothing(tmp_path):
    moments = [("steps", 2, 0.2), ("save", 2, 0.05)]
    script = [*DUALNET, "--save-every", "20steps"]
    attempts, found = survive(script, iter(moments), 2, tmp_path)
    assert all(attempt.killed for attempt in attempts)
    assert found == []


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 0), (signal.SIGINT, 130)])
def test_a_signal_ends_the_chunk_saves_and_says_how_to_go_on(tmp_path, number, code):
    script = [*CLSER, "--epochs", "30", "--workdir", str(tmp_path / "w")]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(
        [sys.executable, *script], cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True
    )
    for line in process.stderr:
        if "task 1/5" in line:
            break
    process.send_signal(number)
    text = process.stderr.read()
    assert process.wait(60) == code, text
    assert f"{number.name}: finishing this chunk, then saving" in text
    assert "the same command goes on:" in text
    assert "clser_mnist.py --seeds 0 1 --chunk 20 --epochs 30" in text
    assert "Traceback" not in text

    second = subprocess.Popen(
        [sys.executable, *script], cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True
    )
    line = second.stderr.readline()
    assert "clser goes on from" in line
    assert "after step" in line
    # A second process in the same folder is refused at once, for as long as the first one lives.
    second.send_signal(signal.SIGSTOP)
    third = subprocess.run(
        [sys.executable, *script], cwd=ROOT, env=environment, capture_output=True, text=True
    )
    assert third.returncode == 2, third.stderr
    assert f"error: workdir {tmp_path / 'w'} is in use by process {second.pid}" in third.stderr
    second.kill()
    assert second.wait() == -signal.SIGKILL
    # So is the same folder for another experiment.
    changed = subprocess.run(
        [sys.executable, *("2" if word == "30" else word for word in script)],
        cwd=ROOT, env=environment, capture_output=True, text=True,
    )  # fmt: skip
    assert changed.returncode == 2
    assert "holds another experiment (stream.epochs: 30 → 2)" in changed.stderr


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 1.5 MB, where one may be mounted."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1500k", "tmpfs", str(disk)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("this process may not mount a file system; test_checkpoint.py fakes a full one")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


@pytest.mark.slow
def test_a_full_disk_ends_the_run_in_one_sentence(small_disk):
    done = start([*CLSER, "--save-every", "20steps"], small_disk / "w")
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert "the run could not be saved in task" in done.stderr
    assert "free some space or mend the disk, and run the same command again" in done.stderr


def test_a_disk_that_is_read_only_is_told_before_the_compute(small_disk):
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    began = time.monotonic()
    done = start(CLSER, small_disk / "w")
    assert done.returncode == 2
    assert "cannot be written and read; give another --workdir" in done.stderr
    assert time.monotonic() - began < 60


@pytest.mark.slow
def test_training_that_diverges_keeps_what_was_saved(tmp_path):
    script = [*CLSER, "--learning-rate", "1e9", "--save-every", "20steps"]
    done = start(script, tmp_path / "w")
    assert done.returncode == 1
    assert "training stopped being finite at step" in done.stderr
    assert "lower the learning rate" in done.stderr
    assert not (tmp_path / "w" / "results.json").exists()
