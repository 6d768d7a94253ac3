"""Streams that go on: tasks are numbered on, what is past has no rows, its tests stay."""

import jax
import numpy as np
import pytest

from cls_jax.core.errors import InputError
from cls_jax.streams.class_il import class_il
from cls_jax.streams.continued import continued
from cls_jax.streams.domain_il import dihedral, permuted
from cls_jax.streams.reserve import reserve
from cls_jax.streams.stream import look_up
from cls_jax.streams.task_order import only_tasks
from tests.conftest import small_source
from tests.support.schedules import assert_same, rows_of

STREAMS = {
    "class_il": class_il(small_source(), tasks=3, batch_size=4),
    "dihedral": dihedral(small_source(), tasks=4, batch_size=8),
    "permuted": permuted(small_source(), tasks=3, batch_size=8),
}
KEY = jax.random.key(5)


def test_parts():
    """Of a stream some tasks alone, as they were."""
    stream = STREAMS["dihedral"]
    part, whole = only_tasks(stream, (3, 1)).schedule(KEY), stream.schedule(KEY)
    assert only_tasks(stream, (3, 1)).num_tasks == len(part.task_classes) == 2
    for place, task in enumerate((3, 1)):
        np.testing.assert_array_equal(rows_of(part, place), rows_of(whole, task))
        assert part.test_context[place] == whole.test_context[task]
    assert only_tasks(stream, (3, 1)).describe["only_tasks"] == (3, 1)
    assert_same(only_tasks(stream, range(4)).schedule(KEY), whole)


@pytest.mark.parametrize("tasks", [(), (0, 0), (4,), (-1,)])
def test_parts_that_there_are_not(tasks):
    with pytest.raises(
        InputError, match=r"only_tasks is .*; name one or more of the tasks 0 to 3, each"
    ):
        only_tasks(STREAMS["dihedral"], tasks)


@pytest.mark.parametrize("name", STREAMS)
@pytest.mark.parametrize("known", [True, False])
def test_the_rest_behind_the_first_is_the_whole(name, known):
    stream = STREAMS[name]
    first, rest = only_tasks(stream, (0, 1)), only_tasks(stream, range(2, stream.num_tasks))
    joined = continued(rest, 2, first if known else None)
    assert (joined.num_tasks, joined.describe["past_tasks"]) == (stream.num_tasks, 2)
    whole, now = stream.schedule(KEY, epochs=2), joined.schedule(KEY, epochs=2)
    assert now.num_seen.tolist() == [0, 0, *whole.num_seen[2:]]
    for task in range(stream.num_tasks):
        rows, wanted = now.rows(task), whole.rows(task)
        assert len(rows.index) == (0 if task < 2 else len(wanted.index))
        if task >= 2:
            assert (rows.task == task).all()
            np.testing.assert_array_equal(rows.index, wanted.index)
            shown = [look_up(s.contexts, r.context) for s, r in ((now, rows), (whole, wanted))]
            np.testing.assert_array_equal(*shown)
        tested = now.test_index[task][now.test_index[task] >= 0]
        if task < 2 and not known:
            assert not tested.size
            assert not now.task_classes[task].any()
            continue
        wanted = whole.test_index[task][whole.test_index[task] >= 0]
        np.testing.assert_array_equal(now.task_classes[task], whole.task_classes[task])
        np.testing.assert_array_equal(joined.source.test.x[tested], stream.source.test.x[wanted])
        shown = [look_up(s.contexts, s.test_context) for s in (now, whole)]
        if name != "class_il":
            np.testing.assert_array_equal(*(each[task] for each in shown))


def test_tests_of_other_data_stand_behind():
    """First classes 0-2, then as many others: the past task's test examples are the first's."""
    source = small_source()
    parts = []
    for low in (0, 3):
        mine = [(s.y >= low) & (s.y < low + 3) for s in source[1:3]]
        both = zip(source[1:3], mine, strict=True)
        train, test = (s._replace(x=s.x[m], y=s.y[m] - low) for s, m in both)
        names = source.label_names[low : low + 3]
        data = source._replace(train=train, test=test, label_names=names)
        parts.append(reserve(class_il(data, tasks=1, batch_size=4), max_classes=6, first_class=low))
    joined = continued(parts[1], 1, parts[0])
    table, test = joined.schedule(KEY), joined.source.test
    assert len(test.y) == len(source.test.y)
    for task, classes in enumerate(({0, 1, 2}, {3, 4, 5})):
        index = table.test_index[task][table.test_index[task] >= 0]
        assert {*test.y[index].tolist()} == classes == {*np.flatnonzero(table.task_classes[task])}


def test_an_earlier_stream_that_does_not_fit():
    split, turned = STREAMS["class_il"], STREAMS["dihedral"]
    for earlier, past, why in (
        (split, 2, r"3 tasks in a label space of 6 classes, but 2 tasks in one of 6"),
        (reserve(split, max_classes=7), 3, r"label space of 7 classes, but 3 tasks in one of 6"),
        (turned, 4, "are transformed otherwise"),
        ("digits", 3, "earlier is 'digits'; give the Stream"),
    ):
        with pytest.raises(InputError, match=why):
            continued(split, past, earlier)
