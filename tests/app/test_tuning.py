"""Hyper-parameters are chosen on validation examples: the winner, the protocols, the record."""

import csv
import sys
from functools import partial

import jax.numpy as jnp
import numpy as np
import pytest

from cls_jax.app.tuning.candidates import Candidate, metric_place, tuning_csv, tuning_table, winner
from cls_jax.app.tuning.config import TuneConfig
from cls_jax.app.tuning.space import Dimension, grid_points, read_space
from cls_jax.app.tuning.study import open_storage, reports, search, trial_folder
from cls_jax.app.tuning.tune import protocol
from cls_jax.core.errors import InputError
from cls_jax.methods.base import Algorithm, method
from cls_jax.methods.problem import Problem
from cls_jax.report.results import read
from cls_jax.streams.config import StreamConfig
from cls_jax.training.events import Evaluated, Result
from tests.support.ask import ask

TINY = ("--net", "mlp", "--hidden", "8", "--batch-size", "10", "--epochs", "3", "--tasks", "1")
TINY += ("--normalisation", "none", "--no-compile-cache")


@pytest.fixture
def turned(tmp_path, monkeypatch):
    """Vectors that are easy to learn, whose test labels are all wrong; chance is a quarter."""
    monkeypatch.chdir(tmp_path)
    rng, y = np.random.default_rng(0), np.repeat(np.arange(4), 30)
    x = np.eye(4, 6)[y] * 3 + 0.1 * rng.normal(size=(y.size, 6))
    x = x.astype(np.float32)
    np.savez("turned.npz", train_x=x, train_y=y, test_x=x[::3], test_y=(y[::3] + 1) % 4)
    return ("sgd", "--data", "npz:turned.npz", *TINY)


def rows(path):
    """Of a CSV file."""
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def test_the_winner_is_the_best_by_validation_though_the_test_set_says_otherwise(turned, tmp_path):
    """Who learns is right on what is held out and wrong on this test set: a choice by the test set
    would take who learns nothing."""
    words = (*turned, "--seeds", "0", "1", "--workdir", "w")
    code, out, err = ask("cls-jax tune", *words, "--sweep", "learning_rate", "0.5", "0")
    assert code == 0, err
    first, second, *others = rows("w/tuning.csv")
    assert [float(row["learning_rate"]) for row in (first, *others)] == [0.5, 0, 0]
    assert all(row["state"] == "winner" for row in (first, second))
    assert all(float(row["validation"]) > 0.9 > 0.1 > float(row["test"]) for row in (first, second))
    assert all(row["state"] == "complete" and row["test"] == "" for row in others)
    assert all(float(row["validation"]) < 0.6 for row in others)
    workdir = tmp_path / "w"
    assert "sgd chosen by class-IL" in out
    assert "sgd chosen by class-IL" in (workdir / "tuning.md").read_text()
    # The workdir is the winner's own; what was tried stands beside it.
    assert read(workdir)[0].method == "sgd learning_rate=0.5"
    names = ["sgd learning_rate=0.5", "sgd learning_rate=0"]
    assert [one.method for one in read(workdir / "validation")] == names


def test_a_value_that_diverges_is_one_that_loses(turned):
    words = (*turned, "--sweep", "learning_rate", "1e30", "0.5", "--workdir", "w")
    code, _, err = ask("cls-jax tune", *words)
    assert code == 0, err
    assert [row["state"] for row in rows("w/tuning.csv")] == ["complete", "winner"]


def test_first_tasks_are_chosen_on_and_the_others_learned():
    flags = StreamConfig(image_size=8, validation_fraction=0.1, validation_seed=3)
    whole = StreamConfig(image_size=8)
    assert protocol(flags) == (flags, whole)
    choosing, testing = protocol(flags, 2)
    assert (choosing.only_tasks, testing.only_tasks) == ((0, 1), (2, 3, 4))
    assert (choosing.validation_fraction, testing.validation_fraction) == (0.1, 0)
    for tasks in (0, 5):
        with pytest.raises(InputError, match=rf"choose_tasks is {tasks}, of 5 tasks"):
            protocol(flags, tasks)


def test_a_space_is_read_by_the_kind_of_its_arguments():
    words = [("learning_rate", "choice", "0.1", "1"), ("memory_size", "choice", "50", "100")]
    assert grid_points(read_space("er", words)) == [
        {"learning_rate": rate, "memory_size": size} for rate in (0.1, 1.0) for size in (50, 100)
    ]
    (one,) = read_space("er", [("learning_rate", "log", "1e-3", "1")])
    assert one == ("learning_rate", "log", (0.001, 1.0))
    with pytest.raises(InputError, match="sampler grid needs values; give --space learning_rate"):
        grid_points([one])


def result(accuracy):
    """Of two seeds and one task, with this class-IL accuracy; task-IL is 1."""
    matrix = np.ones((2, 1, 2, 2, 1))
    matrix[:, 0, 0, 1, 0] = accuracy
    return Result("er lr=1", (4, 7), ("answer",), matrix, (), 1.0, 1.0, {})


def test_the_table_tells_all_candidates_and_tests_the_winner_alone():
    tried = [
        Candidate(0, {"lr": 0.1, "size": 5}, (0.5, 0.3)),
        Candidate(1, {"lr": 0.2, "size": 5}, ()),
        Candidate(2, {"lr": 1 / 3, "size": 5}, (0.5, 0.6)),
    ]
    assert winner(tried) is tried[2]
    table = tuning_table(tried, result((0.2, 0.4)), 0)
    assert table.rows == (
        ("2", "0.333333", "5", "55.00 ± 7.07", "30.00 ± 14.14"),
        ("0", "0.1", "5", "40.00 ± 14.14", ""),
        ("1", "0.2", "5", "stopped", ""),
    )
    assert tuning_csv(tried, result((0.2, 0.4)), 0).splitlines()[1:] == [
        "0,0.1,5,complete,4,0.500000,",
        "0,0.1,5,complete,7,0.300000,",
        "1,0.2,5,stopped,,,",
        "2,0.3333333333333333,5,winner,4,0.500000,0.200000",
        "2,0.3333333333333333,5,winner,7,0.600000,0.400000",
    ]


def test_the_score_that_decides_is_the_one_the_method_is_made_for():
    both, told = ("class-IL", "task-IL"), {"told_task": True}
    assert metric_place("auto", both, {}) == 0
    assert metric_place("auto", both, told) == 1
    assert metric_place("class_il", both, told) == 0
    with pytest.raises(InputError, match="metric is task_il, but the stream is scored by domain"):
        metric_place("task_il", ("domain-IL",), {})


# --- Optuna ---------------------------------------------------------------------------------------

SPACE = ("--space", "learning_rate", "log", "0.01", "1")


def test_without_optuna_there_is_one_sentence_and_the_grid(turned, monkeypatch):
    monkeypatch.setitem(sys.modules, "optuna", None)
    code, _, err = ask("cls-jax tune", *turned, *SPACE, "--workdir", "w")
    assert code == 2
    assert "pip install 'cls_jax[tune]'" in err
    assert "--sweep" in err


def test_a_storage_that_cannot_be_opened_is_one_sentence(turned, tmp_path):
    pytest.importorskip("optuna")
    for url in ("nosuch://me@here/db", "words"):
        words = (*turned, *SPACE, "--storage", url, "--workdir", "w")
        code, _, err = ask("cls-jax tune", *words)
        assert code == 2
        assert f"error: storage {url} cannot be opened" in err
    assert not (tmp_path / "w").exists()


def a_study(values, folder, train, trials):
    """``search`` over the choices ``values`` of one argument, two seeds and two tasks."""
    optuna = pytest.importorskip("optuna")
    storage = optuna.storages.InMemoryStorage() if folder is None else open_storage(None, folder)
    space = [Dimension("rate", "choice", values)]
    how = TuneConfig(sampler="grid", trials=trials)
    watch = partial(reports, seeds=(3, 5), num_tasks=2, place=1)
    return search("s", storage, how, space, train, watch, folder)


def learned(rate, seed, task):
    """The event after ``task`` of one seed, when its task-IL accuracy is ``rate`` on all tasks."""
    matrix = np.full((1, 1, 2, 3, 2), np.nan)
    matrix[..., 1, : task + 2, : task + 1] = rate
    return Evaluated((seed,), task, matrix, 0.0)


def test_a_trial_below_the_median_is_stopped_at_its_task():
    """Each of two seeds that run one after another tells its tasks."""
    seen = []

    def train(number, values, observe):
        for seed in (3, 5):
            for task in range(2):
                seen.append((number, seed, task))
                observe(learned(values["rate"], seed, task))
        return [values["rate"]] * 2

    rates = (0.5, 0.6, 0.7, 0.8, 0.9, 0.1, 0.95)
    found = a_study(rates, None, train, None)
    assert [one.values["rate"] for one in found] == list(rates)
    assert [one.scores for one in found] == [(r, r) if r != 0.1 else () for r in rates]
    assert [step for step in seen if step[0] == 5] == [(5, 3, 0)]
    assert winner(found).values == {"rate": 0.95}


def test_a_trial_that_fails_is_taken_up_again_in_its_own_folder(tmp_path):
    numbers = []

    def train(number, values, observe):
        numbers.append(number)
        trial_folder(tmp_path, number).mkdir(exist_ok=True)
        if len(numbers) == 2:
            raise OSError("the disk is full")
        return [values["rate"]]

    with pytest.raises(OSError, match="full"):
        a_study((0.1, 0.3, 0.2), tmp_path, train, 3)
    found = a_study((0.1, 0.3, 0.2), tmp_path, train, 3)
    assert numbers == [0, 1, 1, 3]
    assert sorted((one.number, *one.scores) for one in found) == [(0, 0.1), (1, 0.3), (3, 0.2)]
    assert not list(tmp_path.glob("worker_*"))  # all have signed out


@pytest.mark.parametrize("url", ["mysql://me:secret@here/db", "mysql://here/db?password=secret"])
def test_a_password_is_not_written_down(turned, tmp_path, url):
    code, _, err = ask("cls-jax tune", *turned, *SPACE, "--storage", url, "--workdir", "w")
    assert code == 2
    assert "error: storage holds a password" in err
    assert "secret" not in err
    assert not (tmp_path / "w").exists()


@pytest.fixture
def traces():
    """A method of one's own, ``counted``; how often its step was traced."""
    found = []

    @method
    def counted(problem: Problem, *, learning_rate: float = 0.1) -> Algorithm:
        """Is right on the turned vectors from a half on, without learning.

        Args:
          learning_rate: what makes it right.
        """

        def step(key, state, batch):
            found.append(1)
            return state + learning_rate, {"loss": state}

        def predict(state, x, task):
            return x[:, : problem.num_classes] * (learning_rate - 0.5)

        return Algorithm(init=lambda key, example: jnp.float32(0), step=step, predict=predict)

    return found


@pytest.mark.more
def test_a_study_compiles_once_and_goes_on(turned, traces):
    """A trial more is no trace more; and the same command again finds all trials done."""
    optuna = pytest.importorskip("optuna")
    number = {}
    for trials in (1, 3):
        traces.clear()
        words = (*turned[1:], *SPACE, "--trials", str(trials), "--workdir", f"w{trials}")
        code, _, err = ask("cls-jax tune", "counted", *words)
        assert code == 0, err
        number[trials] = len(traces)
    assert number[3] == number[1] > 0
    found = {row["trial"] for row in rows("w3/tuning.csv")}
    assert found == {"0", "1", "2"}
    again = rows("w3/tuning.csv")
    assert ask("cls-jax tune", "counted", *words).code == 0
    assert rows("w3/tuning.csv") == again
    backend = optuna.storages.journal.JournalFileBackend("w3/validation/study.journal")
    (study,) = optuna.get_all_study_summaries(optuna.storages.JournalStorage(backend))
    assert study.n_trials == 3


def test_the_grid_of_a_study_takes_every_combination_once(turned, traces):
    pytest.importorskip("optuna")
    space = ("--space", "learning_rate", "choice", "0.1", "1", "0.3", "--sampler", "grid")
    code, _, err = ask("cls-jax tune", "counted", *turned[1:], *space, "--workdir", "w")
    assert code == 0, err
    found = {float(row["learning_rate"]): row["state"] for row in rows("w/tuning.csv")}
    assert found == {0.1: "complete", 1.0: "winner", 0.3: "complete"}
