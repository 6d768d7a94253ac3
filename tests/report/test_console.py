"""What a run shows while it goes: plain lines, live bars."""

import io
import re

import numpy as np
import pytest
import rich.progress
from rich.console import Console

from cls_jax.report.console import (
    Pace,
    clock,
    console,
    metrics_text,
    seeds_text,
    task_line,
)
from cls_jax.training.events import Ended, Evaluated, Progress, Started

HEADLINE = "cifar10, 2 tasks x 5 classes: 10 classes, 2 tasks, 100 training and 20 test examples"
METRICS = {"ce": 0.25, "loss": 0.5, "barlow": 13.2, "kl": 0.01}


def started(seeds):
    return Started(HEADLINE, "dualnet", seeds, 2, 20, "loop")


def progress(seeds, task, step, num_steps=20, seconds=1.0):
    return Progress(seeds, task, "train", step, num_steps, 100, seconds, METRICS)


def evaluated(seeds, task):
    matrix = np.full((len(seeds), 2, 2, 3, 2), np.nan)
    matrix[:, 1] = 0.99  # another view: never shown
    matrix[:, 0, :, 0] = 0.1
    matrix[:, 0, 0, 1] = [0.9, 0.0]
    matrix[:, 0, 1, 1] = [0.95, 0.5]
    if task == 1:
        matrix[:, 0, 0, 2] = [0.503, 0.8]
        matrix[:, 0, 1, 2] = [0.9, 0.9]
    return Evaluated(seeds, task, matrix, 0.5)


def test_of_many_tasks_the_line_has_the_worst_and_the_best():
    many = 30
    matrix = np.full((1, 1, 2, many + 1, many), 0.5)
    matrix[..., -1, 6], matrix[..., -1, 22] = 0.25, 0.75
    started_run = started((0,))._replace(num_tasks=many)
    line = task_line(Evaluated((0,), many - 1, matrix, 0.5), started_run)
    assert "task 30/30" in line
    assert line.count("50.0 (task 7: 25.0 to task 23: 75.0)") == 2


def story(groups):
    """Everything that a run over these groups of seeds tells."""
    yield started(tuple(seed for group in groups for seed in group))
    for group in groups:
        yield evaluated(group, -1)
        for task in range(2):
            yield progress(group, task, 10 * task + 5)
            yield progress(group, task, 10 * task + 10)
            yield evaluated(group, task)
    yield Ended(True)


@pytest.fixture(autouse=True)
def draw_every_update(monkeypatch):
    """The bars are drawn by a clock; here at every update, so that the text is the same always."""
    update = rich.progress.Progress.update
    monkeypatch.setattr(
        rich.progress.Progress, "update", lambda *a, **k: update(*a, **{**k, "refresh": True})
    )


def shown(groups, *, terminal, width=100, **kinds):
    to = Console(file=io.StringIO(), force_terminal=terminal, width=width, color_system=None)
    log = console(to=to, **kinds)
    for event in story(groups):
        log(event)
    return re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", to.file.getvalue())


def test_not_a_terminal_gets_the_headline_and_a_line_a_task():
    assert shown([(3,)], terminal=False, width=20).splitlines() == [
        HEADLINE,
        "dualnet  seed 3  task 1/2  class-IL  90.0 (90.0)  task-IL  95.0 (95.0)",
        "dualnet  seed 3  task 2/2  class-IL  65.2 (50.3 80.0)  task-IL  90.0 (90.0 90.0)",
    ]


def test_the_score_that_a_method_is_made_for_comes_first():
    line = task_line(evaluated((3,), 1), started((3,))._replace(leads=1))
    expected = "task-IL  90.0 (90.0 90.0)  class-IL  65.2 (50.3 80.0)"
    assert line == f"dualnet  seed 3  task 2/2  {expected}"


def test_the_headline_can_be_left_to_the_first_method():
    assert HEADLINE not in shown([(3,)], terminal=False, stream_line=False)


def test_vmapped_seeds_share_their_lines():
    lines = shown([(0, 1, 2)], terminal=False).splitlines()
    assert [line.split("  ")[:3] for line in lines[1:]] == [
        ["dualnet", "seeds 0-2", "task 1/2"],
        ["dualnet", "seeds 0-2", "task 2/2"],
    ]


def test_a_terminal_gets_the_same_lines_and_a_bar():
    text = shown([(3,)], terminal=True)
    assert (
        "dualnet  seed 3  task 2/2  class-IL  65.2 (50.3 80.0)  task-IL  90.0 (90.0 90.0)" in text
    )
    assert re.search(
        r"task 1/2 train +[━╸ ]* +10/20 +100 ex/s +0:02 left +loss 0\.5 +ce 0\.25", text
    )
    assert "kl" not in text  # one metric too many
    assert "seeds done" not in text


def test_seeds_one_after_another_get_a_bar_for_all():
    text = shown([(3,), (4,)], terminal=True)
    assert re.search(r"seed 3 +[━╸ ]* 0/2 seeds done", text)
    assert re.search(r"seed 4 +[━╸ ]* 1/2 seeds done", text)
    assert re.search(r"seed 4 +[━╸ ]* 2/2 seeds done +0:00 left", text)


def test_a_narrow_terminal_cuts_the_metrics_alone():
    text = shown([(3,)], terminal=True, width=64)
    assert re.search(r"task 1/2 train +[━╸ ]* +10/20 +100 ex/s +\S+ left .*…", text)


def test_pace_leaves_the_first_chunk_out():
    pace = Pace((0, 1), 20)
    assert pace.total == 40
    pace.add(progress((0,), 0, 5, seconds=60.0))  # compiles
    assert pace.seconds_left is None
    pace.add(progress((0,), 0, 10, seconds=2.0))
    assert pace.seconds_left == pytest.approx(2 / 5 * 30)
    pace.add(evaluated((0,), 0))
    assert pace.seconds_left == pytest.approx(2.5 / 5 * 30)
    pace.add(progress((0,), 1, 20, seconds=1.5))
    assert (pace.done, pace.finished) == (20, 1)
    assert pace.seconds_left == pytest.approx(4 / 15 * 20)


def test_pace_with_seeds_of_different_lengths():
    pace = Pace((0, 1), 20)
    pace.add(progress((0,), 1, 20))
    pace.add(progress((1,), 1, 18, num_steps=18))
    assert (pace.total, pace.finished, pace.seconds_left) == (38, 2, 0.0)


def test_small_texts():
    assert seeds_text((4,)) == "seed 4"
    assert seeds_text((2, 3, 4)) == "seeds 2-4"
    assert seeds_text((1, 3)) == "seeds 1,3"
    assert [clock(s) for s in (3.6, 725, 11045)] == ["0:04", "12:05", "3:04:05"]
    assert metrics_text(METRICS) == "loss 0.5       ce 0.25      barlow 13.2"
    assert metrics_text({}) == ""


def test_a_task_that_is_not_tested_is_a_dash():
    """The mean is of the others."""
    event = evaluated((3,), 1)
    event.matrix[..., 0] = np.nan
    line = task_line(event, started((3,)))
    assert "class-IL  80.0 (- 80.0)" in line


def test_a_line_of_a_sweep_says_that_it_is_a_mean_over_values():
    event = evaluated((3, 3), 1)._replace(values=(0, 1))
    assert task_line(event, started((3,))).startswith("dualnet  mean of 2 values  seed 3  task 2/2")
