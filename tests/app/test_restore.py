"""A saved run, read back: it predicts as it did, says what it is, and evaluate.py scores it."""

import json
import shutil
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest

import cls_jax
from cls_jax.app.build import StreamConfig, make_learner, make_stream
from cls_jax.app.commands import evaluate
from cls_jax.app.main import execute
from cls_jax.app.recipes import read_recipe
from cls_jax.app.restore import load, load_all
from cls_jax.app.run_config import RunConfig
from cls_jax.app.saved_scores import results, score
from cls_jax.app.stored_recipe import write_recipe
from cls_jax.core.errors import InputError
from cls_jax.core.files import write_all
from cls_jax.core.types import Task
from cls_jax.data.load import load as load_data
from cls_jax.nets.registry import NetConfig
from cls_jax.report.summary import render

ROOT = Path(__file__).resolve().parents[2]
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
    learners = [make_learner(name, {}, stream, STREAM, NET) for name in ("sgd", "clser")]
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


@pytest.mark.parametrize("fraction", [1.0, 0.5])
@pytest.mark.parametrize("told", [None, False, True])
def test_a_method_hears_whether_labels_are_missing(fraction, told, tmp_path):
    """From flags, from a stream made in Python, and from what was saved; unless it is told."""
    flags = replace(STREAM, label_fraction=fraction)
    stream, net = make_stream(flags), NetConfig(net="resnet18", width=4)
    arguments = {"semi_supervised": told, "memory_size": 30, "ssl_size": 8}
    by_flags = make_learner("dualnet", arguments, stream, flags, net)
    wanted = fraction < 1 if told is None else told
    assert by_flags.method.needs.unlabelled == wanted
    problem = cls_jax.problem(stream, net="resnet18", width=4)
    by_hand = cls_jax.dualnet(problem, **arguments)
    assert by_hand.needs.unlabelled == wanted
    assert by_hand.fixed == by_flags.method.fixed
    words = {"name": "dualnet", "sweep": [""], "seeds": (0,)}
    write_recipe(tmp_path, {**by_flags.recipe, **words})
    assert read_recipe(tmp_path / "recipe.json").method.needs.unlabelled == wanted


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


def test_raw_examples_are_taken_exactly_or_refused(workdir):
    folder, stream, _ = workdir
    one = load(folder, method="sgd")
    x = stream.source.test.x[:5]
    logits = one.predict(x)
    for kind in ("int8", "int32", "uint16", "int64"):
        given = x // 4 if kind == "int8" else x
        expected = one.predict(x // 4) if kind == "int8" else logits
        np.testing.assert_array_equal(one.predict(given.astype(kind)), expected)
    np.testing.assert_array_equal(one.predict(x.tolist()), logits)
    wanted = r"give \[n, 8, 8, 3\] integers from 0 to 255, as the data set has them"
    for kind in ("float32", "float64", "float16", "bool", "complex64", "object", "str"):
        with pytest.raises(InputError, match=rf"^x is .*, and sgd was trained on uint8; {wanted}"):
            one.predict(x.astype(kind))
    for wrong, words in ((x + np.int64(255), "from 255 to"), (-np.int32(x), "to 0")):
        with pytest.raises(InputError, match=rf"^x has values .*{words}.*; {wanted}"):
            one.predict(wrong)
    for wrong in (x[0], x[..., :1], np.uint8(3), x[:, :4], x[None]):
        with pytest.raises(InputError, match=rf"^x has shape \(.*\); {wanted}"):
            one.predict(wrong)
    with pytest.raises(InputError, match=r"^x is no array of numbers"):
        one.predict([[1, 2], [3]])


def test_vectors_are_finite_floats(workdir):
    """Whatever width they have; bytes are no floats."""
    folder, stream, _ = workdir
    one = load(folder, method="sgd")._replace(dtype="float32")
    x = stream.source.test.x[:5]
    logits = one.predict(np.float32(x))
    for kind in ("float16", "float64"):
        np.testing.assert_array_equal(one.predict(x.astype(kind)), logits)
    for kind in ("uint8", "int64", "bool"):
        with pytest.raises(InputError, match=r"was trained on float32; give \[n, 8, 8, 3\] floats"):
            one.predict(x.astype(kind))
    for bad in (np.nan, np.inf, 1e39):
        wrong = np.float64(x)
        wrong[2, 3, 1, 0] = bad
        with pytest.raises(InputError, match="x has values that are not finite in float32"):
            one.predict(wrong)


def test_a_task_that_is_not_there_is_refused(workdir):
    folder, stream, _ = workdir
    one, x = load(folder, method="sgd"), stream.source.test.x[:2]
    every = np.ones(10, bool)
    np.testing.assert_array_equal(one.predict(x, Task(np.int32(2), every, every)), one.predict(x))
    for index in (3, -2, [0]):
        with pytest.raises(InputError, match=r"task has the index .*; give one from 0 to 2, or -1"):
            one.predict(x, Task(np.int32(index), every, every))
    with pytest.raises(InputError, match=r"task has classes bool\[3\]; give bool\[10\]"):
        one.predict(x, Task(np.int32(0), every[:3], every))
    with pytest.raises(InputError, match=r"task has seen float64\[10\]; give bool\[10\]"):
        one.predict(x, Task(np.int32(0), every, every * 1.0))


def test_data_of_another_dtype_are_not_scored(workdir):
    folder, stream, _ = workdir
    one, source = load(folder, method="sgd"), stream.source
    test = source.test._replace(x=source.test.x.astype(np.float32))
    with pytest.raises(InputError, match="digits has float32 examples, but sgd was trained on ui"):
        score(one, stream._replace(source=source._replace(test=test)))


@pytest.fixture
def copied(workdir, tmp_path):
    folder, *_ = workdir
    return Path(shutil.copytree(folder, tmp_path / "w"))


def test_a_run_whose_saves_are_gone_is_told(copied, capsys):
    shutil.rmtree(copied / "checkpoints" / "sgd")
    (copied / "checkpoints" / "sgd").mkdir()
    shutil.copy(copied / "checkpoints" / "clser" / "recipe.json", copied / "checkpoints" / "sgd")
    for path in (copied / "checkpoints" / "clser").glob("seed*/*/about/metadata"):
        path.write_text("{}")
    with pytest.raises(
        InputError, match=r"has no run that can be read: clser seed 3: .*; nor can 3"
    ):
        load_all(copied)


def test_of_what_is_left_the_rest_is_loaded(copied, capsys):
    (group,) = (copied / "checkpoints" / "clser").glob("seed*")
    with_seed_1 = [p for p in (copied / "checkpoints" / "sgd").iterdir() if "seed" in p.name]
    for path in with_seed_1:
        shutil.rmtree(path)
    assert [one.name for one in load_all(copied)] == ["clser", "clser"]
    folder = copied / "checkpoints" / "sgd"
    assert capsys.readouterr().err.splitlines() == [
        f"warning: sgd seed {seed}: {folder} has no save of it; left out" for seed in (3, 1)
    ]
    with pytest.raises(
        InputError, match=r"has no sgd with seed 1; .*; sgd seed 1: .* no save of it"
    ):
        load(copied, method="sgd", seed=1)
    assert load(copied, method="clser").seed == 3
    assert capsys.readouterr().err == ""
    assert load(copied).name == "clser"
    assert capsys.readouterr().err.count("left out") == 2
    shutil.copytree(group, copied / "checkpoints" / "mine" / "seed0")
    load(copied, method="clser")
    assert "mine has saves, but no recipe.json that says of what; left out" in (
        capsys.readouterr().err
    )


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"method": "mine"}, "method is 'mine', which is none that is known"),
        ({"arguments": {"later": 1.0}}, "no recipe that this cls_jax can use .*later"),
        ({"stream": {"data": "digits", "later": 2}}, "no recipe that this cls_jax .*later"),
        ({"seeds": None}, "seeds is None"),
        ({"shape": [8, -8, 3]}, r"shape is \[8, -8, 3\]"),
        ({"version": 99}, "its version is 99, later than 2"),
    ],
)
def test_beside_a_method_that_is_unknown_the_others_load(copied, capsys, change, expected):
    path = copied / "checkpoints" / "sgd" / "recipe.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    assert load(copied).name == "clser"
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"warning: {path}")
    assert line.endswith("or read it with the cls_jax that wrote it; left out")
    with pytest.raises(InputError, match=expected):
        load(copied, method="sgd")


@pytest.mark.parametrize("content", ["", "[", "[" * 100_000, "3", "\0", '{"method": ["sgd"]}'])
def test_a_recipe_that_is_none_is_told(copied, capsys, content):
    (copied / "checkpoints" / "sgd" / "recipe.json").write_text(content)
    assert load(copied).name == "clser"
    assert "recipe.json is no recipe that this cls_jax can use" in capsys.readouterr().err


@dataclass(frozen=True)
class Restored:
    """An experiment of some learners."""

    run: RunConfig


def evaluated(workdir, **how):
    """evaluate.py, in this process."""
    return evaluate.main(evaluate.Config(workdir=str(workdir), **how))


def learner_on(flags, label=None, name="sgd"):
    """A method on digits."""
    return make_learner(name, {}, make_stream(flags), flags, NET, label=label)


def test_base_classes_and_phases_are_evaluated(tmp_path, capsys):
    """As SPB's script runs them: the figures weigh a task by its images."""
    flags = StreamConfig(image_size=8, tasks=3, base_classes=4, batch_size=50)
    config = RunConfig(workdir=str(tmp_path / "w"))
    execute([learner_on(flags)], config, Restored(config))
    evaluated(tmp_path / "w")
    assert capsys.readouterr().out.count(".png") == 2
    evaluated(tmp_path / "w", figure_format=("svg", "pdf"))
    names = {path.name for path in (tmp_path / "w").iterdir()}
    for figure in ("accuracy_matrix", "accuracy_over_tasks"):
        assert {f"{figure}.{format}" for format in ("png", "svg", "pdf")} <= names


def test_every_run_is_scored_on_its_own_stream(tmp_path, capsys):
    """As APD's script runs them: a method in every order of the tasks."""
    config = RunConfig(workdir=str(tmp_path / "w"))
    flags = [
        StreamConfig(image_size=8, scenario="dihedral", tasks=3, task_order=order, batch_size=99)
        for order in ((0, 1, 2), (2, 0, 1))
    ]
    learners = [learner_on(one, f"sgd {number}") for number, one in enumerate(flags)]
    found = execute(learners, config, Restored(config))
    capsys.readouterr()
    evaluated(tmp_path / "w", figures=False)
    lines = capsys.readouterr().out.splitlines()
    for number, result in enumerate(found):
        expected = [f"{100 * value:.2f}" for value in result.matrix[0, 0, 0, -1]]
        (line,) = (line.split() for line in lines if f"sgd {number} " in line)
        assert line[-3:] == expected


def test_a_method_that_is_told_its_task_is_named_so_and_its_growth_drawn(tmp_path):
    flags = StreamConfig(image_size=8, tasks=2, batch_size=200)
    config = RunConfig(workdir=str(tmp_path / "w"))
    (result,) = execute([learner_on(flags, name="l2_transfer")], config, Restored(config))
    (one,) = load_all(tmp_path / "w")
    (again,) = results([one], learner_on(flags).stream)
    assert again.scenarios == result.scenarios
    assert again.details["test_examples"] == result.details["test_examples"]
    assert {**again.capacity}.keys() == {**result.capacity}.keys() == {"bits"}
    np.testing.assert_array_equal(again.capacity["bits"], result.capacity["bits"])


def test_other_data_may_be_scored_where_those_of_the_run_are_gone(tmp_path, capsys):
    source = load_data("digits", size=8)
    arrays = {
        f"{split}_{axis}": getattr(getattr(source, split), axis)[:200]
        for split in ("train", "test")
        for axis in "xy"
    }
    for name in ("one", "two"):
        np.savez(tmp_path / f"{name}.npz", **arrays)
    flags = StreamConfig(data=f"npz:{tmp_path / 'one.npz'}", tasks=2, batch_size=50)
    config = RunConfig(workdir=str(tmp_path / "w"))
    execute([learner_on(flags)], config, Restored(config))
    (tmp_path / "one.npz").unlink()
    make_stream.__globals__["_loaded"].cache_clear()
    capsys.readouterr()
    evaluated(tmp_path / "w", data=f"npz:{tmp_path / 'two.npz'}")
    captured = capsys.readouterr()
    assert "two.npz, 2 tasks" in " ".join(captured.out.split())
    assert "redrawn" not in captured.out
    assert "warning: no figure is redrawn: " in captured.err


def test_where_nothing_can_be_saved_nothing_is_written(tmp_path):
    workdir = tmp_path / "w"
    workdir.mkdir()
    (workdir / "checkpoints").write_text("mine")
    config = RunConfig(workdir=str(workdir))
    with pytest.raises(InputError, match="holds 'checkpoints', which is left as it is"):
        execute([learner_on(STREAM)], config, Restored(config))
    assert [path.name for path in workdir.iterdir()] == ["checkpoints"]


def test_the_package_loads_nothing_until_it_is_asked(workdir):
    assert cls_jax.load is load
    with pytest.raises(AttributeError, match="no attribute 'lood'"):
        cls_jax.lood  # noqa: B018


def test_values_of_a_sweep_are_told_apart(tmp_path):
    stream = make_stream(STREAM)
    config = RunConfig(workdir=str(tmp_path / "w"), sweep=("learning_rate", "0.01", "0.1"))
    learner = make_learner("sgd", {}, stream, STREAM, NET)
    found = execute([learner], config, Record(("sgd",), config))
    loaded = load_all(tmp_path / "w")
    assert [one.name for one in loaded] == ["sgd learning_rate=0.01", "sgd learning_rate=0.1"]
    for one, result in zip(loaded, found, strict=True):
        np.testing.assert_array_equal(np.float64(one.run.matrix), result.matrix[0])


@pytest.mark.more
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
    text = " ".join(done.stdout.split())  # a title is broken at the width of its table
    assert "half.npz, 3 tasks" in text
    assert "redrawn:" in text
    drawn = {path.name for path in folder.iterdir()} - before
    assert drawn == {
        f"{name}_accuracy_{kind}.png"
        for name in ("sgd", "clser")
        for kind in ("matrix", "over_tasks")
    }
    done = subprocess.run([sys.executable, "experiments/evaluate.py", str(tmp_path)], **how)
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: workdir {tmp_path} holds no saved run")


@pytest.mark.more
def test_a_run_of_one_method_has_its_figures_drawn_again(tmp_path):
    stream = make_stream(STREAM)
    config = RunConfig(workdir=str(tmp_path / "w"))
    learner = make_learner("sgd", {}, stream, STREAM, NET)
    record = Record(("sgd",), config)
    (result,) = execute([learner], config, record)
    write_all(tmp_path / "w", render([result]))
    figure = tmp_path / "w" / "accuracy_matrix.png"
    drawn = figure.read_bytes()
    figure.write_bytes(b"")
    script = [sys.executable, "experiments/evaluate.py", str(tmp_path / "w")]
    subprocess.run(script, cwd=ROOT, check=True, capture_output=True)
    assert figure.read_bytes() == drawn
