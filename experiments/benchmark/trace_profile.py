#!/usr/bin/env python
"""Which operations took the time in a trace that --profile DIR wrote, e.g. of clser_mnist.py.

XLA's operations by total time; loops and calls, which contain others, are left out. On a CPU they
run on several threads, whose times add up.
"""

import gzip
import json
import re
import zlib
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from cls_jax.app.flags import Positional, arg, run_main
from cls_jax.core.errors import InputError
from cls_jax.core.paths import user_path
from cls_jax.report.tables import TextTable, rich_table, show


@dataclass(frozen=True)
class Config:
    """Which trace, and how many rows.

    Attributes:
      trace: the folder given to --profile.
      top: so many operations.
    """

    trace: Annotated[Positional[str], arg(metavar="DIR", help_behavior_hint="")] = "."
    top: int = 15


def operations(trace: Path) -> dict[str, tuple[float, int]]:
    """Operation -> (milliseconds in all, how often it ran), in the newest trace of a folder.

    Raises:
      InputError: if there is none, or it names no operation.
    """
    files = sorted(trace.rglob("*.trace.json.gz"), key=lambda path: path.stat().st_mtime)
    if not files:
        raise InputError(f"no *.trace.json.gz in {trace}; give the folder of --profile")
    try:
        with gzip.open(files[-1]) as file:
            events = json.load(file)["traceEvents"]
    except (OSError, EOFError, zlib.error, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{files[-1]} is no trace of JAX ({error}); write it anew") from error
    meta = {(e["pid"], e.get("tid"), e["name"]): e["args"] for e in events if e.get("ph") == "M"}
    named = {place: args["name"] for place, args in meta.items() if place[2].endswith("_name")}
    devices = {pid for (pid, _, _), name in named.items() if name.startswith("/device:")}
    whole = {pid for (pid, _, _), name in named.items() if name == "XLA Ops"}
    found: dict[str, list[float]] = defaultdict(list)
    for event in events:
        if event.get("ph") != "X" or (devices and event["pid"] not in devices):
            continue
        pid, args = event["pid"], event.get("args", {})
        thread = named.get((pid, event.get("tid"), "thread_name"), "")
        # A device that lists its operations in a thread of their own has them in others once more.
        wanted = "hlo_op" in args or thread.startswith("Stream")
        name = args.get("hlo_op", event["name"])
        if pid in whole:
            wanted = thread == "XLA Ops"
        if wanted and not re.match(r"(while|call|conditional)\b", name):
            found[name].append(event["dur"] / 1e3)
    if not found:
        raise InputError(f"{files[-1]} names no operation of XLA; was anything computed?")
    return {name: (sum(times), len(times)) for name, times in found.items()}


def main(config: Config) -> None:
    """Prints the table."""
    if config.top < 1:
        raise InputError(f"top is {config.top}; give at least 1")
    found = operations(user_path(config.trace, "trace"))
    total = sum(ms for ms, _ in found.values())
    ranked = sorted(found.items(), key=lambda item: -item[1][0])[: config.top]
    rows = [(name, f"{ms:.3f}", str(n), f"{100 * ms / total:.1f}") for name, (ms, n) in ranked]
    header = ("operation", "ms in all", "runs", "% of all")
    show(
        rich_table(
            TextTable(config.trace, header, tuple(rows), f"{total:.3f} ms in all operations")
        )
    )


if __name__ == "__main__":
    run_main(main, Config, {"default": Config()}, default_preset="default", description=__doc__)
