"""What is freed stays: page faults of a process of its own, as its kernel counts them."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
PROGRAM = """
import resource, sys, threading
import numpy as np
from cls_jax.training.runtime.heap import keep_freed_memory
print(keep_freed_memory() if sys.argv[1] == "keep" else "left")
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(3):
        np.ones(48 * 2**20, np.uint8)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
# One thread: a second is given the first's heap or one of its own, as the first has ended or not.
thread = threading.Thread(target=lambda: print((faults(), faults())[-1]))
thread.start()
thread.join()
"""
PAGES = 48 * 2**20 // 4096


def run(word, **environment):
    """(What keep_freed_memory said, page faults of three more arrays of 48 MiB, in a thread)."""
    # NumPy asks for huge pages, which are one fault for two megabytes.
    given = {**os.environ, "PYTHONPATH": str(ROOT), "NUMPY_MADVISE_HUGEPAGE": "0", **environment}
    command = [sys.executable, "-c", PROGRAM, word]
    done = subprocess.run(command, env=given, capture_output=True, text=True, check=True)
    said, faults = done.stdout.split()
    return said, int(faults)


@pytest.mark.skipif(sys.platform != "linux", reason="the allocator is glibc's")
def test_freed_memory_is_used_again():
    if run("keep")[0] == "False":
        pytest.skip("another C library, or an environment that sets the allocator up")
    assert run("leave")[1] > 3 * PAGES * 0.9
    assert run("keep")[1] < PAGES * 0.05


def test_what_the_environment_says_stays():
    assert run("keep", MALLOC_ARENA_MAX="2")[0] == "False"


STEPS = """
import resource, sys
from cls_jax.app.main import begin
from cls_jax.app.run_config import RunConfig
from cls_jax.training.runtime.heap import keep_freed_memory
print(keep_freed_memory())
if sys.argv[1] == "as a run":
    begin(RunConfig(compile_cache=False))
import jax, jax.numpy as jnp
x = jnp.ones((4 * 2**20, 8))
step = jax.jit(lambda x: jnp.cumsum(jnp.sin(x), axis=1)[:, ::3].sum())
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(3):
        step(x).block_until_ready()
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
print(min(faults() for _ in range(4)))  # the heap may grow more than once
"""
TEMPORARIES = 256 * 2**20 // 4096


@pytest.mark.skipif(sys.platform != "linux", reason="the allocator is glibc's")
def test_a_program_finds_its_temporaries_again():
    """Threads that JAX keeps have heaps of their own, which are returned."""

    def faults(how):
        given = {**os.environ, "PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}
        command = [sys.executable, "-c", STEPS, how]
        done = subprocess.run(command, env=given, capture_output=True, text=True, check=True)
        said, number = done.stdout.split()
        if said == "False":
            pytest.skip("another C library, or an environment that sets the allocator up")
        return int(number)

    assert faults("as JAX does") > 3 * TEMPORARIES * 0.9
    assert faults("as a run") < TEMPORARIES * 0.05
