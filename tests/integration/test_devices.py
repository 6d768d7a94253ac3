"""Eight virtual CPU devices, in a process of their own: the suite itself has one."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.slow
def test_what_must_hold_on_eight_devices():
    """Runs on_devices.py; NPROC keeps JAX 0.10 from a deadlock of virtual devices on few cores.

    Compiled as users compile it: with the quick part's flags a seed a device differs in rounding
    from its single run.
    """
    environment = {**os.environ, "JAX_NUM_CPU_DEVICES": "8", "NPROC": "64", "XLA_FLAGS": ""}
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-p",
        "no:cacheprovider",
        "tests/integration/on_devices.py",
    ]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    assert " passed" in done.stdout
