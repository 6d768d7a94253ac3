"""An open stream: the bits of a stream that is known, saved at any step, and what is refused."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
import pytest

import cls_jax as cls
from cls_jax.core.errors import Diverged, InputError, Stopped
from cls_jax.methods import METHODS
from cls_jax.training.runtime.checkpoint import fingerprint
from tests.conftest import CLASSES, SMALL, TASKS, small_method, small_source
from tests.support.methods import exchanged
from tests.support.online import calls, feed, opened

ROOT = Path(__file__).resolve().parents[2]

QUICK = ("er", "clser", "si", "lwf", "icarl")
"""Without tasks, with boundaries, told, with phases, with a task's data."""
MORE = ("sgd", "agem", "gdumb", "ucir", "dualnet_tf")
"""With data at the end alone, with phases on memory alone, DualNet that is not told."""


def named(name, **changes):
    if name == "dualnet_tf":
        name, changes = "dualnet", {"task_aware": False, **changes}
    return small_method(name, **changes)


def online(method, stream, **how):
    """A learner on the open stream of the sizes of a known one."""
    return cls.online(method, opened(stream), **how)


def small_stream():
    """That of the fixture, for other processes."""
    return cls.class_il(small_source(), tasks=TASKS, batch_size=4)


@pytest.mark.parametrize(
    "name", [*QUICK, *(pytest.param(name, marks=pytest.mark.more) for name in MORE)]
)
def test_the_batches_of_a_known_stream_give_its_states(stream, name):
    method = named(name)
    whole = cls.train(method, stream, seeds=[3], plan=cls.Plan(score="end")).states[0][0]
    learner = feed(online(method, stream, seed=3), calls(method, stream, seed=3))
    assert fingerprint(learner.snapshot().state) == fingerprint(whole)
    assert learner.step == sum(name == "observe" for name, *_ in calls(method, stream, seed=3))


@pytest.mark.more
def test_examples_without_a_label_too(source):
    stream = cls.class_il(source, tasks=TASKS, batch_size=4, label_fraction=0.5)
    method = small_method("dualnet", semi_supervised=True)
    whole = cls.train(method, stream, plan=cls.Plan(score="end")).states[0][0]
    given = list(calls(method, stream))
    assert any((arguments[1] < 0).any() for name, arguments, _ in given if name == "observe")
    learner = feed(online(method, stream), given)
    assert fingerprint(learner.snapshot().state) == fingerprint(whole)


class Convolutional(nn.Module):
    """One convolution and a last layer."""

    @nn.compact
    def __call__(self, x):
        x = nn.relu(nn.Conv(4, (3, 3))(x))
        return nn.Dense(CLASSES)(x.reshape(len(x), -1))


def test_a_convolutional_network_too(stream):
    """In mode "loop", as it is trained on a CPU."""
    method = cls.er(cls.problem(stream, net=Convolutional()), memory_size=8, replay_size=4)
    whole = cls.train(method, stream, plan=cls.Plan(score="end")).states[0][0]
    learner = feed(online(method, stream), calls(method, stream))
    assert fingerprint(learner.snapshot().state) == fingerprint(whole)


def test_one_trace_however_many_batches_and_tasks(stream):
    """Of a whole batch, a part of one, each task, and a learner that another process goes on with.

    A step is traced once more for the names of its metrics, without being compiled.
    """
    er, traces = small_method("er"), []

    def at_step(key, state, batch):
        traces.append(batch.x.shape)
        return er.step(key, state, batch)

    method = exchanged(er, step=at_step)
    learner = online(method, stream)
    x, y = stream.source.train
    learner.observe(x[:4], y[:4])
    first = len(traces)
    assert first <= 2
    for task in range(3):
        for n in range(1, 5):
            learner.observe(x[:n], y[:n], task=task)
    assert (learner.step, learner.task, len(traces)) == (13, 2, first)


def test_tasks_are_found_in_their_column(stream):
    method, told = small_method("si"), online(small_method("si"), stream)
    for name, arguments, keywords in calls(method, stream):
        if name == "begin_task":
            number = told.task + 1
        elif name == "observe":
            x, y = arguments
            told.observe(x, y, np.full(len(y), number), **keywords)
    told.end_task()
    announced = feed(online(method, stream), calls(method, stream))
    assert fingerprint(told.snapshot().state) == fingerprint(announced.snapshot().state)


def test_arrays_of_others_are_taken_and_not_kept(stream):
    x, y = stream.source.train
    one, two = online(small_method("er"), stream), online(small_method("er"), stream)
    mine = x[:4].copy()
    one.observe(mine, y[:4])
    mine[:] = 0
    two.observe(jnp.asarray(x[:4], jnp.int32), y[:4].tolist())
    assert fingerprint(one.snapshot().state) == fingerprint(two.snapshot().state)
    assert one.metrics.keys() == two.metrics.keys() >= {"loss"}


# --- saved ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["er", "lwf"])
def test_what_was_saved_goes_on_and_is_loaded(stream, tmp_path, name):
    problem, workdir = cls.problem(stream, net="mlp", hidden=(8,)), tmp_path / "live"
    method = METHODS[name](problem, **SMALL.get(name, {}))
    given = list(calls(method, stream))
    whole = feed(online(method, stream), given)
    half = len(given) // 2
    how = {"workdir": workdir, "save_every": "never"}
    with online(method, stream, **how) as learner:
        feed(learner, given[:half])
    place = learner.step, learner.task, learner.phase
    with online(method, stream, **how) as learner:
        assert (learner.step, learner.task, learner.phase) == place
        feed(learner, given[half:])
        assert fingerprint(learner.snapshot().run) == fingerprint(whole.snapshot().run)
    loaded, x = cls.load(workdir), stream.source.test.x
    assert fingerprint(loaded.run) == fingerprint(whole.snapshot().run)
    for n in (0, 1, len(x)):
        np.testing.assert_array_equal(loaded.predict(x[:n]), whole.predict(x[:n]))


def test_a_learner_that_is_closed_learns_no_more(stream):
    x, y = stream.source.train
    learner = online(small_method("er"), stream)
    learner.observe(x[:4], y[:4])
    learner.close()
    learner.close()
    assert learner.predict(x[:4]).shape == (4, CLASSES)
    for call in (lambda: learner.observe(x[:4], y[:4]), learner.begin_task, learner.save):
        with pytest.raises(InputError, match="the learner is closed; call online again"):
            call()


def test_a_snapshot_stays(stream):
    x, y = stream.source.train
    learner = online(small_method("er"), stream)
    before = learner.snapshot()
    first = before.predict(x)
    learner.observe(x[:4], y[:4])
    np.testing.assert_array_equal(before.predict(x), first)
    assert (learner.predict(x) != first).any()


def test_what_diverges_is_not_saved(stream, tmp_path, monkeypatch):
    er, (x, y) = small_method("er"), stream.source.train

    def step(key, state, batch):
        state, metrics = er.step(key, state, batch)
        return state, {"loss": metrics["loss"] / 0}

    method = exchanged(er, step=step)
    monkeypatch.setattr("cls_jax.app.online.start.check_kept", lambda method, workdir: None)
    learner = online(method, stream, workdir=tmp_path / "live")
    learner.save()
    for _ in range(3):
        learner.observe(x[:4], y[:4])
    with pytest.raises(Diverged, match=r"stopped being finite at step \d .*task 1, seed 0"):
        learner.close()
    assert online(method, stream, workdir=tmp_path / "live").step == 0


def test_a_signal_saves_and_ends(stream, tmp_path):
    x, y = stream.source.train
    method, how = small_method("er"), {"workdir": tmp_path / "live", "save_every": "never"}
    with online(method, stream, **how) as learner:
        learner.observe(x[:4], y[:4])
        os.kill(os.getpid(), signal.SIGTERM)
        with pytest.raises(Stopped, match="saved after step 2"):
            learner.observe(x[4:8], y[4:8])
    with online(method, stream, **how) as again:
        assert again.step == 2


KILLED = """
import os, signal, sys
from tests.app.test_online import calls, fingerprint, online, small_method, small_stream

stream, method = small_stream(), small_method("icarl")
learner = online(method, stream, seed=1, workdir=sys.argv[1], save_every="5steps")
skipped, batches = learner.step, 0
for name, arguments, keywords in calls(method, stream, seed=1):
    if batches >= skipped or (name == "observe" and batches == skipped):
        getattr(learner, name)(*arguments, **keywords)
    batches += name == "observe"
    if batches == skipped + int(sys.argv[2]):
        os.kill(os.getpid(), signal.SIGKILL)
learner.save()
print(skipped, batches, fingerprint(learner.snapshot().run))
"""


@pytest.mark.more
def test_kills_of_an_open_stream_change_nothing(stream, tmp_path):
    """Killed twice, and a third process comes to the end; the uninterrupted one is this one."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    for number, code in ((8, -signal.SIGKILL), (7, -signal.SIGKILL), (99, 0)):
        command = [sys.executable, "-c", KILLED, str(tmp_path / "live"), str(number)]
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
        assert done.returncode == code, done.stderr
    method = small_method("icarl")
    whole = feed(online(method, stream, seed=1), calls(method, stream, seed=1))
    skipped, batches, told = done.stdout.split()
    assert 0 < int(skipped) < int(batches) == whole.step
    assert told == fingerprint(whole.snapshot().run)


# --- refused --------------------------------------------------------------------------------------


X, Y = np.zeros((4, 8, 8, 3), np.uint8), np.arange(4) % 2


@pytest.mark.parametrize(
    ("x", "y", "task", "why"),
    [
        (X[..., :1], Y, None, r"x has shape \(4, 8, 8, 1\); give \[n, 8, 8, 3\] integers"),
        (X / 255, Y, None, r"x is float64, and er was trained on uint8; give"),
        (X.astype(int) - 1, Y, None, r"x has values from -1 to -1; give"),
        (X, Y + 5, None, r"y has the label 6; the open stream has room for the labels 0 to 5"),
        (X, Y - 1, None, "y has -1, an example without a label, from which er does not learn"),
        (X, Y - 9, None, "y has the label -9"),
        (X, Y[:3], None, "x has 4 examples and y has 3 labels"),
        (X, Y / 2, None, r"y is float64\[4\]; give integers \[n\]"),
        (X[:0], Y[:0], None, "x has no example; give at least one"),
        (np.repeat(X, 2, 0), np.tile(Y, 2), None, "x has 8 examples, and a batch .* at most 4"),
        (X, Y, [0, 0, 0, 1], r"task holds \[0, 1\]; a batch is of one task"),
        (X, Y, 0.0, "task is 0.0; give a whole number"),
        (X, Y, 2, "task is 2, and er is before its first task"),
    ],
)
def test_a_batch_that_cannot_be_learned_from_is_refused(stream, x, y, task, why):
    learner = online(small_method("er"), stream)
    with pytest.raises(InputError, match=why):
        learner.observe(x, y, task)
    assert (learner.step, learner.task) == (0, -1)


def test_vectors_that_are_not_finite_are_refused():
    stream = cls.open_stream((3,), 2, batch_size=4)
    learner = cls.online(cls.sgd(cls.problem(stream, hidden=(4,))), stream)
    learner.observe(np.ones((4, 3)), [0, 1, 0, 1])
    with pytest.raises(InputError, match="x has values that are not finite in float32"):
        learner.observe(np.full((4, 3), np.nan), [0, 1, 0, 1])


@pytest.mark.parametrize(
    ("name", "given", "why"),
    [
        ("si", [("observe", X, Y)], r"si must know .* call begin_task\(\) .*, or give observe"),
        ("lwf", [("observe", X, Y)], r"lwf must know .* call begin_task\(classes=\[...\]\)"),
        ("lwf", [("observe", X, Y, 0)], "lwf is told the classes of each task"),
        ("gdumb", [("observe", X, Y)], "gdumb must know where tasks begin and end"),
        ("lwf", [("begin_task", [0, 6])], r"classes is \(0, 6\); the open stream has room for"),
        ("lwf", [("begin_task", [])], r"classes is \(\); give each class of the task once"),
        ("lwf", [("begin_task", [4]), ("observe", X, Y)], r"label 0, and lwf was told .* \[4\]"),
        ("lwf", [("begin_task", [0]), ("end_task",)], r"phase 'head' .*begin_phase\('train'\)"),
        ("lwf", [("begin_task", [0]), ("begin_task", [1])], "begin_task was called, and lwf is in"),
        ("lwf", [("begin_task", [0]), ("begin_phase", "x")], "begin_phase got 'x', and lwf is in"),
        ("er", [("end_task",)], "end_task was called, and er is before its first task"),
        (
            "er",
            [("begin_task",), ("end_task",), ("observe", X, Y)],
            "er is after the end of task 0",
        ),
        ("er", [("begin_task",)] * 4, "task 3 is one too many: .* has room for 3, from 0"),
        (
            "icarl",
            [("begin_task", [0])],
            r"icarl looks at .* call begin_task\(..., data=\(x, y\)\)",
        ),
        ("icarl", [("begin_task", [0], X)], r"data is .*; give \(x, y\)"),
        (
            "agem",
            [("begin_task", [0]), ("begin_task", [1], (X, Y))],
            r"agem looks at every example of task 0 there; call end_task\(..., data=\(x, y\)\)",
        ),
    ],
)
def test_what_comes_at_the_wrong_time_is_refused(stream, name, given, why):
    learner = online(small_method(name), stream)
    *before, (last, *arguments) = given
    for call, *some in before:
        getattr(learner, call)(*some)
    place = learner.step, learner.task, learner.phase
    with pytest.raises(InputError, match=why):
        getattr(learner, last)(*arguments)
    assert (learner.step, learner.task, learner.phase) == place


def test_what_cannot_learn_so_is_refused(stream, tmp_path):
    er, sizes = small_method("er"), opened(stream)
    with pytest.raises(InputError, match=r"stream is .*; give one of open_stream"):
        cls.online(er, stream)
    with pytest.raises(InputError, match=r"stream is open: .* cls.online"):
        cls.train(er, sizes, workdir=tmp_path / "w")
    assert not (tmp_path / "w").exists()
    with pytest.raises(InputError, match="joint learns all tasks at once"):
        cls.online(small_method("joint"), sizes)
    with pytest.raises(InputError, match="an open stream has no test examples"):
        cls.online(small_method("rpsnet", choose_on="test"), sizes)
    with pytest.raises(InputError, match="stream has num_tasks 2, and er was made for 3"):
        cls.online(er, cls.open_stream((8, 8, 3), CLASSES, num_tasks=2))
    with pytest.raises(InputError, match="seeds holds -1"):
        cls.online(er, sizes, seed=-1)
    with pytest.raises(InputError, match="save_every is 'often'"):
        cls.online(er, sizes, workdir=tmp_path / "w", save_every="often")
    assert not (tmp_path / "w").exists()


def test_another_workdir_is_refused(stream, tmp_path):
    live = tmp_path / "live"
    learner = online(small_method("er"), stream, workdir=live)
    with pytest.raises(InputError, match="is in use by process"):
        online(small_method("er"), stream, workdir=live)
    learner.close()
    with pytest.raises(InputError, match=r'another experiment .*recipe.method: "er" → "sgd"'):
        online(small_method("sgd"), stream, workdir=live)
    with pytest.raises(InputError, match="another experiment"):
        cls.train(small_method("er"), stream, workdir=live)


@pytest.mark.parametrize("text", [None, "[]", '{"classes": []}', '{"classes": [[9]]}'])
def test_tasks_that_are_gone_or_damaged_are_refused(stream, tmp_path, text):
    method, live = small_method("lwf"), tmp_path / "live"
    with online(method, stream, workdir=live) as learner:
        learner.begin_task([2, 3])
    assert json.loads((live / "tasks.json").read_text()) == {"classes": [[2, 3]]}
    (live / "tasks.json").unlink()
    if text is not None:
        (live / "tasks.json").write_text(text)
    with pytest.raises(InputError, match=r"tasks.json does not say the classes of the 1 tasks"):
        online(method, stream, workdir=live)


@pytest.mark.parametrize(
    ("given", "why"),
    [
        (((8, 8), 2), r"shape is \(8, 8\); give that of one example"),
        (((8, 8, 0), 2), r"shape is \(8, 8, 0\)"),
        (((8, 8, 1), 0), "num_classes is 0; give a value at least 1"),
        (((2**20, 2**20, 3), 2), "batch_size 10 needs .* of memory"),
    ],
)
def test_sizes_that_there_are_not_are_refused(given, why):
    with pytest.raises(InputError, match=why):
        cls.open_stream(*given)
