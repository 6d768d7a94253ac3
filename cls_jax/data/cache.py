"""What was decoded once, kept as a folder of .npy files that are mapped: no set is too large.

A cache holds ``train_x.npy``, ``train_y.npy``, ``test_x.npy``, ``test_y.npy`` and ``about.json``
(the name, the labels' names and the checksums of the four arrays). It is made aside and moved in
place by one rename: whoever looks sees all of it or nothing, and of two processes the first one
wins. One whose bytes are not those that were written is made anew. It may be deleted at any time.

Pixels are appended to their file rather than written through a map: a full disk is then an error
and not the end of the process (SIGBUS), and what was written never counts as its memory.
"""

import contextlib
import errno
import hashlib
import json
import os
import shutil
import sys
import time
import uuid
import zlib
from collections.abc import Callable, Iterable, Iterator
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from cls_jax.core.errors import InputError
from cls_jax.core.files import read_json
from cls_jax.core.paths import cache_home
from cls_jax.data.dataset import Dataset, Split

if TYPE_CHECKING:
    from rich.progress import Progress

_SPLITS = ("train", "test")
_FULL = (errno.ENOSPC, errno.EDQUOT)
_ABANDONED = 3600.0  # seconds without a write, after which what a killed process left is removed
_TOLD_EVERY = 64  # pictures between two movements of the bar


def file_digest(parts: Iterable[str], files: Iterable[tuple[str, os.stat_result]]) -> str:
    """16 hex digits that change when a file is renamed, replaced or rewritten, or a part changes.

    The contents are not read, which is too slow where they are many: name, length, the times of
    the last modification and change, and the inode stand for them. The time of change tells of a
    file that was given the length and the modification time of the one before, since no user can
    set it (on Windows, where it is the time of creation, such a file is told if it was replaced).
    """
    digest = hashlib.blake2b(os.fsencode("\0".join(parts)), digest_size=8)
    for name, stat in files:
        about = (stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino)
        digest.update(os.fsencode("\0".join(map(str, (f"\n{name}", *about)))))
    return digest.hexdigest()


def cache_folder(data_dir: str | os.PathLike | None) -> Path:
    """Where caches lie: ``data_dir/.cls_jax``, or the user's own place where that is None.

    That is ``data`` in ``platformdirs.user_cache_path("cls_jax")``: on Linux
    ``$XDG_CACHE_HOME/cls_jax``, or ``~/.cache/cls_jax`` where the variable holds no absolute path.
    """
    if data_dir is not None:
        return Path(os.path.expanduser(data_dir)) / ".cls_jax"
    return (cache_home() or Path(os.devnull)) / "data"  # no home at all: nothing can be kept


class Store:
    """Where the pictures of a set go while it is decoded, and who tells the user of it."""

    def __init__(self, folder: Path | None, name: str, remark: str = "") -> None:
        """Files in ``folder``, or memory where it is None; ``remark`` ends the line told."""
        self._folder, self._name, self._remark = folder, name, remark
        self._bar: Progress | None = None

    def begin(self, total: int) -> None:
        """Tells that ``total`` pictures are coming: a bar on a terminal, elsewhere one line."""
        terminal = sys.stderr.isatty()
        if self._folder is None or not terminal:
            print(f"preparing {self._name}: {total} pictures, {self._remark}", file=sys.stderr)
        if terminal:
            self._bar = _bar()
            self._task = self._bar.add_task(f"preparing {self._name}", total=total)
            self._bar.start()

    def close(self) -> None:
        """Takes the bar away."""
        if self._bar is not None:
            self._bar.stop()

    def rows(self, split: str, count: int, rows: Iterable[np.ndarray]) -> np.ndarray:
        """The pictures of a split, which come one by one, as one array [count, ...].

        Args:
          split: "train" or "test".
          count: how many ``rows`` gives, at least one.
          rows: uint8[h, w, c], all of one shape.

        Returns:
          A read-only map of the file that they went into, or an array in memory.

        Raises:
          InputError: where the disk is full or fails.
        """
        return self._put(split, count, self._with_progress(rows))

    def reordered(self, split: str, x: np.ndarray, order: np.ndarray) -> np.ndarray:
        """``x[order]``, which takes the place of the ``x`` that ``rows`` gave for this split."""
        return self._put(split, len(x), (x[i] for i in order))

    def finish(self, source: Dataset) -> None:
        """Puts labels and names beside the pictures; raises InputError as ``rows`` does."""
        assert self._folder is not None
        with self._writing():
            for split, examples in zip(_SPLITS, (source.train, source.test), strict=True):
                np.save(self._folder / f"{split}_y.npy", examples.y)
            about = {"name": source.name, "label_names": source.label_names}
            about["checksums"] = [_checksum(a) for e in (source.train, source.test) for a in e]
            (self._folder / "about.json").write_text(json.dumps(about))

    def _with_progress(self, rows: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
        number = 0
        for number, row in enumerate(rows, 1):
            yield row
            if self._bar is not None and number % _TOLD_EVERY == 0:
                self._bar.advance(self._task, _TOLD_EVERY)
        if self._bar is not None:
            self._bar.advance(self._task, number % _TOLD_EVERY)

    def _put(self, split: str, count: int, rows: Iterator[np.ndarray]) -> np.ndarray:
        first = next(rows)
        numbered = zip(range(count), chain([first], rows), strict=True)
        if self._folder is None:
            x = np.empty((count, *first.shape), first.dtype)
            for i, row in numbered:
                x[i] = row
            return x
        path = self._folder / f"{split}_x.npy"
        part = path.with_suffix(".part")
        header = {"descr": first.dtype.str, "fortran_order": False, "shape": (count, *first.shape)}
        with contextlib.ExitStack() as stack:
            with self._writing():
                file = stack.enter_context(open(part, "wb", buffering=0))
                np.lib.format.write_array_header_1_0(file, header)
            for _, row in numbered:
                rest = np.ascontiguousarray(row).data.cast("B")
                with self._writing():
                    while rest:  # a disk about to be full takes a part
                        rest = rest[file.write(rest) :]
            with self._writing():
                os.fsync(file.fileno())
        with self._writing():
            os.replace(part, path)
            return np.load(path, mmap_mode="r")

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        """Tells what the file system refuses; reading has sentences of its own."""
        assert self._folder is not None
        try:
            yield
        except OSError as error:
            raise _unwritten(self._name, self._folder.parent, error) from error


def _unwritten(name: str, folder: Path, error: OSError) -> InputError:
    return InputError(
        f"the decoded pictures of {name} cannot be kept in {folder} ({error.strerror or error}); "
        "free space there, or give data_dir (--data-dir), or without it XDG_CACHE_HOME, another "
        "directory"
    )


def _bar() -> "Progress":
    from rich import progress
    from rich.console import Console

    return progress.Progress(
        progress.TextColumn("{task.description}", markup=False),
        progress.BarColumn(),
        progress.MofNCompleteColumn(),
        progress.TimeRemainingColumn(),
        console=Console(stderr=True),
        refresh_per_second=4,
        transient=True,
    )


def cached(path: Path, name: str, make: Callable[[Store], Dataset]) -> Dataset:
    """The source stored at ``path``, or else what ``make`` decodes, which is then stored there.

    Args:
      path: the cache's own folder, named after a ``file_digest``; a damaged one is made anew.
      name: of the set, for what is told.
      make: decodes the set into the Store that it is given, and says what it holds.

    Returns:
      x: read-only maps of uint8[n, h, w, c]; y: int32[n] in memory. Where nothing can be written
      ``x`` is in memory too, which one line on stderr tells.

    Raises:
      InputError: where the disk is full or fails; nothing is left behind.
    """
    if (source := _read(path)) is not None:
        return source
    above = (path.parent, *path.parent.parents)
    made = [folder for folder in above if not os.path.lexists(folder)]
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _sweep(path.parent)
        aside = path.with_name(f".{uuid.uuid4().hex}.tmp")
        aside.mkdir()
    except OSError as error:
        if error.errno in _FULL:
            raise _unwritten(name, path.parent, error) from error
        remark = (
            f"into memory, since {path.parent} cannot be written ({error.strerror or error}); give "
            "data_dir (--data-dir), or without it XDG_CACHE_HOME, a directory to keep them"
        )
        with contextlib.closing(Store(None, name, remark)) as store:
            return make(store)
    try:
        with contextlib.closing(Store(aside, name, f"once, into {path}")) as store:
            source = make(store)
            store.finish(source)
        try:
            _move(aside, path)
        except OSError as error:
            raise _unwritten(name, path.parent, error) from error
    finally:
        _remove(aside)
        with contextlib.suppress(OSError):  # what was made for nothing goes; a cache stays
            for folder in made:
                folder.rmdir()
    return _read(path) or source


def _read(path: Path) -> Dataset | None:
    """The source in a cache, its pixels mapped; None where there is none, or a damaged one."""
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError, EOFError, RecursionError):
        about = read_json(path / "about.json")
        train, test = (
            Split(np.load(path / f"{s}_x.npy", mmap_mode="r"), np.load(path / f"{s}_y.npy"))
            for s in _SPLITS
        )
        arrays = [*train, *test]
        if [_checksum(array) for array in arrays] == about["checksums"]:
            return Dataset(about["name"], train, test, tuple(about["label_names"]))
    return None


def _checksum(array: np.ndarray) -> int:
    """CRC-32 of an array's shape, dtype and bytes; reads a map from its beginning to its end."""
    crc = zlib.crc32(f"{array.dtype.str}{array.shape}".encode())
    return zlib.crc32(np.ascontiguousarray(array).data, crc)


def _move(aside: Path, path: Path) -> None:
    """Puts a finished cache in place, unless another process has, or instead of a damaged one."""
    try:
        os.rename(aside, path)
    except OSError:
        if _read(path) is None:
            damaged = path.with_name(f".{uuid.uuid4().hex}.tmp")
            os.rename(path, damaged)
            os.rename(aside, path)
            _remove(damaged)


def _sweep(folder: Path) -> None:
    """Removes what processes left in ``folder`` that were killed while they prepared a set."""
    for left in folder.glob(".*.tmp"):
        with contextlib.suppress(OSError):
            touched = max(f.stat().st_mtime for f in (left, *left.glob("*")))
            if time.time() - touched > _ABANDONED:
                _remove(left)


def _remove(path: Path) -> None:
    shutil.rmtree(path, ignore_errors=True)
    with contextlib.suppress(OSError):
        path.unlink()
