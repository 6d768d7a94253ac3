"""Processes that go on from a finished run: killed, with the first run gone, to the same bits."""

import shutil
import signal

import pytest

from cls_jax.app.restore import load_all
from cls_jax.report.results import read
from cls_jax.training.runtime.saves import fingerprint
from tests.integration.survive import start
from tests.support.ask import ask

SCRIPT = "clser_mnist.py"
QUICK = "--seeds", "0", "1", "--epochs", "1"


@pytest.mark.more
def test_killed_it_ends_where_one_run_on_all_tasks_does(tmp_path):
    first, whole, then = (tmp_path / name for name in ("first", "whole", "then"))
    for place, tasks in ((whole, ()), (first, ("--only-tasks", "0", "1", "2"))):
        done = ask(SCRIPT, *QUICK, *tasks, "--workdir", str(place))
        assert done.code == 0, done.err
    tasks = "--first-class", "0", "--only-tasks", "3", "4"
    going_on = ["--continue", str(first), *tasks]
    script = [f"experiments/{SCRIPT}", *going_on, "--chunk", "5", "--save-every", "5steps"]
    # As what it goes on from is copied; then between two steps, when that is needed no longer.
    for moment in (("save", "1", "0"), ("steps", "3", "0.01")):
        assert start(script, then, *moment).returncode == -signal.SIGKILL
    shutil.rmtree(first)
    done = start(script, then)
    assert done.returncode == 0, done.stderr
    assert f"goes on from {then}" in done.stderr
    assert "the tasks learned before are not tested" not in done.stderr
    prints = [[(one.seed, fingerprint(one.state)) for one in load_all(w)] for w in (whole, then)]
    assert prints[0] == prints[1]
    assert len(prints[0]) == 2
    (one,), (other,) = read(whole), read(then)
    assert (one.matrix[..., 1:, :] == other.matrix[..., 1:, :])[..., -1, :].all()
    assert one.details["test_examples"] == other.details["test_examples"]

    done = ask(SCRIPT, *going_on, "--workdir", str(tmp_path / "new"))
    assert done.code == 2
    assert "there is no such folder" in done.err
    assert not (tmp_path / "new").exists()
