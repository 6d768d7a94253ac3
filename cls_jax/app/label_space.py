"""One label space for what was learned, and for what comes now; the streams of both as one."""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from cls_jax.app.build import StreamConfig, make_stream
from cls_jax.app.continuing import words_in
from cls_jax.app.stored_recipe import stream_flags
from cls_jax.core.errors import InputError
from cls_jax.methods.base import Method, problem_of
from cls_jax.streams.continued import continued
from cls_jax.streams.reserve import reserve
from cls_jax.streams.stream import Stream
from cls_jax.training.start import Start, check_earlier, check_start


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


def with_room(flags: StreamConfig, stream: Stream) -> StreamConfig:
    """The flags that make ``stream`` again, in its label space.

    Args:
      flags: that made it before it was put there.
      stream: of ``in_label_space``.
    """
    return replace(flags, max_classes=stream.num_classes, first_class=stream.first_class)


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
        earlier = joined(_made_again(words_in(workdir)), stream.num_classes)
        continued(stream, num_past, earlier)
    except InputError as error:
        _warn(error)
        return None
    return earlier


def _warn(error: InputError) -> None:
    print(f"warning: the tasks learned before are not tested: {error}", file=sys.stderr)


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
