#!/usr/bin/env python
"""How fast a method's training steps are on this machine, beside what its hardware can do.

A real run on synthetic 32x32 pictures, timed chunk by chunk. Between chunks the same process times
two ceilings, a matrix product and the 3x3 convolutions of a ResNet-18, and with --torch another
process times the same work in eager PyTorch. All figures are minima over these turns, so a busy
machine hurts all alike. Methods with a memory replay as many examples as the stream brings, unless
told otherwise. --net mlp sees 28x28 grey pictures. With --seeds 10 ten seeds run side by side in
one program, and a step is one seed's.
"""

import importlib.util
import multiprocessing
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Literal

import jax
from benchmark_parts import TASKS, ceilings, peak_bytes, step_flops, synthetic, twin_seconds
from tyro.conf import arg

from cls_jax.checks import check_range
from cls_jax.cli import run_main
from cls_jax.events import Progress
from cls_jax.experiment import StreamConfig, make_method
from cls_jax.methods import METHODS
from cls_jax.methods.base import Method
from cls_jax.nets.choose import NetConfig
from cls_jax.runner import Plan, check_run, run
from cls_jax.streams.stream import Stream
from cls_jax.types import InputError, PyTree
from cls_jax.workdir import provenance, write_json

TWINS = {
    ("sgd", "resnet18"): ("resnet_step_seconds", ("width", "batch_size")),
    ("dualnet", "resnet18"): ("dualnet_update_seconds", ("width", "batch_size")),
    ("clser", "mlp"): ("clser_step_seconds", ("batch_size", "replay_size", "memory_size")),
}
"""What benchmark_torch.py can do in float32, by method and net: a function and its sizes."""
CEILINGS = {
    "matmul": "large matrix products",
    "convolution": "3x3 convolutions of a ResNet-18",
    "products": "the perceptron's products alone",
}


@dataclass(frozen=True)
class Config:
    """What is measured.

    Attributes:
      method: a row of the table of methods.
      batch_size: stream examples a step.
      replay_size, memory_size: of methods that have a memory; as many as the stream brings, and 100
        or more a task, if not given.
      seeds: so many in one program.
      mode: compiled loop over steps (scan), Python loop over compiled steps (loop), or what is
        fast on this device.
      steps: in one timed chunk; 2 in mode "loop" and 500 in mode "scan" if not given.
      turns: timed chunks, at least; the best one counts.
      torch: also time eager PyTorch, on as many threads as there are cores. On a machine that is
        busy otherwise set OMP_WAIT_POLICY=PASSIVE, or its threads spin in one another's way.
      json: file for the numbers.
    """

    method: str = "sgd"
    net: Annotated[NetConfig, arg(name="")] = NetConfig(width=16)
    batch_size: int = 32
    replay_size: int | None = None
    memory_size: int | None = None
    seeds: int = 1
    mode: Literal["auto", "loop", "scan"] = "auto"
    steps: int | None = None
    turns: int = 9
    torch: bool = False
    json: str | None = None


def build(config: Config) -> tuple[Method, PyTree, Stream, Plan]:
    """All that a run needs, checked.

    Raises:
      InputError: for anything that cannot be measured, before any compute.
    """
    for name in ("batch_size", "seeds", "turns", *(["steps"] if config.steps is not None else [])):
        check_range(name, getattr(config, name), 1)
    if config.method not in METHODS:
        raise InputError(f"method is {config.method!r}; use one of {', '.join(METHODS)}")
    if config.json is not None and not Path(config.json).absolute().parent.is_dir():
        raise InputError(f"json is {config.json!r}, in a folder that is not there; make it first")
    if config.torch:
        _check_twin(config)
    row = METHODS[config.method]
    own, hyper = row.config(), row.hyper()
    sizes = _sizes(config)
    own = replace(own, **{name: size for name, size in sizes.items() if hasattr(own, name)})
    shape = (28, 28, 1) if config.net.net == "mlp" else (32, 32, 3)
    stream = synthetic(config.batch_size, 1, shape)
    method = make_method(config.method, own, stream, StreamConfig(), config.net)
    over_seeds = "vmap" if config.seeds > 1 else "auto"
    plan = Plan(None, config.mode, over_seeds)
    plan = check_run(method, stream, hyper, range(config.seeds), plan)
    plan = plan._replace(chunk=config.steps or (2 if plan.mode == "loop" else 500))
    # One chunk compiles; tasks have equally many chunks, so that every chunk is whole.
    rows = plan.chunk * -(-(config.turns + 1) // TASKS)
    return method, hyper, synthetic(config.batch_size, rows + rows % 2, shape), plan


def _sizes(config: Config) -> dict[str, int]:
    b = config.batch_size
    memory_size = config.memory_size or TASKS * max(100, b)
    replay_size = config.replay_size or b
    sizes = {"batch_size": b, "replay_size": replay_size, "memory_size": memory_size}
    return {**sizes, "ssl_size": b, "width": config.net.width}


def _check_twin(config: Config) -> None:
    if (config.method, config.net.net) not in TWINS or config.net.dtype != "float32":
        twins = " or ".join(f"{method} with {net}" for method, net in TWINS)
        raise InputError(
            f"PyTorch has no twin of {config.method} with {config.net.net} in {config.net.dtype}; "
            f"with --torch use {twins} in float32"
        )
    if importlib.util.find_spec("torch") is None:
        raise InputError(
            "--torch needs PyTorch, which is not installed; run pip install torch "
            "--index-url https://download.pytorch.org/whl/cpu"
        )
    if jax.default_backend() != "cpu":
        raise InputError(f"--torch compares on a CPU, this is a {jax.default_backend()}; drop it")


def measure(config: Config) -> dict[str, float | str]:
    """The numbers, by name; what was asked for is checked before any compute."""
    method, hyper, stream, plan = build(config)
    flops = step_flops(method, hyper, stream)
    chunks: list[float] = []
    marks, cpu = [0.0], []  # CPU time does not grow with what else the machine is doing
    tops: dict[str, Callable[[], float]] = {}
    best: dict[str, float] = {}

    def turn(event) -> None:
        if not isinstance(event, Progress):
            return
        chunks.append(event.seconds)
        cpu.append(time.process_time() - marks[-1])
        if len(chunks) == 2:  # before the ceilings take memory of their own
            best["peak_bytes"] = peak_bytes()
            rows = config.batch_size + (_sizes(config)["replay_size"] if config.replay_size else 0)
            tops.update(ceilings(config.net, rows, config.seeds))
        for name, once in tops.items():
            best[name] = max(best.get(name, 0.0), once())
        if workers is not None and len(chunks) > 1:
            name, wanted = TWINS[config.method, config.net.net]
            sizes = {size: _sizes(config)[size] for size in wanted}
            seconds = workers.submit(twin_seconds, name, sizes).result()
            best["torch"] = min(best.get("torch", seconds), seconds)
        marks.append(time.process_time())

    # A process of its own: in one, the thread pools of XLA and PyTorch spin against each other.
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, spawn) if config.torch else nullcontext() as workers:
        run(method, stream, hyper, seeds=range(config.seeds), plan=plan, observe=turn)
    chunk = min(chunks[1:])
    seconds = chunk / plan.chunk / config.seeds
    numbers = {
        "mode": plan.mode,
        "steps_per_chunk": plan.chunk,
        "timed_chunks": len(chunks) - 1,
        "compile_seconds": chunks[0] - chunk,
        "seconds_per_step": seconds,
        "cpu_seconds_per_step": min(cpu[1:]) / plan.chunk / config.seeds,
        "steps_per_second": 1 / seconds,
        "examples_per_second": config.batch_size / seconds,
        "peak_bytes": best["peak_bytes"],
        "flops_per_step": flops,
        "flops_per_second": flops / seconds,
    }
    for name in tops:
        numbers[f"{name}_ceiling"] = best[name]
        numbers[f"{name}_fraction"] = flops / seconds / best[name]
    if config.torch:
        numbers |= {"torch_seconds_per_step": best["torch"], "ratio": seconds / best["torch"]}
    return numbers


def lines(config: Config, numbers: dict[str, float | str]) -> list[str]:
    """The numbers for a reader."""
    n, net = numbers, config.net
    shape = "mlp" if net.net == "mlp" else f"{net.net} width {net.width}"
    held = "on the device" if jax.default_backend() != "cpu" else "of the process"
    rate = n["flops_per_second"] / 1e9
    told = [
        f"{config.method}, {shape}, {net.dtype}, batch {config.batch_size}, mode {n['mode']}, "
        f"{jax.devices()[0].device_kind}" + (f", {config.seeds} seeds" * (config.seeds > 1)),
        f"{n['steps_per_second']:.5g} steps/s, {n['examples_per_second']:.5g} examples/s "
        f"({n['seconds_per_step'] * 1e3:.4g} ms a step, "
        f"{n['cpu_seconds_per_step'] * 1e3:.4g} ms of CPU time; best of {n['timed_chunks']} x "
        f"{n['steps_per_chunk']} steps)",
        f"{n['compile_seconds']:.1f} s to compile; peak memory {held} "
        f"{n['peak_bytes'] / 2**20:.0f} MiB",
        f"{n['flops_per_step'] / 1e9:.4g} GFLOP a step, {rate:.4g} GFLOP/s:",
    ]
    for name, text in CEILINGS.items():
        if f"{name}_ceiling" not in n:
            continue
        top, part = n[f"{name}_ceiling"] / 1e9, n[f"{name}_fraction"]
        told.append(f"  {part:.3f} of what {text} reach ({top:.4g} GFLOP/s)")
    if config.torch:
        told.append(
            f"PyTorch {n['torch_seconds_per_step'] * 1e3:.4g} ms a step; ours / PyTorch = "
            f"{n['ratio']:.2f}"
        )
    return told


def main(config: Config) -> None:
    """Measures, prints, writes."""
    numbers = measure(config)
    print("\n".join(lines(config, numbers)))
    if config.json is not None:
        write_json(Path(config.json), {**asdict(config), **numbers, **provenance()})
        print(f"numbers in {config.json}")


if __name__ == "__main__":
    run_main(main, Config, {"default": Config()}, default_preset="default", description=__doc__)
