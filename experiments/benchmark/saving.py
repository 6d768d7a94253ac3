#!/usr/bin/env python
"""What saving costs a script's run, and how soon it starts: at first, again, and resumed.

E.g. saving.py --json saving.json -- experiments/dualnet_cifar.py --seeds 0

Four processes run the script: with an empty cache of programs until its first chunk is done; again,
with the programs of the first; to its end; and killed after its first save, then resumed. Seconds
are wall time of a whole process from its start.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

BEGAN = time.time()
ROOT = Path(__file__).resolve().parents[2]


def child(out: Path, until: str, script: list[str]) -> None:
    """Runs the script here, notes when what was done, and ends it: after the "first" chunk, by
    SIGKILL after the first save ("killed"), or not ("end").
    """
    import runpy

    import jax

    from cls_jax.app import main as execution
    from cls_jax.training.runtime.checkpoint import Checkpoints

    notes = {"imports": time.time() - BEGAN, "compile": 0.0, "keeping": 0.0, "saves": 0}
    several = execution.several

    def compiled(event: str, seconds: float, **_: object) -> None:
        notes["compile"] += seconds if event.startswith("/jax/core/compile") else 0.0

    def watched(*observers):
        tell = several(*observers)

        def observe(event) -> None:
            if hasattr(event, "metrics") and "first" not in notes:
                notes["first"] = time.time() - BEGAN
                notes["first_compile"] = notes["compile"]
                if until == "first":
                    write()
                    os._exit(0)
            tell(event)

        return observe

    def timed(name: str):
        plain = getattr(Checkpoints, name)

        def call(*given):
            start = time.perf_counter()
            try:
                return plain(*given)
            finally:
                notes["keeping"] += time.perf_counter() - start

        return call

    save = Checkpoints._save

    def counted(*given) -> None:
        save(*given)
        notes["saves"] += 1
        if until == "killed":
            given[0].close()
            os.kill(os.getpid(), signal.SIGKILL)

    def write() -> None:
        notes["total"], notes["cpu"] = time.time() - BEGAN, time.process_time()
        out.write_text(json.dumps(notes))

    jax.monitoring.register_event_duration_secs_listener(compiled)
    execution.several = watched
    Checkpoints.maybe_save, Checkpoints.restore = timed("maybe_save"), timed("restore")
    Checkpoints._save = counted
    sys.argv = script
    runpy.run_path(script[0], run_name="__main__")
    write()


def life(folder: Path, until: str, script: list[str], workdir: str) -> dict[str, float]:
    """One process of the script, and what it noted."""
    out = folder / "notes.json"
    out.unlink(missing_ok=True)
    command = [sys.executable, __file__, "--child", str(out), until, "--", *script]
    environment = {**os.environ, "XDG_CACHE_HOME": str(folder), "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [*command, "--workdir", str(folder / workdir)],
        env=environment, cwd=ROOT, capture_output=True, text=True,
    )  # fmt: skip
    if done.returncode not in (0, -signal.SIGKILL):
        raise SystemExit(done.stderr)
    return json.loads(out.read_text()) if out.exists() else {}


def measure(script: list[str]) -> dict[str, object]:
    """All lives, and the numbers that the README quotes."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        cold = life(folder, "first", script, "a")
        warm = life(folder, "first", script, "b")
        whole = life(folder, "end", script, "c")
        life(folder, "killed", [*script, "--save-every", "1steps"], "d")
        resumed = life(folder, "first", script, "d")
    apart = resumed["first"] - resumed["imports"] - resumed["first_compile"]
    return {
        "cold_first_chunk_seconds": cold["first"],
        "warm_first_chunk_seconds": warm["first"],
        "warm_start_is_faster": cold["first"] / warm["first"],
        "whole_run_seconds": whole["total"],
        "saves": whole["saves"],
        "saving_seconds": whole["keeping"],
        "saving_fraction": whole["keeping"] / whole["total"],
        "resumed_first_chunk_seconds": resumed["first"],
        "resumed_imports_seconds": resumed["imports"],
        "resumed_compile_and_trace_seconds": resumed["first_compile"],
        "resumed_apart_from_these_seconds": apart,
    }


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json")
    parser.add_argument("--child", nargs=2, metavar=("FILE", "UNTIL"))
    parser.add_argument("script", nargs=argparse.REMAINDER)
    parsed = parser.parse_args()
    script = parsed.script[1:] if parsed.script[:1] == ["--"] else parsed.script
    if parsed.child:
        child(Path(parsed.child[0]), parsed.child[1], script)
        return
    from cls_jax.core.errors import InputError
    from cls_jax.core.files import write_json
    from cls_jax.core.paths import check_file
    from cls_jax.training.runtime.provenance import provenance

    try:
        if parsed.json is not None:
            check_file(parsed.json, "json")
        if not script or not Path(script[0]).is_file():
            named = script[0] if script else "missing"
            raise InputError(f"the script is {named}; give a file after --, and its flags")
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    numbers = measure(script)
    print("\n".join(f"{name} {value:.4g}" for name, value in numbers.items()))
    if parsed.json is not None:
        write_json(Path(parsed.json), {"script": script, **numbers, **provenance()})


if __name__ == "__main__":
    main()
