"""A stream that goes on from tasks which were learned before: their rows are gone."""

import jax
import numpy as np

from cls_jax.core.checks import short_repr
from cls_jax.core.errors import InputError
from cls_jax.core.types import Array, PyTree
from cls_jax.data.dataset import Split
from cls_jax.streams.stream import Rows, Schedule, Stream


def continued(stream: Stream, num_past: int, earlier: Stream | None = None) -> Stream:
    """``stream`` with ``num_past`` tasks before its own, of which nothing is left to learn.

    Tasks are numbered on. The classes of the past tasks are those of ``earlier``; without it they
    are unknown (all False), and so are their test examples.

    Args:
      stream: what comes now.
      num_past: tasks that were learned.
      earlier: the stream that they are of, if its test examples are at hand.

    Raises:
      InputError: ``earlier`` does not fit.
    """
    if earlier is not None:
        _check_earlier(earlier, stream, num_past)
    source, offset = stream.source, 0
    if earlier is not None and not _same(earlier.source.test, source.test):
        offset = len(source.test.y)
        both = zip(source.test, earlier.source.test, strict=True)
        source = source._replace(test=Split(*map(np.concatenate, both)))

    def schedule(key: Array, *, epochs: int | None = None, shuffle: int = 0) -> Schedule:
        given = stream.schedule(key, epochs=epochs, shuffle=shuffle)

        def make_rows(task: int) -> Rows:
            if task < num_past:
                return jax.tree.map(lambda leaf: leaf[:0], given.rows(0))
            rows = given.rows(task - num_past)
            return rows.replace(task=rows.task + np.int32(num_past))

        none, contexts = np.zeros(num_past, np.int32), given.contexts
        if earlier is None:
            classes, index, place = _unknown(given, num_past)
        else:
            past = earlier.schedule(key, epochs=1)  # what is read of it depends on no pass
            classes, contexts = past.task_classes, jax.tree.map(_joined, contexts, past.contexts)
            index = np.where(past.test_index >= 0, past.test_index + np.int32(offset), -1)
            place = jax.tree.map(lambda p: p + np.int32(_length(given.contexts)), past.test_context)
        return Schedule(
            num_seen=_joined(none, given.num_seen),
            num_labelled=_joined(none, given.num_labelled),
            task_classes=_joined(classes, given.task_classes),
            test_index=_joined(*_equally_wide(index, given.test_index)),
            contexts=contexts,
            test_context=jax.tree.map(_joined, place, given.test_context),
            make_rows=make_rows,
        )

    return stream._replace(
        source=source,
        num_tasks=num_past + stream.num_tasks,
        schedule=schedule,
        describe={**stream.describe, "base_classes": None, "past_tasks": num_past},
    )


def _check_earlier(earlier: Stream, stream: Stream, num_past: int) -> None:
    if not isinstance(earlier, Stream):
        raise InputError(
            f"earlier is {short_repr(earlier)}; give the Stream that was learned, or several"
        )
    name = earlier.name
    if (earlier.num_tasks, earlier.num_classes) != (num_past, stream.num_classes):
        raise InputError(
            f"earlier is {name!r}, {earlier.num_tasks} tasks in a label space of "
            f"{earlier.num_classes} classes, but {num_past} tasks in one of {stream.num_classes} "
            "were learned; give the stream that they are of"
        )
    kinds = [(one.source.test.x.dtype, *one.source.test.x.shape[1:]) for one in (earlier, stream)]
    if kinds[0] != kinds[1] or earlier.transform is not stream.transform:
        raise InputError(
            f"earlier is {name!r}, whose examples have another shape or are transformed otherwise "
            f"than those of {stream.name!r}, so they cannot be tested together; leave earlier out"
        )


def _same(one: Split, other: Split) -> bool:
    return one.x is other.x and np.array_equal(one.y, other.y)


def _unknown(given: Schedule, num_past: int) -> tuple[np.ndarray, np.ndarray, PyTree]:
    """Classes, test examples and contexts of tasks of which nothing is known."""
    return (
        np.zeros((num_past, given.task_classes.shape[1]), bool),
        np.full((num_past, given.test_index.shape[1]), -1, np.int32),
        jax.tree.map(lambda leaf: np.zeros(num_past, leaf.dtype), given.test_context),
    )


def _equally_wide(*tables: np.ndarray) -> list[np.ndarray]:
    """Tables of numbers, padded with -1 to the width of the widest."""
    width = max(table.shape[1] for table in tables)
    pads = [((0, 0), (0, width - table.shape[1])) for table in tables]
    return [np.pad(table, pad, constant_values=-1) for table, pad in zip(tables, pads, strict=True)]


def _joined(*parts: np.ndarray) -> np.ndarray:
    return np.concatenate(parts)


def _length(contexts: PyTree) -> int:
    return next((len(leaf) for leaf in jax.tree.leaves(contexts)), 0)
