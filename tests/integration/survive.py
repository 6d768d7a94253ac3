"""Kills a real experiment again and again, resumes it each time, and compares it with a quiet run.

  python tests/integration/survive.py --kills 10 --out FILE.json -- SCRIPT.py ARGUMENTS...

Every number, memory slot and matrix must be equal, bit for bit. ``test_survival.py`` has a short
version for CI; records/ has what the long one gave.
"""

import argparse
import itertools
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[2]
MOMENTS = ("steps", "save", "evaluation", "boundary", "clock")


class Attempt(NamedTuple):
    """One life of the process: how it was to end, and how it did."""

    moment: str
    number: int
    delay: float
    killed: bool
    seconds: float


def start(script: list[str], workdir: Path, *mine: str) -> subprocess.CompletedProcess:
    """The script in a process of its own, with a mine if one is given."""
    sabotage = [str(ROOT / "tests" / "integration" / "sabotage.py"), *mine] if mine else []
    command = [sys.executable, *sabotage, *script, "--workdir", str(workdir)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )


def survive(
    script: list[str], moments: Iterator[tuple[str, int, float]], kills: int, folder: Path
) -> tuple[list[Attempt], list[str]]:
    """What was tried, and what differs in the end.

    A run that ends before its next kill is compared, and another one begun.

    Args:
      script: path and arguments, without a workdir.
      moments: (moment, number, delay) of each kill, see sabotage.py.
      kills: how many.
      folder: for the workdirs.
    """
    quiet, mined, found = folder / "quiet", folder / "mined0", []
    done = start(script, quiet)
    assert done.returncode == 0, done.stderr
    attempts: list[Attempt] = []
    while sum(attempt.killed for attempt in attempts) < kills:
        moment, began = next(moments), time.monotonic()
        done = start(script, mined, *map(str, moment))
        killed = done.returncode == -signal.SIGKILL
        assert killed or done.returncode == 0, done.stderr
        attempts.append(Attempt(*moment, killed, time.monotonic() - began))
        if not killed:
            found += differences(quiet, mined)
            mined = folder / f"mined{len(attempts)}"
    done = start(script, mined)
    assert done.returncode == 0, done.stderr
    return attempts, found + differences(quiet, mined)


def differences(one: Path, other: Path) -> list[str]:
    """Names of everything in which the finished runs of two workdirs differ."""
    code = (
        "import sys, json; from cls_jax.training.runtime.checkpoint import fingerprint; "
        "from cls_jax.app.restore import load_all; "
        "print(json.dumps({f'{t.name} seed {t.seed}': [t.over, fingerprint(t.run)] "
        "for t in load_all(sys.argv[1])}))"
    )
    prints = []
    for workdir in (one, other):
        command = [sys.executable, "-c", code, str(workdir)]
        out = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
        prints.append(json.loads(out))
    found = [name for name in prints[0] if prints[0][name] != prints[1].get(name)]
    found += [f"{name} is not over" for name, (over, _) in prints[1].items() if not over]
    for path in sorted(one.glob("*.csv")):
        twin = other / path.name
        if not twin.exists() or path.read_bytes() != twin.read_bytes():
            found.append(path.name)
    scores = [json.loads((d / "results.json").read_text())["scores"] for d in (one, other)]
    return found + (["results.json"] if scores[0] != scores[1] else [])


def random_moments(seed: int, clock: tuple[float, float]) -> Iterator[tuple[str, int, float]]:
    """Kills of each kind in turn, at random numbers and delays, without end."""
    draw = random.Random(seed)
    for moment in itertools.cycle(MOMENTS):
        delay = draw.uniform(*clock) if moment == "clock" else draw.choice([0, 0.01, 0.05, 0.2])
        yield moment, draw.randint(1, 3), round(delay, 3)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--clock", type=float, nargs=2, default=(8.0, 20.0))
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("script", nargs=argparse.REMAINDER)
    asked = parser.parse_args()
    script = asked.script[1:] if asked.script[:1] == ["--"] else asked.script
    with tempfile.TemporaryDirectory() as folder:
        moments = random_moments(asked.seed, tuple(asked.clock))
        attempts, found = survive(script, moments, asked.kills, Path(folder))
    from cls_jax.training.runtime.provenance import commit

    result = {
        "script": script,
        "commit": commit(),
        "attempts": [attempt._asdict() for attempt in attempts],
        "killed": sum(attempt.killed for attempt in attempts),
        "differences": found,
    }
    asked.out.write_text(json.dumps(result, indent=2) + "\n")
    print(f"{result['killed']} kills; differences: {found or 'none'}")
    sys.exit(bool(found))


if __name__ == "__main__":
    main()
