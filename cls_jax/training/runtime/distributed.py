"""Several processes as one run, on JAX's own runtime; and what every process sets up first."""

import contextlib
import os
import re
import socket
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import jax
import numpy as np
from filelock import FileLock

from cls_jax.core.errors import InputError, SaveFailed
from cls_jax.core.paths import cache_home

WAIT_SECONDS = 60
"""So long a process waits for the others of its run."""
_CACHE_BYTES = 2 * 2**30


def initialize(coordinator: str | None, num_processes: int | None, process_id: int | None) -> None:
    """Makes this process one of several; call it before anything else asks JAX for a device.

    Args:
      coordinator: HOST:PORT of process 0, the same for all; "auto" where the cluster tells (a TPU
        pod slice, SLURM, Open MPI); None: this process is alone.
      num_processes, process_id: how many, and which this is, from 0; "auto" finds them out.

    Raises:
      InputError: for settings that do not fit together, or a cluster that does not tell.
    """
    if coordinator is None:
        if num_processes is not None or process_id is not None:
            raise InputError(
                "num_processes and process_id need a coordinator; give --coordinator HOST:PORT, "
                "the same for every process"
            )
        return
    if coordinator == "auto":
        if num_processes is not None or process_id is not None:
            raise InputError(
                "coordinator is 'auto', which finds out num_processes and process_id; leave them "
                "out, or give --coordinator HOST:PORT"
            )
        try:
            jax.distributed.initialize(initialization_timeout=WAIT_SECONDS)
        except (ValueError, RuntimeError) as error:
            raise InputError(
                f"coordinator is 'auto', but no cluster tells who is in the run ({error}); give "
                "--coordinator HOST:PORT --num-processes N --process-id K"
            ) from error
        return
    host, port = _address(coordinator)
    if num_processes is None or process_id is None or not 0 <= process_id < num_processes:
        raise InputError(
            f"num_processes is {num_processes} and process_id {process_id}; give every process the "
            "same --num-processes N and its own --process-id from 0 to N - 1"
        )
    _check_known(coordinator, host, port)
    if process_id > 0:
        _wait_for(host, port)
    late = threading.Timer(WAIT_SECONDS, _give_up, (coordinator, num_processes))
    late.daemon = True
    late.start()
    try:
        jax.distributed.initialize(
            coordinator, num_processes, process_id, initialization_timeout=2 * WAIT_SECONDS
        )
    finally:
        late.cancel()


def _give_up(coordinator: str, num_processes: int) -> None:
    """Ends this process, from a thread: JAX itself would abort it without an exception."""
    print(
        f"error: coordinator is {coordinator!r}, but the {num_processes} processes did not meet "
        f"there within {WAIT_SECONDS} seconds; start all of them, process 0 on that host",
        file=sys.stderr,
        flush=True,
    )
    os._exit(2)


def _address(coordinator: str) -> tuple[str, int]:
    """Host and port of HOST:PORT.

    Raises:
      InputError: it has no such form.
    """
    host, _, port = coordinator.rpartition(":")
    if not re.fullmatch(r"[\w.-]+|\[[0-9a-fA-F:.]+\]", host) or not re.fullmatch(r"\d{1,5}", port):
        raise InputError(f"coordinator is {coordinator!r}; give HOST:PORT or 'auto'")
    if not 1 <= int(port) <= 65535:
        raise InputError(f"coordinator is {coordinator!r}; a port is a number from 1 to 65535")
    return host.strip("[]"), int(port)


def _check_known(coordinator: str, host: str, port: int) -> None:
    """Raises InputError if no host has that name."""
    try:
        socket.getaddrinfo(host, port)
    except (OSError, UnicodeError) as error:
        raise InputError(
            f"coordinator is {coordinator!r}, but no host has that name ({error}); give HOST:PORT "
            "of process 0"
        ) from error


def _wait_for(host: str, port: int) -> None:
    """Until process 0 listens.

    Raises:
      InputError: nothing answered within WAIT_SECONDS.
    """
    late = time.monotonic() + WAIT_SECONDS
    while True:
        try:
            socket.create_connection((host, port), timeout=5).close()
            return
        except OSError as error:
            if time.monotonic() > late:
                raise InputError(
                    f"coordinator is {host}:{port}, where nothing answered for {WAIT_SECONDS} "
                    f"seconds ({error}); start process 0 there, or give its HOST:PORT"
                ) from error
        time.sleep(0.5)


def is_primary() -> bool:
    """Whether this process writes the reports: process 0 of the run."""
    return jax.process_index() == 0


def all_max(values: Sequence[float]) -> list[float]:
    """The largest of each value over all processes of the run; all of them must ask."""
    if jax.process_count() == 1:
        return list(values)
    from jax.experimental import multihost_utils

    return multihost_utils.process_allgather(np.asarray(values, np.float32)).max(0).tolist()


@contextlib.contextmanager
def fail_fast() -> Iterator[None]:
    """Inside, an error of one of several processes ends it at once, in one sentence.

    Python's own end would wait minutes for processes that are gone. What a process raises for
    itself (bad input, a wish to stop) passes, because then all of them do. Alone, nothing changes.
    """
    try:
        yield
    except (jax.errors.JaxRuntimeError, SaveFailed) as error:
        if jax.process_count() == 1:
            raise
        reason = " ".join(str(error).split())[:160]
        print(
            f"error: process {jax.process_index()} of {jax.process_count()} cannot go on without "
            f"the others ({reason}); what was saved is kept: start all processes again with the "
            "same commands",
            file=sys.stderr,
            flush=True,
        )
        os._exit(1)


def cache_programs() -> None:
    """Keeps compiled programs in the user's cache directory, for later processes.

    That is ``xla`` in ``platformdirs.user_cache_path("cls_jax")``, on Linux ~/.cache/cls_jax/xla;
    a directory that JAX was already told (``JAX_COMPILATION_CACHE_DIR``) is left alone. JAX takes
    out what was not used for longest where it would grow beyond 2 GiB, or beyond
    ``JAX_COMPILATION_CACHE_MAX_SIZE``. It may be deleted at any time.
    """
    if jax.config.jax_compilation_cache_dir is not None:  # pyright: ignore[reportAttributeAccessIssue]
        return
    folder = (cache_home() or Path(os.devnull)) / "xla"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / ".lockfile", timeout=10):  # as JAX calls it
            _drop_torn(folder)
    except (OSError, NotImplementedError) as error:
        why = getattr(error, "strerror", None) or error
        print(f"warning: compiled programs are not kept, {folder}: {why}", file=sys.stderr)
        return
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    if jax.config.jax_compilation_cache_max_size == -1:  # pyright: ignore[reportAttributeAccessIssue]
        jax.config.update("jax_compilation_cache_max_size", _CACHE_BYTES)


def _drop_torn(folder: Path) -> None:
    """Removes the programs of a cache that are not as JAX left them; JAX would never replace them.

    A program is written in place, and then a file beside it that says when. So the second is
    missing where the process was killed or the disk was full meanwhile, and it is older where the
    program was cut short afterwards.
    """
    for program in folder.glob("*-cache"):
        beside = program.with_name(program.name.removesuffix("-cache") + "-atime")
        try:
            written, stamp = program.stat(), beside.stat()
            whole = (
                written.st_size and stamp.st_size == 8 and written.st_mtime_ns <= stamp.st_mtime_ns
            )
        except FileNotFoundError:
            whole = False
        if not whole:
            program.unlink()
            beside.unlink(missing_ok=True)
