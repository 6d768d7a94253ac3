"""The benchmark scripts: smallest cases give sane numbers, wrong input is one sentence."""

import gzip
import json
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

from cls_jax.app.benchmark import parts, workload
from cls_jax.app.commands import benchmark
from cls_jax.app.flags import run_main
from cls_jax.core.errors import InputError

EXPERIMENTS = Path(__file__).resolve().parents[2] / "experiments"
BENCHMARK = EXPERIMENTS / "benchmark"


def call(*flags):
    """Runs the command line in this process."""
    benchmark.start(flags)


@pytest.mark.more
@pytest.mark.parametrize("mode", ["loop", "scan"])
def test_the_smallest_case_gives_sane_numbers(mode, tmp_path, capsys):
    file = tmp_path / "numbers.json"
    flags = ["--net", "mlp", "--batch-size", "3", "--steps", "2", "--turns", "2"]
    call(*flags, "--mode", mode, "--json", str(file))
    text = capsys.readouterr().out
    assert all(word in text for word in ("steps/s", "examples/s", "compile", "MiB", "GFLOP/s"))
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


@pytest.mark.more
def test_seeds_side_by_side_share_the_steps(tmp_path):
    """A step is one seed's: the program's time is divided among the seeds."""
    file = tmp_path / "numbers.json"
    flags = ["--method", "clser", "--net", "mlp", "--batch-size", "3", "--steps", "2"]
    flags += ["--replay-size", "5", "--memory-size", "20", "--turns", "2", "--seeds", "3"]
    call(*flags, "--json", str(file))
    numbers = json.loads(file.read_text())
    assert (numbers["seeds"], numbers["replay_size"], numbers["memory_size"]) == (3, 5, 20)
    assert numbers["examples_per_second"] == pytest.approx(3 * numbers["steps_per_second"])


@pytest.mark.more
def test_seeds_one_after_another_are_single_runs(tmp_path):
    """All of them are run, and a step is one seed's without any division."""
    file = tmp_path / "numbers.json"
    flags = ["--method", "clser", "--net", "mlp", "--batch-size", "3", "--steps", "2"]
    flags += ["--replay-size", "5", "--turns", "2", "--seeds", "2", "--over-seeds", "sequential"]
    call(*flags, "--json", str(file))
    numbers = json.loads(file.read_text())
    assert numbers["timed_chunks"] == 5  # five tasks of seed 0 and, but for compiling, seed 1
    assert numbers["examples_per_second"] == pytest.approx(3 * numbers["steps_per_second"])
    single = numbers["seconds_per_step"] * numbers["steps_per_chunk"]
    assert single * numbers["steps_per_second"] == pytest.approx(2)


def test_what_python_does_between_chunks_is_in_the_wall_time(tmp_path):
    file = tmp_path / "numbers.json"
    flags = ["--net", "mlp", "--batch-size", "3", "--steps", "2", "--turns", "3"]
    call(*flags, "--json", str(file))
    numbers = json.loads(file.read_text())
    assert numbers["timed_chunks"] == 3
    assert numbers["wall_seconds_per_step"] > numbers["seconds_per_step"]


@pytest.mark.parametrize(("tf32", "precision"), [(True, None), (False, "highest")])
def test_without_tf32_everything_runs_in_full_precision(monkeypatch, tf32, precision):
    seen = []
    monkeypatch.setattr(
        benchmark, "_measure", lambda _: seen.append(jax.config.jax_default_matmul_precision)
    )
    benchmark.measure(workload.Config(tf32=tf32))
    assert seen == [precision]


@pytest.mark.more
def test_ceilings_are_measured_in_the_dtype_of_the_run(monkeypatch, tmp_path):
    seen = []
    rate = parts._rate
    monkeypatch.setattr(
        parts, "_rate", lambda f, *a: (seen.extend(jax.tree.leaves(a)), rate(f, *a))[1]
    )
    from cls_jax.nets.registry import NetConfig

    tops = parts.ceilings(NetConfig(net="mlp", width=1, dtype="bfloat16"), 2, 1)
    assert {x.dtype for x in seen} == {jnp.dtype("bfloat16")}
    assert all(measure() > 0 for measure in tops.values())


def test_operations_are_counted_without_computing():
    """Abstractly, on the CPU: an accelerator counts only what is compiled."""
    x = jnp.ones((8, 16), jnp.bfloat16)
    assert parts.flops_of(jnp.matmul, x, x.T) == 2 * 8 * 16 * 8


TWIN = ["--method", "clser", "--net", "mlp", "--batch-size", "3", "--replay-size", "5"]
TWIN += ["--memory-size", "20", "--steps", "2", "--turns", "1"]


@pytest.mark.more
def test_a_compiled_twin_is_a_number(tmp_path, capsys):
    pytest.importorskip("torch")
    file = tmp_path / "numbers.json"
    call(*TWIN, "--torch-compile", "--json", str(file))
    numbers = json.loads(file.read_text())
    text = capsys.readouterr().out
    if numbers["torch_compiled_why_not"] is None:
        seconds = numbers["torch_compiled_seconds_per_step"]
        assert numbers["compiled_ratio"] == pytest.approx(numbers["seconds_per_step"] / seconds)
        assert "ours / torch.compile" in text
    else:
        assert numbers["compiled_ratio"] is None
        assert numbers["torch_compiled_why_not"] in text


def test_pytorch_runs_in_bfloat16_and_where_nothing_compiles_the_reason_is_told(
    tmp_path, capsys, monkeypatch
):
    pytest.importorskip("torch")
    monkeypatch.setenv("CXX", "no-such-compiler")
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "cache"))
    file = tmp_path / "numbers.json"
    call(*TWIN, "--torch-compile", "--dtype", "bfloat16", "--json", str(file))
    numbers, text = json.loads(file.read_text()), capsys.readouterr().out
    expected = numbers["seconds_per_step"] / numbers["torch_seconds_per_step"]
    assert numbers["ratio"] == pytest.approx(expected)
    assert "ours / PyTorch" in text
    assert numbers["torch_compiled_seconds_per_step"] is None
    assert numbers["compiled_ratio"] is None
    assert "compile" in numbers["torch_compiled_why_not"]
    assert numbers["torch_compiled_why_not"] in text


def test_pytorch_without_this_gpu_is_one_sentence():
    torch = pytest.importorskip("torch")
    if torch.cuda.is_available():
        pytest.skip("PyTorch sees a GPU")
    how = {"device": "cuda", "dtype": "float32", "tf32": True}
    with pytest.raises(InputError, match="PyTorch sees no GPU here"):
        parts.Twins("clser_step", {}, how, compiled=False)


def test_every_twin_makes_a_step():
    """Eager, in both dtypes; what a step changes stays finite."""
    torch = pytest.importorskip("torch")
    from cls_jax.app.benchmark import torch_twin

    torch.manual_seed(0)
    sizes = {"width": 1, "batch_size": 4, "replay_size": 4, "memory_size": 8}
    for name, wanted in workload.TWINS.values():
        build = torch_twin.STEPS[name][0]
        for dtype in ("float32", "bfloat16"):
            how = torch_twin.How(dtype=dtype)
            build(how, torch.channels_last, **{size: sizes[size] for size in wanted})()


WRONG = {
    "method": (["--method", "replay"], "use one of sgd"),
    "batch size": (["--batch-size", "0"], "batch_size is 0"),
    "steps": (["--steps", "0"], "steps is 0"),
    "turns": (["--turns", "0"], "turns is 0"),
    "seeds": (["--seeds", "0"], "seeds is 0"),
    "net": (["--method", "dualnet", "--net", "mlp"], "dualnet works on feature maps"),
    "twin": (["--torch", "--net", "mlp"], "PyTorch has no twin of sgd with mlp"),
    "json": (["--json", "nowhere/numbers.json"], "nowhere"),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_input_is_one_sentence_and_exit_code_2(name, capsys):
    flags, expected = WRONG[name]
    with pytest.raises(SystemExit) as stopped:
        call(*flags)
    out, err = capsys.readouterr()
    assert stopped.value.code == 2
    assert expected in err
    assert err.count("\n") == 1
    assert out == ""


def test_without_torch_the_command_that_installs_it_is_told(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(SystemExit) as stopped:
        call("--torch")
    assert stopped.value.code == 2
    assert "pip install torch" in capsys.readouterr().err


# --- the table ------------------------------------------------------------------------------------


@pytest.fixture
def table(monkeypatch):
    """The module of the table's script."""
    monkeypatch.syspath_prepend(str(BENCHMARK))
    import table

    return table


def run_table(table, *flags):
    """Its command line in this process; the cells are processes of their own."""
    run_main(table.main, table.Config, table.PRESETS, default_preset="toy", argv=list(flags))


def numbers_of(cell, config, seconds, **more):
    """What run.py would have written."""
    return {
        "net": {"width": config.width},
        "tf32": True,
        "seeds": config.seeds,
        "seconds_per_step": seconds,
        "steps_per_second": 1 / seconds,
        "compile_seconds": 1.0,
        "peak_bytes": 2**20,
        "convolution_fraction": 0.5,
        "matmul_fraction": 0.25,
        "device": {"kind": "made up"},
        **more,
    }


SMALL = ["--preset", "toy", "--dtypes", "float32", "--seeds", "1", "--chunks", "2", "--no-torch"]


@pytest.mark.more
def test_a_failing_cell_is_recorded_and_stops_no_other(table, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(EXPERIMENTS.parent))
    flags = [*SMALL, "--out", str(tmp_path), "--workloads", "dualnet/mlp/3", "clser/mlp/3"]
    run_table(table, *flags)
    text = capsys.readouterr().out
    assert "dualnet works on feature maps" in text
    files = {path.name: json.loads(path.read_text()) for path in tmp_path.glob("benchmark_*.json")}
    failed, good = "dualnet_mlp_3", "clser_mlp_3"
    named = {key: f"benchmark_{key}_float32_1_chunk2.json" for key in (failed, good)}
    assert set(files) == set(named.values())
    assert "feature maps" in files[named[failed]]["error"]
    assert files[named[good]]["seconds_per_step"] > 0
    assert "failed" in (tmp_path / "summary.md").read_text()

    # The same command measures nothing again; --retry only what failed.
    asked = []
    monkeypatch.setattr(table, "measure", lambda cell, config: asked.append(cell.workload))
    run_table(table, *flags)
    assert asked == []
    run_table(table, *flags, "--retry")
    assert asked == ["dualnet/mlp/3"]


def test_a_table_that_ran_out_of_time_is_gone_on_with(table, tmp_path, capsys, monkeypatch):
    measured = []

    def measure(cell, config):
        measured.append(cell)
        cell.file(config).write_text(json.dumps(numbers_of(cell, config, 1e-3)))

    monkeypatch.setattr(table, "measure", measure)
    flags = ["--preset", "toy", "--out", str(tmp_path), "--no-torch"]
    ticks = iter(range(0, 10_000, 20))
    monkeypatch.setattr(table.time, "monotonic", lambda: next(ticks))
    run_table(table, *flags, "--minutes", "1")
    assert "run it again" in capsys.readouterr().out
    first = list(measured)
    asked = table.cells(table.PRESETS["toy"])
    assert 0 < len(first) < len(asked)
    run_table(table, *flags)
    assert [c._replace(torch=False) for c in asked] == measured  # each once, in order
    assert "run it again" not in capsys.readouterr().out


def test_a_cell_that_takes_too_long_is_ended(table, tmp_path, monkeypatch):
    from cells import Cell

    monkeypatch.setattr(Cell, "command", lambda cell, config: [sys.executable, "-c", SLEEP])
    config = table.Config(out=str(tmp_path), cell_minutes=0.01)
    cell = Cell("clser/mlp/3", "float32", "one", 2)
    table.measure(cell, config)
    assert "took longer than 0.01 minutes" in table.read(cell, config)["error"]


SLEEP = "import time; time.sleep(60)"


def test_other_sizes_are_no_continuation(table, tmp_path, capsys):
    config = table.PRESETS["toy"]
    cell = table.cells(config)[0]
    file = tmp_path / cell.file(config).name
    file.write_text(json.dumps(numbers_of(cell, config, 1e-3)))
    with pytest.raises(SystemExit) as stopped:
        run_table(table, "--preset", "toy", "--width", "9", "--out", str(tmp_path))
    assert stopped.value.code == 2
    assert "other sizes" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (["--workloads", "clser/cnn/3"], "give method/net/batch"),
        (["--chunks", "0"], "chunks is 0"),
        (["--seeds", "0"], "seeds is 0"),
        (["--cell-minutes", "0"], "cell_minutes is 0"),
    ],
)
def test_a_wrong_table_is_one_sentence(table, flags, expected, capsys):
    with pytest.raises(SystemExit) as stopped:
        run_table(table, *flags)
    assert stopped.value.code == 2
    assert expected in capsys.readouterr().err


@pytest.fixture
def suggest(table):
    """The module of its recommendations."""
    import suggest

    return suggest


def made_up(workload, over_seeds, chunk, seconds, **more):
    """Numbers of one cell for the suggestion."""
    cell = {"workload": workload, "dtype": "float32", "over_seeds": over_seeds, "chunk": chunk}
    return {**cell, "seconds_per_step": seconds, **more}


def test_defaults_follow_from_the_numbers(suggest):
    conv, dense = "dualnet/resnet18/32", "clser/mlp/32"
    known = [
        # 100 steps are within 3 % of 500; what Python does between chunks counts, compute does not.
        made_up(conv, "one", 10, 1.0, wall_seconds_per_step=1.5),
        made_up(conv, "one", 100, 1.0, wall_seconds_per_step=1.02),
        made_up(conv, "one", 500, 1.0, wall_seconds_per_step=1.0),
        made_up(conv, "vmap", 100, 1.2),
        made_up(conv, "sequential", 100, 1.0),
        made_up(dense, "one", 10, 3.0),
        made_up(dense, "one", 500, 1.0),
        made_up(dense, "vmap", 500, 0.25),  # no sequential cell: the single seed stands for it
        {**made_up(dense, "vmap", 10, 9.0), "error": "out of memory"},
    ]
    found = suggest.suggest(known)
    assert (found["convolutional"].over_seeds, found["convolutional"].chunk) == ("sequential", 100)
    assert "0.83 to 0.83" in found["convolutional"].seeds_why
    assert "1.50 times" in found["convolutional"].chunk_why
    assert (found["dense"].over_seeds, found["dense"].chunk) == ("vmap", 500)
    text = " ".join(suggest.advice(known))
    assert "Plan for dense steps: over_seeds vmap" in text
    assert "failed: out of memory." in text


def test_the_longest_chunk_that_any_workload_needs_is_suggested(suggest):
    known = [
        made_up(f"er/resnet18/{batch}", "one", chunk, seconds)
        for batch, times in ((8, {10: 1.0, 100: 1.0}), (32, {10: 2.0, 100: 1.0}))
        for chunk, seconds in times.items()
    ]
    (choice,) = suggest.suggest(known).values()
    assert choice.chunk == 100
    assert choice.over_seeds is None
    assert choice.seeds_why == "not measured"


def test_a_draw_keeps_the_bits_of_single_runs(suggest):
    known = [made_up("er/mlp/8", kind, 10, 1.0) for kind in ("vmap", "sequential")]
    assert suggest.suggest(known)["dense"].over_seeds == "sequential"


def test_all_cells_of_a_pair_are_set_beside_its_one_twin(table):
    config = table.PRESETS["gpu"]
    asked = table.cells(config)
    some = [c for c in asked if c.workload == "clser/resnet18/32" and c.dtype == "bfloat16"]
    assert {(c.over_seeds, c.chunk) for c in some} == {
        ("one", 10),
        ("one", 100),
        ("one", 500),
        ("vmap", 100),
        ("sequential", 100),
    }
    known = [{**numbers_of(c, config, 2e-3), **c._asdict()} for c in some]
    known[0] |= {"torch_seconds_per_step": 4e-3, "torch_compiled_seconds_per_step": None}
    made = table.table(known)
    column = made.header.index("ours / PyTorch")
    assert {row[column] for row in made.rows} == {"0.50"}
    assert {row[-1] for row in made.rows} == {""}
    assert "made up" in made.title


# --- traces ---------------------------------------------------------------------------------------


@pytest.fixture
def profile(monkeypatch):
    """The module that reads traces."""
    monkeypatch.syspath_prepend(str(BENCHMARK))
    import trace_profile

    return trace_profile


def test_the_operations_of_a_real_trace_are_told(profile, tmp_path, capsys):
    multiply = jax.jit(lambda x: jnp.tanh(x @ x))
    x = jnp.ones((300, 300))
    multiply(x).block_until_ready()
    with jax.profiler.trace(str(tmp_path)):
        for _ in range(3):
            multiply(x).block_until_ready()
    found = profile.operations(tmp_path)
    assert any(name.startswith(("dot", "ynn")) for name in found)
    assert {runs for _, runs in found.values()} == {3}
    profile.main(profile.Config(str(tmp_path), 1))
    text = capsys.readouterr().out
    assert max(found, key=lambda name: found[name][0]) in text
    assert "ms in all operations" in text


def test_a_device_counts_its_operations_once(profile, tmp_path):
    """A GPU lists kernels by stream and operations in a thread; the host only waits for them."""

    def meta(pid, name, tid=None):
        kind = "process_name" if tid is None else "thread_name"
        return {"ph": "M", "pid": pid, "tid": tid, "name": kind, "args": {"name": name}}

    def ran(pid, tid, name, us, **args):
        return {"ph": "X", "pid": pid, "tid": tid, "ts": 0, "dur": us, "name": name, "args": args}

    events = [
        meta(1, "/device:GPU:0"),
        meta(1, "Stream #14(Compute)", 1),
        meta(2, "/host:CPU"),
        ran(1, 1, "sm90_gemm", 2000, hlo_op="dot.1"),
        ran(1, 1, "sm90_gemm", 1000, hlo_op="dot.1"),
        ran(1, 1, "graph_kernel", 500),
        ran(2, 1, "dot.1", 9000, hlo_op="dot.1"),
        {},
    ]

    def write(events):
        with gzip.open(tmp_path / "vm.trace.json.gz", "wt") as file:
            json.dump({"traceEvents": events}, file)

    write(events)
    assert profile.operations(tmp_path) == {"dot.1": (3.0, 2), "graph_kernel": (0.5, 1)}
    write([*events, meta(1, "XLA Ops", 2), ran(1, 2, "dot.1", 3100), ran(1, 2, "while.2", 4000)])
    assert profile.operations(tmp_path) == {"dot.1": (3.1, 1)}


@pytest.mark.more
def test_what_grows_is_timed_at_every_size(monkeypatch, tmp_path, capsys):
    monkeypatch.syspath_prepend(str(BENCHMARK))
    import growth

    monkeypatch.setattr(growth, "AXES", {"tasks": (2, 4), "images": (400, 800)})
    growth.main(growth.Config(json=str(tmp_path / "numbers.json")))
    assert capsys.readouterr().out.count("exponent") == 2
    found = json.loads((tmp_path / "numbers.json").read_text())["axes"]
    assert list(found) == ["tasks", "images"]
    for axis in found.values():
        assert len(axis["costs"]) == len(axis["sizes"]) == 2
        assert all(cost[name] > 0 for cost in axis["costs"] for name in ("start", "step", "test"))


def test_an_exponent_is_that_of_the_last_two_sizes(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARK))
    import growth

    flat, linear = growth.Cost(9, 9, 9, 9), growth.Cost(1, 2, 3, 4)
    grown = growth.Cost(1, 4, 12, 1)
    assert growth.exponents((1, 10, 20), [flat, linear, grown]) == pytest.approx((0, 1, 2, -2))
