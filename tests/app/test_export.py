"""What is taken away answers as the run does: in a process that has JAX alone, and as weights."""

import json
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import jax
import numpy as np
import pytest
from flax.serialization import msgpack_restore
from flax.traverse_util import flatten_dict

import cls_jax as cls
from cls_jax.app.export import PLATFORMS
from cls_jax.app.weights import answering_network
from cls_jax.core.errors import InputError
from cls_jax.core.losses import FLOOR
from cls_jax.core.types import Variables
from cls_jax.methods import METHODS
from cls_jax.methods.base import hidden_task, make_method
from cls_jax.training.run import Shapes, abstract_run, example_batch
from tests.conftest import CLASSES, TASKS, small_method
from tests.support.ask import ask

ROOT = Path(__file__).resolve().parents[2]
SHAPE = (8, 8, 3)
SHAPES = Shapes((1, *SHAPE), "uint8", CLASSES, TASKS)
PAGE = (ROOT / "docs" / "howto" / "serve.md").read_text(encoding="utf-8")
(LOADER,) = re.findall(r"```py\n(import json.*?)```", PAGE, re.DOTALL)
"""The lines of the how-to that load an exported file."""


KEY = jax.random.key(0)


def method_of(name):
    """The suite's small one, whose problem says the shape of its examples."""
    made = small_method(name)
    at = made.at._replace(problem=made.at.problem._replace(shape=SHAPE))
    return made._replace(at=at, algorithm=at({k: np.float32(v) for k, v in made.hyper.items()}))


def state_of(method):
    """A state as after some training: of every leaf numbers of its own, so no two answers agree."""
    draw, state = np.random.default_rng(0), jax.jit(method.init)(KEY, example_batch(SHAPES))
    if method.name == "hopsupsup":  # from patterns of noise it recovers no mask at all
        return state

    def leaf(value):
        if not jax.numpy.issubdtype(value.dtype, np.floating):
            return jax.numpy.ones_like(value)
        return value + jax.numpy.asarray(draw.uniform(0, 0.1, value.shape), value.dtype)

    return jax.tree.map(leaf, state)


def images(n=7):
    return np.random.default_rng(1).integers(0, 256, (n, *SHAPE)).astype(np.uint8)


def loaded(path):
    """(predict, about), as the how-to loads it."""
    names = {}
    exec(LOADER, names)
    return names["load"](path)


def check_answer(name, folder):
    """What is exported of a method answers what the method does, for any number of examples."""
    method, task = method_of(name), hidden_task(CLASSES)
    state = state_of(method)
    cls.export(folder / "model.jax", method, state, seed=3)
    predict, about = loaded(folder / "model.jax")
    for n in (1, 7):
        expected = jax.jit(method.predict)(state, images(n), task)
        # Another program: sums are rounded otherwise, and a small logit is a sum of larger numbers.
        expected = np.asarray(expected)
        rounding = 1e-5 * np.abs(expected[expected > FLOOR / 2]).max()
        np.testing.assert_allclose(predict(images(n)), expected, rtol=1e-5, atol=rounding)
    assert np.ptp(expected) > 0
    assert (about["method"], about["view"], about["seed"]) == (method.name, "answer", 3)
    assert about["label_names"] == [str(n) for n in range(CLASSES)]
    assert (tuple(about["shape"]), about["dtype"]) == (SHAPE, "uint8")
    assert (about["one_task_a_call"], tuple(about["platforms"])) == (
        method.needs.test_group is not None,
        PLATFORMS,
    )


@pytest.mark.parametrize("name", ["er", "spb", "supsup"])
def test_an_exported_method_answers_as_it_does(name, tmp_path):
    check_answer(name, tmp_path)


# The deep one, with weights far from any that were trained, is compiled as users do: compiled
# quickly two programs differ by a hundred thousandth of its largest logit.
@pytest.mark.parametrize(
    "name",
    [
        pytest.param(n, marks=pytest.mark.slow if n == "dytox" else pytest.mark.more)
        for n in METHODS
    ],
)
def test_every_method_can_be_exported(name, tmp_path):
    check_answer(name, tmp_path)


def test_a_view_a_task_and_names_go_into_the_file(tmp_path):
    method = method_of("clser")
    state, names = state_of(method), tuple("abcdef")
    cls.export(tmp_path / "m.jax", method, state, view="plastic", label_names=names)
    predict, about = loaded(tmp_path / "m.jax")
    expected = method.views["plastic"](state, images(), hidden_task(CLASSES))
    np.testing.assert_allclose(predict(images()), expected, rtol=1e-5, atol=1e-6)
    assert (about["view"], about["label_names"], about["task"]) == ("plastic", [*names], None)
    method = method_of("l2_transfer")
    state, classes = state_of(method), np.arange(CLASSES) < 2
    answers = []
    for task in (None, cls.Task(np.int32(0), classes, classes)):
        cls.export(tmp_path / "m.jax", method, state, task=task)
        predict, about = loaded(tmp_path / "m.jax")
        told = hidden_task(CLASSES) if task is None else task
        answers.append(np.asarray(predict(images())))
        expected = method.predict(state, images(), told)
        np.testing.assert_allclose(answers[-1], expected, rtol=1e-5, atol=1e-6)
    assert about["task"] == 0
    assert (answers[0] != answers[1]).any()


ALONE = """
import sys

import numpy as np


class Forbidden:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {names}:
            raise ImportError(name + " is forbidden")


sys.meta_path.insert(0, Forbidden())
{loader}
predict, about = load("model.jax")
np.save("logits.npy", predict(np.load("images.npy")))
print(sorted({{name.split(".")[0] for name in sys.modules}} & {names}))
"""
NOT_NEEDED = {
    *("cls_jax", "flax", "optax", "orbax", "chex", "etils", "dm_pix", "tensorflow_datasets"),
    *("tyro", "rich", "matplotlib", "sklearn", "PIL", "array_record"),
}


def in_a_process_with_jax_alone(folder):
    """float32[n, C] that the how-to's lines answer there, of images.npy."""
    code = ALONE.format(names=NOT_NEEDED, loader=LOADER)
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[]"
    return np.load(folder / "logits.npy")


@pytest.mark.more
def test_a_saved_run_answers_in_a_process_with_jax_alone(tmp_path, monkeypatch):
    """Trained on digits, saved, exported by the command; equal to ``predict``."""
    monkeypatch.chdir(tmp_path)
    stream = cls.class_il(cls.load_data("digits", size=8), tasks=5, batch_size=50)
    method = cls.er(cls.problem(stream, net="mlp"), memory_size=50, replay_size=10)
    result = cls.train(method, stream, seeds=(0, 4), workdir="w")
    model, x = cls.load("w", seed=4), stream.source.test.x
    code, out, err = ask("cls-jax", "export", "w", "--out", "model.jax", "--seed", "4")
    assert (code, out) == (0, "er seed 4 in model.jax\n"), err
    np.save("images.npy", x)
    logits = model.predict(x)
    np.testing.assert_allclose(in_a_process_with_jax_alone(tmp_path), logits, rtol=1e-5, atol=1e-5)
    about = json.loads(zipfile.ZipFile("model.jax").read("about.json"))
    assert about["seed"] == 4
    assert model.label_names == tuple(about["label_names"]) == stream.source.label_names
    cls.export("state.jax", method, result.states[0][1], seed=4, label_names=model.label_names)
    predict, again = loaded("state.jax")
    np.testing.assert_allclose(predict(x), logits, rtol=1e-5, atol=1e-5)
    assert again == about
    chances = model.predict_proba(x)
    np.testing.assert_allclose(chances.sum(-1), 1, rtol=1e-5)
    np.testing.assert_array_equal(chances.argmax(-1), logits.argmax(-1))
    code, out, err = ask("cls-jax", "export", "w", "--out", "net.safetensors")
    assert code == 0, err
    model.save_weights("net.msgpack")
    assert msgpack_restore(Path("net.msgpack").read_bytes()).keys() == {"params"}


def restored(path):
    """{"params": ..., "batch_stats": ...} of a file of weights, as a tool other than ours does."""
    if path.suffix == ".msgpack":
        return msgpack_restore(path.read_bytes())
    from flax.traverse_util import unflatten_dict
    from safetensors.numpy import load_file

    return unflatten_dict(load_file(path), sep=".")


@pytest.mark.parametrize("suffix", [".msgpack", ".safetensors"])
@pytest.mark.parametrize("view", ["answer", "plastic"])
def test_the_weights_alone_answer_as_the_method_does(tmp_path, suffix, view):
    """Put into the network by hand, with the normalisation by hand."""
    method = method_of("clser")
    state, path, problem = state_of(method), tmp_path / f"net{suffix}", method.at.problem
    cls.save_weights(path, method, state, view=view)
    tree = restored(path)
    net = Variables(tree["params"], tree.get("batch_stats", {}))
    logits, _ = problem.net().apply(net, problem.augment.test(images()), train=False)
    answer = method.predict if view == "answer" else method.views[view]
    np.testing.assert_array_equal(logits, answer(state, images(), hidden_task(CLASSES)))
    assert {name.split(".")[0] for name in flatten_dict(tree, sep=".")} == {"params"}


ONE_NETWORK = {
    *("sgd", "joint", "er", "clser", "mean_er", "esmer", "der", "derpp", "er_ace", "agem", "lwf"),
    *("er_mir", "ocs", "ewc_online", "si", "gdumb"),
}
"""Methods that answer by the weights of one network alone."""


@pytest.mark.parametrize("name", METHODS)
def test_weights_are_given_where_one_network_answers_alone(name):
    method = method_of(name)
    state = abstract_run(method, SHAPES).state
    if name in ONE_NETWORK:
        assert isinstance(answering_network(method, state), Variables)
        return
    with pytest.raises(InputError, match=r"by the weights of one network alone.* export\(\) takes"):
        answering_network(method, state)


def refused(**changes):
    """Arguments of ``export`` for a state of er, some of them changed."""
    method = method_of("er")
    return {"path": "m.jax", "method": method, "state": state_of(method), **changes}


REFUSED = {
    "a folder that is not there": (
        lambda: refused(path="no/m.jax"), "path is 'no/m.jax', in a folder that is not there"),
    "a folder": (lambda: refused(path="."), r"path is '\.', which is a folder"),
    "a view": (lambda: refused(view="slow"), "view is 'slow'; er has 'answer'"),
    "a state of another method": (
        lambda: refused(state=state_of(method_of("clser"))), "not a state of er; give one of its"),
    "a task that is not there": (
        lambda: refused(task=hidden_task(CLASSES).replace(index=np.int32(9))), "the index 9; give"),
    "names of too few": (lambda: refused(label_names="abc"), "label_names is 'abc'; give 6 texts"),
    "names that are numbers": (lambda: refused(label_names=range(6)), "give 6 texts, one a class"),
    "a method made by hand": (
        lambda: refused(method=make_method("mine", lambda hyper: small_method("er").algorithm)),
        "method mine does not say the shape of its examples; make it with a factory"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_exported_is_refused(case, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    arguments, expected = REFUSED[case]
    with pytest.raises(InputError, match=expected):
        cls.export(**arguments())
    assert not any(tmp_path.iterdir())


def test_what_no_file_of_weights_can_be_is_refused(tmp_path, monkeypatch):
    method = method_of("er")
    state = state_of(method)
    for name in ("net.h5", "net"):
        with pytest.raises(InputError, match=r"give a name that ends in .msgpack or .safetensors"):
            cls.save_weights(tmp_path / name, method, state)
    monkeypatch.setitem(sys.modules, "safetensors.numpy", None)
    monkeypatch.setitem(sys.modules, "flatbuffers", None)
    with pytest.raises(InputError, match=r"needs safetensors, which is not installed; pip install"):
        cls.save_weights(tmp_path / "net.safetensors", method, state)
    with pytest.raises(InputError, match=r"needs flatbuffers, .*; pip install flatbuffers"):
        cls.export(tmp_path / "m.jax", method, state)
    assert not any(tmp_path.iterdir())
