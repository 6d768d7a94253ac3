"""Two processes over loopback are one run: equal to one process, and it survives a killed peer."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from cls_jax.app.restore import load
from cls_jax.core.errors import InputError
from cls_jax.training.runtime.checkpoint import fingerprint
from cls_jax.training.runtime.distributed import all_max, cache_programs, initialize, is_primary

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = [
    "experiments/clser_mnist.py", "--tasks", "2", "--epochs", "1", "--chunk", "20",
    "--save-every", "20steps",
]  # fmt: skip


def free_port() -> int:
    """A port that was free a moment ago."""
    with socket.socket() as some:
        some.bind(("127.0.0.1", 0))
        return some.getsockname()[1]


def pair(workdir: Path, *mine: str) -> list[tuple[int, str]]:
    """(exit code, stderr) of two processes; the second may carry a mine, see sabotage.py."""
    port, started = free_port(), []
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    for number in (0, 1):
        sabotage = ["tests/integration/sabotage.py", *mine] if mine and number == 1 else []
        who = ["--coordinator", f"127.0.0.1:{port}", "--num-processes", "2"]
        command = [sys.executable, *sabotage, *SCRIPT, "--workdir", str(workdir), *who]
        command += ["--process-id", str(number)]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        started.append(subprocess.Popen(command, cwd=ROOT, env=environment, **pipes))
    try:
        return [(p.returncode, err) for p in started for _, err in [p.communicate(timeout=400)]]
    finally:
        for process in started:
            process.kill()


@pytest.mark.slow
def test_two_processes_are_one_run_and_survive_a_killed_peer(tmp_path):
    whole = pair(tmp_path / "pair")
    assert [code for code, _ in whole] == [0, 0], whole
    assert "task 2/2" in whole[0][1]
    assert "task 2/2" not in whole[1][1]  # only process 0 reports
    files = {path.name for path in (tmp_path / "pair").iterdir()}
    assert {"results.json", "config.json", "accuracy_matrix.png", "checkpoints"} <= files

    alone = [sys.executable, *SCRIPT, "--workdir", str(tmp_path / "alone")]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    subprocess.run(alone, cwd=ROOT, env=environment, check=True, capture_output=True)
    two, one = load(tmp_path / "pair"), load(tmp_path / "alone")
    assert two.over
    assert one.over
    assert fingerprint(two.state.memory.slots) == fingerprint(one.state.memory.slots)
    # Rounding grows over 144 steps (on_devices.py has the tight comparison, over few steps).
    np.testing.assert_allclose(two.run.matrix, one.run.matrix, atol=0.2)

    began = time.monotonic()
    (code, text), (killed, _) = pair(tmp_path / "mined", "steps", "4", "0.02")
    assert killed == -signal.SIGKILL
    assert code == 1
    assert "error: process 0 of 2 cannot go on without the others" in text
    assert "start all processes again with the same commands" in text
    assert "Traceback" not in text
    assert time.monotonic() - began < 200
    assert not load(tmp_path / "mined").over

    again = pair(tmp_path / "mined")
    assert [code for code, _ in again] == [0, 0], again
    assert "clser goes on from" in again[0][1]
    assert fingerprint(load(tmp_path / "mined").run) == fingerprint(two.run)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ((None, 2, None), "num_processes and process_id need a coordinator"),
        ((None, None, 0), "num_processes and process_id need a coordinator"),
        (("here", 2, 0), "coordinator is 'here'; give HOST:PORT or 'auto'"),
        (("here:", 2, 0), "coordinator is 'here:'"),
        (("here:1", None, 0), "num_processes is None and process_id 0"),
        (("here:1", 2, 2), "num_processes is 2 and process_id 2"),
        (("auto", None, None), "no cluster tells who is in the run"),
    ],
)
def test_processes_that_cannot_find_each_other_are_told(given, message):
    with pytest.raises(InputError, match=message):
        initialize(*given)


def test_alone_there_is_nothing_to_agree_on():
    initialize(None, None, None)
    assert is_primary()
    assert all_max([0.0, 3.0]) == [0.0, 3.0]


def test_a_cache_that_jax_was_told_is_left_alone():
    import jax

    given = jax.config.jax_compilation_cache_dir
    cache_programs()
    assert jax.config.jax_compilation_cache_dir == given


COMPILE = """
import sys
import jax
from cls_jax.training.runtime.distributed import cache_programs
cache_programs()
if len(sys.argv) > 1:
    jax.config.update("jax_compilation_cache_max_size", int(sys.argv[1]))
for k in range(3):
    jax.jit(lambda x, k=k: x * k + 1)(jax.numpy.ones(k + 2))
print(jax.config.jax_compilation_cache_dir, jax.config.jax_compilation_cache_max_size)
"""


def compile_three(home, *size):
    """What a fresh process says that compiles three programs; the folder they are kept in."""
    env = {**os.environ, "XDG_CACHE_HOME": str(home), "PYTHONPATH": str(ROOT)}
    env.pop("JAX_COMPILATION_CACHE_DIR", None)
    done = subprocess.run(
        [sys.executable, "-c", COMPILE, *map(str, size)], env=env, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return home / "cls_jax" / "xla", done


def test_torn_programs_are_replaced_and_the_cache_has_a_bound(tmp_path):
    """JAX itself leaves a program that it cannot read as it is, and warns of it for ever."""
    folder, done = compile_three(tmp_path)
    assert done.stdout == f"{folder} {2 * 2**30}\n"
    first, second, third, *_ = sorted(folder.glob("jit__lambda*-cache"))
    whole = {path.name: path.stat().st_size for path in folder.glob("*-cache")}
    with open(first, "r+b") as file:
        file.truncate(100)
    second.write_bytes(b"")
    third.with_name(third.name.replace("-cache", "-atime")).unlink()  # killed between the two
    _, done = compile_three(tmp_path)
    assert done.stderr == ""
    again = {path.name: path.stat().st_size for path in folder.glob("*-cache")}
    assert again == whole
    for path in folder.glob("jit__lambda*"):
        path.unlink()
    _, done = compile_three(tmp_path, 6000)
    assert "compilation cache" not in done.stderr
    assert sum(path.stat().st_size for path in folder.glob("*-cache")) <= 6000


def test_where_no_program_can_be_kept_it_is_said_and_computed(tmp_path):
    (tmp_path / "file").touch()
    folder, done = compile_three(tmp_path / "file")
    assert done.stdout.startswith("None ")
    assert done.stderr == f"warning: compiled programs are not kept, {folder}: Not a directory\n"
