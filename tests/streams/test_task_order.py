"""Task orders: the same tasks in other places, shapes that do not depend on it."""

import jax
import numpy as np
import pytest

from cls_jax.core.errors import InputError
from cls_jax.streams.class_il import class_il
from cls_jax.streams.domain_il import dihedral
from cls_jax.streams.task_order import in_order, only_tasks, order_of
from tests.conftest import small_source
from tests.support.schedules import assert_same, check_schedules, rows_of

STREAMS = {
    "class_il": class_il(small_source(), tasks=3, batch_size=4),
    "dihedral": dihedral(small_source(), tasks=4, batch_size=8),
}


@pytest.mark.parametrize("name", STREAMS)
def test_an_order_moves_whole_tasks(name):
    stream = STREAMS[name]
    order = (2, 0, 1, 3)[: stream.num_tasks]
    moved = in_order(stream, order)
    key = jax.random.key(0)
    table, other = stream.schedule(key, epochs=2), moved.schedule(key, epochs=2)
    assert (np.diff(other.rows().task) >= 0).all()
    for place, task in enumerate(order):
        np.testing.assert_array_equal(rows_of(other, place), rows_of(table, task))
        np.testing.assert_array_equal(other.task_classes[place], table.task_classes[task])
        np.testing.assert_array_equal(other.test_index[place], table.test_index[task])
        if name == "dihedral":
            assert (other.rows(place).context == table.test_context[task]).all()
            np.testing.assert_array_equal(other.test_context[place], table.test_context[task])
            np.testing.assert_array_equal(other.contexts, table.contexts)
    assert moved.describe["task_order"] == order
    assert moved.name.endswith("in order " + "-".join(map(str, order)))


@pytest.mark.parametrize("name", STREAMS)
def test_shuffled_orders_come_from_the_key(name):
    """Stackable over keys, the same in every phase; every task comes first sometimes."""
    stream = in_order(STREAMS[name], "shuffled")
    check_schedules(stream)
    firsts = {int(order_of(jax.random.key(s), "shuffled", 3)[0]) for s in range(30)}
    assert firsts == {0, 1, 2}
    key = jax.random.key(7)
    order = order_of(key, "shuffled", stream.num_tasks)
    given, shuffled = STREAMS[name].schedule(key), stream.schedule(key)
    np.testing.assert_array_equal(shuffled.test_index, given.test_index[order])


def test_given_is_the_stream_itself():
    stream = STREAMS["dihedral"]
    assert in_order(stream, "given") is stream
    in_places = in_order(stream, (0, 1, 2, 3)).schedule(jax.random.key(1))
    assert_same(in_places, stream.schedule(jax.random.key(1)))


@pytest.mark.parametrize("order", [(0, 1), (0, 1, 1), (1, 2, 3), ()])
def test_other_orders_are_refused(order):
    with pytest.raises(InputError, match=r"task_order is .*; name each of the tasks 0 to 2 once"):
        in_order(STREAMS["class_il"], order)


@pytest.mark.parametrize("name", STREAMS)
def test_some_tasks_are_those_tasks_and_nothing_of_the_others(name):
    stream, key = STREAMS[name], jax.random.key(3)
    part = only_tasks(stream, (2, 0))
    assert (part.num_tasks, part.num_classes) == (2, stream.num_classes)
    check_schedules(part)
    table, some = stream.schedule(key), part.schedule(key)
    assert some.rows().task.tolist() == sorted(some.rows().task)
    for place, task in enumerate((2, 0)):
        np.testing.assert_array_equal(rows_of(some, place), rows_of(table, task))
        np.testing.assert_array_equal(some.test_index[place], table.test_index[task])
        np.testing.assert_array_equal(some.task_classes[place], table.task_classes[task])
    if name == "class_il":  # each example is of one task
        y, seen = stream.source.train.y, some.rows().index
        others = np.flatnonzero(table.task_classes[1][y])
        assert not np.isin(seen, others).any()
        assert np.isin(table.rows().index, others).any()
    assert part.name.endswith("only tasks 2-0")


@pytest.mark.parametrize("tasks", [(), (3,), (0, 0), (-1, 1)])
def test_tasks_that_there_are_not_are_refused(tasks):
    with pytest.raises(InputError, match=r"only_tasks is .*; name one or more of the tasks 0 to 2"):
        only_tasks(STREAMS["class_il"], tasks)
