"""The cells of a table: which they are, each measured in a process of its own, and read again."""

import importlib.util
import itertools
import os
import re
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

from cls_jax.app.benchmark.workload import TWINS, WIDTH
from cls_jax.core.checks import check_range
from cls_jax.core.errors import InputError
from cls_jax.core.files import read_json, write_json
from cls_jax.core.paths import check_place
from cls_jax.methods import METHODS, signature


@dataclass(frozen=True)
class Config:
    """What is measured, and how long.

    Attributes:
      out: folder for the numbers; one that holds some is gone on with.
      workloads: method/net/batch, each; methods with a memory replay as many as arrive.
      dtypes: each workload in each.
      seeds: so many vmapped and so many one after another, beside a single one; 1: only that.
      chunks: lengths tried with one seed; seeds and PyTorch are compared at the middle one.
      mode: as in run.py; "scan" is what an accelerator does.
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
    """One process of run.py; ``over_seeds`` is "one" for a single seed."""

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
        if method != "dualnet" and "replay_size" in signature(method).arguments:
            flags["replay-size"] = batch
        if self.over_seeds != "one":
            flags |= {"seeds": config.seeds, "over-seeds": self.over_seeds}
        switches = [] if config.tf32 else ["--no-tf32"]
        if self.torch:
            switches += ["--torch", *(["--torch-compile"] if config.torch_compile else [])]
        script = os.path.relpath(Path(__file__).with_name("run.py"))
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
            f"out {out} holds {there[0]!a} and no numbers of run.py, so it is not ours to "
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
