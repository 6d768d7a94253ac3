"""Who was killed: told by a lock that dies with its process."""

import subprocess
import sys
from pathlib import Path

from cls_jax.training.runtime.lock import is_gone, signed_in

ROOT = Path(__file__).resolve().parents[3]
WAITS = """
import sys
from cls_jax.training.runtime.lock import signed_in
with signed_in(sys.argv[1]) as name:
    print(name, flush=True)
    sys.stdin.read()
"""


def test_a_killed_process_is_gone_and_one_that_left_is_not_known(tmp_path):
    command = [sys.executable, "-c", WAITS, str(tmp_path)]
    streams = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, cwd=ROOT, **streams) as other:
        name = other.stdout.readline().strip()
        assert not is_gone(tmp_path, name)
        other.kill()
        other.wait()
    assert is_gone(tmp_path, name)
    with signed_in(tmp_path) as mine:
        assert not is_gone(tmp_path, mine)
    assert not is_gone(tmp_path, mine)
    assert not is_gone(tmp_path, f"../{tmp_path.name}/{name}")  # no path of a stranger's study
