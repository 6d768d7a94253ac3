"""A run that goes on is the run on the whole stream, bit for bit."""

import jax.numpy as jnp
import numpy as np
import pytest

from cls_jax.streams.task_order import only_tasks
from cls_jax.training.plan import Plan
from cls_jax.training.runner import run, sweep
from cls_jax.training.runtime.saves import fingerprint
from cls_jax.training.start import Start
from tests.conftest import TASKS, small_method

FAMILIES = "sgd", "er", "clser", "dualnet", "lwf", "si", "icarl", "agem"


def go_on(method, stream, first, seeds, **how):
    """The last task after a Result on those before it, whose tests are at hand."""
    earlier = only_tasks(stream, range(TASKS - 1))
    start = Start(dict(zip(first.seeds, first.trained, strict=True)), earlier)
    rest = only_tasks(stream, (TASKS - 1,))
    return sweep(method, rest, [method.hyper], seeds=seeds, start=start, **how)[0]


def assert_same(whole, then):
    """State, key and counter bitwise; the matrix but for what nobody could measure then."""
    for one, other in zip(whole.trained, then.trained, strict=True):
        bare = [each.run.replace(matrix=jnp.zeros(())) for each in (one, other)]
        assert fingerprint(bare[0]) == fingerprint(bare[1])
        np.testing.assert_array_equal(one.task_classes, other.task_classes)
    unknown = np.isnan(then.matrix) & ~np.isnan(whole.matrix)
    assert {(row, task) for *_, row, task in np.argwhere(unknown)} == {(0, TASKS - 1)}
    np.testing.assert_array_equal(then.matrix[~unknown], whole.matrix[~unknown])


@pytest.mark.parametrize(
    "name",
    [n if n in ("er", "si") else pytest.param(n, marks=pytest.mark.more) for n in FAMILIES],
)
def test_the_first_tasks_then_the_last_is_the_whole(stream, name):
    method = small_method(name)
    whole = run(method, stream, seeds=(3,))
    first = run(method, only_tasks(stream, range(TASKS - 1)), seeds=(3,))
    assert int(first.trained[0].run.step) < int(whole.trained[0].run.step)
    assert_same(whole, go_on(method, stream, first, (3,)))


def test_side_by_side_and_in_other_chunks(stream):
    method = small_method("er")
    plan = Plan(over_seeds="vmap")
    whole = run(method, stream, seeds=(0, 1), plan=plan)
    first = run(method, only_tasks(stream, range(TASKS - 1)), seeds=(0, 1), plan=plan)
    assert_same(whole, go_on(method, stream, first, (0, 1), plan=plan._replace(chunk=2)))


def test_what_was_learned_is_not_touched(stream):
    """Its buffers are not donated: it can go on twice."""
    method = small_method("sgd")
    first = run(method, only_tasks(stream, range(TASKS - 1)))
    before = fingerprint(first.trained[0].run)
    once, twice = (go_on(method, stream, first, (0,)) for _ in range(2))
    assert fingerprint(first.trained[0].run) == before
    assert fingerprint(once.trained[0].run) == fingerprint(twice.trained[0].run)
