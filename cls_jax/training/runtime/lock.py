"""One process at a time in a folder; a process that was killed lets go."""

import contextlib
import errno
import os
import secrets
import stat
import sys
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from cls_jax.core.errors import InputError
from cls_jax.core.paths import check_no_links, writing

LOCK, OWNER = ".lock", ".lock.pid"
"""What is locked, and the number of the process that has it, which is gone again with the lock."""
_WITHOUT_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL)  # network drives


@contextlib.contextmanager
def locked(workdir: str | Path, wait: float = 0) -> Iterator[None]:
    """Inside, no other process can be in here with the same folder; a killed one lets go.

    Args:
      workdir: a folder that is there.
      wait: seconds in which another process may leave it; -1: for ever.

    Raises:
      InputError: another process is, or the lock is a link, which would lead out of the folder.
    """
    folder = Path(workdir)
    check_no_links(folder, LOCK)
    lock = FileLock(folder / LOCK, timeout=wait)
    with writing(folder), contextlib.ExitStack() as stack:
        try:
            stack.enter_context(lock)
        except Timeout:
            raise InputError(
                f"workdir {folder} is in use by process {_owner(folder)}; wait for it, or give "
                "another --workdir"
            ) from None
        except (OSError, NotImplementedError) as error:
            if getattr(error, "errno", errno.ENOSYS) not in _WITHOUT_LOCKS:
                raise
            print(f"warning: {folder} cannot be locked; let one process use it", file=sys.stderr)
        _write_owner(folder)
        held = stack.pop_all()
    with held:
        try:
            yield
        finally:
            with contextlib.suppress(OSError):
                (folder / OWNER).unlink()


@contextlib.contextmanager
def signed_in(folder: str | Path) -> Iterator[str]:
    """A name of this process, by which ``is_gone`` tells other processes that it was killed."""
    name = f"worker_{os.getpid()}_{secrets.token_hex(8)}"
    path = Path(folder) / name
    lock = FileLock(path, timeout=0)
    with writing(folder):
        lock.acquire()
    try:
        yield name
    finally:
        path.unlink(missing_ok=True)
        lock.release()


def is_gone(folder: str | Path, name: str) -> bool:
    """Whether the process of that name had signed in in this folder and was killed.

    One that left by itself, or that signs in elsewhere, is not known here: False.
    """
    path = Path(folder) / name
    if Path(name).name != name or not _is_file(path):  # a shared study may hold a stranger's words
        return False
    try:
        with FileLock(path, timeout=0):
            return True
    except Timeout:
        return False


def _is_file(path: Path) -> bool:
    return path.exists() and stat.S_ISREG(path.lstat().st_mode)


def _write_owner(folder: Path) -> None:
    """Through no link that lies there, and no other process' file."""
    (folder / OWNER).unlink(missing_ok=True)
    number = os.open(folder / OWNER, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
    try:
        os.write(number, str(os.getpid()).encode())
    finally:
        os.close(number)


def _owner(folder: Path) -> str:
    with contextlib.suppress(OSError, ValueError):
        if _is_file(folder / OWNER):
            with open(folder / OWNER, encoding="ascii") as file:
                return str(int(file.read(20)))
    return "unknown"
