"""A method, a network and data of one's own, in one file outside the library: compared, saved,
killed, resumed and loaded, from the command line and from Python."""

import csv
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import cls_jax as cls
from cls_jax.app.saved_scores import streams_of
from cls_jax.core.errors import InputError

ROOT = Path(__file__).resolve().parents[2]
FILE = ROOT / "tests" / "support" / "my_method.py"
FLAGS = "--methods mine er clser --data waves --net tiny --tasks 3 --normalisation none"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The file, where nothing else of the library is."""
    folder = tmp_path_factory.mktemp("own")
    (folder / "my_method.py").write_text(FILE.read_text())
    return folder


def command(folder, *more):
    script = [sys.executable, str(ROOT / "experiments" / "compare.py"), "--import", "my_method.py"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return [*script, *FLAGS.split(), "--seeds", "0", "1", "2", *more], {
        "cwd": folder,
        "env": environment,
        "text": True,
    }


@pytest.fixture(scope="module")
def compared(folder):
    """The workdir of a comparison that was killed in the midst and begun again."""
    words, how = command(folder, "--workdir", "runs", "--save-every", "5steps", "--epochs", "60")
    process = subprocess.Popen(words, **how, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    saves = folder / "runs" / "checkpoints" / "mine"
    deadline = time.monotonic() + 120
    while len(list(saves.glob("*/[0-9]*/about"))) < 2 and process.poll() is None:
        assert time.monotonic() < deadline, "nothing was saved"
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (folder / "runs" / "comparison.csv").exists()
    done = subprocess.run(words, **how, capture_output=True)
    assert done.returncode == 0, done.stderr
    assert "goes on from" in done.stderr
    assert "mine" in done.stdout
    return folder / "runs"


@pytest.mark.more
def test_the_command_line_compares_it_with_er_and_clser(compared, folder):
    """After a kill the numbers are those of a quiet run, to the last digit."""
    words, how = command(folder, "--workdir", "quiet", "--epochs", "60")
    subprocess.run(words, **how, check=True, capture_output=True)
    rows = [
        list(csv.DictReader((workdir / "comparison.csv").open()))
        for workdir in (compared, folder / "quiet")
    ]
    assert rows[0] == rows[1]
    assert {row["method"] for row in rows[0]} == {"mine", "er", "clser"}
    assert {row["seed"] for row in rows[0]} == {"0", "1", "2"}


@pytest.mark.more
def test_another_process_loads_it_once_its_file_is_imported(compared, folder):
    code = (
        "import cls_jax as cls, numpy as np\n"
        "try: cls.load('runs', method='mine')\n"
        "except cls.InputError as error: assert 'import the file that registers' in str(error)\n"
        "else: raise AssertionError('a stranger\\'s file was run')\n"
        "cls.import_file('my_method.py')\n"
        "data = cls.load_data('waves')\n"
        "found = cls.load('runs', method='mine', seed=2)\n"
        "print((found.predict(data.test.x).argmax(1) == data.test.y).mean())\n"
    )
    _, how = command(folder)
    done = subprocess.run([sys.executable, "-c", code], **how, capture_output=True, check=True)
    assert float(done.stdout) > 1 / 6


@pytest.mark.more
def test_a_changed_file_is_another_experiment(compared, folder, tmp_path):
    (tmp_path / "my_method.py").write_text(FILE.read_text() + "\n# changed\n")
    words, how = command(tmp_path, "--workdir", str(compared), "--epochs", "60")
    done = subprocess.run(words, **how, capture_output=True)
    assert done.returncode == 2
    assert "holds another experiment" in done.stderr
    assert "my_method.py" in done.stderr


@pytest.fixture
def imported(folder):
    """The file's things, known in this process."""
    cls.import_file(folder / "my_method.py")


@pytest.mark.more
def test_python_compares_saves_resumes_and_loads_it(imported, tmp_path):
    stream = cls.class_il(cls.load_data("waves"), tasks=3, batch_size=10, epochs=2)
    problem = cls.problem(stream, net="tiny", normalisation="none")
    methods = [cls.METHODS["mine"](problem), cls.er(problem), cls.clser(problem)]
    accuracy = [cls.train(one, stream, seeds=range(3)).accuracy() for one in methods]
    assert [each.shape for each in accuracy] == [(1, 3)] * 3
    workdir, seen = tmp_path / "runs", []

    class Killed(Exception):
        pass

    def kill(event):
        seen.append(event)
        if len(seen) == 4:
            raise Killed

    how = {"seeds": range(3), "workdir": workdir, "save_every": "1step"}
    plan = cls.Plan(chunk=5, over_seeds="sequential")
    with pytest.raises(Killed):
        cls.train(methods[0], stream, plan=plan, observe=kill, **how)
    resumed = cls.train(methods[0], stream, plan=plan, **how)
    whole = cls.train(methods[0], stream, seeds=range(3), plan=plan)
    np.testing.assert_array_equal(resumed.runs[0].matrix, whole.runs[0].matrix)
    loaded = cls.load(workdir, seed=1)
    logits = loaded.predict(stream.source.test.x)
    own_logits = methods[0].predict(whole.states[0][1], stream.source.test.x, None)
    np.testing.assert_allclose(logits, own_logits, rtol=1e-5, atol=1e-5)
    with pytest.raises(InputError, match="was made in Python, so its stream is not known"):
        streams_of([loaded], {}, workdir)


def test_a_name_of_the_librarys_is_taken(imported):
    with pytest.raises(InputError, match="the library has a method er; give yours another name"):

        @cls.method
        def er(problem, *, rate: float = 0.1):
            """Mine.

            Args:
              rate: of something.
            """


def test_an_argument_must_be_explained():
    with pytest.raises(InputError, match=r'has the argument rate; annotate it .* in "Args:"'):

        @cls.method
        def other(problem, *, rate: float = 0.1):
            """No word of it."""

    with pytest.raises(InputError, match="has the argument rate; give it a default and put it"):

        @cls.method
        def third(problem, rate):
            """No default."""


def test_a_file_that_is_none_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"import .*nowhere.py is no Python file"):
        cls.import_file(tmp_path / "nowhere.py")


def test_an_unknown_input_is_named():
    stream = cls.class_il(cls.load_data("digits", size=8), tasks=5, batch_size=50)
    with pytest.raises(InputError, match="no 'normalization'; its inputs are normalisation, "):
        cls.problem(stream, net="mlp", normalization="half")
