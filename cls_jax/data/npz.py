"""Sources from the user's own files: an .npz of arrays.

The archive is a stranger's: what it declares is compared with what it holds, and with the memory
there is, before an array is made; no Python object in it is ever loaded.
"""

import io
import math
import os
import stat
import zipfile
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import numpy as np

from cls_jax.core.errors import InputError
from cls_jax.core.host_memory import check_bytes
from cls_jax.data.checked import check_alike, examples
from cls_jax.data.dataset import Dataset, Split
from cls_jax.data.local import resize

NPZ_KEYS = (
    ("train_x", "train_y", "test_x", "test_y"),
    ("x_train", "y_train", "x_test", "y_test"),
    ("train_images", "train_labels", "test_images", "test_labels"),
)
_PREFIX = 1 << 16  # bytes; NumPy refuses a header of more than 10,000
_WRITE = "write it with np.savez(file, train_x=..., train_y=..., test_x=..., test_y=...)"


class _Declared(NamedTuple):
    """What the header of one array says, found to agree with the archive's table."""

    key: str
    member: zipfile.ZipInfo
    num_bytes: int


def load_npz(file: str, size: int | None = None) -> Dataset:
    """The source in a NumPy archive ``file``; see ``load.load`` for what it must hold."""
    path = _regular(file)
    try:
        with zipfile.ZipFile(path) as archive:
            keys = _keys(path, archive)
            every = [_declared(path, key, archive) for key in keys]
            needed = sum(one.num_bytes for one in every)
            check_bytes(f"{path}, unpacked,", needed, "leave examples out, or use a folder:DIR")
            arrays = [_array(path, one, archive) for one in every]
    except InputError:
        raise
    except MemoryError:
        raise InputError(f"{path} does not fit into memory; leave examples out") from None
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror or error})") from error
    except Exception as error:  # zipfile raises whatever it likes on a broken table
        raise InputError(
            f"{path} is a zip archive with a damaged table of contents; copy it again, or {_WRITE}"
        ) from error
    splits = [
        examples(str(path), pair, *each)
        for pair, each in ((keys[:2], arrays[:2]), (keys[2:], arrays[2:]))
    ]
    for key, split in zip(keys[::2], splits, strict=True):
        if split.x.ndim == 4 and split.x.shape[3] not in (1, 3):
            raise InputError(
                f"{path}: {key} is {split.x.dtype}{[*split.x.shape]}; images must have 1 or 3 "
                "channels: [n, h, w], [n, h, w, 1] or [n, h, w, 3]"
            )
    train, test = splits
    check_alike(str(path), (keys[0], keys[2]), train, test)
    classes = int(max(train.y.max(), test.y.max())) + 1
    for key, y in ((keys[1], train.y), (keys[3], test.y)):
        present = np.unique(y)
        if len(present) != classes:
            absent = next(i for i in range(classes) if i >= len(present) or present[i] != i)
            raise InputError(
                f"{path}: labels must be 0..C-1 with every class in both splits, here C = max + 1 "
                f"= {classes}, but {key} has no example of class {absent}; renumber the labels "
                "without gaps, or leave the class out"
            )
    if size is not None:
        if train.x.ndim != 4:
            raise InputError(f"size={size} is for images, but {path} holds vectors; leave it out")
        count = len(train.y) + len(test.y)
        check_bytes(
            f"size={size}, to which the {count} images of {path} are resized,",
            2 * count * size * size * train.x.shape[3],
            "give a smaller size (--image-size)",
        )
        train, test = (
            Split(np.stack([resize(image, size) for image in split.x]), split.y) for split in splits
        )
    return Dataset(path.name, train, test, tuple(str(i) for i in range(classes)))


def _regular(file: str) -> Path:
    """The path of a file that begins and ends as a zip archive does, or why it is none."""
    try:
        path = Path(file).expanduser()
        mode = os.stat(path).st_mode
        if stat.S_ISREG(mode):
            with open(path, "rb") as opened:
                start = opened.read(6)
            whole = zipfile.is_zipfile(path)
    except FileNotFoundError:
        raise InputError(f"no file {path}; npz:FILE needs the path of a NumPy .npz file") from None
    except (OSError, ValueError, RuntimeError) as error:  # a null in the name; ~ of nobody
        why = getattr(error, "strerror", None) or error
        raise InputError(f"{file} cannot be opened ({why}); npz:FILE needs a .npz file") from None
    if not stat.S_ISREG(mode):
        kind = "a folder" if stat.S_ISDIR(mode) else "no regular file (a pipe or a device)"
        raise InputError(f"{path} is {kind}; npz:FILE needs the path of a NumPy .npz file")
    if not start:
        raise InputError(f"{path} is empty, a file of 0 bytes; {_WRITE}")
    if start == b"\x93NUMPY":
        raise InputError(f"{path} is a single array (.npy), and four are needed; {_WRITE}")
    if not whole and start.startswith(b"PK"):
        raise InputError(f"{path} is a zip archive that ends early; copy it again, or {_WRITE}")
    if not whole:
        raise InputError(f"{path} is no NumPy .npz file, which is a zip archive; {_WRITE}")
    return path


def _keys(path: Path, archive: zipfile.ZipFile) -> tuple[str, str, str, str]:
    """The names of the four arrays."""
    names = Counter(member.filename.removesuffix(".npy") for member in archive.infolist())
    for name, times in names.items():
        if times > 1 or ".." in Path(name).parts:
            fault = f"{times} times" if times > 1 else "which points outside"
            raise InputError(f"{path} holds the name {name!r} {fault}; {_WRITE}")
    found = [keys for keys in NPZ_KEYS if set(keys) <= set(names)]
    if len(found) > 1:
        raise InputError(
            f"{path} holds both {found[0][0]}, ... and {found[1][0]}, ...; save one of them"
        )
    if not found:
        listed = sorted(names)[:20]
        raise InputError(
            f"{path} must hold the arrays train_x, train_y, test_x and test_y (or x_train, "
            "..., or train_images, train_labels, ...); it holds "
            f"{', '.join(listed) or 'nothing'}{', ...' if len(names) > 20 else ''}: {_WRITE}"
        )
    return found[0]


def _declared(path: Path, key: str, archive: zipfile.ZipFile) -> _Declared:
    """Reads an array's header alone.

    Raises:
      InputError: where it is encrypted, packed by an unknown method, no array, an array of objects
        or of records, or of another size than the archive's table says.
    """
    stored = {name.removesuffix(".npy"): name for name in archive.namelist()}
    member = archive.getinfo(stored[key])
    if member.flag_bits & 1:
        raise InputError(f"{path}: {key} is encrypted; {_WRITE} without a password")
    try:
        with archive.open(member) as opened:
            prefix = io.BytesIO(opened.read(_PREFIX))
    except NotImplementedError:
        raise InputError(
            f"{path}: {key} is compressed by a method (number {member.compress_type}) that Python "
            f"cannot read; {_WRITE}, or with np.savez_compressed"
        ) from None
    except Exception as error:
        raise _damaged(path, key) from error
    if prefix.getvalue()[:6] != b"\x93NUMPY":
        raise InputError(f"{path}: {key} is no NumPy array; {_WRITE}")
    try:
        version = np.lib.format.read_magic(prefix)
        read = {1: np.lib.format.read_array_header_1_0, 2: np.lib.format.read_array_header_2_0}
        shape, _, dtype = read[version[0]](prefix)
        num_bytes = math.prod(shape) * dtype.itemsize
        sound = all(length >= 0 for length in shape)
    except Exception as error:  # what NumPy's parser raises advises what must not be done
        raise InputError(
            f"{path}: the header of {key} is damaged; copy the file again, or {_WRITE}"
        ) from error
    if dtype.hasobject:
        raise InputError(
            f"{path}: {key} holds Python objects, which are not loaded; save a plain array"
        )
    if dtype.names or dtype.itemsize == 0:
        raise InputError(f"{path}: {key} is an array of {dtype}; save a plain array of numbers")
    if not sound or prefix.tell() + num_bytes != member.file_size:
        raise InputError(
            f"{path}: {key} declares {dtype}{[*shape]}, but holds "
            f"{member.file_size - prefix.tell()} bytes; it is damaged: copy the file again"
        )
    return _Declared(key, member, num_bytes)


def _array(path: Path, declared: _Declared, archive: zipfile.ZipFile) -> np.ndarray:
    try:
        with archive.open(declared.member) as opened:
            array = np.lib.format.read_array(opened, allow_pickle=False)
            opened.read(1)  # the end, where the checksum is compared
    except MemoryError:
        raise
    except Exception as error:
        raise _damaged(path, declared.key) from error
    return array


def _damaged(path: Path, key: str) -> InputError:
    return InputError(
        f"{path}: {key} is damaged: its bytes end early or are not those that were written; copy "
        "the file again"
    )
