"""Who has the package alone, no checkout, trains by ``cls-jax``: under test as pip installs it."""

import os
import subprocess

import pytest

pytestmark = pytest.mark.slow


@pytest.fixture
def command(installed, tmp_path):
    """Runs ``cls-jax ...`` in an empty folder: (exit code, stdout, stderr)."""
    env = {**os.environ, "PYTHONPATH": str(installed), "COLUMNS": "120"}

    def call(*words):
        done = subprocess.run(
            [str(installed / "bin" / "cls-jax"), *words],
            cwd=tmp_path,
            env=env,
            capture_output=True,
            text=True,
            timeout=600,
        )
        return done.returncode, done.stdout, done.stderr

    return call


def test_it_trains_goes_on_scores_and_reports(command, tmp_path):
    words = ("run", "clser", "--seeds", "0", "1", "--workdir", "runs/first")
    code, out, err = command(*words)
    assert (code, "results in runs/first" in out) == (0, True), err
    assert (tmp_path / "runs" / "first" / "accuracy_over_tasks.png").exists()
    page = (tmp_path / "runs" / "first" / "summary.md").read_text()
    assert "```\ncls-jax run clser --seeds 0 1 --workdir runs/first\n```" in page
    code, out, err = command(*words)
    assert code == 0
    assert "clser is finished in runs/first" in err
    code, out, err = command("evaluate", "runs/first")
    assert (code, "redrawn:" in out) == (0, True), err
    code, out, err = command("report", "runs/first", "--out", "runs/page")
    assert (code, "results in runs/page" in out) == (0, True), err


def test_types_and_published_numbers_are_in_it(installed):
    assert (installed / "cls_jax" / "py.typed").exists()
    assert (installed / "cls_jax" / "app" / "published" / "results.toml").exists()
    assert not (installed / "tests").exists()
