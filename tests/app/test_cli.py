"""``cls-jax``: its commands, its methods, its presets; what it does not have is one sentence."""

import re
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest

from cls_jax.app import cli
from cls_jax.app.build import make_learner, make_stream
from cls_jax.app.method_flags import flags_of
from cls_jax.app.method_presets import method_presets
from cls_jax.core.errors import InputError
from cls_jax.core.version import __version__
from cls_jax.methods import METHODS
from tests.support.ask import ask

ROOT = Path(__file__).resolve().parents[2]


def test_without_a_command_it_tells_all():
    code, out, err = ask("cls-jax")
    assert (code, out) == (2, "")
    assert all(f"  {name} " in err for name in cli.COMMANDS)
    assert ask("cls-jax", "--help") == (0, err, "")
    assert ask("cls-jax", "--version") == (0, f"cls-jax {__version__}\n", "")


def test_run_without_a_method_tells_them():
    for more in ((), ("--help",)):
        code, out, err = ask("cls-jax run", *more)
        assert (code, err) == (0, "")
        assert all(f"  {name} " in out for name in METHODS)


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (("rnu",), "cls-jax has no command 'rnu'; it has run, tune, compare, .*mean run"),
        (
            ("run", "dualnte"),
            "run has no method 'dualnte'; it has sgd, .*; did you mean dualnet",
        ),
        (("run", "ER"), "run has no method 'ER'; it has sgd, .*; did you mean er"),
        (("tune", "ER"), "tune has no method 'ER'; it has sgd, .*; did you mean er"),
        (("run", "--seeds", "1"), "the method comes first: cls-jax run METHOD --seeds 1"),
        (("compare", "--methods", "clsr"), "name each once, from sgd, .*; did you mean clser"),
        (
            ("run", "er", "--preset", "paper"),
            "no preset 'paper'; --preset is one of quick",
        ),
        (("run", "dualnet", "--net", "mlp"), "there is no flag --net"),
    ],
)
def test_what_it_does_not_have_is_one_sentence(words, why):
    code, out, err = ask("cls-jax", *words)
    assert (code, out) == (2, "")
    assert re.search(why, " ".join(err.split())), err


def test_a_method_of_ones_own_runs_by_its_name(tmp_path, monkeypatch):
    file = ROOT / "tests" / "support" / "my_method.py"
    command = [sys.executable, "-m", "cls_jax", "run", "mine", "--import", str(file), "--help"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert "usage: cls-jax run mine" in done.stdout
    assert "--learning-rate" in done.stdout


@pytest.mark.parametrize("command", ["run", "tune"])
def test_an_argument_called_like_a_flag_is_told(command, tmp_path):
    """Of a method of one's own; those of the library have none, or their help would be this."""
    method = f"clashing_{command}"
    arguments = {"score": "float = 0.5", "epochs": "int = 1"}
    listed = ", ".join(f"{name}: {kind}" for name, kind in arguments.items())
    told = "\n".join(f"      {name}: a number." for name in arguments)
    lines = [
        "import cls_jax as cls\n\n\n@cls.method",
        f"def {method}(problem: cls.Problem, *, {listed}) -> cls.Algorithm:",
        f'    """Clashes.\n\n    Args:\n{told}\n    """\n    raise NotImplementedError\n',
    ]
    file = tmp_path / f"{method}.py"
    file.write_text("\n".join(lines))
    code, out, err = ask("cls-jax", command, method, "--import", str(file))
    assert (code, out) == (2, "")
    assert err == (
        f"error: {method} has an argument 'epochs', and --epochs is a flag of this command; give "
        f"the argument another name, or use compare, where it is --clashing-{command}.epochs\n"
    )


@pytest.mark.parametrize("command", ["run", "tune"])
def test_no_method_of_the_library_has_an_argument_called_like_a_flag(command):
    for method in METHODS:
        assert ask("cls-jax", command, method, "--no-such-flag")[2].startswith("error: there is no")


@pytest.mark.parametrize("method", sorted(METHODS))
def test_every_preset_is_of_arguments_that_there_are(method):
    presets = method_presets(method)
    assert next(iter(presets)) == "quick"
    for preset in presets.values():
        flags_of(method)(**preset.arguments)
    quick = presets["quick"]
    assert quick.stream.data == "digits"
    stream = make_stream(quick.stream)
    made = make_learner(method, quick.arguments, stream, quick.stream, quick.net).method
    given = {**made.fixed, **made.hyper}
    assert {name: given[name] for name in quick.arguments} == dict(quick.arguments)


def test_the_presets_of_a_table_are_its_cells():
    found = method_presets("clser")
    assert found["s_mnist_500"].arguments["memory_size"] == 500
    assert [field.name for field in fields(found["s_mnist_500"])][:2] == ["stream", "net"]
    assert "s_mnist" in method_presets("sgd")
    assert "mir_cifar10_500" in method_presets("er_mir")
    assert "mir_cifar10_500" not in method_presets("er")  # its row there is ER-MIR by chance


@pytest.mark.more
@pytest.mark.parametrize("method", sorted(METHODS.keys() - {"dualnet"}))
def test_every_method_learns_from_its_quick_preset(method, tmp_path, monkeypatch):
    """An epoch of each task: a table at the end, and files. DualNet's is the main job."""
    monkeypatch.chdir(tmp_path)
    short = ["--epochs", "1"]
    if method in ("spb", "spb_i", "spb_m"):
        short += ["--base-epochs", "1"]
    if method == "gdumb":
        short += ["--fit-epochs", "2"]
    done = ask("cls-jax run", method, *short, "--workdir", "runs/x")
    assert done.code == 0, done.err
    assert "results in runs/x" in done.out
    assert (tmp_path / "runs" / "x" / "results.json").exists()


def drawn(monkeypatch, *words):
    """The shape of a raw example that ``cls-jax run`` would learn from."""
    seen = []

    def run_one(name, config):
        seen.append(make_stream(config.stream).source.train.x.shape[1:])

    monkeypatch.setattr("cls_jax.app.main.run_one", run_one)
    assert ask("cls-jax run", *words).code == 0
    return seen[0]


def test_the_size_of_a_preset_is_not_that_of_ones_own_data(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    y = np.repeat(np.arange(4), 8)
    pictures, vectors = np.zeros((32, 28, 28, 1), np.uint8), np.zeros((32, 5), np.float32)
    for name, x in (("pictures", pictures), ("vectors", vectors)):
        np.savez(f"{name}.npz", train_x=x, train_y=y, test_x=x, test_y=y)
    assert drawn(monkeypatch, "er") == (8, 8, 3)
    own = ("--tasks", "2", "--data")
    assert drawn(monkeypatch, "er", *own, "npz:pictures.npz") == (28, 28, 1)
    assert drawn(monkeypatch, "er", *own, "npz:pictures.npz", "--image-size", "7") == (7, 7, 1)
    assert drawn(monkeypatch, "er", *own, "npz:vectors.npz") == (5,)


def test_every_value_of_a_sweep_is_looked_at(monkeypatch):
    """The copies of CLS-ER stay near their first weights where the stream is short."""

    def sweep(*_, **__):
        raise InputError("enough")

    monkeypatch.setattr("cls_jax.app.main.sweep", sweep)
    words = ("--sweep", "stable_decay", "0.9", "0.9999", "--epochs", "1")
    _, _, err = ask("cls-jax run", "clser", *words)
    (line,) = [line for line in err.splitlines() if line.startswith("warning: ")]
    assert line.startswith("warning: stable_decay=0.9999: ")


def test_a_pipe_that_is_closed_is_no_defect():
    command = f"{sys.executable} -m cls_jax compare --help | head -1"
    done = subprocess.run(command, shell=True, cwd=ROOT, capture_output=True, text=True)
    assert "usage: cls-jax compare" in done.stdout
    assert done.stderr == ""
