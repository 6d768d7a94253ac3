"""Command lines: presets, flags, refusals, exit codes; and the checks of single values."""

import dataclasses
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from cls_jax.app import flags as cli
from cls_jax.core.checks import check_finite, check_range, check_seeds
from cls_jax.core.errors import Diverged, InputError, SaveFailed, Stopped


@dataclasses.dataclass(frozen=True)
class Net:
    width: int = 64
    """channels of the first stage"""


@dataclasses.dataclass(frozen=True)
class Config:
    seeds: tuple[int, ...] = (0,)
    """one run each"""
    learning_rate: float = 0.03
    """step size, dimensionless"""
    task_aware: bool = True
    """whether the method is told the task"""
    workdir: str | None = None
    """where results go"""
    net: Net = Net()


PRESETS = {
    "paper": Config(),
    "quick": Config(learning_rate=0.5, task_aware=False, net=Net(8)),
}


def parse(line):
    return cli.parse(Config, PRESETS, default_preset="paper", argv=line.split())


def refused(line, capsys):
    with pytest.raises(SystemExit) as stop:
        parse(line)
    assert stop.value.code == 2
    out, err = capsys.readouterr()
    assert out == ""
    return err


def test_no_flag_is_the_default_preset():
    assert parse("") == PRESETS["paper"]


@pytest.mark.parametrize(
    "line", ["--preset quick", "--preset=quick", "--preset paper --preset quick"]
)
def test_preset_alone(line):
    assert parse(line) == PRESETS["quick"]


@pytest.mark.parametrize(
    "line",
    [
        "--preset quick --net.width 3 --seeds 4 5 6",
        "--seeds 4 5 6 --preset quick --net.width=3",
        "--net.width 3 --seeds 4 5 6 --preset=quick",
    ],
)
def test_flags_override_the_preset_wherever_it_stands(line):
    expected = dataclasses.replace(PRESETS["quick"], net=Net(3), seeds=(4, 5, 6))
    assert parse(line) == expected


@pytest.mark.parametrize(
    ("line", "aware"),
    [
        ("--task-free", False),
        ("--no-task-aware", False),
        ("--task-aware", True),
        ("--preset quick --task-aware", True),
        ("--preset quick", False),
    ],
)
def test_task_free_is_the_other_name_of_no_task_aware(line, aware):
    assert parse(line).task_aware is aware


def test_optional_values():
    assert parse("--workdir runs/a").workdir == "runs/a"
    assert parse("--workdir None").workdir is None


def test_task_free_only_where_there_is_such_a_field(capsys):
    with pytest.raises(SystemExit):
        cli.parse(Net, {"only": Net()}, default_preset="only", argv=["--task-free"])
    assert "Unrecognized options: --task-free" in capsys.readouterr().err


def test_unknown_flag_suggests_the_nearest(capsys):
    err = refused("--learning-rte 0.1", capsys)
    assert "--learning-rte" in err
    assert "Perhaps you meant" in err
    assert "--learning-rate FLOAT" in err


def test_unknown_preset_is_one_sentence_with_the_choices(capsys):
    assert refused("--preset fast", capsys) == (
        "error: no preset 'fast'; --preset is one of paper, quick\n"
    )


def test_preset_without_a_value(capsys):
    assert "'--preset'" in refused("--seeds 1 --preset", capsys)


def test_wrong_type_names_the_flag(capsys):
    assert "--learning-rate" in refused("--learning-rate fast", capsys)


def test_help_reads_well(capsys):
    with pytest.raises(SystemExit) as stop:
        cli.parse(
            Config,
            PRESETS,
            default_preset="paper",
            argv=["--preset", "quick", "--help"],
            description="DualNet on CIFAR.",
        )
    assert stop.value.code == 0
    text = " ".join(capsys.readouterr().out.replace("│", " ").split())
    assert "DualNet on CIFAR. --task-free is the same as --no-task-aware." in text
    assert text.index("--preset {paper,quick}") < text.index("--seeds")
    assert "step size, dimensionless (default: 0.5)" in text  # the preset's value
    assert "--task-aware, --no-task-aware" in text
    assert "--net.width INT channels of the first stage (default: 8)" in text


def run_main(main, line=""):
    return cli.run_main(main, Config, PRESETS, default_preset="paper", argv=line.split())


def test_run_main_gives_what_main_gives():
    assert run_main(lambda config: config.seeds, "--seeds 1 2") == (1, 2)


def test_input_error_is_one_sentence_and_code_2(capsys):
    def main(config):
        check_seeds(config.seeds)

    with pytest.raises(SystemExit) as stop:
        run_main(main, "--seeds")
    assert stop.value.code == 2
    assert capsys.readouterr().err == "error: seeds is empty; give at least one, e.g. --seeds 0\n"


def test_ctrl_c_is_code_130(capsys):
    def main(config):
        raise KeyboardInterrupt

    with pytest.raises(SystemExit) as stop:
        run_main(main)
    assert stop.value.code == 130
    assert capsys.readouterr().err == "interrupted\n"


@pytest.mark.parametrize(
    ("error", "code", "expected"),
    [
        (Diverged("not finite at step 3"), 1, "error: not finite at step 3\n"),
        (SaveFailed("the disk is full"), 1, "error: the disk is full\n"),
        (Stopped(signal.SIGTERM, 7), 0, "stopped and saved after step 7; the same command goes on"),
        (Stopped(signal.SIGINT, 7), 130, "stopped and saved after step 7; the same command goes"),
    ],
)
def test_what_ends_a_run_has_its_own_code(error, code, expected, capsys):
    def main(config):
        raise error

    with pytest.raises(SystemExit) as stop:
        run_main(main)
    assert stop.value.code == code
    assert capsys.readouterr().err.startswith(expected)


def test_a_defect_keeps_its_traceback():
    def main(config):
        raise ValueError("a defect")

    with pytest.raises(ValueError, match="a defect"):
        run_main(main)


SCRIPT = """
import dataclasses, pathlib, sys
from cls_jax.app.flags import run_main

@dataclasses.dataclass(frozen=True)
class Config:
    learning_rate: float = 0.1

def main(config):
    pathlib.Path("written").touch()

try:
    run_main(main, Config, {"only": Config()}, default_preset="only")
finally:
    assert "jax" not in sys.modules, "the parse path loads jax"
"""


def test_in_a_process_a_typing_error_writes_nothing_and_loads_no_jax(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(textwrap.dedent(SCRIPT))
    root = str(Path(cli.__file__).resolve().parents[2])

    def call(*arguments):
        return subprocess.run(
            [sys.executable, str(script), *arguments],
            capture_output=True,
            text=True,
            cwd=tmp_path,
            env={"PYTHONPATH": root, "PATH": ""},
        )

    wrong = call("--learning-rat", "1")
    assert wrong.returncode == 2
    assert "--learning-rate FLOAT" in wrong.stderr
    assert "Traceback" not in wrong.stderr
    shown = call("--help")
    assert shown.returncode == 0, shown.stderr
    assert "--learning-rate FLOAT" in shown.stdout
    assert [path.name for path in tmp_path.iterdir()] == ["script.py"]
    assert call("--learning-rate", "1").returncode == 0
    assert (tmp_path / "written").exists()


HELP = """
import contextlib, io, pathlib, re, runpy, sys

class NoJax:
    def find_spec(self, name, path=None, target=None):
        heavy = name.split(".")[0] in ("jax", "jaxlib", "flax", "optax", "orbax")
        assert not heavy, f"{sys.argv} loads {name}"

sys.meta_path.insert(0, NoJax())
sys.path[:0] = ["experiments", "experiments/benchmark"]
scripts = [p for p in pathlib.Path("experiments").rglob("*.py") if p.read_text()[:2] == "#!"]
assert len(scripts) >= 15
commands = ("compare", "reproduce", "evaluate", "export", "report", "benchmark")
commands = (*commands, "run er", "run dualnet")
scripts = [*sorted(map(str, scripts)), *(f"cls_jax {command}" for command in commands)]
calls = [(script, flag) for script in scripts for flag in ("--help", "--no-such-flag")]
calls += [("cls_jax", "--help"), ("cls_jax", "--no-such-flag"), ("cls_jax run", "--help")]
calls += [("cls_jax run", "--no-such-flag")]
calls += [  # a flag that changes nothing, and a number that float32 does not hold
    ("experiments/clser_mnist.py", "--width", "3"),
    ("experiments/apd_cifar.py", "--task-order", "shuffled"),
    ("experiments/dualnet_cifar.py", "--learning-rate", "1e39"),
]
for call in calls:
    sys.argv, text = [*call[0].split(), *call[1:]], io.StringIO()
    try:
        with contextlib.redirect_stdout(text), contextlib.redirect_stderr(text):
            if call[0].endswith(".py"):
                runpy.run_path(call[0], run_name="__main__")
            else:
                runpy.run_module("cls_jax", run_name="__main__")
    except SystemExit as stop:
        assert stop.code == (0 if "--help" in call else 2), (call, stop.code)
    else:
        raise AssertionError(f"{call} goes on")
    flag = call[1].removeprefix("--").replace("-", "[-_]")
    assert re.search(flag, text.getvalue()), (call, text.getvalue())

"""


def test_help_and_typing_errors_of_every_script_load_no_jax():
    root = Path(cli.__file__).resolve().parents[2]
    done = subprocess.run(
        [sys.executable, "-c", HELP], cwd=root, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("seeds", "words"),
    [((), "empty"), ((0, -1), "-1"), ((3, 1, 3), "3 more than once"), ((2**32,), "2\\*\\*32")],
)
def test_check_seeds(seeds, words):
    with pytest.raises(InputError, match=words):
        check_seeds(seeds)
    check_seeds((0, 5, 2**32 - 1))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_check_finite(value):
    with pytest.raises(InputError, match=r"learning_rate is (nan|inf|-inf)"):
        check_finite("learning_rate", value)
    with pytest.raises(InputError, match="finite"):
        check_range("learning_rate", value, 0)
    check_finite("learning_rate", 0.0)


@pytest.mark.parametrize("value", [0, 0.5, 1])
def test_check_range_has_its_ends(value):
    check_range("decay", value, 0, 1)


@pytest.mark.parametrize(
    ("value", "kinds", "words"),
    [
        (-0.1, {}, "decay is -0.1; give a value at least 0 and at most 1"),
        (1.1, {}, "at most 1"),
        (0, {"above": True}, "above 0 and at most 1"),
        (1, {"below": True}, "at least 0 and below 1"),
    ],
)
def test_check_range_refuses(value, kinds, words):
    with pytest.raises(InputError, match=words):
        check_range("decay", value, 0, 1, **kinds)


def test_check_range_with_one_end():
    check_range("memory_size", 10**9, 1)
    with pytest.raises(InputError, match=r"memory_size is 0; give a value at least 1$"):
        check_range("memory_size", 0, 1)
