"""Eight virtual CPU devices, in a process of their own: the suite itself has one."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import QUICKLY

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("flags", "chosen"),
    [(QUICKLY, "not bit_for_bit"), ([], "bit_for_bit")],
    ids=["all else, compiled quickly", "bits, as users compile"],
)
def test_what_must_hold_on_eight_devices(flags, chosen):
    """Runs on_devices.py; NPROC keeps JAX 0.10 from a deadlock of virtual devices on few cores.

    Four fifths of its time were the compiler's, for meshes of 3, 4 and 8 devices. So only what
    flags of the compiler could change, a seed's bits beside other seeds, is compiled as users do.
    """
    environment = {"JAX_NUM_CPU_DEVICES": "8", "NPROC": "64", "XLA_FLAGS": " ".join(flags)}
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-k", chosen]
    done = subprocess.run(
        [*command, "tests/integration/on_devices.py"],
        cwd=ROOT,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    assert " passed" in done.stdout
