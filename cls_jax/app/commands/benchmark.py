"""How fast a method's training steps are on this machine: ``cls-jax benchmark``."""

import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext, suppress
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from cls_jax.app.benchmark.workload import TWINS, Config, build, check, sizes_of, wants_torch
from cls_jax.app.flags import run_main
from cls_jax.core.files import write_json
from cls_jax.core.paths import check_file, writing
from cls_jax.training.events import Progress
from cls_jax.training.runtime.heap import compute_on_calling_thread
from cls_jax.training.runtime.provenance import provenance

if TYPE_CHECKING:
    from cls_jax.app.benchmark.parts import Twins

DESCRIPTION = """How fast a method's steps are on this machine, beside what its hardware can do.

A real run on synthetic 32x32 pictures, timed chunk by chunk. Between chunks the same process times
two ceilings, a matrix product and the 3x3 convolutions of a ResNet-18, in the dtype of the run, and
with --torch another process times the same work in PyTorch on the same device: eager, and with
--torch-compile compiled as well. All figures are minima over these turns, so a busy machine hurts
all alike. Methods with a memory replay as many examples as the stream brings, unless told
otherwise. --net mlp sees 28x28 grey pictures. With --seeds 10 ten seeds run side by side in one
program, or with --over-seeds sequential one after another; a step is one seed's.

On a GPU float32 products and convolutions are TF32 on both sides (--no-tf32: on neither), but for
what our losses ask in full precision; bfloat16 is compute over float32 parameters on both sides, in
PyTorch by autocast. experiments/benchmark/table.py measures many of these.
"""

CEILINGS = {
    "matmul": "large matrix products",
    "convolution": "3x3 convolutions of a ResNet-18",
    "products": "the perceptron's products alone",
}


class _Done(Exception):
    """Enough chunks were timed."""


def measure(config: Config) -> dict[str, Any]:
    """The numbers, by name; what was asked for is checked before any compute."""
    import jax

    with jax.default_matmul_precision("highest") if not config.tf32 else nullcontext():
        return _measure(config)


def _measure(config: Config) -> dict[str, Any]:
    from cls_jax.app.benchmark.parts import Laps, ceilings, peak_bytes, step_flops
    from cls_jax.training.runner import run

    method, stream, plan = build(config)
    flops = step_flops(method, stream)
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
            rows = config.batch_size + (config.replay_size or 0)
            tops.update(ceilings(config.net, rows, trials))
        for name, once in tops.items():
            best[name] = max(best.get(name, 0.0), once())
        if twins is not None and len(times.chunks) > 1:
            twins.turn()
        if len(times.chunks) > config.turns and event.seeds[-1] == config.seeds - 1:
            raise _Done
        times.go_on(between=True)

    with _twins(config) as twins, suppress(_Done):
        run(method, stream, seeds=range(config.seeds), plan=plan, observe=turn)
    assert plan.chunk is not None  # build
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


def _twins(config: Config) -> "Twins | nullcontext":
    """The worker that times PyTorch, if it is wanted."""
    if not wants_torch(config):
        return nullcontext()
    import jax

    from cls_jax.app.benchmark.parts import Twins

    name, wanted = TWINS[config.method, config.net.net]
    sizes = {size: sizes_of(config)[size] for size in wanted}
    device = "cuda" if jax.default_backend() == "gpu" else "cpu"
    how = {"device": device, "dtype": config.net.dtype, "tf32": config.tf32}
    return Twins(name, sizes, how, compiled=config.torch_compile)


def lines(config: Config, numbers: Mapping[str, Any]) -> list[str]:
    """The numbers for a reader."""
    import jax

    n, net = numbers, config.net
    shape = "mlp" if net.net == "mlp" else f"{net.net} width {net.width}"
    held = "on the device" if jax.default_backend() != "cpu" else "of the process"
    rate = n["flops_per_second"] / 1e9
    seeds = f", {config.seeds} seeds ({config.over_seeds})" if config.seeds > 1 else ""
    report_lines = [
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
        report_lines.append(f"  {part:.3f} of what {text} reach ({top:.4g} GFLOP/s)")
    if "ratio" in n:
        report_lines.append(
            f"PyTorch {n['torch_seconds_per_step'] * 1e3:.4g} ms a step; ours / PyTorch = "
            f"{n['ratio']:.2f}"
        )
    if n.get("compiled_ratio") is not None:
        report_lines.append(
            f"torch.compile {n['torch_compiled_seconds_per_step'] * 1e3:.4g} ms a step; "
            f"ours / torch.compile = {n['compiled_ratio']:.2f}"
        )
    elif n.get("torch_compiled_why_not") is not None:
        report_lines.append(n["torch_compiled_why_not"])
    return report_lines


def main(config: Config) -> None:
    """Measures, prints, writes."""
    compute_on_calling_thread()  # as runs do
    numbers = measure(config)
    print("\n".join(lines(config, numbers)))
    if config.json is not None:
        file = check_file(config.json, "json")
        with writing(file, "json"):
            write_json(file, {**asdict(config), **numbers, **provenance()})
        print(f"numbers in {file}")


def start(argv: Sequence[str] | None = None, *, prog: str | None = None) -> None:
    """Parses ``argv`` (those of the process if None), and runs it; ``prog`` is for the help."""
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # PyTorch shares the GPU
    how = {"argv": argv, "description": DESCRIPTION, "prog": prog, "check": check}
    run_main(main, Config, {"default": Config()}, default_preset="default", **how)
