"""A run that goes on from a finished one: what that was, and the label space they share."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from cls_jax.app.restore import SavedRun, load_all, read_all
from cls_jax.core.checks import short_repr
from cls_jax.core.errors import InputError
from cls_jax.core.files import plain
from cls_jax.training import events
from cls_jax.training.run import Shapes
from cls_jax.training.runtime.saves import fingerprint
from cls_jax.training.runtime.workdir import read_record
from cls_jax.training.start import Start, Trained

CONTINUES = "continues"
"""The entry of config.json on what a run goes on from."""

Given = str | Path | events.Result | SavedRun | Sequence[SavedRun]
"""What a run may go on from: a workdir, a finished run, or one saved run a seed."""


def start_from(given: Given, factory: str, workdir: str | Path | None) -> Start:
    """Where a run starts that goes on from a finished one.

    Args:
      given: what was learned: of this process, or on disk; a workdir may be gone once the run that
        goes on has begun.
      factory: of the method.
      workdir: of the run that goes on, if it may have begun there.

    Raises:
      InputError: there is no such run, it is not finished, or there are several.
    """
    if isinstance(given, events.Result) and given.trained:
        trained = dict(zip(given.seeds, given.trained, strict=True))
        return Start(trained, given.trained[0].stream, _words(trained, None, [None]))
    if isinstance(given, str | Path):
        own = None if workdir is None else _from_own(Path(workdir), factory)
        if own is not None and own.words.get("workdir") == str(Path(given).absolute()):
            return own
        return _from_saved(_of(load_all(given), given, factory), given)
    several = isinstance(given, Sequence) and not isinstance(given, SavedRun)
    found = [one for one in (given if several else [given]) if isinstance(one, SavedRun)]
    if not found or (several and len(found) < len(given)):
        raise InputError(
            f"start is {short_repr(given)}; give a workdir, the Result of an earlier train, or "
            "what cls.load gives, one of each seed"
        )
    return _from_saved(found, None)


def _from_saved(found: Sequence[SavedRun], where: str | Path | None) -> Start:
    """Of one method, one a seed; ``where`` is their workdir."""
    if len(names := dict.fromkeys(one.name for one in found)) != 1:
        raise InputError(
            f"start holds {len(names)} methods ({', '.join(names)}); it goes on from one: give "
            "cls.load(workdir, method=NAME), one of each seed"
        )
    inside = "" if where is None else f" in {where}"
    for one in found:
        if not one.over:
            raise InputError(
                f"{one.name} seed {one.seed}{inside} is not finished, it is in task "
                f"{one.place.task + 1}; run its command to the end before it goes on"
            )
        if one.task_classes is None:
            raise InputError(
                f"{one.name} seed {one.seed}{inside} does not say which classes its tasks had: an "
                "earlier cls_jax saved it; train it again"
            )
    trained = {one.seed: _trained(one, one.run) for one in found}
    flags = found[0].stream
    return Start(trained, None, _words(trained, where, [flags and asdict(flags)]))


def _from_own(workdir: Path, factory: str) -> Start | None:
    """Where the run in ``workdir`` started; None unless it holds all that it goes on from."""
    words = words_in(workdir)
    if not words:
        return None
    try:
        found, lost = read_all(workdir)
    except InputError:  # it was killed before anything was saved
        return None
    trained = {}
    for one in found:
        if one.method.factory == factory and one.task_classes is not None and one.first_task:
            mine = one._replace(task_classes=one.task_classes[: one.first_task])
            trained[one.seed] = _trained(mine, None)
    return Start(trained, None, words) if trained and not lost else None


def words_in(workdir: Path) -> Mapping[str, Any]:
    """What config.json says of the run that the one in ``workdir`` goes on from; {} if nothing."""
    record = read_record(workdir) if workdir.is_dir() else None
    words = {} if record is None else record["config"].get(CONTINUES)
    return words if isinstance(words, Mapping) else {}


def _of(found: Sequence[SavedRun], where: str | Path, factory: str) -> list[SavedRun]:
    mine = [one for one in found if one.method.factory == factory]
    if not mine:
        there = ", ".join(dict.fromkeys(one.name for one in found))
        raise InputError(f"{where} holds no run of {factory} to go on from; it holds {there}")
    return mine


def _trained(one: SavedRun, run: Any) -> Trained:
    assert one.task_classes is not None
    shapes = Shapes((1, *one.shape), one.dtype, one.num_classes, len(one.task_classes))
    return Trained(one.method, shapes, one.task_classes, run)


def _words(
    trained: Mapping[int, Trained],
    where: str | Path | None,
    flags: Sequence[Mapping[str, Any] | None],
) -> dict[str, Any]:
    """The workdir that it goes on from, the commit of the code there, the tasks learned, the flags
    of all streams learned, digests of the runs."""
    record = {} if where is None else read_record(Path(where)) or {}
    before = [] if where is None else words_in(Path(where)).get("streams")
    prints = {f"seed {seed}": fingerprint(one.run) for seed, one in trained.items()}
    words = {
        "workdir": None if where is None else str(Path(where).absolute()),
        "commit": record.get("commit"),
        "num_tasks": len(next(iter(trained.values())).task_classes),
        "streams": [*(before if isinstance(before, list) else ()), *flags],
        "fingerprints": prints,
    }
    return plain(words)  # as config.json gives it back
