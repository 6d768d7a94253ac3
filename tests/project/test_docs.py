"""What the README says is so: tables equal the records, commands equal CI's, names exist."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from cls_jax.report.records import NO_TABLE

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
sys.path.insert(0, str(ROOT / "experiments"))

from records import block, with_block  # noqa: E402


def test_tables_equal_the_records():
    assert with_block(README, block(ROOT / "records")) == README


DUALNET = {
    "compare_digits": {"er": (94.3, 4.3, 93.4), "dualnet": (98.9, 0.1, 97.2)},
    "compare_cifar10": {"er": (80.2, 8.6, 85.9), "dualnet": (87.0, 2.3, 88.7)},
}
"""ACC, clipped forgetting and LA with the task told, by hand from the matrices."""


@pytest.mark.parametrize("record", DUALNET)
def test_dualnets_tables_lead_with_the_task_told(record):
    _, part = README.split(f"(records/2026-11-21_{record}))\n\n")
    lines = [line.strip("| ").split(" | ") for line in part.split("\n\n")[0].splitlines()]
    assert lines[0][:5] == ["method", "task-IL ACC", "clipped forgetting", "LA", "class-IL ACC"]
    for method, numbers in DUALNET[record].items():
        (row,) = [line for line in lines if line[0] == method]
        for cell, number in zip(row[1:4], numbers, strict=True):
            assert abs(float(cell.strip("*").split(" ± ")[0]) - number) < 0.0501


def test_every_record_says_what_it_is():
    for folder in filter(Path.is_dir, (ROOT / "records").iterdir()):
        assert (folder / "NOTE.md").read_text(encoding="utf-8").strip()
        if "benchmark" in folder.name:
            assert list(folder.glob("benchmark_*.json"))
            continue
        if folder.name.endswith(NO_TABLE):
            assert list(folder.glob("*.json"))
            continue
        assert list(folder.rglob("config.json"))  # of some, a folder for each run
        assert list(folder.rglob("accuracy_*.csv"))


def test_a_long_schedule_costs_a_tenth_of_what_it_did():
    """Of the record's two measurements, and its note says their numbers."""
    (folder,) = (ROOT / "records").glob("*_schedule")
    before, after = (json.loads((folder / f"{n}.json").read_text()) for n in ("before", "after"))
    note = (folder / "NOTE.md").read_text(encoding="utf-8")
    assert after["schedule_mib"] < after["peak_mib"] < 60
    for name in ("schedule_seconds", "tasks_before_the_first_step_seconds"):
        assert after[name] <= before[name] / 10
        assert f"| {before[name]:.2f} | {after[name]:.2f} |".replace(" 0.", " .") in note
    for name in ("schedule_mib", "peak_mib"):
        assert f"| {before[name]:.1f} | {after[name]:.1f} |" in note


def test_what_is_said_of_survival_stands_in_its_record():
    (folder,) = (ROOT / "records").glob("*_survival")
    read = lambda name: [json.loads(p.read_text()) for p in sorted(folder.glob(name))]  # noqa: E731
    kills = read("kills_*.json")
    assert sum(run["killed"] for run in kills) >= 20
    assert [run["differences"] for run in kills] == [[], []]
    clser, dualnet = read("saving_*.json")
    for sentence in (
        f"| `dualnet_cifar.py` {_costs(dualnet)}",
        f"| `clser_mnist.py` {_costs(clser)}",
    ):
        assert sentence in README, sentence


def _costs(n: dict) -> str:
    """The cells of the table of costs."""
    return (
        f"| {n['whole_run_seconds']:.0f} | {100 * n['saving_fraction']:.1f} % "
        f"| {n['cold_first_chunk_seconds']:.1f} | {n['warm_first_chunk_seconds']:.1f} "
        f"| {n['resumed_apart_from_these_seconds']:.1f} |"
    )


def test_ci_runs_the_readmes_test_command():
    ci = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    for part in ("pip install", '-e ".[test]"', "python -m pytest -n 2 --dist loadgroup"):
        assert part in ci
        assert part in README


def test_every_file_and_flag_that_the_readme_names_exists():
    for path in re.findall(r"(?<!/)(?:cls_jax|experiments|tests|records)/[\w./-]*\w", README):
        assert path == "cls_jax/methods/mine.py" or (ROOT / path).exists(), path
    folder = ROOT / "experiments"
    for script in {str(path.relative_to(folder)) for path in folder.rglob("*.py")}:
        lines = [line for line in README.splitlines() if f"python experiments/{script}" in line]
        if flags := {flag for line in lines for flag in re.findall(r"--[\w.-]+", line)}:
            command = [sys.executable, f"experiments/{script}", "--help"]
            env = {**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "200"}
            shown = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True)
            assert [flag for flag in flags if flag not in shown.stdout] == [], script


def test_the_readmes_python_runs(tmp_path):
    """The library example, as a reader would paste it: ten lines and one import at most."""
    (code,) = re.findall(r"```python\n(import cls_jax as cls .*?)```", README, re.DOTALL)
    lines = [line for line in code.splitlines() if line]
    assert len(lines) <= 10
    assert sum("import" in line for line in lines) == 1
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    assert "clser consistency_weight=0.5" in done.stdout
    assert "class-IL ACC" in done.stdout
