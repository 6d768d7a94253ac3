"""The laws of design.md section 3, on every method of the table."""

import inspect
from functools import cache, partial
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cls_jax.methods import METHODS, signature
from cls_jax.methods.base import Method, hidden_task
from cls_jax.streams.class_il import class_il
from cls_jax.training.capacity import capacities
from cls_jax.training.run import Run
from tests.conftest import CLASSES, TASKS, small_method, small_source
from tests.support.drive import made_batch, task_of

METHOD_NAMES = sorted(METHODS)
PHASES = [(name, i) for name in METHOD_NAMES for i in range(len(small_method(name).phases))]
"""Every phase of every method, by its number."""

BATCH = 4
every_method = pytest.mark.parametrize("name", METHOD_NAMES)
every_phase = pytest.mark.parametrize(("name", "phase"), PHASES)
QUICK = {"apd", "clser", "derpp", "dualnet", "sgd", "spb", "supsup"}
"""Methods of seven shapes; dear laws of the others are of the slow part, and of CI."""


def or_more(name: str, *values: Any) -> Any:
    """The case of a dear law, left to `-m more` for methods that are not QUICK."""
    return pytest.param(name, *values, marks=[] if name in QUICK else pytest.mark.more)


class Built(NamedTuple):
    """A method, compiled: one step a phase, a first state, one from the midst of each phase."""

    method: Method
    steps: list
    first: object
    states: list

    @property
    def state(self):
        """Of the last phase, in the second task, so that a memory has content."""
        return self.states[-1]


@cache
def built(name):
    method = small_method(name)
    steps = [
        partial(jax.jit(step_at(method, i)), hyper_of(method)) for i in range(len(method.phases))
    ]
    state = first = jax.jit(method.init)(jax.random.key(0), batch_of(0))
    states = []
    for number in range(2):
        key, task, data = jax.random.key(number), task_of(number), data_of(method, number)
        state = jax.jit(method.begin_task)(key, state, task, data["begin"])
        for phase, step in zip(method.phases, steps, strict=True):
            state = jax.jit(phase.enter)(key, state, task, enter_data(method, phase, number))
            for s in range(4):
                key = jax.random.key(100 * number + s)
                state, _ = step(key, state, batch_of(number, s, told=method.needs.told_task))
            states.append(state)
        if number == 0:
            state = jax.jit(method.end_task)(jax.random.key(2), state, task, data["end"])
    return Built(method, steps, first, states[len(steps) :])


def hyper_of(method, **changes):
    """float32[] each, as in a run."""
    return {name: jnp.float32(value) for name, value in {**method.hyper, **changes}.items()}


def step_at(method, phase):
    """The step of a phase as a run has it: the hyper-parameters are arguments."""
    return lambda hyper, *given: method.at(hyper).phases[phase].step(*given)


def batch_of(number, shift=0, told=True, valid=(True,) * BATCH, labelled=(True,) * BATCH):
    source = small_source()
    index = np.flatnonzero(source.train.y // 2 == number)[shift * BATCH : (shift + 1) * BATCH]
    kind = {"valid": valid, "labelled": labelled, "task": number if told else -1}
    return made_batch(source.train.x[index], source.train.y[index], **kind)


def data_of(method, number):
    """What the runner hands over as a task begins and as it ends."""
    needs = method.needs
    data = batch_of(number, told=needs.told_task)
    return {
        "begin": data if needs.begin_data else None,
        "end": data if needs.end_data else None,
    }


def enter_data(method, phase, number):
    """What the runner hands over as a phase of a task begins."""
    return batch_of(number, told=method.needs.told_task) if phase.enter_data else None


def told_batch(name, **kind):
    return batch_of(1, 4, told=built(name).method.needs.told_task, **kind)


@every_phase
def test_a_step_is_pure(name, phase):
    step, state = built(name).steps[phase], built(name).states[phase]
    before = jax.tree.map(np.array, state)
    one = step(jax.random.key(5), state, told_batch(name))
    two = step(jax.random.key(5), state, told_batch(name))
    chex.assert_trees_all_equal(one, two)
    chex.assert_trees_all_equal(jax.tree.map(np.array, state), before)


@every_method
def test_state_out_is_shaped_like_state_in(name):
    method, states = built(name).method, built(name).states
    state = states[-1]
    like = jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), state)
    key, task, data = jax.random.key(0), task_of(2), data_of(method, 2)
    outs = [jax.eval_shape(p.step, key, state, told_batch(name))[0] for p in method.phases]
    outs += [
        jax.eval_shape(p.enter, key, state, task, enter_data(method, p, 2)) for p in method.phases
    ]
    outs += [jax.eval_shape(method.begin_task, key, state, task, data["begin"])]
    outs += [jax.eval_shape(method.end_task, key, state, task, data["end"])]
    for out in outs:
        assert jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), out) == like


@every_phase
def test_metrics_are_finite_float_scalars_with_a_loss(name, phase):
    step, state = built(name).steps[phase], built(name).states[phase]
    _, metrics = step(jax.random.key(1), state, told_batch(name))
    assert "loss" in metrics
    for value in metrics.values():
        assert value.shape == ()
        assert value.dtype == jnp.float32
        assert jnp.isfinite(value)


@every_method
def test_one_trace_for_all_tasks(name):
    method, states = built(name).method, built(name).states
    state, told = states[-1], method.needs.told_task

    traces = []

    def once(fn):
        mine = len(traces)
        traces.append(0)

        def counted(*arguments):
            traces[mine] += 1
            return fn(*arguments)

        return jax.jit(counted)

    begin, end = once(method.begin_task), once(method.end_task)
    enters = [once(phase.enter) for phase in method.phases]
    steps = [once(phase.step) for phase in method.phases]
    for number in range(TASKS):
        key, task, data = jax.random.key(number), task_of(number), data_of(method, number)
        state = begin(key, state, task, data["begin"])
        for phase, enter, step in zip(method.phases, enters, steps, strict=True):
            state = enter(key, state, task, enter_data(method, phase, number))
            step.lower(key, state, batch_of(number, told=told))
        end.lower(key, state, task, data["end"])
    assert traces == [1] * len(traces)


@every_method
def test_the_state_can_be_donated(name):
    method, state = built(name).method, built(name).state
    pointers = [leaf.unsafe_buffer_pointer() for leaf in jax.tree.leaves(state) if leaf.size]
    assert len(set(pointers)) == len(pointers), "two leaves share a buffer"
    mine = jax.tree.map(jnp.copy, state)
    begin = jax.jit(lambda *a: method.begin_task(*a), donate_argnums=1)
    out = begin(jax.random.key(0), mine, task_of(2), data_of(method, 2)["begin"])
    jax.block_until_ready(out)
    assert all(
        np.isfinite(leaf).all() for leaf in jax.tree.leaves(out) if leaf.dtype == jnp.float32
    )


@every_phase
def test_padding_has_no_influence(name, phase):
    step, state = built(name).steps[phase], built(name).states[phase]
    valid = jnp.array([True, True, True, False])
    batch = told_batch(name, valid=valid, labelled=valid)
    garbage = batch.replace(x=batch.x.at[3].set(255), y=batch.y.at[3].set(CLASSES - 1))
    one = step(jax.random.key(2), state, batch)
    two = step(jax.random.key(2), state, garbage)
    chex.assert_trees_all_equal(one, two)


TOLD_SOFTMAX = (
    *("apd", "der_expandable", "dualnet", "dytox", "frcl", "icarl", "l2_transfer", "lwf", "supsup"),
    *("co2l", "rpsnet", "spb", "spb_i", "spb_m", "ucir"),
)
"""Methods that learn the classes they are told, and no other."""


@pytest.mark.parametrize(
    ("name", "phase"), [(name, phase) for name, phase in PHASES if name in TOLD_SOFTMAX]
)
def test_a_row_of_a_class_that_is_not_told_is_padding(name, phase):
    step, state = built(name).steps[phase], built(name).states[phase]
    batch = told_batch(name)
    foreign = batch.replace(y=batch.y.at[3].set(CLASSES - 1))
    without = batch.replace(valid=batch.valid.at[3].set(False))
    one = step(jax.random.key(2), state, foreign)
    two = step(jax.random.key(2), state, without)
    chex.assert_trees_all_equal(one, two)
    assert float(one[1]["loss"]) < 1e6


LEARNS_UNLABELLED = {"dualnet": {"semi_supervised": True}}
"""For every other method the runner turns unlabelled rows into padding (tests/training)."""


@every_method
def test_the_label_of_an_unlabelled_row_has_no_influence(name):
    method = small_method(name, **LEARNS_UNLABELLED.get(name, {}))
    assert method.needs.unlabelled == (name in LEARNS_UNLABELLED)
    if not method.needs.unlabelled:
        return
    state = built(name).state
    step = jax.jit(method.phases[0].step)
    for labelled in ([False] * BATCH, [True, True, False, False]):
        batch = told_batch(name, labelled=labelled)
        other = batch.replace(y=jnp.where(batch.labelled, batch.y, CLASSES - 1 - batch.y))
        out = step(jax.random.key(3), state, batch)
        chex.assert_trees_all_equal(out, step(jax.random.key(3), state, other))


@every_method
def test_under_x64_the_state_keeps_its_dtypes(name):
    """Known without compute: where JAX counts in int64 and float64, nothing that is kept widens."""
    method = small_method(name)
    with jax.enable_x64(True):
        key = jax.random.key(0)
        task, data, told = task_of(1), data_of(method, 1), method.needs.told_task
        state = jax.eval_shape(method.init, key, batch_of(0))
        batch, outs = batch_of(1, told=told), []
        for phase in method.phases:
            outs += [jax.eval_shape(phase.step, key, state, batch)[0]]
            given = enter_data(method, phase, 1)
            outs += [jax.eval_shape(phase.enter, key, state, task, given)]
        outs += [jax.eval_shape(method.begin_task, key, state, task, data["begin"])]
        outs += [jax.eval_shape(method.end_task, key, state, task, data["end"])]
        like = jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), state)
        for out in outs:
            assert jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), out) == like


@every_method
def test_predictions_are_finite_logits_over_all_classes(name):
    method, state = built(name).method, built(name).state
    x = jnp.asarray(small_source().test.x[:5])
    for predict in (method.predict, *method.views.values()):
        logits = jax.jit(predict)(state, x, task_of(0))
        assert logits.shape == (5, CLASSES)
        assert logits.dtype == jnp.float32
        assert jnp.isfinite(logits).all()


@every_method
def test_an_answer_depends_on_its_company_only_where_that_is_said(name):
    """Each image alone beside others: the same logits, or ``needs.test_group``."""
    method, state = built(name).method, built(name).state
    x = jnp.asarray(small_source().test.x[::7][:5])
    for predict in (method.predict, *method.views.values()):
        if method.needs.test_group is None:
            predict, fill = jax.jit(predict), jnp.full_like(x, 255)
            whole = predict(state, x, hidden_task(CLASSES))
            alone = predict(state, fill.at[3].set(x[1]), hidden_task(CLASSES))
            np.testing.assert_allclose(alone[3], whole[1], rtol=1e-4, atol=1e-4)


@every_method
def test_what_must_be_kept_to_answer_is_known(name):
    method, state = built(name).method, built(name).state
    stream = class_il(small_source(), tasks=TASKS, batch_size=BATCH)
    run = Run(state, hyper_of(method), jax.random.key(0), jnp.int32(0), jnp.zeros(()))
    capacity = capacities(method, stream, [run])
    for value in capacity.values():
        assert value.shape == (1, TASKS)
        assert np.isfinite(value).all()
    assert (capacity["bits"] > 0).any()


@every_method
def test_signatures_say_key_first(name):
    method = built(name).method
    assert list(inspect.signature(method.init).parameters) == ["key", "example"]
    for phase in method.phases:
        parameters = inspect.signature(phase.step).parameters.values()
        required = [one.name for one in parameters if one.default is one.empty]
        assert required == ["key", "state", "batch"]
    for fn in (method.begin_task, method.end_task, *(p.enter for p in method.phases)):
        assert list(inspect.signature(fn).parameters) == ["key", "state", "task", "data"]
    for fn in (method.predict, *method.views.values()):
        assert list(inspect.signature(fn).parameters) == ["state", "x", "task"]


STILL = ("collect", "fisher")
"""Phases that do not train the network."""

NO_CHANGE = {
    "den": {"head_l1_weight": 0},
    "dytox": {"first_learning_rate": 0, "last_learning_rate": 0},
}
"""What else must be 0, beside the learning rate, for a step to change nothing."""


@every_method
def test_its_signature_is_read_without_it(name):
    """What a command line offers is what the factory takes, though its module is not loaded."""
    assert signature(name) == METHODS[name].signature
    assert METHODS[name].name == name


@every_method
def test_hyper_is_data(name):
    """Another rate is another value: same program, another result."""
    method, steps, _, states = built(name)
    learns = next(i for i, phase in enumerate(method.phases) if phase.name not in STILL)
    program, state = steps[learns].func, states[learns]
    zeros = hyper_of(method, **{"learning_rate": 0, **NO_CHANGE.get(name, {})})
    programs = program._cache_size()
    moved, _ = program(hyper_of(method), jax.random.key(4), state, told_batch(name))
    still, _ = program(zeros, jax.random.key(4), state, told_batch(name))
    assert program._cache_size() == programs
    # Of DualNet the fast tree: the slow one also learns without labels.
    trees = "fast", "working", "model", "extractor", "scores", "candidates"
    trained = next(tree for tree in trees if hasattr(state, tree))
    before, after, frozen = (getattr(s, trained).vars.params for s in (state, moved, still))
    chex.assert_trees_all_equal(frozen, before)
    assert not np.array_equal(jax.tree.leaves(after)[-1], jax.tree.leaves(before)[-1])


@pytest.mark.parametrize(("name", "phase"), [or_more(*one) for one in PHASES])
def test_trials_equal_single_runs_to_rounding(name, phase):
    step, state = built(name).steps[phase], built(name).states[phase]
    keys = jax.random.split(jax.random.key(6), 2)
    trials, _ = jax.jit(jax.vmap(step, in_axes=(0, None, None)))(keys, state, told_batch(name))
    for trial, key in enumerate(keys):
        single, _ = step(key, state, told_batch(name))
        mine = jax.tree.map(lambda leaf, i=trial: leaf[i], trials)
        if hasattr(state, "memory"):
            whole = {k: v for k, v in mine.memory.slots.items() if v.dtype != jnp.float32}
            chex.assert_trees_all_equal(whole, {k: single.memory.slots[k] for k in whole})
        chex.assert_trees_all_close(mine, single, rtol=2e-3, atol=2e-4)
