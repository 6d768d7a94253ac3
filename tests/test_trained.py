"""A saved run, read back: it predicts as it did, says what it is, and evaluate.py scores it."""

import subprocess
import sys
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import pytest

import cls_jax
from cls_jax.execution import RunConfig, execute
from cls_jax.experiment import StreamConfig, make_learner, make_stream
from cls_jax.methods import METHODS
from cls_jax.nets.choose import NetConfig
from cls_jax.report import write
from cls_jax.streams.sources import load as load_data
from cls_jax.trained import load, load_all, results, score
from cls_jax.types import InputError

ROOT = Path(__file__).resolve().parents[1]
STREAM = StreamConfig(image_size=8, tasks=(4, 3, 3))
NET = NetConfig(net="mlp")


@dataclass(frozen=True)
class Record:
    """What the experiment was."""

    names: tuple[str, ...]
    run: RunConfig


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    """Of two methods, two seeds each, one of them swept over two rates."""
    folder = tmp_path_factory.mktemp("trained") / "w"
    stream = make_stream(STREAM)
    config = RunConfig(seeds=(3, 1), workdir=str(folder))
    learners = [
        make_learner(name, METHODS[name].config(), METHODS[name].hyper(), stream, STREAM, NET)
        for name in ("sgd", "clser")
    ]
    found = execute(learners, config, Record(("sgd", "clser"), config))
    return folder, stream, found


def test_every_method_and_seed_comes_back(workdir):
    folder, stream, found = workdir
    loaded = load_all(folder)
    assert [(one.name, one.seed) for one in loaded] == [
        ("clser", 3), ("clser", 1), ("sgd", 3), ("sgd", 1),
    ]  # fmt: skip
    assert all(one.over for one in loaded)
    assert loaded[0].stream == STREAM
    for result, again in zip(found, reversed(results(loaded, stream)), strict=True):
        assert (result.method, result.seeds, result.views) == again[:3]
        np.testing.assert_array_equal(result.matrix, again.matrix)
        assert again.stream_name == result.stream_name


def test_it_scores_what_it_scored(workdir):
    folder, stream, found = workdir
    one = cls_jax.load(folder, method="clser", seed=1)
    expected = found[1].matrix[1][:, :, -1]  # [views, 2, T]
    np.testing.assert_allclose(score(one, stream), expected, atol=1e-7)
    x, y = stream.source.test
    logits = one.predict(x)
    assert logits.shape == (len(x), 10)
    assert logits.dtype == np.float32
    classes = found[1].states[1]
    assert classes is not one.state
    by_task = expected[0, 0]
    sizes = [
        sum((y == c).sum() for c in np.flatnonzero(row))
        for row in stream.schedule(_schedule_key(1)).task_classes
    ]
    assert (logits.argmax(-1) == y).mean() == pytest.approx(np.average(by_task, weights=sizes))
    np.testing.assert_array_equal(one.predict(x[:3]), logits[:3])  # rows do not see each other
    assert one.predict(x[:0]).shape == (0, 10)


def _schedule_key(seed):
    import jax

    return jax.random.fold_in(jax.random.key(seed), 0)


def test_what_is_not_there_is_told(workdir, tmp_path):
    folder, _, _ = workdir
    with pytest.raises(InputError, match="holds no saved run; give the --workdir of a run"):
        load(tmp_path)
    with pytest.raises(InputError, match="has several methods: clser, sgd; name one"):
        load(folder)
    with pytest.raises(InputError, match="has no sgd with seed 9; it has clser seed 3"):
        load(folder, method="sgd", seed=9)
    one = load(folder, method="sgd")
    with pytest.raises(InputError, match=r"x has shape \(2, 9, 9, 3\); give \[n, 8, 8, 3\]"):
        one.predict(np.zeros((2, 9, 9, 3), np.uint8))
    other = make_stream(replace(STREAM, image_size=16))
    with pytest.raises(InputError, match=r"examples \[16, 16, 3\] and 10 classes, but sgd was"):
        score(one, other)


def test_the_package_loads_nothing_until_it_is_asked(workdir):
    assert cls_jax.load is load
    with pytest.raises(AttributeError, match="no attribute 'lood'"):
        cls_jax.lood  # noqa: B018


def test_values_of_a_sweep_are_told_apart(tmp_path):
    stream = make_stream(STREAM)
    config = RunConfig(workdir=str(tmp_path / "w"), sweep=("learning_rate", "0.01", "0.1"))
    row = METHODS["sgd"]
    learner = make_learner("sgd", row.config(), row.hyper(), stream, STREAM, NET)
    found = execute([learner], config, Record(("sgd",), config))
    loaded = load_all(tmp_path / "w")
    assert [one.name for one in loaded] == ["sgd learning_rate=0.01", "sgd learning_rate=0.1"]
    for one, result in zip(loaded, found, strict=True):
        np.testing.assert_array_equal(np.float64(one.run.matrix), result.matrix[0])


def test_evaluate_scores_other_data_and_redraws(workdir, tmp_path):
    folder, *_ = workdir
    source = load_data("digits", size=8)
    half = {"test_x": source.test.x[::2], "test_y": source.test.y[::2]}
    np.savez(tmp_path / "half.npz", train_x=source.train.x, train_y=source.train.y, **half)
    before = {path.name for path in folder.iterdir()}
    script = [sys.executable, "experiments/evaluate.py", str(folder)]
    how = {"cwd": ROOT, "capture_output": True, "text": True}
    done = subprocess.run([*script, "--data", f"npz:{tmp_path / 'half.npz'}"], **how)
    assert done.returncode == 0, done.stderr
    told = " ".join(done.stdout.split())  # a title is broken at the width of its table
    assert "half.npz, 3 tasks" in told
    assert "redrawn:" in told
    drawn = {path.name for path in folder.iterdir()} - before
    assert drawn == {
        f"{name}_accuracy_{kind}.png"
        for name in ("sgd", "clser")
        for kind in ("matrix", "over_tasks")
    }
    done = subprocess.run([sys.executable, "experiments/evaluate.py", str(tmp_path)], **how)
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: workdir {tmp_path} holds no saved run")


def test_a_run_of_one_method_has_its_figures_drawn_again(tmp_path):
    stream = make_stream(STREAM)
    config = RunConfig(workdir=str(tmp_path / "w"))
    row = METHODS["sgd"]
    learner = make_learner("sgd", row.config(), row.hyper(), stream, STREAM, NET)
    record = Record(("sgd",), config)
    (result,) = execute([learner], config, record)
    write(tmp_path / "w", asdict(record), result)
    figure = tmp_path / "w" / "accuracy_matrix.png"
    drawn = figure.read_bytes()
    figure.write_bytes(b"")
    script = [sys.executable, "experiments/evaluate.py", str(tmp_path / "w")]
    subprocess.run(script, cwd=ROOT, check=True, capture_output=True)
    assert figure.read_bytes() == drawn
