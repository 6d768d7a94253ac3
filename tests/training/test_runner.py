"""The runner: exactness over chunks, trials and padding; what methods are told; when it stops."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import struct

from cls_jax.core.errors import Diverged, InputError
from cls_jax.data.dataset import Dataset, Split
from cls_jax.methods.base import Needs, Phase, unchanged
from cls_jax.streams.class_il import class_il
from cls_jax.streams.stream import Rows, schedule_of
from cls_jax.training.events import Evaluated, Progress, Started
from cls_jax.training.runner import Plan, run, sweep
from tests.conftest import CLASSES, TASKS, small_method
from tests.support.methods import exchanged, method_of


def uneven_source() -> Dataset:
    """Six classes of 4 to 14 flat examples: tasks of different seeds have different lengths."""
    y = np.repeat(np.arange(6), [4, 6, 8, 10, 12, 14]).astype(np.int32)
    x = (np.random.default_rng(0).normal(size=(y.size, 12)) + y[:, None]).astype(np.float32)
    return Dataset("uneven", Split(x, y), Split(x[::2], y[::2]), tuple("abcdef"))


def flat_method(name, **changes):
    """A method of the table over flat vectors."""
    from cls_jax.core.augment import recipe
    from cls_jax.methods import METHODS
    from tests.conftest import SMALL, small_problem

    problem = small_problem()._replace(augment=recipe((12,), normalisation="none"))
    return METHODS[name](problem, **{**SMALL.get(name, {}), **changes})


@pytest.fixture(scope="module")
def uneven():
    return class_il(uneven_source(), tasks=TASKS, batch_size=4, epochs=2)


@struct.dataclass
class Spy:
    """A state that remembers what it was shown."""

    steps: jax.Array
    rows: jax.Array
    largest_task: jax.Array
    smallest_y: jax.Array
    boundaries: jax.Array
    total: jax.Array


def spy_method(needs=Needs(), phases=None, metric=None):  # noqa: B008
    """Learns nothing; its metric is the number of the step unless told otherwise."""

    def init(key, example):
        zero = jnp.int32(0)
        return Spy(zero, zero, jnp.int32(-9), jnp.int32(9), zero, jnp.float32(0))

    def step(key, state, batch):
        value = state.steps if metric is None else metric(state)
        state = state.replace(
            steps=state.steps + 1,
            rows=state.rows + batch.valid.sum(dtype=jnp.int32),
            largest_task=jnp.maximum(state.largest_task, batch.task.max()),
            smallest_y=jnp.minimum(state.smallest_y, batch.y.min()),
        )
        return state, {"loss": value}

    def boundary(key, state, task, data):
        return state.replace(boundaries=state.boundaries * 10 + task.index + 2)

    def predict(state, x, task):
        return jnp.zeros((x.shape[0], CLASSES))

    return method_of(
        "spy",
        init=init,
        phases=phases(step, boundary) if phases else (Phase("train", step),),
        predict=predict,
        begin_task=boundary,
        end_task=boundary,
        needs=needs,
    )


# --- exactness ------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["scan", "loop"])
def test_chunks_of_any_length_give_the_same_bits(uneven, mode):
    method = flat_method("er")
    results = [
        run(method, uneven, seeds=(3,), plan=Plan(chunk=chunk, mode=mode))
        for chunk in (1, 16, 10_000)
    ]
    for other in results[1:]:
        chex.assert_trees_all_equal(results[0].states, other.states)
        np.testing.assert_array_equal(results[0].matrix, other.matrix)


def test_dualnet_chunks_give_the_same_bits(stream):
    method = small_method("dualnet")
    results = [run(method, stream, plan=Plan(chunk=chunk)) for chunk in (1, 16)]
    chex.assert_trees_all_equal(results[0].states, results[1].states)
    np.testing.assert_array_equal(results[0].matrix, results[1].matrix)


def test_scan_and_loop_agree_to_rounding(uneven):
    method = flat_method("er")
    scan, loop = (run(method, uneven, plan=Plan(mode=mode)) for mode in ("scan", "loop"))
    chex.assert_trees_all_equal(scan.states[0].memory, loop.states[0].memory)
    chex.assert_trees_all_close(scan.states, loop.states, rtol=1e-4, atol=1e-5)


def with_empty_rows(stream):
    """The same stream with empty rows between its rows."""

    def schedule(key, *, epochs=None, shuffle=0):
        given = stream.schedule(key, epochs=epochs, shuffle=shuffle)
        table = given.rows()
        at = np.sort(np.random.default_rng(1).integers(0, len(table.index), 7))
        rows = Rows(
            index=np.insert(table.index, at, -1, axis=0),
            labelled=np.insert(table.labelled, at, True, axis=0),
            task=np.insert(table.task, at, table.task[at]),
            epoch=np.insert(table.epoch, at, table.epoch[at]),
        )
        return schedule_of(rows, task_classes=given.task_classes, test_index=given.test_index)

    return stream._replace(schedule=schedule)


@pytest.mark.parametrize("mode", ["scan", "loop"])
def test_empty_batches_change_no_bit(uneven, mode):
    method = flat_method("er")
    plan = Plan(mode=mode, over_seeds="sequential")
    plain = run(method, uneven, seeds=(0, 1, 2), plan=plan)
    padded = run(method, with_empty_rows(uneven), seeds=(0, 1, 2), plan=plan)
    chex.assert_trees_all_equal(plain.states, padded.states)
    np.testing.assert_array_equal(plain.matrix, padded.matrix)


@pytest.mark.parametrize("name", ["clser", pytest.param("er", marks=pytest.mark.more)])
def test_trials_of_unequal_length_equal_their_own_runs(uneven, name):
    """Vmapped: integers, memory and counters bitwise, floats to rounding."""
    seeds = (0, 1, 2, 3)
    lengths = set()
    for seed in seeds:
        key = jax.random.fold_in(jax.random.key(seed), 0)
        index = uneven.schedule(key).rows().index
        lengths.add(int((index >= 0).any(1).sum()))
    assert len(lengths) > 1, "the seeds must differ in length for this test to mean anything"
    method = flat_method(name, learning_rate=0.01)
    single = run(method, uneven, seeds=seeds, plan=Plan(over_seeds="sequential"))
    trials = run(method, uneven, seeds=seeds, plan=Plan(over_seeds="vmap"))
    for mine, theirs in zip(trials.states, single.states, strict=True):
        chex.assert_trees_all_equal(mine.memory, theirs.memory)
        chex.assert_trees_all_close(mine, theirs, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(trials.matrix, single.matrix, atol=0.08)


@pytest.mark.parametrize("over_seeds", ["sequential", "vmap"])
def test_a_sweep_is_the_runs_it_is_made_of(uneven, over_seeds):
    """Values by seeds, one program: bitwise in turn, to rounding side by side."""
    method = flat_method("clser", learning_rate=0.01)
    hypers = [{"consistency_weight": w} for w in (0.0, 1.0)]
    plan = Plan(over_seeds=over_seeds)
    results = sweep(method, uneven, hypers, seeds=(0, 7), plan=plan)
    assert [result.seeds for result in results] == [(0, 7), (0, 7)]
    for mine, value in zip(results, hypers, strict=True):
        one = flat_method("clser", learning_rate=0.01, **value)
        alone = run(one, uneven, seeds=(0, 7), plan=Plan(over_seeds="sequential"))
        if over_seeds == "sequential":
            chex.assert_trees_all_equal(mine.states, alone.states)
        for one, other in zip(mine.states, alone.states, strict=True):
            chex.assert_trees_all_equal(one.memory, other.memory)
            chex.assert_trees_all_close(one, other, rtol=1e-3, atol=1e-4)
    first, second = (result.states[0].working.vars.params for result in results)
    assert not np.array_equal(jax.tree.leaves(first)[-1], jax.tree.leaves(second)[-1])


def test_seeds_side_by_side_share_the_data_set():
    """What the device holds grows by each seed's state, key, matrix and rows alone."""
    n = 4000
    y = np.repeat(np.arange(CLASSES, dtype=np.int32), n // CLASSES)
    x = np.zeros((y.size, 200), np.float32)
    source = Dataset("wide", Split(x, y), Split(x[::200], y[::200]), tuple("abcdef"))
    stream = class_il(source, tasks=TASKS, batch_size=4)
    method = spy_method()
    held = {}

    def look(seeds):
        def observe(event):
            if isinstance(event, Progress):
                held[len(seeds)] = sum(array.nbytes for array in jax.live_arrays())

        run(method, stream, seeds=seeds, plan=Plan(chunk=50), observe=observe)

    look((0, 1))
    look((0, 1, 2, 3, 4, 5))
    assert held[2] > x.nbytes
    assert (held[6] - held[2]) / 4 < 0.01 * x.nbytes


def test_a_sweep_over_nothing_is_refused(uneven):
    method = flat_method("er")
    with pytest.raises(InputError, match="hypers is empty"):
        sweep(method, uneven, [])
    with pytest.raises(InputError, match="learning_rate is -1"):
        sweep(method, uneven, [{}, {"learning_rate": -1.0}])
    with pytest.raises(InputError, match=r"hypers holds {'rate': 1}; the method's are le"):
        sweep(method, uneven, [{"rate": 1}])


def test_a_run_repeats_and_leaves_its_arguments_alone(uneven):
    method = flat_method("er")
    one, two = (run(method, uneven, seeds=(5,)) for _ in range(2))
    chex.assert_trees_all_equal(one.states, two.states)
    assert method.hyper == {"learning_rate": 0.1}
    other = run(method, uneven, seeds=(6,))
    assert not np.array_equal(other.states[0].memory.slots["y"], one.states[0].memory.slots["y"])


# --- one compilation ------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["scan", "loop"])
@pytest.mark.parametrize("over_seeds", ["sequential", "vmap"])
def test_tasks_seeds_and_chunks_share_one_trace(uneven, mode, over_seeds):
    traces = {"step": 0, "predict": 0, "begin": 0}
    method = spy_method(Needs(told_task=True, boundaries=True))

    def counted(name, fn):
        def wrapped(*args):
            traces[name] += 1
            return fn(*args)

        return wrapped

    method = exchanged(
        method,
        phases=(method.phases[0]._replace(step=counted("step", method.phases[0].step)),),
        predict=counted("predict", method.predict),
        begin_task=counted("begin", method.begin_task),
    )
    plan = Plan(chunk=3, mode=mode, over_seeds=over_seeds)
    run(method, uneven, seeds=(0, 1, 2), plan=plan)
    assert traces == {"step": 1, "predict": 2, "begin": 1}  # predict: and what it reads


@pytest.mark.parametrize("name", ["er", "joint"])
def test_called_again_with_other_hyper_parameters_nothing_compiles(uneven, name):
    """A search over rates waits for the compiler once, however many trials it has."""
    compiled = []

    def listen(event, seconds, **_):
        if event.endswith("backend_compile_duration"):
            compiled.append(event)

    def trial(rate):
        method = flat_method(name, learning_rate=rate)
        return run(method, uneven, seeds=(0, 1), plan=Plan(chunk=7))

    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        first = trial(0.1)
        assert compiled
        compiled.clear()
        second = trial(0.02)
        assert compiled == []
    finally:
        jax.monitoring.clear_event_listeners()
    assert not np.array_equal(first.matrix, second.matrix)


def test_what_differs_in_its_program_is_not_mistaken_for_another(uneven):
    small, large = (
        run(flat_method("er", memory_size=size), uneven, plan=Plan(chunk=7)) for size in (6, 24)
    )
    assert small.states[0].memory.slots["y"].shape == (6,)
    assert large.states[0].memory.slots["y"].shape == (24,)
    other = class_il(uneven_source(), tasks=TASKS, batch_size=4)
    again = run(flat_method("er", memory_size=24), other, plan=Plan(chunk=7))
    assert not np.array_equal(again.matrix, large.matrix)


# --- what a method is told ------------------------------------------------------------------------


def test_a_method_that_is_not_told_gets_minus_one(uneven):
    hidden = run(spy_method(Needs(boundaries=True)), uneven).states[0]
    assert int(hidden.largest_task) == -1
    assert int(hidden.boundaries) == 111111  # begin and end of three tasks, index -1 each
    told = run(spy_method(Needs(told_task=True, boundaries=True)), uneven).states[0]
    assert int(told.largest_task) == TASKS - 1
    assert int(told.boundaries) == 223344
    assert int(run(spy_method(), uneven).states[0].boundaries) == 0


def test_unlabelled_rows_are_padding_or_have_no_label():
    half = class_il(uneven_source(), tasks=TASKS, batch_size=4, label_fraction=0.5)
    key = jax.random.fold_in(jax.random.key(0), 0)
    table = half.schedule(key).rows()
    labelled = int(((table.index >= 0) & table.labelled).sum())
    assert 0 < labelled < 54
    without = run(spy_method(), half).states[0]
    assert int(without.rows) == labelled
    with_them = run(spy_method(Needs(unlabelled=True)), half).states[0]
    assert int(with_them.rows) == 54
    assert int(with_them.smallest_y) == -1


def test_boundaries_get_every_example_of_the_task_once(uneven):
    """Two epochs of schedule, one copy of each example; equal shapes for all tasks."""
    method = spy_method(Needs(boundaries=True, begin_data=True, end_data=True))
    shapes = []

    def count(key, state, task, data):
        shapes.append(data.x.shape)
        assert data.x.shape[0] == data.y.shape[0] == data.valid.shape[0]
        total = jnp.where(data.valid, data.x.sum(axis=1), 0.0).sum()
        return state.replace(
            boundaries=state.boundaries + data.valid.sum(dtype=jnp.int32), total=state.total + total
        )

    method = exchanged(method, begin_task=count, end_task=count)
    for seeds in ((0,), (0, 1)):
        result = run(method, uneven, seeds=seeds)
        for state in result.states:
            assert int(state.boundaries) == 2 * 54
            whole = 2 * uneven.source.train.x.sum()
            np.testing.assert_allclose(state.total, whole, rtol=1e-4)
    assert len(shapes) == 4  # one trace a run and boundary, for all tasks
    needs = Needs(boundaries=True, end_data=True)
    quiet = exchanged(method, needs=needs, begin_task=unchanged)
    assert int(run(quiet, uneven).states[0].boundaries) == 54


@pytest.mark.parametrize("data", ["device", "host"])
def test_a_task_may_end_with_the_test_examples_so_far(uneven, data):
    """Those of the first task three times, of the last one once; one shape, so one trace a run."""
    shapes = []

    def count(key, state, task, data):
        shapes.append(data.x.shape)
        ours = jnp.where(data.valid, task.seen[data.y], True).all()
        total = jnp.where(data.valid, data.x.sum(axis=1), 0.0).sum()
        rows = state.boundaries + jnp.where(ours, data.valid.sum(dtype=jnp.int32), 1000)
        return state.replace(boundaries=rows, total=state.total + total)

    needs = Needs(told_task=True, boundaries=True, end_data="test")
    method = exchanged(spy_method(needs), begin_task=unchanged, end_task=count)
    result = run(method, uneven, seeds=(0, 1), plan=Plan(data=data))
    x, y = uneven.source.test
    for state, trained in zip(result.states, result.trained, strict=True):
        times = trained.task_classes[:, y].argmax(axis=0)
        assert int(state.boundaries) == (TASKS - times).sum()
        np.testing.assert_allclose(state.total, ((TASKS - times) * x.sum(1)).sum(), rtol=1e-4)
    assert len(shapes) == 1


def test_a_phase_may_begin_with_every_example_of_the_task(uneven):
    """That of the second phase counts them; the first, which does not ask, gets none."""

    def bare(key, state, task, data):
        assert data is None
        return state

    def count(key, state, task, data):
        assert data.x.shape[0] == data.valid.shape[0]
        total = jnp.where(data.valid, data.x.sum(axis=1), 0.0).sum()
        return state.replace(rows=state.rows + 1000 * data.valid.sum(), total=state.total + total)

    def phases(step, boundary):
        last = Phase("again", step, enter=count, num_steps=1, enter_data=True)
        return (Phase("train", step, enter=bare, epochs=1), last)

    method = spy_method(phases=phases)
    for state in run(method, uneven, seeds=(0, 1)).states:
        assert int(state.rows) == 54 + 1000 * 54
        np.testing.assert_allclose(state.total, uneven.source.train.x.sum(), rtol=1e-4)


def test_phases_follow_one_another_in_every_task(uneven):
    def phases(step, boundary):
        return (
            Phase("train", step, epochs=1),
            Phase("replay", step, enter=boundary, num_steps=7),
        )

    events = []
    method = spy_method(Needs(told_task=True), phases)
    result = run(method, uneven, plan=Plan(chunk=5), observe=events.append)
    names = [event.phase for event in events if isinstance(event, Progress)]
    changes = [name for i, name in enumerate(names) if i == 0 or names[i - 1] != name]
    assert changes == ["train", "replay"] * TASKS
    assert int(result.states[0].rows) == 54  # the memory phase brings no example
    steps = int(result.states[0].steps)
    assert steps == sum(event.num_steps for event in events if isinstance(event, Started))
    assert steps > 3 * 7
    assert int(result.states[0].boundaries) == 234  # entered once a task, told which


def test_joint_training_is_scored_once_at_the_end(uneven):
    method = flat_method("joint")
    matrix = run(method, uneven).matrix[0, 0]
    assert np.isfinite(matrix[:, 0]).all()
    assert np.isfinite(matrix[:, -1]).all()
    assert np.isnan(matrix[:, 1:-1]).all()


def test_scores_at_the_end_alone_are_those_of_every_task(uneven):
    """The last row is the same to the bit, the others are not measured."""
    method = flat_method("sgd")
    each, end = (run(method, uneven, plan=Plan(score=s)).matrix for s in ("each", "end"))
    np.testing.assert_array_equal(each[..., -1, :], end[..., -1, :])
    assert np.isnan(end[..., :-1, :]).all()


def test_a_result_says_what_must_be_kept_and_how_much_was_tested(uneven):
    method = flat_method("sgd")
    result = run(method, uneven, seeds=(0, 1))
    params = jax.tree.leaves(result.states[0].model.vars.params)
    bits = np.full((2, uneven.num_tasks), 32 * sum(leaf.size for leaf in params))
    np.testing.assert_array_equal(result.capacity["bits"], bits)
    counts = np.array(result.details["test_examples"])
    assert (counts.sum(axis=1) == len(uneven.source.test.y)).all()


# --- events and errors ----------------------------------------------------------------------------


def test_observers_see_everything_in_order(uneven):
    events = []
    result = run(spy_method(), uneven, plan=Plan(chunk=4), observe=events.append)
    assert isinstance(events[0], Started)
    assert events[0].headline == (
        "uneven, 3 tasks x 2 classes (6 in all); 54 training and 27 test examples of 12 float32"
    )
    progress = [event for event in events if isinstance(event, Progress)]
    scored = [event.task for event in events if isinstance(event, Evaluated)]
    assert scored == [-1, 0, 1, 2]
    assert sum(event.examples for event in progress) == 108  # two epochs
    assert progress[-1].step == progress[-1].num_steps == int(result.states[0].steps)
    step = 0
    for event in progress:  # the metric of a step is its number: chunk means are exact
        assert event.metrics["loss"] == pytest.approx((step + event.step - 1) / 2)
        step = event.step
    assert result.matrix.shape == (1, 1, 2, TASKS + 1, TASKS)
    assert np.isfinite(result.matrix[..., 0, :]).all()  # before training: every task, for FWT
    assert np.isnan(result.matrix[..., 1, 2]).all()  # task 3 after task 1: nobody asks


@pytest.mark.parametrize("over_seeds", ["sequential", "vmap"])
def test_a_loss_that_is_not_finite_stops_the_run(uneven, over_seeds):
    def metric(state):
        return jnp.where(state.steps == 9, jnp.nan, 100.0 + state.steps)

    for chunk, last in ((7, "108"), (9, r"10[348](\.\d)?")):  # the step, or the chunk, before
        message = rf"step 9 \(task \d, seed 4\); last finite metrics: loss {last};"
        plan = Plan(chunk=chunk, mode="scan", over_seeds=over_seeds)
        with pytest.raises(Diverged, match=message):
            run(spy_method(metric=metric), uneven, seeds=(4, 5), plan=plan)
    first = spy_method(metric=lambda state: jnp.log(state.steps - 1.0))
    with pytest.raises(Diverged, match=r"step 0 \(task 1, seed 0\); last finite metrics: none;"):
        run(first, uneven)


def test_a_real_divergence_is_caught(uneven):
    with pytest.raises(Diverged, match="stopped being finite at step"):
        run(flat_method("sgd", learning_rate=1e30), uneven)


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"seeds": ()}, "seeds is empty"),
        ({"seeds": (1, 2, 1)}, "seeds holds 1 more than once"),
        ({"seeds": (-1,)}, "seeds holds -1"),
        ({"plan": Plan(chunk=0)}, "chunk must be at least 1 step, got 0"),
        ({"plan": Plan(mode="fast")}, "mode must be one of .*, got 'fast'"),
    ],
)
def test_bad_arguments_are_named_before_any_compute(uneven, bad, message):
    events = []
    method = flat_method("sgd")
    with pytest.raises(InputError, match=message):
        run(method, uneven, observe=events.append, **bad)
    assert events == []


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (float("nan"), "learning_rate is nan; give a finite number"),
        (float("inf"), "learning_rate is inf; give a finite number"),
        (-0.1, "learning_rate is -0.1; give a value at least 0"),
    ],
)
def test_bad_hyper_parameters_are_named(uneven, value, message):
    with pytest.raises(InputError, match=message):
        flat_method("sgd", learning_rate=value)
    with pytest.raises(InputError, match=message):
        sweep(flat_method("sgd"), uneven, [{"learning_rate": value}])


@pytest.mark.parametrize("chunk", [3, 500])
def test_a_profile_is_written_of_one_chunk(uneven, tmp_path, chunk):
    """Of the second, since the first compiles; with chunks as long as tasks too."""
    method = flat_method("sgd")
    run(method, uneven, plan=Plan(chunk=chunk, profile=str(tmp_path / "trace")))
    assert list((tmp_path / "trace").rglob("*.xplane.pb"))


def test_a_single_chunk_has_a_speed_and_a_profile_too(tmp_path):
    stream = class_il(uneven_source(), tasks=1, batch_size=4)
    method = flat_method("sgd")
    result = run(method, stream, plan=Plan(profile=str(tmp_path)))
    assert result.steps_per_second > 0
    assert list(tmp_path.rglob("*.xplane.pb"))
