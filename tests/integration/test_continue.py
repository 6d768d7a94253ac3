"""Processes that go on from a finished run: killed, with the first run gone, to the same bits."""

import shutil

import pytest

from cls_jax.app.restore import load_all
from cls_jax.runtime.saves import fingerprint
from tests.integration.survive import differences, start, survive

SCRIPT = ["experiments/clser_mnist.py", "--chunk", "20"]


@pytest.mark.slow
def test_killed_or_alone_it_ends_where_one_run_on_all_tasks_does(tmp_path):
    first, whole = tmp_path / "first", tmp_path / "whole"
    seeds = "--seeds", "0", "1"
    for place, tasks in ((whole, ()), (first, ("--only-tasks", "0", "1", "2"))):
        done = start([*SCRIPT, *seeds, *tasks], place)
        assert done.returncode == 0, done.stderr
    script = [
        *SCRIPT, "--continue", str(first), "--first-class", "0", "--only-tasks", "3", "4",
        "--save-every", "20steps",
    ]  # fmt: skip
    moments = [("save", 1, 0), ("steps", 3, 0.01)]
    attempts, found = survive(script, iter(moments), len(moments), tmp_path)
    assert [attempt.killed for attempt in attempts] == [True] * len(moments)
    assert found == []
    prints = [
        {(one.seed, fingerprint(one.state)) for one in load_all(tmp_path / name)}
        for name in ("whole", "quiet")
    ]
    assert prints[0] == prints[1]
    assert len(prints[0]) == 2

    # Begun, the first run is needed no longer; not begun, it is.
    assert start(script, tmp_path / "orphan", "steps", "2", "0.01").returncode == -9
    shutil.rmtree(first)
    done = start(script, tmp_path / "orphan")
    assert done.returncode == 0, done.stderr
    assert "goes on from" in done.stderr
    assert differences(tmp_path / "quiet", tmp_path / "orphan") == []
    done = start(script, tmp_path / "new")
    assert done.returncode == 2
    assert "there is no such folder" in done.stderr
    assert not (tmp_path / "new").exists()
