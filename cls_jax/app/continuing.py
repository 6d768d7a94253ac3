"""A run that goes on from a finished one: what that was, and the label space they share."""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from cls_jax.app.build import StreamConfig, make_stream
from cls_jax.app.restore import SavedRun, load_all
from cls_jax.app.stored_recipe import stream_flags
from cls_jax.core.checks import short_repr
from cls_jax.core.errors import InputError
from cls_jax.core.files import plain
from cls_jax.methods.base import Method, problem_of
from cls_jax.runtime.saves import fingerprint
from cls_jax.runtime.workdir import read_record
from cls_jax.streams.continued import continued
from cls_jax.streams.reserve import reserve
from cls_jax.streams.stream import Stream
from cls_jax.training import events
from cls_jax.training.run import Shapes
from cls_jax.training.start import Start, Trained, check_earlier, check_start

CONTINUES = "continues"
"""The entry of config.json on what a run goes on from."""

Given = str | Path | events.Result | SavedRun | Sequence[SavedRun]
"""What a run may go on from: a workdir, a finished run, or one saved run a seed."""


def start_from(given: Given, factory: str) -> Start:
    """Where a run starts that goes on from a finished one.

    Args:
      given: what was learned: of this process, or on disk.
      factory: of the method.

    Raises:
      InputError: there is no such run, it is not finished, or there are several.
    """
    if isinstance(given, events.Result) and given.trained:
        trained = dict(zip(given.seeds, given.trained, strict=True))
        return Start(trained, given.trained[0].stream, _words(trained, None, [None]))
    if isinstance(given, str | Path):
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


def from_own(workdir: str | Path, factory: str) -> Start | None:
    """Where a run started that was begun in ``workdir``: it holds a copy of what it goes on from.

    Args:
      workdir: of the run that goes on.
      factory: of its method.

    Returns:
      None if none was begun there.
    """
    record = read_record(Path(workdir)) if Path(workdir).is_dir() else None
    words = (record or {}).get("config", {}).get(CONTINUES)
    if not isinstance(words, Mapping):
        return None
    found = _of(load_all(workdir), workdir, factory)
    trained = {}
    for one in found:
        if one.task_classes is not None and one.first_task:
            mine = one._replace(task_classes=one.task_classes[: one.first_task])
            trained[one.seed] = _trained(mine, None)
    return Start(trained, None, words) if trained else None


def start_of(where: str, factory: str, workdir: str | None) -> Start:
    """Where the run of a command line starts.

    Args:
      where: the workdir of a finished run; it may be gone once the run that goes on has begun.
      factory: of the method.
      workdir: of the run that goes on.

    Raises:
      InputError: as ``start_from``.
    """
    own = None if workdir is None else from_own(workdir, factory)
    if own is not None and own.words.get("workdir") == str(Path(where).absolute()):
        return own
    return start_from(where, factory)


def with_earlier(
    start: Start,
    method: Method,
    stream: Stream,
    seeds: Sequence[int],
    given: Stream | Sequence[Stream] | None = None,
) -> Start:
    """``start``, found to fit, with the stream that was learned: its tasks are tested too.

    Where it is not given it is the one of this process, or made again of the flags that were saved;
    where that cannot be done a line on stderr says why.

    Args:
      start: what was learned.
      method, stream, seeds: of the run that goes on; ``stream`` in the label space.
      given: the streams that were learned, in that order.

    Raises:
      InputError: as ``check_start``; those given are not the ones.
    """
    check_start(start._replace(earlier=None), method, stream, seeds)
    if given is not None:
        start = start._replace(earlier=joined(given, stream.num_classes))
        check_start(start, method, stream, seeds)
        return start
    try:
        earlier = start.earlier or joined(_made_again(start.words), stream.num_classes)
        check_earlier(start, earlier, stream, seeds)
    except InputError as error:
        _warn(error)
        earlier = None
    return start._replace(earlier=earlier)


def learned_before(workdir: Path, stream: Stream, num_past: int) -> Stream | None:
    """The stream that the run in ``workdir`` goes on from, made again; None, and a line on stderr
    that says why, where that cannot be done.

    Args:
      workdir: of the run that goes on.
      stream: of its further tasks.
      num_past: tasks that were learned before.
    """
    try:
        words = (read_record(workdir) or {}).get("config", {}).get(CONTINUES, {})
        earlier = joined(_made_again(words), stream.num_classes)
        continued(stream, num_past, earlier)
    except InputError as error:
        _warn(error)
        return None
    return earlier


def _warn(error: InputError) -> None:
    print(f"warning: the tasks learned before are not tested: {error}", file=sys.stderr)


def _made_again(words: Mapping[str, Any]) -> list[Stream]:
    """The streams that were learned, from the flags in config.json."""
    try:
        every = [stream_flags(one, StreamConfig) for one in words["streams"]]
    except (ValueError, TypeError, KeyError) as error:
        raise InputError(f"their flags cannot be read ({error})") from None
    streams = []
    for flags in every:
        if flags is None:
            raise InputError("their stream was made in Python; give it: train(..., earlier=stream)")
        streams.append(make_stream(StreamConfig(**flags), read_only=True))
    return streams


def with_room(flags: StreamConfig, stream: Stream) -> StreamConfig:
    """The flags that make ``stream`` again, in its label space.

    Args:
      flags: that made it before it was put there.
      stream: of ``in_label_space``.
    """
    return replace(flags, max_classes=stream.num_classes, first_class=stream.first_class)


def in_label_space(stream: Stream, start: Start) -> Stream:
    """``stream`` in the label space of what it goes on from.

    Its classes get the next free labels, unless ``reserve`` said where they stand.

    Args:
      stream: of the further tasks.
      start: what was learned.

    Raises:
      InputError: there is no room for its classes.
    """
    taken = np.any([one.task_classes.any(0) for one in start.trained.values()], axis=0)
    placed = _placed(stream, len(taken), int(np.flatnonzero(taken)[-1]) + 1)
    problem = problem_of(start.first.method)
    if problem is None:
        return placed
    if placed.max_tasks not in (None, problem.num_tasks):
        raise InputError(
            f"max_tasks is {placed.max_tasks}, but {problem.num_tasks} where it goes on from; "
            "leave it as it was"
        )
    return placed._replace(max_tasks=problem.num_tasks)


def joined(streams: Stream | Sequence[Stream], num_classes: int) -> Stream:
    """The streams that were learned one after another, as one.

    Args:
      streams: in that order.
      num_classes: of their label space.

    Raises:
      InputError: they do not fit it.
    """
    whole, free = None, 0
    for stream in [streams] if isinstance(streams, Stream) else streams:
        placed = _placed(stream, num_classes, free)
        free = max(free, int(placed.source.train.y.max()) + 1)
        whole = placed if whole is None else continued(placed, whole.num_tasks, whole)
    if whole is None:
        raise InputError("earlier is empty; give the streams that were learned, or leave it out")
    return whole


def _placed(stream: Stream, num_classes: int, free: int) -> Stream:
    if stream.first_class is None:
        if free + stream.num_classes > num_classes:
            raise InputError(
                f"{stream.source.name} has {stream.num_classes} classes, but the label space has "
                f"{num_classes}, of which {free} are taken; give the first run a larger "
                "max_classes, or first_class (of cls.reserve, --first-class) if these classes are "
                "among those that were learned"
            )
        return reserve(stream, max_classes=num_classes, first_class=free)
    if stream.num_classes > num_classes:
        raise InputError(
            f"max_classes is {stream.num_classes}, but {num_classes} where it goes on from; leave "
            "it as it was"
        )
    return reserve(stream, max_classes=num_classes)


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
    before = record.get("config", {}).get(CONTINUES, {}).get("streams", [])
    prints = {f"seed {seed}": fingerprint(one.run) for seed, one in trained.items()}
    words = {
        "workdir": None if where is None else str(Path(where).absolute()),
        "commit": record.get("commit"),
        "num_tasks": len(next(iter(trained.values())).task_classes),
        "streams": [*before, *flags],
        "fingerprints": prints,
    }
    return plain(words)  # as config.json gives it back
