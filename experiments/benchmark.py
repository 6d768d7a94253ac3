#!/usr/bin/env python
"""How fast a method's training steps are on this machine, beside what its hardware can do.

A real run on synthetic 32x32 pictures, timed chunk by chunk. Between chunks the same process times
two ceilings, a matrix product and the 3x3 convolutions of a ResNet-18, in the dtype of the run, and
with --torch another process times the same work in PyTorch on the same device: eager, and with
--torch-compile compiled as well. All figures are minima over these turns, so a busy machine hurts
all alike. Methods with a memory replay as many examples as the stream brings, unless told
otherwise. --net mlp sees 28x28 grey pictures. With --seeds 10 ten seeds run side by side in one
program, or with --over-seeds sequential one after another; a step is one seed's.

On a GPU float32 products and convolutions are TF32 on both sides (--no-tf32: on neither), but for
what our losses ask in full precision; bfloat16 is compute over float32 parameters on both sides, in
PyTorch by autocast. benchmark_table.py measures many of these.
"""

import importlib.util
import math
import os
from collections.abc import Callable, Collection
from contextlib import nullcontext, suppress
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Annotated, Literal

from tyro.conf import arg

from cls_jax.app.flags import run_main
from cls_jax.app.unused import check_used, refuse
from cls_jax.core.checks import check_range
from cls_jax.core.errors import InputError
from cls_jax.core.files import write_json
from cls_jax.core.host_memory import check_bytes, check_schedule
from cls_jax.core.paths import check_file, writing
from cls_jax.methods import METHODS
from cls_jax.nets.config import NetConfig
from cls_jax.runtime.provenance import provenance
from cls_jax.train.events import Progress

if TYPE_CHECKING:
    from benchmark_parts import Twins

    from cls_jax.core.types import PyTree
    from cls_jax.methods.base import Method
    from cls_jax.streams.stream import Stream
    from cls_jax.train.runner import Plan

TWINS = {
    ("sgd", "resnet18"): ("resnet_step", ("width", "batch_size")),
    ("dualnet", "resnet18"): ("dualnet_update", ("width", "batch_size")),
    ("clser", "mlp"): ("clser_step", ("batch_size", "replay_size", "memory_size")),
    ("clser", "resnet18"): (
        "clser_resnet_step",
        ("width", "batch_size", "replay_size", "memory_size"),
    ),
}
"""What benchmark_torch.py can do, by method and net: a step and its sizes."""
WIDTH = 16
"""Of the ResNet-18, if not given."""
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
      seeds: so many runs.
      over_seeds: in one program, or one after another.
      mode: compiled loop over steps (scan), Python loop over compiled steps (loop), or what is
        fast on this device.
      steps: in one timed chunk; 2 in mode "loop" and 500 in mode "scan" if not given.
      turns: timed chunks, at least; the best one counts.
      torch: also time eager PyTorch, on the same device; on a CPU on as many threads as there are
        cores. On a machine that is busy otherwise set OMP_WAIT_POLICY=PASSIVE, or its threads spin
        in one another's way.
      torch_compile: also time torch.compile, and eager PyTorch too. Compiling takes minutes and is
        not counted; where it is not possible the reason is told and the number is null.
      tf32: float32 products on a GPU may be TF32, in JAX and in PyTorch.
      json: file for the numbers.
    """

    method: str = "sgd"
    net: Annotated[NetConfig, arg(name="")] = NetConfig(width=WIDTH)
    batch_size: int = 32
    replay_size: int | None = None
    memory_size: int | None = None
    seeds: int = 1
    over_seeds: Literal["vmap", "sequential"] = "vmap"
    mode: Literal["auto", "loop", "scan"] = "auto"
    steps: int | None = None
    turns: int = 9
    torch: bool = False
    torch_compile: bool = False
    tf32: bool = True
    json: str | None = None


def build(config: Config) -> "tuple[Method, PyTree, Stream, Plan]":
    """All that a run needs, checked.

    Raises:
      InputError: for anything that cannot be measured, before any compute.
    """
    from benchmark_parts import CLASSES, TASKS, synthetic

    from cls_jax.app.build import make_method
    from cls_jax.streams.config import StreamConfig
    from cls_jax.train.runner import Plan, check_run
    from cls_jax.train.sizes import check_held

    for name in ("batch_size", "seeds", "turns", "steps", "replay_size", "memory_size"):
        if getattr(config, name) is not None:
            check_range(name, getattr(config, name), 1)
    if config.method not in METHODS:
        raise InputError(f"method is {config.method!r}; use one of {', '.join(METHODS)}")
    if config.json is not None:
        check_file(config.json, "json")
    if _wants_torch(config):
        _check_twin(config)
    row = METHODS[config.method]
    own, hyper = row.config(), row.hyper()
    for name in ("replay_size", "memory_size"):
        if getattr(config, name) is not None and not hasattr(own, name):
            refuse(name, getattr(config, name), f"{config.method} has no such size")
    sizes = _sizes(config)
    own = replace(own, **{name: size for name, size in sizes.items() if hasattr(own, name)})
    shape = (28, 28, 1) if config.net.net == "mlp" else (32, 32, 3)
    pixels = config.batch_size * CLASSES * math.prod(shape)
    check_bytes(f"batch_size {config.batch_size}", pixels, "give a smaller --batch-size")
    stream = synthetic(config.batch_size, 1, shape)
    method = make_method(config.method, own, stream, StreamConfig(), config.net)
    plan = Plan(None, config.mode, config.over_seeds if config.seeds > 1 else "auto")
    plan = check_run(method, stream, hyper, range(config.seeds), plan)
    plan = plan._replace(chunk=config.steps or (2 if plan.mode == "loop" else 500))
    # One chunk compiles; tasks have equally many chunks, so that every chunk is whole. Of two in a
    # task the second follows a chunk at once; the runs of one seed after another stay short.
    one_by_one = plan.over_seeds == "sequential" and config.seeds > 1
    per_task = -(-(config.turns + 1) // (TASKS * config.seeds if one_by_one else TASKS))
    rows = plan.chunk * max(1 if one_by_one else 2, per_task)
    name = "turns" if per_task > plan.chunk else "steps"
    check_schedule(name, rows, TASKS * config.batch_size)
    words = {"method": asdict(own), "net": asdict(config.net), "stream": {}, "num_tasks": TASKS}
    check_held(method, stream, hyper, words, config.seeds)
    return method, hyper, synthetic(config.batch_size, rows + rows % 2, shape), plan


def _wants_torch(config: Config) -> bool:
    return config.torch or config.torch_compile


def _sizes(config: Config) -> dict[str, int]:
    from benchmark_parts import TASKS

    b = config.batch_size
    memory_size = config.memory_size or TASKS * max(100, b)
    replay_size = config.replay_size or b
    sizes = {"batch_size": b, "replay_size": replay_size, "memory_size": memory_size}
    return {**sizes, "ssl_size": b, "width": config.net.width}


def _check_twin(config: Config) -> None:
    import jax
    from benchmark_parts import HIDDEN

    if (config.method, config.net.net) not in TWINS:
        twins = " or ".join(f"{method} with {net}" for method, net in TWINS)
        raise InputError(
            f"PyTorch has no twin of {config.method} with {config.net.net}; with --torch use "
            f"{twins}"
        )
    if config.net.net == "mlp" and config.net.hidden != HIDDEN:
        raise InputError(
            f"hidden is {config.net.hidden}, and PyTorch's twin has {HIDDEN}; leave --hidden or "
            "--torch out"
        )
    if importlib.util.find_spec("torch") is None:
        raise InputError(
            "--torch needs PyTorch, which is not installed; run pip install torch "
            "--index-url https://download.pytorch.org/whl/cpu"
        )
    if jax.default_backend() not in ("cpu", "gpu"):
        raise InputError(
            f"--torch compares on a CPU or a GPU, this is a {jax.default_backend()}; drop it"
        )


def _twins(config: Config) -> "Twins | nullcontext":
    """The worker that times PyTorch, if it is wanted."""
    if not _wants_torch(config):
        return nullcontext()
    import jax
    from benchmark_parts import Twins

    name, wanted = TWINS[config.method, config.net.net]
    sizes = {size: _sizes(config)[size] for size in wanted}
    device = "cuda" if jax.default_backend() == "gpu" else "cpu"
    how = {"device": device, "dtype": config.net.dtype, "tf32": config.tf32}
    return Twins(name, sizes, how, compiled=config.torch_compile)


def check(config: Config, typed: Collection[str]) -> None:
    """Refuses flags that were typed and would do nothing."""
    if "over_seeds" in typed and config.seeds == 1:
        refuse("over_seeds", config.over_seeds, "seeds is 1")
    check_used(config, typed, [(config.method, None)])


class _Done(Exception):
    """Enough chunks were timed."""


def measure(config: Config) -> dict[str, float | str | None]:
    """The numbers, by name; what was asked for is checked before any compute."""
    import jax

    with jax.default_matmul_precision("highest") if not config.tf32 else nullcontext():
        return _measure(config)


def _measure(config: Config) -> dict[str, float | str | None]:
    from benchmark_parts import Laps, ceilings, peak_bytes, step_flops

    from cls_jax.train.runner import run

    method, hyper, stream, plan = build(config)
    flops = step_flops(method, hyper, stream)
    trials = config.seeds if plan.over_seeds == "vmap" else 1
    times = Laps()
    tops: dict[str, Callable[[], float]] = {}
    best: dict[str, float] = {}

    def turn(event) -> None:
        if not isinstance(event, Progress):
            times.go_on(between=False)
            return
        times.add(event.seconds)
        if len(times.chunks) == 2:  # before the ceilings take memory of their own
            best["peak_bytes"] = peak_bytes()
            rows = config.batch_size + (_sizes(config)["replay_size"] if config.replay_size else 0)
            tops.update(ceilings(config.net, rows, trials))
        for name, once in tops.items():
            best[name] = max(best.get(name, 0.0), once())
        if twins is not None and len(times.chunks) > 1:
            twins.turn()
        if len(times.chunks) > config.turns and event.seeds[-1] == config.seeds - 1:
            raise _Done
        times.go_on(between=True)

    with _twins(config) as twins, suppress(_Done):
        run(method, stream, hyper, seeds=range(config.seeds), plan=plan, observe=turn)
    chunk, per_step = min(times.chunks[1:]), plan.chunk * trials
    seconds = chunk / per_step
    numbers = {
        "mode": plan.mode,
        "steps_per_chunk": plan.chunk,
        "timed_chunks": len(times.chunks) - 1,
        "compile_seconds": times.chunks[0] - chunk,
        "seconds_per_step": seconds,
        "wall_seconds_per_step": min(times.laps) / per_step if times.laps else None,
        "cpu_seconds_per_step": min(times.cpu[1:]) / per_step,
        "steps_per_second": 1 / seconds,
        "examples_per_second": config.batch_size / seconds,
        "peak_bytes": best["peak_bytes"],
        "flops_per_step": flops,
        "flops_per_second": flops / seconds,
    }
    for name in tops:
        numbers[f"{name}_ceiling"] = best[name]
        numbers[f"{name}_fraction"] = flops / seconds / best[name]
    return numbers | (twins.numbers(seconds) if twins is not None else {})


def lines(config: Config, numbers: dict[str, float | str | None]) -> list[str]:
    """The numbers for a reader."""
    import jax

    n, net = numbers, config.net
    shape = "mlp" if net.net == "mlp" else f"{net.net} width {net.width}"
    held = "on the device" if jax.default_backend() != "cpu" else "of the process"
    rate = n["flops_per_second"] / 1e9
    seeds = f", {config.seeds} seeds ({config.over_seeds})" if config.seeds > 1 else ""
    told = [
        f"{config.method}, {shape}, {net.dtype}, batch {config.batch_size}, mode {n['mode']}, "
        f"{jax.devices()[0].device_kind}{seeds}",
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
    if "ratio" in n:
        told.append(
            f"PyTorch {n['torch_seconds_per_step'] * 1e3:.4g} ms a step; ours / PyTorch = "
            f"{n['ratio']:.2f}"
        )
    if n.get("compiled_ratio") is not None:
        told.append(
            f"torch.compile {n['torch_compiled_seconds_per_step'] * 1e3:.4g} ms a step; "
            f"ours / torch.compile = {n['compiled_ratio']:.2f}"
        )
    elif n.get("torch_compiled_why_not") is not None:
        told.append(n["torch_compiled_why_not"])
    return told


def main(config: Config) -> None:
    """Measures, prints, writes."""
    numbers = measure(config)
    print("\n".join(lines(config, numbers)))
    if config.json is not None:
        file = check_file(config.json, "json")
        with writing(file, "json"):
            write_json(file, {**asdict(config), **numbers, **provenance()})
        print(f"numbers in {file}")


if __name__ == "__main__":
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # PyTorch shares the GPU
    kinds = {"default_preset": "default", "description": __doc__}
    run_main(main, Config, {"default": Config()}, **kinds, check=check)
