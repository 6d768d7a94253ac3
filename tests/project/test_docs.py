"""What the README says is so: numbers equal the records, commands equal CI's, links lead on."""

import io
import json
import re
import runpy
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from cls_jax.app.cli import COMMANDS, OF_ONE_METHOD
from cls_jax.methods import METHODS
from cls_jax.report.matrices import Label, read_matrices
from tests.conftest import small_method
from tests.support.ask import ask

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
LINKS = re.findall(r"\]\(([^)#]+)\)", README)


NO_TABLE = (
    *("_survival", "_schedule", "_side_by_side", "_test_durations", "_dytox_cost"),
    "_first_step",
    "_less_to_compile",
    "_traced_once",
    "_compiled_sooner",
    "_first_step_quiet",
    "_rpsnet_step",
    "_step_on_a_cpu",
    "_computed_where_called",
    "_beside_rivals",
    "_growth",
)
"""How the names of records end that have no table."""


def cells_of(title: str) -> list[list[str]]:
    """The rows of the table below a title of the README, without its head."""
    _, part = README.split(f"## {title}\n")
    lines = [line for line in part.split("\n## ")[0].splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


def test_the_readme_is_a_page():
    assert README.count("\n") <= 150


@pytest.mark.parametrize("link", LINKS)
def test_its_links_lead_somewhere(link):
    assert (ROOT / link).exists()


def test_its_methods_are_all_of_them_told_what_they_are_told():
    rows = cells_of("Methods")
    linked = [(name, row) for row in rows for name in re.findall(r"\[([\w, ]+)\]", row[0])]
    names = {name: row for several, row in linked for name in several.split(", ")}
    assert names.keys() == {*METHODS}
    for name, (link, _, family, known, _) in names.items():
        needs = small_method(name).needs
        assert f"cls_jax/methods/{family}/" in link
        assert known.startswith("task") == needs.told_task, name
        assert ("at test too" in known) == needs.told_task_at_test, name
        if not needs.told_task:
            assert (known == "boundaries") == needs.boundaries, name


RESULTS = (
    ("2026-11-21_s_mnist", "comparison.md", r"clser | 5120 | class-IL"),
    ("2026-11-21_s_mnist", "comparison.md", r"clser | 500 | class-IL"),
    ("2026-11-21_s_mnist", "comparison.md", r"clser | 200 | class-IL"),
    ("2026-11-25_supsup_permuted_mnist_250", "summary.md", "answer | domain-IL"),
    ("2026-11-26_dualnet_all_labels", "comparison.md", "dualnet lookahead_step_size=0.05"),
    ("2026-11-26_dualnet_all_labels", "comparison.md", "dualnet lookahead_step_size=0"),
    ("2026-11-26_dualnet_all_labels", "comparison.md", r"er_own (two_updates)"),
    ("2026-11-26_dualnet_all_labels", "comparison.md", "derpp_own"),
    ("2026-11-26_dualnet_tenth", "comparison.md", "dualnet lookahead_step_size=0.05"),
    ("2026-11-26_dualnet_tenth", "comparison.md", "dualnet lookahead_step_size=0"),
    ("2026-11-26_dualnet_tenth", "comparison.md", "er_own"),
)
"""Of each row of the results: its record, its page, and how its line begins there."""


def test_its_results_are_those_of_the_records():
    rows = cells_of("Results")
    assert len(rows) == len(RESULTS)
    folder = ""
    for (name, published, ours), (record, page, start) in zip(rows, RESULTS, strict=True):
        folder = (re.findall(r"records/([\w-]+)", name) or [folder])[0]
        assert folder == record
        text = (ROOT / "records" / record / page).read_text(encoding="utf-8").replace("*", "")
        line = next(line for line in text.splitlines() if line.startswith(f"| {start} |"))
        assert f"| {ours} |" in line
        if published:
            note = (ROOT / "records" / record / "NOTE.md").read_text(encoding="utf-8")
            assert published in line or f"Published: {published}" in note


SLOW = "dualnet_lookahead_step_size=0.05", "dualnet_lookahead_step_size=0"
TWICE, ONCE = "er_own_(two_updates)", "er_own_(one_update)"
STILL = "dualnet_ssl_learning_rate={}_lookahead_step_size={}"
DIFFERENCES = (
    ("tenth", *SLOW, 10, "-0.52 ± 0.56"),
    ("tenth", SLOW[0], "er_own", 10, "-1.59 ± 1.06"),
    ("tenth", SLOW[1], "er_own", 10, "-1.06 ± 0.97"),
    ("tenth", SLOW[0], "derpp_own", 10, "-1.71 ± 0.82"),
    ("tenth", SLOW[0], "clser", 10, "-0.14 ± 0.93"),
    ("all_labels", *SLOW, 5, "+0.42 ± 0.43"),
    ("all_labels", SLOW[0], TWICE, 5, "+2.17 ± 0.64"),
    ("all_labels", SLOW[1], TWICE, 5, "+1.75 ± 0.29"),
    ("all_labels", SLOW[0], "derpp_own", 5, "-2.53 ± 0.75"),
    ("all_labels", SLOW[0], "clser", 5, "+2.80 ± 0.56"),
    ("all_labels", TWICE, ONCE, 5, "+1.01 ± 0.57"),
    ("all_labels", ONCE, "er", 5, "+7.04 ± 0.50"),
    ("parts", SLOW[0], f"{SLOW[0]}_soft_target_weight=0", 3, "+0.17 ± 0.62"),
    ("parts", SLOW[0], "dualnet_lookahead_step_size=1_soft_target_weight=10", 3, "+3.84 ± 1.60"),
    ("statistics_kept_out", "dualnet", SLOW[0], 5, "-3.12 ± 1.39"),
    ("statistics_kept_out", "dualnet", SLOW[1], 5, "-3.44 ± 1.11"),
    *(
        ("statistics", STILL.format(rate, step), STILL.format(rate, 0), 5, text)
        for rate, step, text in (
            ("0", "0.05", "-3.60 ± 1.58"),
            ("0", "1", "-6.64 ± 1.12"),
            ("0.0001", "0.05", "-3.25 ± 0.96"),
            ("0.0001", "1", "-9.55 ± 2.17"),
            ("0.001", "0.05", "-6.29 ± 2.48"),
            ("0.001", "1", "-11.09 ± 1.26"),
        )
    ),
)
"""Record, two of its methods, how many seeds both have, and how much better the first is."""


@pytest.mark.parametrize(("record", "one", "other", "seeds", "text"), DIFFERENCES)
def test_what_is_said_of_dualnets_slow_learner_is_so(record, one, other, seeds, text):
    """Task-IL, paired over the seeds, with its standard error: from the matrices."""
    (folder,) = (ROOT / "records").glob(f"2026-11-2?_dualnet_{record}")

    def accuracy(name):
        found = read_matrices(folder / f"accuracy_{name}.csv")
        labels = [Label("answer", "task_il", seed) for seed in range(seeds)]
        return np.array([100 * found[label][-1].mean() for label in labels])

    differences = accuracy(one) - accuracy(other)
    error = differences.std(ddof=1) / seeds**0.5
    assert f"{differences.mean():+.2f} ± {error:.2f}" == text
    note = (folder / "NOTE.md").read_text(encoding="utf-8").replace("\n", " ")
    page = (ROOT / "docs" / "concepts" / "dualnet.md").read_text(encoding="utf-8")
    assert text in note
    assert text in page.replace("\n", " ")


def test_the_readme_says_what_the_slow_learner_earns():
    assert DIFFERENCES[0][-1] in README


DUALNET = {
    "compare_digits": {"er": (94.3, 4.3, 93.4), "dualnet": (98.9, 0.1, 97.2)},
    "compare_cifar10": {"er": (80.2, 8.6, 85.9), "dualnet": (87.0, 2.3, 88.7)},
}
"""ACC, clipped forgetting and LA with the task told, by hand from the matrices."""


@pytest.mark.parametrize("record", DUALNET)
def test_dualnets_tables_lead_with_the_task_told(record):
    page = (ROOT / "records" / f"2026-11-21_{record}" / "comparison.md").read_text("utf-8")
    lines = [line.strip("| ").split(" | ") for line in page.splitlines() if line[:1] == "|"]
    assert lines[0][:5] == ["method", "task-IL ACC", "clipped forgetting", "LA", "class-IL ACC"]
    for method, numbers in DUALNET[record].items():
        (row,) = [line for line in lines if line[0] == method]
        for cell, number in zip(row[1:4], numbers, strict=True):
            assert abs(float(cell.strip("*").split(" ± ")[0]) - number) < 0.0501


@pytest.mark.parametrize("name", ["accuracy_over_tasks", "dualnet_slow_learner"])
def test_a_figure_is_what_its_script_draws(name):
    """Pixel for pixel but for the smoothing of another matplotlib or FreeType."""
    from matplotlib.image import imread

    path = ROOT / "docs" / "images" / f"{name}.png"
    drawn, kept = (
        imread(io.BytesIO(runpy.run_path(path.with_suffix(".py"))["draw"]())),
        imread(path),
    )
    assert drawn.shape == kept.shape
    assert np.abs(drawn - kept).mean() < 0.01


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
        assert list(folder.rglob("accuracy*.csv"))


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


def test_dualnets_first_step_costs_the_compiler_two_thirds_of_what_it_did():
    """Of the record's measurements, and its note says their means."""
    (folder,) = (ROOT / "records").glob("*_first_step")
    before, after = (json.loads((folder / f"{n}.json").read_text()) for n in ("before", "after"))
    note = (folder / "NOTE.md").read_text(encoding="utf-8")
    for cache, share in (("cold", 2 / 3), ("warm", 0.5)):
        means = [np.mean([run["user_seconds"] for run in one[cache]]) for one in (before, after)]
        assert means[1] <= share * means[0]
        assert "| {:.0f} | {:.0f} |".format(*means) in note
    quiet = json.loads((folder / "quiet.json").read_text())
    for name in ("cold", "warm"):
        assert np.mean(quiet["after"][name]) <= 0.6 * np.mean(quiet["before"][name])
        assert f"{np.mean(quiet['after'][name]):.1f}" in note
    assert "{:.1f} steps a second".format(np.mean(quiet["after"]["steps_per_second"])) in note


def test_the_first_wait_is_two_fifths_of_what_one_program_took():
    """Of the record's measurements on one machine."""
    (folder,) = (ROOT / "records").glob("*_less_to_compile")
    turns = json.loads((folder / "turns.json").read_text())
    first, before, after = (turns[commit] for commit in ("5992e73", "ad154e1", "7c85a1f"))
    for name, share in (
        ("cold_first_chunk", 0.4),
        ("cold_whole", 0.51),
        ("warm_first_chunk", 0.33),
    ):
        assert np.mean(after[name]) <= share * np.mean(first[name])
    assert np.mean(after["cold_first_chunk"]) <= 0.82 * np.mean(before["cold_first_chunk"])


@pytest.mark.parametrize(
    ("record", "commit"), [("traced_once", "1db93d3"), ("compiled_sooner", "842bef6")]
)
def test_the_first_step_reaches_the_goals_shares_of_what_one_program_took(record, commit):
    """20 of 42 seconds, 8 of 26, and of the whole command 45 of 69, on one machine in turns."""
    (folder,) = (ROOT / "records").glob(f"*_{record}")
    turns = json.loads((folder / "turns.json").read_text())
    before, after = turns["5992e73"], turns[commit]
    for name, share in (
        ("cold_first_step", 20 / 42),
        ("warm_first_step", 8 / 26),
        ("cold_whole", 45 / 69),
    ):
        assert np.mean(after[name]) <= share * np.mean(before[name])


def test_the_first_step_reaches_the_goals_in_seconds_on_a_quiet_machine():
    (folder,) = (ROOT / "records").glob("*_first_step_quiet")
    turns = json.loads((folder / "turns.json").read_text())["ce262bf"]
    goals = {"cold_first_step": 20, "cold_whole": 45, "warm_first_step": 8}
    for name, seconds in goals.items():
        assert max(turns[name]) <= seconds


def test_what_is_said_of_rivals_stands_in_its_record():
    (folder,) = (ROOT / "records").glob("*_beside_rivals")
    found = json.loads((folder / "seconds.json").read_text())
    ours, ten, theirs = (
        found[name]["er"]["seconds"][0] for name in ("ours, one seed", "ours, ten seeds", "mammoth")
    )
    said = f"in {ours:.0f} s, ten seeds in {ten:.0f}; mammoth takes {theirs:.0f} for one"
    assert said in " ".join(README.split())


def test_what_is_said_of_survival_stands_in_its_record():
    (folder,) = (ROOT / "records").glob("*_survival")
    read = lambda name: [json.loads(p.read_text()) for p in sorted(folder.glob(name))]  # noqa: E731
    kills = read("kills_*.json")
    assert sum(run["killed"] for run in kills) >= 20
    assert [run["differences"] for run in kills] == [[], []]
    assert "twenty kills changed no bit" in " ".join(README.split())


def test_ci_runs_the_readmes_test_command():
    ci = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    for part in ("pip install", '-e ".[test]"', "python -m pytest -n 2 --dist loadgroup"):
        assert part in ci
        assert part in README


def test_every_command_of_the_readme_has_its_flags():
    block = "\n".join(re.findall(r"```bash\n(.*?)```", README, re.DOTALL))
    lines = [line for line in block.splitlines() if line.startswith("cls-jax ")]
    assert {line.split()[1] for line in lines} == {*COMMANDS} - {"benchmark"}
    for line in lines:
        command = line.split()[1:3] if line.split()[1] in OF_ONE_METHOD else line.split()[1:2]
        code, out, _ = ask("cls-jax", *command, "--help")
        assert code == 0
        assert [flag for flag in re.findall(r"--[\w.-]+", line) if flag not in out] == [], line
    (script,) = re.findall(r"python (experiments/\S+) --workdir", block)
    assert (ROOT / script).exists()


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
