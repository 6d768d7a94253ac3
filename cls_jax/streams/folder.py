"""Sources from a folder of the user's own pictures."""

import os
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import numpy as np

from cls_jax.streams.cache import Store, cache_folder, cached, file_digest
from cls_jax.streams.local import held_out, resize
from cls_jax.streams.stream import Examples, Source
from cls_jax.types import InputError

_FOLDER_SIZE = 32
_THREADS = 8  # more of them wait for the GIL


def load_folder(directory: str, data_dir: str | None = None, size: int | None = None) -> Source:
    """The source in a folder of pictures; see ``sources.load`` for how it must be laid out."""
    size = _FOLDER_SIZE if size is None else size
    root = Path(directory).expanduser().absolute()
    if not root.is_dir():
        raise InputError(f"no folder {root}; folder:DIR needs DIR/train/<class>/ and "
                         "DIR/test/<class>/, or DIR/<class>/")  # fmt: skip
    parts = {child.name for child in _visible(root) if child.is_dir()} & {"train", "test"}
    if len(parts) == 1:
        raise InputError(
            f"folder {root} has {parts.pop()}/ alone; give both train/ and test/, or neither "
            "(then a fifth of each class is held out)"
        )
    if parts:
        train, test = _pictures(root / "train"), _pictures(root / "test")
        if train.keys() != test.keys():
            raise InputError(
                f"folder {root}: classes {sorted(train.keys() ^ test.keys())} are in only one of "
                "train/ and test/; both need the same class folders"
            )
    else:
        classes = _pictures(root)
        train, test = {}, {}
        for name, files in classes.items():
            if len(files) < 2:
                raise InputError(
                    f"folder {root / name} holds one picture; a class needs two at least, "
                    "since a fifth of it is held out for testing"
                )
            mask = held_out(np.zeros(len(files)))
            train[name] = [f for f, out in zip(files, mask, strict=True) if not out]
            test[name] = [f for f, out in zip(files, mask, strict=True) if out]

    both = [file for split in (train, test) for files in split.values() for file in files]

    def make(store: Store) -> Source:
        store.begin(len(both))
        splits = (_decode(*each, size, store) for each in (("train", train), ("test", test)))
        return Source(root.name, *splits, tuple(train))

    stats = ((file.removeprefix(str(root)), os.stat(file)) for file in both)
    digest = file_digest(("folder", root.name, str(root.resolve()), str(size)), stats)
    folder = cache_folder(data_dir) / f"folder-{root.name[:40]}-{digest}"
    return cached(folder, root.name, make)


def _visible(directory: str | os.PathLike) -> list[os.DirEntry]:
    """The entries of a directory by name, without the hidden ones."""
    with os.scandir(directory) as entries:
        return sorted((e for e in entries if not e.name.startswith(".")), key=lambda e: e.name)


def _pictures(directory: Path) -> dict[str, list[str]]:
    """Class name -> its picture files, both by name; every suffix that Pillow knows counts."""
    from PIL import Image

    suffixes = Image.registered_extensions()

    def picture(entry: os.DirEntry) -> bool:
        return os.path.splitext(entry.name)[1].lower() in suffixes and entry.is_file()

    classes = {
        child.name: [entry.path for entry in _visible(child) if picture(entry)]
        for child in _visible(directory)
        if child.is_dir()
    }
    for name, files in classes.items():
        if not files:
            raise InputError(
                f"folder {directory / name} holds no picture; fill it or remove it, since every "
                "sub-folder is a class"
            )
    if len(classes) < 2:
        raise InputError(
            f"folder {directory} has {len(classes)} class folder{'s'[: len(classes) != 1]}; it "
            "needs at least 2, one sub-folder a class with its pictures inside"
        )
    return classes


def _decode(split: str, classes: dict[str, list[str]], size: int, store: Store) -> Examples:
    """Every picture as RGB, resized once; labels number the class folders by name."""
    labels = np.repeat(np.arange(len(classes)), [len(files) for files in classes.values()])
    files = [file for group in classes.values() for file in group]
    x = store.rows(split, len(files), _pixels(files, size))
    return Examples(x, labels.astype(np.int32))


def _pixels(files: list[str], size: int) -> Iterator[np.ndarray]:
    """The pictures in the order of ``files``; a thread a core, since Pillow releases the GIL."""
    threads = min(_THREADS, os.cpu_count() or 1)
    block = max(1, min(64, 2**20 // (3 * size * size)))

    def decode(start: int) -> list[np.ndarray]:
        return [_picture(file, size) for file in files[start : start + block]]

    coming: deque[Future] = deque()
    with ThreadPoolExecutor(threads) as pool:
        for start in range(0, len(files), block):
            coming.append(pool.submit(decode, start))
            if len(coming) > threads:
                yield from coming.popleft().result()
        while coming:
            yield from coming.popleft().result()


def _picture(file: str, size: int) -> np.ndarray:
    """uint8[size, size, 3] of one file."""
    from PIL import Image

    try:
        with Image.open(file) as picture:
            return resize(np.asarray(picture.convert("RGB")), size)
    except Exception as error:  # Pillow's plugins raise whatever they like on a broken file
        raise InputError(
            f"{file} cannot be decoded as a picture ({error}); repair or remove it"
        ) from error
