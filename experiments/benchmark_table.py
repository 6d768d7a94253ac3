#!/usr/bin/env python
"""A table of benchmark.py over workloads, dtypes, seeds and chunk lengths, and what to set by it.

Every cell is a process of its own, one after another, and leaves a JSON file in --out. A cell that
is there is not measured again, so the same command goes on where a lease ended or --minutes ran
out; one that failed is recorded with its error, stops no other, and is tried again with --retry.
The first cell of a workload and dtype also times PyTorch; the others are set beside that. Last come
the defaults of the plan that the numbers speak for; the whole is summary.md in --out.

--preset gpu: ResNet-18 of width 64, batches of 32 and 128, for an accelerator.
--preset toy: seconds a cell on a CPU, to see that it works.
"""

import importlib.util
import itertools
import math
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

from benchmark import TWINS, WIDTH

from cls_jax.app.flags import run_main
from cls_jax.core.checks import check_range
from cls_jax.core.errors import InputError
from cls_jax.core.files import read_json, write_file, write_json
from cls_jax.core.paths import check_place, writing
from cls_jax.methods import METHODS
from cls_jax.report.tables import TextTable, markdown_page, rich_table, show

NEAR = 1.03
"""Times within this factor count as equal."""
HEADER = (
    "method/net/batch",
    "dtype",
    "seeds",
    "chunk",
    "ms a step",
    "seed-steps/s",
    "compile s",
    "MiB",
    "of ceiling",
    "of matmul",
    "ours / PyTorch",
    "ours / torch.compile",
)


@dataclass(frozen=True)
class Config:
    """What is measured, and how long.

    Attributes:
      out: folder for the numbers; one that holds some is gone on with.
      workloads: method/net/batch, each; methods with a memory replay as many as arrive.
      dtypes: each workload in each.
      seeds: so many vmapped and so many one after another, beside a single one; 1: only that.
      chunks: lengths tried with one seed; seeds and PyTorch are compared at the middle one.
      mode: as in benchmark.py; "scan" is what an accelerator does.
      width: of the ResNet-18.
      turns, timed_steps: so many chunks are timed at least, and so many that they are these steps.
      torch: eager PyTorch beside it, where it is installed and has a twin.
      torch_compile: torch.compile beside it.
      tf32: float32 products on a GPU may be TF32, everywhere.
      minutes: no cell is begun later than this after the start.
      cell_minutes: a cell that takes longer has failed.
      retry: failed cells once more.
    """

    out: str = "runs/benchmark_table"
    workloads: tuple[str, ...] = (
        "dualnet/resnet18/32",
        "clser/mlp/32",
        "clser/resnet18/32",
        "dualnet/resnet18/128",
        "clser/resnet18/128",
    )
    dtypes: tuple[Literal["float32", "bfloat16"], ...] = ("float32", "bfloat16")
    seeds: int = 4
    chunks: tuple[int, ...] = (10, 100, 500)
    mode: Literal["auto", "loop", "scan"] = "scan"
    width: int = 64
    turns: int = 5
    timed_steps: int = 200
    torch: bool = True
    torch_compile: bool = True
    tf32: bool = True
    minutes: float | None = None
    cell_minutes: float = 8
    retry: bool = False


PRESETS = {
    "gpu": Config(),
    "toy": Config(
        workloads=("clser/mlp/8", "sgd/resnet18/4"),
        seeds=2,
        chunks=(2, 10),
        mode="auto",
        width=2,
        turns=2,
        timed_steps=1,
        torch_compile=False,
    ),
}


class Cell(NamedTuple):
    """One process of benchmark.py; ``over_seeds`` is "one" for a single seed."""

    workload: str
    dtype: str
    over_seeds: Literal["one", "vmap", "sequential"]
    chunk: int
    torch: bool = False

    def file(self, config: Config) -> Path:
        """Where its numbers are."""
        seeds = "1" if self.over_seeds == "one" else f"{config.seeds}{self.over_seeds}"
        name = self.workload.replace("/", "_")
        return Path(config.out) / f"benchmark_{name}_{self.dtype}_{seeds}_chunk{self.chunk}.json"

    def command(self, config: Config) -> list[str]:
        """Of its process."""
        method, net, batch = self.workload.split("/")
        flags: dict[str, Any] = {
            "method": method,
            "net": net,
            **({"width": config.width} if net != "mlp" else {}),
            "dtype": self.dtype,
            "batch-size": batch,
            "mode": config.mode,
            "steps": self.chunk,
            "turns": max(config.turns, -(-config.timed_steps // self.chunk)),
            "json": self.file(config),
        }
        if method != "dualnet" and hasattr(METHODS[method].config(), "replay_size"):
            flags["replay-size"] = batch
        if self.over_seeds != "one":
            flags |= {"seeds": config.seeds, "over-seeds": self.over_seeds}
        switches = [] if config.tf32 else ["--no-tf32"]
        if self.torch:
            switches += ["--torch", *(["--torch-compile"] if config.torch_compile else [])]
        script = os.path.relpath(Path(__file__).with_name("benchmark.py"))
        pairs = itertools.chain(*((f"--{name}", str(value)) for name, value in flags.items()))
        return [sys.executable, script, *pairs, *switches]


def cells(config: Config) -> list[Cell]:
    """The cells, those first that a table can least do without.

    Raises:
      InputError: for anything that is no workload, dtype, size or folder.
    """
    for name in ("seeds", "width", "turns", "timed_steps"):
        check_range(name, getattr(config, name), 1)
    check_range("cell_minutes", config.cell_minutes, 0, above=True)
    if config.minutes is not None:
        check_range("minutes", config.minutes, 0)
    if not config.out:
        raise InputError("out is ''; give a folder")
    for name in ("workloads", "dtypes", "chunks"):
        given = getattr(config, name)
        if not given or len(set(given)) < len(given):
            told = ", ".join(map(str, given)) or "empty"
            raise InputError(f"{name} is {told}; give at least one, each once")
    for workload in config.workloads:
        if not re.fullmatch(rf"({'|'.join(METHODS)})/(resnet18|mlp)/[1-9]\d*", workload):
            raise InputError(
                f"workloads holds {workload!r}; give method/net/batch, e.g. clser/mlp/32"
            )
    for chunk in config.chunks:
        check_range("chunks", chunk, 1)
    _check_out(check_place(config.out, "out"))
    middle = sorted(config.chunks)[len(config.chunks) // 2]
    pairs = list(itertools.product(config.workloads, config.dtypes))
    torch = config.torch and importlib.util.find_spec("torch") is not None
    twin = {workload: torch and tuple(workload.split("/")[:2]) in TWINS for workload, _ in pairs}
    found = [Cell(*pair, "one", middle, twin[pair[0]]) for pair in pairs]
    if config.seeds > 1:
        kinds = ("vmap", "sequential")
        found += [Cell(*pair, kind, middle) for pair in pairs for kind in kinds]
    others = [chunk for chunk in config.chunks if chunk != middle]
    return found + [Cell(*pair, "one", chunk) for pair in pairs for chunk in others]


def _check_out(out: Path) -> None:
    """Raises InputError where a folder holds something, and no numbers of ours."""
    there = sorted(os.listdir(out)) if out.exists() else []
    if there and not any(re.fullmatch(r"benchmark_.*\.json", name) for name in there):
        raise InputError(
            f"out {out} holds {there[0]!a} and no numbers of benchmark.py, so it is not ours to "
            "write over; give another --out, new or empty"
        )


def measure(cell: Cell, config: Config) -> None:
    """Measures one cell in a process of its own; its file holds the numbers, or the error."""
    command, seconds = cell.command(config), 60 * config.cell_minutes
    env = {**os.environ, "JAX_TRACEBACK_FILTERING": "off"}  # else the last line is advice
    process = subprocess.Popen(
        command,
        env=env,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        _, told = process.communicate(timeout=seconds)
        error = None if process.returncode == 0 else _sentence(told, process.returncode)
    except subprocess.TimeoutExpired:
        error = f"took longer than {config.cell_minutes:g} minutes"
    finally:
        if process.poll() is None:  # with the worker of PyTorch
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
    if error is not None:
        write_json(cell.file(config), {"error": error, "command": ["python", *command[1:]]})


def _sentence(told: str, code: int) -> str:
    """The exception of a traceback, or the last line; in one line."""
    lines = [line for line in told.splitlines() if line.strip()]
    raised = [line for line in lines if re.match(r"(error|[\w.]*[A-Z]\w*): ", line)]
    last = (raised or lines or [""])[-1].removeprefix("error: ")
    return last[:300] or f"ended with code {code} and no word"


def read(cell: Cell, config: Config) -> dict[str, Any] | None:
    """What is known of a cell; None: nothing.

    Raises:
      InputError: if its file is of another width.
    """
    path = cell.file(config)
    if not path.exists():
        return None
    widths = config.width, WIDTH if cell.workload.split("/")[1] == "mlp" else None
    try:
        numbers = read_json(path)
        same = "error" in numbers or (
            numbers["net"]["width"] in widths and numbers["tf32"] == config.tf32
        )
    except (OSError, ValueError, LookupError, TypeError):
        raise InputError(f"{path} is damaged; delete it, and it is measured again") from None
    if not same:
        raise InputError(f"out {config.out} holds {path.name} of other sizes; give another --out")
    return {**numbers, **cell._asdict()}


def table(known: Sequence[Mapping[str, Any]]) -> TextTable:
    """All cells that are known, sorted as they were asked for; failed ones say so."""
    eager = _by_pair(known, "torch_seconds_per_step")
    compiled = _by_pair(known, "torch_compiled_seconds_per_step")
    rows = []
    for n in known:
        pair = n["workload"], n["dtype"]
        seeds = "1" if n["over_seeds"] == "one" else f"{n.get('seeds', '')} {n['over_seeds']}"
        start = (*pair, seeds, str(n["chunk"]))
        if "error" in n:
            rows.append((*start, "failed", *[""] * (len(HEADER) - len(start) - 1)))
            continue
        seconds = n["seconds_per_step"]
        own = n.get("products_fraction", n["convolution_fraction"])
        beside = [f"{seconds / t[pair]:.2f}" if pair in t else "" for t in (eager, compiled)]
        rows.append(
            (
                *start,
                f"{1e3 * seconds:.3g}",
                f"{n['steps_per_second']:,.0f}",
                f"{n['compile_seconds']:.0f}",
                f"{n['peak_bytes'] / 2**20:,.0f}",
                f"{own:.2f}",
                f"{n['matmul_fraction']:.2f}",
                *beside,
            )
        )
    kinds = {n["device"]["kind"] for n in known if "device" in n}
    note = (
        "A step is one seed's. Of ceiling: of the rate of a ResNet-18's 3x3 convolutions, or of "
        "the perceptron's products, alone; of matmul: of large matrix products, both in the "
        "row's dtype. " + " ".join(advice(known))
    )
    return TextTable(f"Speed on {', '.join(sorted(kinds))}", HEADER, tuple(rows), note.rstrip(". "))


def _by_pair(known: Iterable[Mapping[str, Any]], name: str) -> dict[tuple[str, str], float]:
    return {(n["workload"], n["dtype"]): n[name] for n in known if n.get(name) is not None}


class Choice(NamedTuple):
    """Defaults of the plan for one kind of step; None: not measured."""

    over_seeds: Literal["vmap", "sequential"] | None
    seeds_why: str
    chunk: int | None
    chunk_why: str


def suggest(known: Sequence[Mapping[str, Any]]) -> dict[str, Choice]:
    """ "convolutional" and "dense" steps -> the plan's defaults that the numbers speak for.

    Seeds go side by side where that makes more seed-steps a second than one after another, in the
    geometric mean over workloads and dtypes; where it is a draw they go one after another, which
    gives the bits of single runs. The chunk is the shortest that costs nothing in any workload,
    what Python does between two chunks counted in: short ones save, log and stop sooner.

    Args:
      known: numbers of benchmark.py with the fields of Cell; failed ones count for nothing.
    """
    kinds: dict[str, list[Mapping[str, Any]]] = {}
    for n in known:
        if "error" not in n:
            kind = "dense" if n["workload"].split("/")[1] == "mlp" else "convolutional"
            kinds.setdefault(kind, []).append(n)
    return {kind: Choice(*_over_seeds(some), *_chunk(some)) for kind, some in kinds.items()}


def _over_seeds(some: Sequence[Mapping[str, Any]]) -> tuple[str | None, str]:
    by = {(n["workload"], n["dtype"], n["over_seeds"], n["chunk"]): n for n in some}
    gains = []
    for (*pair, over, chunk), n in by.items():
        rival = by.get((*pair, "sequential", chunk), by.get((*pair, "one", chunk)))
        if over == "vmap" and rival is not None:
            gains.append(rival["seconds_per_step"] / n["seconds_per_step"])
    if not gains:
        return None, "not measured"
    mean = math.exp(sum(map(math.log, gains)) / len(gains))
    why = f"vmapped seeds make {min(gains):.2f} to {max(gains):.2f} times the seed-steps a second"
    return ("vmap" if mean > NEAR else "sequential"), why


def _chunk(some: Sequence[Mapping[str, Any]]) -> tuple[int | None, str]:
    lengths: dict[tuple[str, str], dict[int, float]] = {}
    for n in some:
        if n["over_seeds"] == "one":
            seconds = n.get("wall_seconds_per_step") or n["seconds_per_step"]
            lengths.setdefault((n["workload"], n["dtype"]), {})[n["chunk"]] = seconds
    lengths = {pair: times for pair, times in lengths.items() if len(times) > 1}
    if not lengths:
        return None, "not measured"
    good = [
        min(chunk for chunk, seconds in times.items() if seconds <= NEAR * min(times.values()))
        for times in lengths.values()
    ]
    shortest = min(min(times) for times in lengths.values())
    loss = max(
        times[shortest] / min(times.values()) for times in lengths.values() if shortest in times
    )
    return max(good), f"chunks of {shortest} cost up to {loss:.2f} times the fastest's time"


def advice(known: Sequence[Mapping[str, Any]]) -> list[str]:
    """The suggestion in sentences, after what failed."""
    told = []
    for n in known:
        name = f"{n['workload']} {n['dtype']} {n['over_seeds']} chunk {n['chunk']}"
        if "error" in n:
            told.append(f"{name} failed: {n['error'].rstrip('.')}.")
        if n.get("torch_compiled_why_not") is not None:
            told.append(f"{name}: {n['torch_compiled_why_not'].rstrip('.')}.")
    for kind, choice in suggest(known).items():
        over, chunk = choice.over_seeds or "as it is", choice.chunk or "as it is"
        told.append(
            f"Plan for {kind} steps: over_seeds {over} ({choice.seeds_why}); chunk {chunk} "
            f"({choice.chunk_why})."
        )
    return told


def main(config: Config) -> None:
    """Measures what is missing, then prints the table and writes summary.md."""
    config = replace(config, out=os.path.expanduser(config.out))
    asked, start = cells(config), time.monotonic()
    if config.torch and importlib.util.find_spec("torch") is None:
        print("PyTorch is not installed, so its columns stay empty")
    with writing(config.out, "out"):
        Path(config.out).mkdir(parents=True, exist_ok=True)
    late = 0
    for number, cell in enumerate(asked, 1):
        before = read(cell, config)
        if before is not None and not (config.retry and "error" in before):
            continue
        if config.minutes is not None and time.monotonic() - start > 60 * config.minutes:
            late += 1
            continue
        begun = time.monotonic()
        measure(cell, config)
        now = read(cell, config)
        told = now.get("error") or f"{1e3 * now['seconds_per_step']:.4g} ms a step"
        over = "1 seed" if cell.over_seeds == "one" else f"{config.seeds} seeds {cell.over_seeds}"
        print(
            f"{number}/{len(asked)} {cell.workload} {cell.dtype} {over} chunk {cell.chunk}: {told} "
            f"({time.monotonic() - begun:.0f} s)",
            flush=True,
        )
    known = [n for cell in asked if (n := read(cell, config)) is not None]
    sheet = table(known)
    show(rich_table(sheet._replace(note="")))
    print("\n".join(advice(known)))
    if late:
        print(f"{late} cells were not begun in {config.minutes:g} minutes; run it again")
    write_file(Path(config.out) / "summary.md", markdown_page(sheet))
    write_json(Path(config.out) / "table.json", asdict(config))
    print(f"numbers in {config.out}")


if __name__ == "__main__":
    run_main(main, Config, PRESETS, default_preset="gpu", description=__doc__)
