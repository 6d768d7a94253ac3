#!/usr/bin/env python
"""A table of run.py over workloads, dtypes, seeds and chunk lengths, and what to set by it.

Every cell is a process of its own, one after another, and leaves a JSON file in --out. A cell that
is there is not measured again, so the same command goes on where a lease ended or --minutes ran
out; one that failed is recorded with its error, stops no other, and is tried again with --retry.
The first cell of a workload and dtype also times PyTorch; the others are set beside that. Last come
the defaults of the plan that the numbers speak for; the whole is summary.md in --out.

--preset gpu: ResNet-18 of width 64, batches of 32 and 128, for an accelerator.
--preset toy: seconds a cell on a CPU, to see that it works.
"""

import importlib.util
import os
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from cells import PRESETS, Config, cells, measure, read
from suggest import advice

from cls_jax.app.flags import run_main
from cls_jax.core.files import write_file, write_json
from cls_jax.core.paths import writing
from cls_jax.report.tables import TextTable, markdown_page, rich_table, show

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


def main(config: Config) -> None:
    """Measures what is missing, then prints the table and writes summary.md."""
    config = replace(config, out=os.path.expanduser(config.out))
    wanted, start = cells(config), time.monotonic()
    if config.torch and importlib.util.find_spec("torch") is None:
        print("PyTorch is not installed, so its columns stay empty")
    with writing(config.out, "out"):
        Path(config.out).mkdir(parents=True, exist_ok=True)
    late = 0
    for number, cell in enumerate(wanted, 1):
        before = read(cell, config)
        if before is not None and not (config.retry and "error" in before):
            continue
        if config.minutes is not None and time.monotonic() - start > 60 * config.minutes:
            late += 1
            continue
        begun = time.monotonic()
        measure(cell, config)
        now = read(cell, config)
        said = now.get("error") or f"{1e3 * now['seconds_per_step']:.4g} ms a step"
        over = "1 seed" if cell.over_seeds == "one" else f"{config.seeds} seeds {cell.over_seeds}"
        print(
            f"{number}/{len(wanted)} {cell.workload} {cell.dtype} {over} chunk {cell.chunk}: "
            f"{said} ({time.monotonic() - begun:.0f} s)",
            flush=True,
        )
    known = [n for cell in wanted if (n := read(cell, config)) is not None]
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
