"""The benchmark script: its smallest case gives sane numbers, wrong input is one sentence."""

import json
import sys
from pathlib import Path

import pytest

from cls_jax.cli import run_main

EXPERIMENTS = Path(__file__).resolve().parents[1] / "experiments"


@pytest.fixture
def call(monkeypatch):
    """Runs the script's command line in this process."""
    monkeypatch.syspath_prepend(str(EXPERIMENTS))
    import benchmark

    presets = {"default": benchmark.Config()}

    def run(*flags):
        kind = benchmark.Config
        run_main(benchmark.main, kind, presets, default_preset="default", argv=list(flags))

    return run


@pytest.mark.parametrize("mode", ["loop", "scan"])
def test_the_smallest_case_gives_sane_numbers(call, mode, tmp_path, capsys):
    file = tmp_path / "numbers.json"
    flags = ["--net", "mlp", "--width", "1", "--batch-size", "3", "--steps", "2", "--turns", "2"]
    call(*flags, "--mode", mode, "--json", str(file))
    told = capsys.readouterr().out
    assert all(word in told for word in ("steps/s", "examples/s", "compile", "MiB", "GFLOP/s"))
    numbers = json.loads(file.read_text())
    assert numbers["mode"] == mode
    assert numbers["timed_chunks"] >= 2
    positive = ("compile_seconds", "seconds_per_step", "peak_bytes", "flops_per_step")
    positive += (
        "cpu_seconds_per_step",
        "matmul_fraction",
        "convolution_fraction",
        "convolution_ceiling",
    )
    assert all(numbers[name] > 0 for name in positive)
    assert numbers["examples_per_second"] == pytest.approx(3 * numbers["steps_per_second"])
    # Three layers (784, 100, 100, 10), forward, and backward but for the input's gradient.
    products = 784 * 100 + 100 * 100 + 100 * 10
    expected = 2 * 3 * (3 * products - 784 * 100)
    assert numbers["flops_per_step"] == pytest.approx(expected, rel=0.5)
    # More than the ceiling would be a wrong count; ten times as much is room for noise.
    assert numbers["matmul_fraction"] < 10
    assert numbers["versions"]["jax"]


def test_seeds_side_by_side_share_the_steps(call, tmp_path):
    """A step is one seed's: the program's time is divided among the seeds."""
    file = tmp_path / "numbers.json"
    flags = ["--method", "clser", "--net", "mlp", "--batch-size", "3", "--steps", "2"]
    flags += ["--replay-size", "5", "--memory-size", "20", "--turns", "2", "--seeds", "3"]
    call(*flags, "--json", str(file))
    numbers = json.loads(file.read_text())
    assert (numbers["seeds"], numbers["replay_size"], numbers["memory_size"]) == (3, 5, 20)
    assert numbers["examples_per_second"] == pytest.approx(3 * numbers["steps_per_second"])


WRONG = {
    "method": (["--method", "replay"], "use one of sgd"),
    "batch size": (["--batch-size", "0"], "batch_size is 0"),
    "steps": (["--steps", "0"], "steps is 0"),
    "turns": (["--turns", "0"], "turns is 0"),
    "seeds": (["--seeds", "0"], "seeds is 0"),
    "net": (["--method", "dualnet", "--net", "mlp"], "dualnet works on feature maps"),
    "twin": (["--torch", "--net", "mlp"], "PyTorch has no twin of sgd with mlp in float32"),
    "json": (["--json", "nowhere/numbers.json"], "nowhere"),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_input_is_one_sentence_and_exit_code_2(call, name, capsys):
    flags, told = WRONG[name]
    with pytest.raises(SystemExit) as stopped:
        call(*flags)
    out, err = capsys.readouterr()
    assert stopped.value.code == 2
    assert told in err
    assert err.count("\n") == 1
    assert out == ""


def test_without_torch_the_command_that_installs_it_is_told(call, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(SystemExit) as stopped:
        call("--torch")
    assert stopped.value.code == 2
    assert "pip install torch" in capsys.readouterr().err
