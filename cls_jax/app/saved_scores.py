"""Saved runs scored again: on their own data or on others like them."""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from cls_jax.app.build import StreamConfig, make_stream, without_dir
from cls_jax.app.label_space import learned_before
from cls_jax.app.restore import SavedRun
from cls_jax.core.errors import InputError
from cls_jax.report.tables import TextTable
from cls_jax.streams.continued import continued
from cls_jax.streams.stream import Stream
from cls_jax.training.capacity import capacities
from cls_jax.training.evaluate import make_evaluate, view_names
from cls_jax.training.events import Result, scenario_names
from cls_jax.training.group import schedules_of
from cls_jax.training.parallel import Parallelism
from cls_jax.training.prefetch import make_loader, with_contexts
from cls_jax.training.run import is_convolutional, shapes_of
from cls_jax.training.runner import test_examples
from cls_jax.training.start import with_classes


def streams_of(
    found: Sequence[SavedRun], changes: Mapping[str, Any], workdir: Path
) -> dict[StreamConfig, Stream]:
    """The stream of every run, by the flags it was trained with.

    Data that a workdir names may be a stranger's words: they are told on stderr before they are
    opened, and nothing is prepared or cached in a folder that the workdir names.

    Args:
      found: runs of one workdir.
      changes: ``data`` and ``data_dir`` in place of theirs, where they are given.
      workdir: that the runs were read from.

    Raises:
      InputError: for data that cannot be read.
    """
    changes = dict(changes)
    if without_dir(changes.get("data", "")):
        changes.setdefault("data_dir", None)
    streams = {}
    for flags, past in {one.stream: one.first_task for one in found}.items():
        if flags is None:
            raise InputError(
                f"workdir {workdir} was made in Python, so its stream is not known by flags; score "
                "it there: cls_jax.evaluate(cls_jax.load(workdir), stream)"
            )
        config = replace(flags, **changes)
        if "data" not in changes and not any(config.data == other.data for other in streams):
            inside = f" in {config.data_dir}" if config.data_dir is not None else ""
            print(f"data {config.data}{inside}, as {workdir} says", file=sys.stderr)
        try:
            stream = make_stream(config, read_only=changes.get("data_dir") is None)
            if past:
                stream = continued(stream, past, learned_before(workdir, stream, past))
            streams[flags] = stream
        except InputError as error:
            hint = "" if changes else "; --data and --data-dir say where the data are now"
            raise InputError(f"{error}{hint}") from error
    return streams


def score(trained: SavedRun, stream: Stream) -> np.ndarray:
    """float32[views, 2, T] accuracy on every task of ``stream``, as ``Result.matrix`` has a row.

    Args:
      trained: any saved run; its seed fixes the class order.
      stream: on its own data or on others of the same shape and classes; of a run that goes on, its
        own tasks are enough: those learned before are NaN.

    Raises:
      InputError: for data that do not fit.
    """
    classes = stream.num_classes
    for split in (stream.source.train, stream.source.test):
        shape, dtype = split.x.shape[1:], split.x.dtype.name
        if (shape, classes) != (trained.shape, trained.num_classes):
            raise InputError(
                f"data {stream.source.name} has examples {[*shape]} and {classes} classes, but "
                f"{trained.name} was trained on {[*trained.shape]} and {trained.num_classes}; give "
                "data like these"
            )
        if dtype != trained.dtype:
            raise InputError(
                f"data {stream.source.name} has {dtype} examples, but {trained.name} was trained "
                f"on {trained.dtype}; give data like these"
            )
    if trained.first_task and stream.num_tasks == trained.num_tasks - trained.first_task:
        stream = continued(stream, trained.first_task)
    if trained.method.needs.told_task_at_test and stream.num_tasks != trained.num_tasks:
        raise InputError(
            f"stream {stream.name!r} has {stream.num_tasks} tasks, but {trained.name}, which is "
            f"told the task, has learned {trained.num_tasks}; give a stream of as many"
        )
    convolutional = is_convolutional(trained.method, shapes_of(stream))
    parallelism = Parallelism(convolutional=convolutional)
    evaluate = make_evaluate(trained.method, stream, parallelism)
    loader = make_loader(stream.source.test, parallelism, 1, on_host=False)
    schedule = schedules_of(trained.method, stream, trained.seed)[0]
    if trained.first_task and trained.task_classes is not None:
        schedule = with_classes(schedule, trained.task_classes[: trained.first_task])
    loader = with_contexts(loader, parallelism.put_contexts([schedule.contexts]))
    return evaluate(trained.state, trained.run.hyper, schedule, loader, stream.num_tasks - 1)


def score_table(
    workdir: Path,
    found: Sequence[SavedRun],
    streams: Mapping[StreamConfig, Stream],
    num_left: int = 0,
) -> TextTable:
    """The accuracy of every saved run on every task: a row a network and scenario.

    Args:
      workdir: that the runs were read from.
      found: runs of one workdir.
      streams: of ``streams_of``.
      num_left: how many runs of it could not be read.

    Raises:
      InputError: for data that do not fit.
    """
    told_at_test = any(one.method.needs.told_task_at_test for one in found)
    rows = []
    for one in found:
        assert one.stream is not None  # streams_of
        stream = streams[one.stream]
        names = scenario_names(stream.describe, told_at_test)
        for view, of_view in zip(view_names(one.method), 100 * score(one, stream), strict=True):
            for name, row in zip(names, of_view, strict=False):
                cells = (f"{x:.2f}" if np.isfinite(x) else "-" for x in (np.nanmean(row), *row))
                rows.append((one.name, str(one.seed), view, name, *cells))
    tasks = (f"task {j + 1}" for j in range(max(one.num_tasks for one in found)))
    header = ("method", "seed", "network", "scenario", "mean", *tasks)
    unfinished, names = sum(not one.over for one in found), {s.name: None for s in streams.values()}
    note = "percent" + (f"; {unfinished} of {len(found)} runs are not finished" * bool(unfinished))
    verb = "is" if num_left == 1 else "are"
    note += f"; {num_left} could not be read and {verb} left out" * bool(num_left)
    return TextTable(f"{workdir} on {'; '.join(names)}", header, tuple(rows), note)


def results(found: Sequence[SavedRun], stream: Stream) -> list[Result]:
    """One Result a method, from what was saved; costs are not known (NaN).

    Args:
      found: of ``load_all``.
      stream: that they were trained on.
    """
    by_name: dict[str, list[SavedRun]] = {}
    for one in found:
        by_name.setdefault(one.name, []).append(one)
    told_at_test = any(one.method.needs.told_task_at_test for one in found)
    made = []
    for name, mine in by_name.items():
        method = mine[0].method
        seeds, states = tuple(one.seed for one in mine), tuple(one.state for one in mine)
        details = {
            "stream": {"name": stream.name, **stream.describe},
            **method.task_info,
            "told_at_test": told_at_test,
            "test_examples": test_examples([schedules_of(method, stream, s) for s in seeds]),
        }
        made.append(
            Result(
                method=name,
                seeds=seeds,
                views=view_names(method),
                matrix=np.stack([np.asarray(one.run.matrix, np.float64) for one in mine]),
                states=states,
                seconds=float("nan"),
                steps_per_second=float("nan"),
                details=details,
                capacity=capacities(method, stream, [one.run for one in mine]),
            )
        )
    return made
