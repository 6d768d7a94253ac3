"""A study of Optuna that several processes share, and that outlives each of them.

A trial is a set of values, trained for every seed. Workers take trials until enough are done. What
a killed worker had begun is queued again: where workers share a folder a lock tells who was killed,
in a database Optuna's own heartbeat does.
"""

import contextlib
import datetime
import shutil
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from cls_jax.app.tuning.candidates import Candidate
from cls_jax.app.tuning.config import TuneConfig
from cls_jax.app.tuning.space import Dimension, grid_points
from cls_jax.core.errors import InputError
from cls_jax.training.events import Evaluated, Logger
from cls_jax.training.runtime.lock import is_gone, locked, signed_in
from cls_jax.training.runtime.workdir import CHECKPOINTS

JOURNAL = "study.journal"
_HEARTBEAT, _GRACE = 30, 120  # seconds: how often a worker of a database shows that it lives
_UNSIGNED = 60  # seconds after which a trial that no worker has signed was left behind

Train = Callable[[int, Mapping[str, Any], Logger], Sequence[float]]
"""(number of the trial, values, observer) -> validation accuracy of each seed. The number stays
that of the first attempt when a trial is taken up again."""


def optuna() -> ModuleType:
    """Optuna, quiet.

    Raises:
      InputError: it is not installed.
    """
    try:
        import optuna  # pyright: ignore[reportMissingImports]
    except ImportError:
        raise InputError(
            "space needs Optuna, which is not installed; pip install 'cls_jax[tune]', or give a "
            "grid by --sweep, which needs nothing"
        ) from None
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    return optuna


def open_storage(url: str | None, folder: Path | None) -> Any:
    """The database of that URL, the journal in the folder, or None: in memory.

    Raises:
      InputError: the database cannot be opened.
    """
    storages = optuna().storages
    if url is None:
        if folder is None:
            return None
        # By its whole path: the lock beside it is a link to it.
        backend = storages.journal.JournalFileBackend(str(folder.absolute() / JOURNAL))
        return storages.JournalStorage(backend)
    try:
        with _quiet():
            return storages.RDBStorage(
                url,
                heartbeat_interval=_HEARTBEAT,
                grace_period=_GRACE,
                heartbeat_stale_trial_callback=_requeue(),
            )
    except Exception as error:  # of SQLAlchemy, of a driver, or one that is not installed
        why = " ".join(str(error).split())[:200]
        raise InputError(
            f"storage {url} cannot be opened ({why}); give a URL as Optuna takes "
            "it, e.g. sqlite:///study.db, or leave it out for a journal in the workdir"
        ) from None


def search(
    name: str,
    storage: Any,
    tune: TuneConfig,
    space: Sequence[Dimension],
    train: Train,
    observe_with: Callable[[Any], Logger],
    folder: Path | None,
) -> list[Candidate] | None:
    """Works on the study until no trial is left to begin.

    Args:
      name: of the study; workers of one name share it.
      storage: of ``open_storage``.
      tune: sampler, number of trials, pruning.
      space: where to look.
      train: one trial.
      observe_with: trial -> what reports it to Optuna, and stops it; see ``reports``.
      folder: that the workers share, where a trial has a folder of its own; None: none.

    Returns:
      All candidates, or None where other workers are still busy: the last one has them all.
    """
    made = optuna()
    pruner = made.pruners.MedianPruner() if tune.prune else made.pruners.NopPruner()
    how = {"study_name": name, "storage": storage, "pruner": pruner, "load_if_exists": True}
    study = made.create_study(direction="maximize", **how)
    points = grid_points(space) if tune.sampler == "grid" else None
    wanted = tune.trials or (20 if points is None else len(points))
    if points is not None:
        wanted = min(wanted, len(points))
    samplers = {"tpe": made.samplers.TPESampler, "random": made.samplers.RandomSampler}
    states = made.trial.TrialState
    with _quiet(), _in(folder, signed_in) as me:
        while True:
            with contextlib.ExitStack() as taking:
                # One worker at a time counts the trials and takes one.
                taking.enter_context(_in(folder, lambda place: locked(place, wait=-1)))
                if folder is not None:
                    queue_left_behind(study, folder)
                trials = [t for t in study.get_trials(deepcopy=False) if t.state != states.FAIL]
                queued = any(t.state == states.WAITING for t in trials)
                if len(trials) >= wanted and not queued:
                    break
                if len(trials) < wanted:
                    taken = {t.user_attrs.get("point") for t in trials}
                    free = next(n for n in range(wanted) if n not in taken)
                    values = {} if points is None else points[free]
                    study.enqueue_trial(values, user_attrs={"point": free})
                seen = len(study.get_trials(deepcopy=False))
                study.sampler = samplers.get(tune.sampler, samplers["random"])(seed=seen)
                _one(study, space, train, observe_with, me, folder, taking.pop_all().close)
    if any(t.state == states.RUNNING for t in trials):
        return None
    told = [(t.user_attrs, t.params) for t in trials]
    return [Candidate(about["first"], v, tuple(about.get("scores", ()))) for about, v in told]


def _one(
    study: Any,
    space: Sequence[Dimension],
    train: Train,
    observe_with: Callable[[Any], Logger],
    me: str | None,
    folder: Path | None,
    taken: Callable[[], None],
) -> None:
    """Takes one trial and trains it; calls ``taken`` in between. One that fails is queued again."""
    number = first = None

    def objective(trial: Any) -> float:
        nonlocal number, first
        number, first = trial.number, trial.user_attrs.get("first", trial.number)
        trial.set_user_attr("worker", f"{number} {me}")
        trial.set_user_attr("first", first)
        values = {one.name: _suggest(trial, one) for one in space}
        taken()
        scores = train(first, values, observe_with(trial))
        trial.set_user_attr("scores", list(scores))
        return float(np.mean(scores))

    try:
        study.optimize(objective, n_trials=1)
    except BaseException:
        if number is not None:
            _queue_again(study, study.trials[number])
        raise
    finally:
        taken()
    if folder is not None and first is not None:  # what it was saved for is done
        shutil.rmtree(trial_folder(folder, first) / CHECKPOINTS, ignore_errors=True)


def trial_folder(folder: Path, number: int) -> Path:
    """Where a trial is kept."""
    return folder / f"trial_{number:04d}"


def queue_left_behind(study: Any, folder: Path) -> None:
    """Queues again every trial of a worker of this folder that was killed."""
    states = optuna().trial.TrialState
    for trial in study.get_trials(deepcopy=False, states=(states.RUNNING,)):
        number, _, worker = str(trial.user_attrs.get("worker", "")).partition(" ")
        if number == str(trial.number):
            gone = is_gone(folder, worker)
        else:  # a queued trial keeps the signature of the worker before
            age = datetime.datetime.now() - trial.datetime_start
            gone = age.total_seconds() > _UNSIGNED
        if gone:
            _queue_again(study, trial)


def reports(trial: Any, seeds: Sequence[int], num_tasks: int, place: int) -> Logger:
    """An observer that reports the mean accuracy on the tasks so far, and may stop the trial.

    Where seeds run one after another, each makes steps of its own: the same in every trial.

    Args:
      trial: of Optuna.
      seeds: of the trial.
      num_tasks: of the stream.
      place: of the score that decides, on axis 2 of the accuracy matrix.
    """
    pruned, last = optuna().TrialPruned, len(seeds) * num_tasks - 1

    def observe(event: Any) -> None:
        if not isinstance(event, Evaluated) or event.task < 0:
            return
        so_far = event.matrix[:, 0, place, event.task + 1, : event.task + 1]
        step = seeds.index(event.seeds[0]) * num_tasks + event.task
        trial.report(float(so_far.mean()), step)
        over = step + (len({*event.seeds}) - 1) * num_tasks == last
        if not over and trial.should_prune():
            raise pruned()

    return observe


def _suggest(trial: Any, one: Dimension) -> Any:
    if one.scale == "choice":
        return trial.suggest_categorical(one.name, one.values)
    return trial.suggest_float(one.name, *one.values, log=one.scale == "log")


def _queue_again(study: Any, trial: Any) -> None:
    """Fails a trial, where that was not done, and queues its values."""
    states = optuna().trial.TrialState
    if trial.state == states.RUNNING:
        study.tell(trial.number, state=states.FAIL)
    _requeue()(study, trial)


def _requeue() -> Any:
    """What queues a failed trial again, with its values and what it had reported."""
    callback = optuna().storages.RetryHeartbeatStaleTrialCallback
    return callback(inherit_intermediate_values=True)


@contextlib.contextmanager
def _in(folder: Path | None, inside: Callable[[Path], Any]) -> Iterator[Any]:
    """``inside(folder)``, or nothing where there is no folder."""
    if folder is None:
        yield None
        return
    with inside(folder) as given:
        yield given


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without Optuna's words on what it calls experimental, and on reports made before."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna().exceptions.ExperimentalWarning)
        warnings.filterwarnings("ignore", message="The reported value is ignored")
        yield
