"""Sources from a folder of the user's own pictures."""

import os
import sys
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import numpy as np

from cls_jax.core.errors import InputError
from cls_jax.data.cache import Store, cache_folder, cached, file_digest
from cls_jax.data.dataset import Dataset, Split
from cls_jax.data.layout import Classes, find_pictures
from cls_jax.data.listing import check_name, unreadable
from cls_jax.data.pictures import only_pixels, printable, read_picture

_FOLDER_SIZE = 32
_THREADS = 8  # more of them wait for the GIL


def load_folder(directory: str, data_dir: str | None = None, size: int | None = None) -> Dataset:
    """The source in a folder of pictures; see ``load.load`` for how it must be laid out."""
    size = _FOLDER_SIZE if size is None else size
    root = _root(directory)
    train, test, said = find_pictures(root)
    for line in said:
        print(line, file=sys.stderr)
    both = [file for split in (train, test) for files in split.values() for file in files]

    def make(store: Store) -> Dataset:
        store.begin(len(both))
        several: list[str] = []
        with only_pixels():
            learned, held = (
                _decode(name, classes, size, store, several)
                for name, classes in (("train", train), ("test", test))
            )
        if several:
            store.close()
            print(f"folder {root}: {len(several)} of {len(both)} pictures hold several frames or "
                  f"pages, e.g. {printable(min(several))}; the first is read",
                  file=sys.stderr)  # fmt: skip
        return Dataset(root.name, learned, held, tuple(train))

    stats = ((file.removeprefix(str(root)), _stat(file)) for file in both)
    numbers = (f"{name}/{len(train[name])}/{len(test[name])}" for name in train)
    parts = ("folder", root.name, str(root.resolve()), str(size), *numbers)
    digest = file_digest(parts, stats)
    folder = cache_folder(data_dir) / f"folder-{root.name[:40]}-{digest}"
    return cached(folder, root.name, make)


def _root(directory: str) -> Path:
    """The folder's absolute path, and that it is one."""
    wanted = "folder:DIR needs DIR/train/<class>/ and DIR/test/<class>/, or DIR/<class>/"
    try:
        root = Path(directory).expanduser().absolute()
        there = root.is_dir()
    except (OSError, ValueError, RuntimeError) as error:  # too long; no such user's home
        why = getattr(error, "strerror", None) or error
        raise InputError(f"no folder {printable(directory)} ({why}); {wanted}") from error
    if not there:
        raise InputError(f"no folder {printable(str(root))}; {wanted}")
    check_name(str(root), root)
    return root


def _stat(file: str) -> os.stat_result:
    try:
        return os.stat(file)
    except OSError as error:
        raise unreadable(error, file) from error


def _decode(split: str, classes: Classes, size: int, store: Store, several: list[str]) -> Split:
    """Every picture as RGB, resized once; labels number the class folders by name.

    ``several`` is given the files that hold several pictures.
    """
    labels = np.repeat(np.arange(len(classes)), [len(files) for files in classes.values()])
    files = [file for group in classes.values() for file in group]
    x = store.rows(split, len(files), _pixels(files, size, several))
    return Split(x, labels.astype(np.int32))


def _pixels(files: list[str], size: int, several: list[str]) -> Iterator[np.ndarray]:
    """The pictures in the order of ``files``; a thread a core, since Pillow releases the GIL."""
    threads = min(_THREADS, os.cpu_count() or 1)
    block = max(1, min(64, 2**20 // (3 * size * size)))

    def decode(start: int) -> list[np.ndarray]:
        rows = []
        for file in files[start : start + block]:
            row, more = read_picture(file, size)
            rows.append(row)
            if more:
                several.append(file)
        return rows

    coming: deque[Future] = deque()
    with ThreadPoolExecutor(threads) as pool:
        for start in range(0, len(files), block):
            coming.append(pool.submit(decode, start))
            if len(coming) > threads:
                yield from coming.popleft().result()
        while coming:
            yield from coming.popleft().result()
