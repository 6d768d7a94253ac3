"""Choose on validation examples, then train the winner alone on all of them and test it."""

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from cls_jax.app.build import Learner, StreamConfig, make_learner, make_stream
from cls_jax.app.grid import grid, rows_of
from cls_jax.app.main import begin, check_execution, execute, identity, report
from cls_jax.app.tuning import study
from cls_jax.app.tuning.candidates import (
    Candidate,
    label_of,
    metric_place,
    scores_of,
    tuning_csv,
    tuning_table,
    winner,
)
from cls_jax.app.tuning.space import Dimension, corners, grid_points, read_space
from cls_jax.core.errors import InputError
from cls_jax.core.files import write_all
from cls_jax.core.paths import writing
from cls_jax.methods.optimizer import OptimizerConfig
from cls_jax.report.results import run_files
from cls_jax.report.summary import render
from cls_jax.report.tables import markdown_page, rich_table, show
from cls_jax.streams.stream import Stream
from cls_jax.training.events import Logger, scenario_names
from cls_jax.training.runtime.lock import locked
from cls_jax.training.runtime.workdir import CHECKPOINTS, claim, digest

VALIDATION = "validation"
"""Where a workdir keeps what was tried; the rest of it is the winner's."""


def tune(method: str, config: Any) -> None:
    """The whole of ``cls-jax tune``: checks, choice, test, table, files.

    Args:
      method: of METHODS.
      config: has ``stream``, ``net``, ``method``, ``run`` and ``tune``.

    Raises:
      InputError: before any compute, for whatever cannot work.
      Diverged: when the winner's metrics are not finite on the full training set.
      Stopped: after SIGTERM or Ctrl-C; the same command goes on.
    """
    begin(config.run)
    choosing, testing = protocol(config.stream, config.tune.choose_tasks)
    stream, whole = make_stream(choosing), make_stream(testing)
    tried = _Tried(method, replace(config, stream=choosing), stream)
    winners = _Tried(method, replace(config, stream=testing), whole)
    place = tried.place(config.tune.metric)
    space = read_space(method, config.tune.space)
    _check(config, tried, space)
    storage = study.open_storage(config.tune.storage, None) if config.tune.storage else None
    same, folder = identity([winners.learner({})]), None
    if config.run.workdir is not None:
        folder = Path(config.run.workdir) / VALIDATION
        how = {"restart": config.run.restart, "wait": 10}  # another worker may begin just now
        with claim(config.run.workdir, asdict(config), same, **how), writing(config.run.workdir):
            for name in (VALIDATION, CHECKPOINTS):
                (Path(config.run.workdir) / name).mkdir(exist_ok=True)
    if space:
        found = study.search(
            f"{method} {digest(asdict(config), same)}",
            storage or study.open_storage(None, folder),
            config.tune,
            space,
            tried.trainer(folder, place),
            lambda trial: study.reports(trial, config.run.seeds, stream.num_tasks, place),
            folder,
        )
    else:
        found = tried.by_sweep(folder, place)
    if found is None:
        print("other workers are still busy with this study; the last one trains the winner")
        return
    # Two workers may both have been the last one: then the second finds the winner trained.
    with nullcontext() if folder is None else locked(folder, wait=-1):
        _test(found, winners, config, place)


def protocol(
    flags: StreamConfig, choose_tasks: int | None = None
) -> tuple[StreamConfig, StreamConfig]:
    """The flags of the stream on which is chosen, and of the one that the winner learns.

    Args:
      flags: of the stream, with a validation fraction.
      choose_tasks: the first stream has so many first tasks, the other one the rest; all tasks are
        in both if not given.

    Raises:
      InputError: unless there is a task on both sides.
    """
    testing = replace(flags, validation_fraction=0.0, validation_seed=0)
    if choose_tasks is None:
        return flags, testing
    tasks = flags.only_tasks or tuple(range(make_stream(testing).num_tasks))
    if not 1 <= choose_tasks < len(tasks):
        raise InputError(
            f"choose_tasks is {choose_tasks}, of {len(tasks)} tasks; give a number from 1 to "
            f"{len(tasks) - 1}, so that there are others to learn, or leave it out"
        )
    first, rest = tasks[:choose_tasks], tasks[choose_tasks:]
    return replace(flags, only_tasks=first), replace(testing, only_tasks=rest)


class _Tried:
    """A method on one stream at any values of its arguments; ``config`` is of that stream."""

    def __init__(self, method: str, config: Any, stream: Stream) -> None:
        self.method, self.config, self.stream = method, config, stream

    def learner(self, values: Mapping[str, Any]) -> Learner:
        """The method at these values, named by them."""
        c, name = self.config, f"{self.method} {label_of(values)}".strip()
        arguments = {**asdict(c.method), **values}
        optimizer = getattr(c, "optimizer", OptimizerConfig())
        given = self.stream, c.stream, c.net, optimizer
        return make_learner(self.method, arguments, *given, label=name)

    def place(self, metric: Any) -> int:
        """Of the score that decides, on axis 2 of accuracy matrices."""
        method = self.learner({}).method
        names = scenario_names(self.stream.describe, method.needs.told_task_at_test)
        return metric_place(metric, names, method.task_info)

    def run(self, folder: Path | None, **changes: Any) -> Any:
        """How it is run in a folder of its own."""
        where = None if folder is None else str(folder)
        return replace(self.config.run, workdir=where, restart=False, **changes)

    def by_sweep(self, folder: Path | None, place: int) -> list[Candidate]:
        """Every combination of the sweep, side by side where their values are data."""
        run = self.run(folder)
        names = [words[0] for words in rows_of(run.sweep)]
        one = self.learner({})
        points = [
            {**learner.recipe["arguments"], **hyper}
            for learner, hypers in grid(one, run.sweep)
            for hyper in hypers.values()
        ]
        results = execute([one], run, replace(self.config, run=run), diverged="keep")
        if folder is not None:
            write_all(folder, render(results, run.figure_format))
        return [
            Candidate(number, {name: point[name] for name in names}, scores_of(result, place))
            for number, (point, result) in enumerate(zip(points, results, strict=True))
        ]

    def trainer(self, folder: Path | None, place: int) -> study.Train:
        """What trains one trial, in a folder of its own."""

        def train(number: int, values: Mapping[str, Any], observe: Logger) -> Sequence[float]:
            own = None if folder is None else study.trial_folder(folder, number)
            run, method = self.run(own), replace(self.config.method, **values)
            record = replace(self.config, run=run, method=method)
            how = {"observe": observe, "diverged": "keep"}
            (result,) = execute([self.learner(values)], run, record, **how)
            if own is not None:
                write_all(own, run_files(result))
            return scores_of(result, place)

        return train


def _check(config: Any, tried: _Tried, space: Sequence[Dimension]) -> None:
    """Raises InputError for whatever would fail later: every value of the sweep or the space."""
    check_execution([tried.learner({})], config.run, diverged="keep")
    if space:
        study.optuna()
        if config.tune.sampler == "grid":
            grid_points(space)
        for values in corners(space):
            tried.learner(values)


def _test(found: Sequence[Candidate], winners: _Tried, config: Any, place: int) -> None:
    """Trains the winner on the full training set, tests it, prints and writes everything."""
    workdir = config.run.workdir
    run = winners.run(None if workdir is None else Path(workdir), sweep=())
    results = execute([winners.learner(winner(found).values)], run, config)
    table = tuning_table(found, results[0], place)
    show(rich_table(table))
    if workdir is not None:
        files = {
            "tuning.md": markdown_page(table),
            "tuning.csv": tuning_csv(found, results[0], place),
        }
        with writing(workdir):
            write_all(Path(workdir), files)
    report(config, results)
