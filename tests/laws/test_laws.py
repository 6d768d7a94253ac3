"""The laws of design.md section 3, on every method of the table."""

import inspect
from functools import cache

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cls_jax.methods import METHODS
from cls_jax.types import Batch, Task
from tests.conftest import CLASSES, TASKS, small_method, small_source

METHOD_NAMES = sorted(METHODS)
BATCH = 4


@cache
def built(name):
    """The method, its jitted parts, and a state in its second task (so memory has content)."""
    method, hyper = small_method(name)
    hyper = jax.tree.map(jnp.float32, hyper)
    parts = {"step": jax.jit(method.phases[0].step), "begin": jax.jit(method.begin_task)}
    # A phase "collect" only fills the memory; the one behind it learns.
    learns = next(phase.step for phase in method.phases if phase.name != "collect")
    parts["learn"] = parts["step"] if learns is method.phases[0].step else jax.jit(learns)
    state = jax.jit(method.init)(jax.random.key(0), batch_of(0), hyper)
    for number in range(2):
        key, told = jax.random.key(number), task_of(number)
        state = parts["begin"](key, state, told, data_of(method, number)["begin"])
        for s in range(4):
            key = jax.random.key(100 * number + s)
            state, _ = parts["step"](key, state, batch_of(number, s, told=method.needs.told_task))
        if number == 0:
            key, data = jax.random.key(2), data_of(method, 0)["end"]
            state = jax.jit(method.end_task)(key, state, told, data)
    return method, hyper, parts, state


def task_of(number):
    classes = np.arange(CLASSES) // 2
    return Task(
        index=jnp.int32(number),
        classes=jnp.asarray(classes == number),
        seen=jnp.asarray(classes <= number),
    )


def batch_of(number, shift=0, told=True, valid=(True,) * BATCH, labelled=(True,) * BATCH):
    source = small_source()
    index = np.flatnonzero(source.train.y // 2 == number)[shift * BATCH : (shift + 1) * BATCH]
    return Batch(
        x=jnp.asarray(source.train.x[index]),
        y=jnp.asarray(source.train.y[index]),
        task=jnp.full((BATCH,), number if told else -1, jnp.int32),
        valid=jnp.asarray(valid),
        labelled=jnp.asarray(labelled),
    )


def data_of(method, number):
    """What the runner hands over as a task begins and as it ends."""
    needs = method.needs
    data = batch_of(number, told=needs.told_task)
    return {
        "begin": data if needs.begin_data else None,
        "end": data if needs.end_data else None,
    }


def told_batch(name, **kind):
    return batch_of(1, 4, told=built(name)[0].needs.told_task, **kind)


@pytest.mark.parametrize("name", METHOD_NAMES)
def test_a_step_is_pure(name):
    _, _, parts, state = built(name)
    before = jax.tree.map(np.array, state.replace(hyper=None))
    one = parts["step"](jax.random.key(5), state, told_batch(name))
    two = parts["step"](jax.random.key(5), state, told_batch(name))
    chex.assert_trees_all_equal(one, two)
    chex.assert_trees_all_equal(jax.tree.map(np.array, state.replace(hyper=None)), before)


@pytest.mark.parametrize("name", METHOD_NAMES)
def test_state_out_is_shaped_like_state_in(name):
    method, _, _, state = built(name)
    like = jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), state)
    key, task, data = jax.random.key(0), task_of(2), data_of(method, 2)
    outs = [jax.eval_shape(p.step, key, state, told_batch(name))[0] for p in method.phases]
    outs += [jax.eval_shape(p.enter, key, state, task, None) for p in method.phases]
    outs += [jax.eval_shape(method.begin_task, key, state, task, data["begin"])]
    outs += [jax.eval_shape(method.end_task, key, state, task, data["end"])]
    for out in outs:
        assert jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), out) == like


@pytest.mark.parametrize("name", METHOD_NAMES)
def test_metrics_are_finite_float_scalars_with_a_loss(name):
    _, _, parts, state = built(name)
    _, metrics = parts["step"](jax.random.key(1), state, told_batch(name))
    assert "loss" in metrics
    for value in metrics.values():
        assert value.shape == ()
        assert value.dtype == jnp.float32
        assert jnp.isfinite(value)


@pytest.mark.parametrize("name", METHOD_NAMES)
def test_one_trace_for_all_tasks(name):
    method, _, _, state = built(name)
    told = method.needs.told_task
    chex.clear_trace_counter()
    one_step = jax.jit(chex.assert_max_traces(lambda *a: method.phases[0].step(*a), n=1))
    one_begin = jax.jit(chex.assert_max_traces(lambda *a: method.begin_task(*a), n=1))
    for number in range(TASKS):
        key = jax.random.key(number)
        state = one_begin(key, state, task_of(number), data_of(method, number)["begin"])
        one_step.lower(key, state, batch_of(number, told=told))


@pytest.mark.parametrize("name", METHOD_NAMES)
def test_the_state_can_be_donated(name):
    method, _, _, state = built(name)
    pointers = [leaf.unsafe_buffer_pointer() for leaf in jax.tree.leaves(state) if leaf.size]
    assert len(set(pointers)) == len(pointers), "two leaves share a buffer"
    mine = jax.tree.map(jnp.copy, state)
    begin = jax.jit(lambda *a: method.begin_task(*a), donate_argnums=1)
    out = begin(jax.random.key(0), mine, task_of(2), data_of(method, 2)["begin"])
    jax.block_until_ready(out)
    assert all(
        np.isfinite(leaf).all() for leaf in jax.tree.leaves(out) if leaf.dtype == jnp.float32
    )


@pytest.mark.parametrize("name", METHOD_NAMES)
def test_padding_has_no_influence(name):
    _, _, parts, state = built(name)
    valid = jnp.array([True, True, True, False])
    batch = told_batch(name, valid=valid, labelled=valid)
    garbage = batch.replace(x=batch.x.at[3].set(255), y=batch.y.at[3].set(CLASSES - 1))
    one = parts["step"](jax.random.key(2), state, batch)
    two = parts["step"](jax.random.key(2), state, garbage)
    chex.assert_trees_all_equal(one, two)


LEARNS_UNLABELLED = {"dualnet": {"semi_supervised": True}}
"""The runner turns unlabelled rows into padding for every other method (tests/test_runner.py)."""


@pytest.mark.parametrize("name", METHOD_NAMES)
def test_the_label_of_an_unlabelled_row_has_no_influence(name):
    method, _ = small_method(name, **LEARNS_UNLABELLED.get(name, {}))
    assert method.needs.unlabelled == (name in LEARNS_UNLABELLED)
    if not method.needs.unlabelled:
        return
    state = built(name)[3]
    step = jax.jit(method.phases[0].step)
    for labelled in ([False] * BATCH, [True, True, False, False]):
        batch = told_batch(name, labelled=labelled)
        other = batch.replace(y=jnp.where(batch.labelled, batch.y, CLASSES - 1 - batch.y))
        out = step(jax.random.key(3), state, batch)
        chex.assert_trees_all_equal(out, step(jax.random.key(3), state, other))


@pytest.mark.parametrize("name", METHOD_NAMES)
def test_predictions_are_finite_logits_over_all_classes(name):
    method, _, _, state = built(name)
    x = jnp.asarray(small_source().test.x[:5])
    for predict in (method.predict, *method.views.values()):
        logits = jax.jit(predict)(state, x, task_of(0))
        assert logits.shape == (5, CLASSES)
        assert logits.dtype == jnp.float32
        assert jnp.isfinite(logits).all()


@pytest.mark.parametrize("name", METHOD_NAMES)
def test_signatures_say_key_first(name):
    method, _, _, _ = built(name)
    assert list(inspect.signature(method.init).parameters) == ["key", "example", "hyper"]
    for phase in method.phases:
        assert list(inspect.signature(phase.step).parameters) == ["key", "state", "batch"]
    for fn in (method.begin_task, method.end_task, *(p.enter for p in method.phases)):
        assert list(inspect.signature(fn).parameters) == ["key", "state", "task", "data"]
    for fn in (method.predict, *method.views.values()):
        assert list(inspect.signature(fn).parameters) == ["state", "x", "task"]


@pytest.mark.parametrize("name", METHOD_NAMES)
def test_hyper_is_data(name):
    """Another rate is another value: same program, another result."""
    _, _, parts, state = built(name)
    other = state.replace(hyper=state.hyper.replace(learning_rate=jnp.float32(0.0)))
    moved, _ = parts["learn"](jax.random.key(4), state, told_batch(name))
    programs = parts["learn"]._cache_size()
    still, _ = parts["learn"](jax.random.key(4), other, told_batch(name))
    assert parts["learn"]._cache_size() == programs
    # Of DualNet the fast tree: the slow one also learns without labels.
    trained = next(tree for tree in ("fast", "working", "model") if hasattr(state, tree))
    before, after, frozen = (getattr(s, trained).vars.params for s in (state, moved, still))
    chex.assert_trees_all_equal(frozen, before)
    assert not np.array_equal(jax.tree.leaves(after)[-1], jax.tree.leaves(before)[-1])


@pytest.mark.parametrize("name", METHOD_NAMES)
def test_lanes_equal_single_runs_to_rounding(name):
    method, _, _, state = built(name)
    keys = jax.random.split(jax.random.key(6), 2)
    lanes, _ = jax.jit(jax.vmap(method.phases[0].step, in_axes=(0, None, None)))(
        keys, state, told_batch(name)
    )
    for lane, key in enumerate(keys):
        single, _ = built(name)[2]["step"](key, state, told_batch(name))
        mine = jax.tree.map(lambda leaf, i=lane: leaf[i], lanes)
        if hasattr(state, "memory"):
            whole = {k: v for k, v in mine.memory.slots.items() if v.dtype != jnp.float32}
            chex.assert_trees_all_equal(whole, {k: single.memory.slots[k] for k in whole})
        chex.assert_trees_all_close(mine, single, rtol=2e-3, atol=2e-4)
