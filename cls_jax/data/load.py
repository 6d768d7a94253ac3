"""Where the examples come from: one function, every kind of data set a user may have.

Everything is decoded once, to raw pixels, which streams index (see ``stream.py``): in memory, or in
a cache on disk that is mapped (see ``cache.py``). The heavy packages (tfds, scikit-learn, Pillow)
are imported when a source that needs them is asked for.
"""

import hashlib
import os
from importlib.util import find_spec
from typing import Any

import numpy as np

from cls_jax.core.checks import short_repr, whole
from cls_jax.core.errors import InputError
from cls_jax.core.host_memory import check_bytes
from cls_jax.core.own import DATASETS
from cls_jax.data import folder, local, npz
from cls_jax.data import tfds as prepared
from cls_jax.data.builders import CLASSICS
from cls_jax.data.checked import checked
from cls_jax.data.dataset import Dataset, Split

_DIGITS_SIZE, _DIGITS_NUMBER = 32, 1797


def load(
    name: str,
    data_dir: str | os.PathLike | None = None,
    *,
    size: int | None = None,
    read_only: bool = False,
) -> Dataset:
    """A labelled data set by name.

    There is never a substitute: a set that is not there and cannot be fetched is an error, within
    seconds. Reading is deterministic and knows no seed: the same files give the same arrays.

    Args:
      name: one of
        ``"digits"``: scikit-learn's 1797 scanned digits, no file and no network needed
        (uint8[n, 32, 32, 3]; see ``digits``);
        ``"npz:FILE"``: arrays train_x, train_y, test_x, test_y (or x_train, ..., or train_images,
        train_labels, ...): images uint8[n, h, w], [n, h, w, 1] or [n, h, w, 3], or vectors
        float32[n, d]; integer labels 0..C-1, every class in both splits;
        ``"folder:DIR"``: pictures in DIR/train/<class>/ and DIR/test/<class>/ (or DIR/val/<class>/
        where there is no test/), or in DIR/<class>/ (then the second of every five of a class, by
        file name, is for testing: near-duplicates that stand side by side would leak). A class's
        pictures lie in its folder or in its sub-folder images/. They become RGB: formats of pixels
        (PNG, JPEG, TIFF, GIF, WebP, ...), EXIF orientation applied, transparency laid over white,
        16 bits scaled, floating-point grey 0..1, the first of several frames; whatever has no known
        white is refused. Files that are not read are counted by class on stderr;
        the name of a data set of your own, registered by ``cls_jax.dataset``;
        any other name, ``"cifar10"``, ``"name/config"``, ``"name:version"``: a tfds data set with
        features ``image`` and ``label``, as prepared in ``data_dir``. cifar10, cifar100, mnist and
        fashion_mnist are prepared here, without TensorFlow, from the official archive put into
        ``data_dir`` or else downloaded; others with the extra ``cls_jax[tf]``.
      data_dir: where tfds data sets lie; default the variable TFDS_DATA_DIR, else
        ~/tensorflow_datasets. What was decoded from them, and from ``folder:``, is cached in its
        subfolder .cls_jax; that of ``folder:`` without ``data_dir`` in $XDG_CACHE_HOME/cls_jax/data
        or ~/.cache/cls_jax/data. Caches may be deleted at any time.
      size: pixels; images are resized once to size x size (bilinear, antialiased). Default: as
        stored; 32 for ``digits`` and ``folder:``.
      read_only: ``data_dir`` was named by somebody else: nothing is prepared or cached there, but
        in the user's own cache folder.

    Returns:
      The source: train and test, x uint8[n, h, w, c] or float32[n, d], y int32[n]. Of a folder or
      a tfds set x is a read-only map of the cache's file, or in memory where none can be written
      (one line on stderr says so). A tfds set without a test split is tested on its validation
      split. Its examples stand in the order of their feature ``id`` if there is one, else as
      stored.

    Raises:
      InputError: one sentence that names what was asked for, what was found and the remedy.

    Example:
      >>> source = load("digits")
      >>> source.train.x.shape, source.test.x.shape, source.num_classes
      ((1435, 32, 32, 3), (362, 32, 32, 3), 10)
    """
    if not isinstance(name, str):
        raise InputError(f"name={name!r} must be a text such as 'digits', 'cifar10' or 'npz:FILE'")
    size = None if size is None else _pixels(size)
    if data_dir is not None and not isinstance(data_dir, str | os.PathLike):
        raise InputError(f"data_dir is {short_repr(data_dir)}; give the path of a folder, or None")
    data_dir = None if data_dir is None else os.fspath(data_dir)
    if name in DATASETS:
        if name in ("digits", *CLASSICS):
            raise InputError(f"the library has a data set {name}; give yours another name")
        if size is not None:
            raise InputError(f"size={size}: the data set {name} of your own is taken as it is")
        return checked(DATASETS[name]())
    if name == "digits":
        return digits(_DIGITS_SIZE if size is None else size)
    kind, colon, rest = name.partition(":")
    if colon and kind in ("npz", "folder"):
        if not rest:
            raise InputError(f"name={name!r} lacks its path; write {kind}:PATH")
        if kind == "npz":
            return npz.load_npz(rest, size)
        return folder.load_folder(rest, None if read_only else data_dir, size)
    return prepared.load_tfds(name, data_dir, size, read_only=read_only and data_dir is not None)


def _pixels(size: object) -> int:
    try:
        return whole("size", size, 1, 4096)
    except InputError:
        raise InputError(
            f"size={short_repr(size)} must be a whole number of pixels from 1 to 4096, or None"
        ) from None


def digits(size: int = _DIGITS_SIZE) -> Dataset:
    """Real handwritten digits, bundled with scikit-learn: a set that needs no network.

    The 8x8 scans hold grey values 0..16. They are enlarged bilinearly (half-pixel centres, borders
    repeated), scaled by 255/16, rounded half up, and repeated over three channels, in arithmetic
    that is exact for the default size. The split is ``local.held_out``.

    Args:
      size: pixels on each side of the result.

    Returns:
      The source: 1435 training and 362 test examples, uint8[n, size, size, 3], 10 classes.

    Raises:
      InputError: for a size that is none, or whose images this machine's memory cannot hold.

    Source: E. Alpaydin, C. Kaynak, Optical Recognition of Handwritten Digits (UCI, 1998),
      test part.
    """
    size = _pixels(size)
    scans, y = _scans()
    check_bytes(
        f"size={size}, to which the {len(y)} scans of digits are enlarged,",
        3 * 8 * len(y) * size * size,  # three of float64 at a time
        "give a smaller size (--image-size)",
    )
    at = np.clip((np.arange(size) + 0.5) * 8 / size - 0.5, 0, 7)
    weights = np.maximum(0, 1 - np.abs(at[:, None] - np.arange(8)))  # [size, 8], rows sum to 1
    grey = weights @ scans.reshape(-1, 8, 8) @ weights.T * (255 / 16)
    x = np.repeat(np.floor(grey + 0.5).astype(np.uint8)[..., None], 3, axis=-1)
    y = y.astype(np.int32)
    test = local.held_out(y)
    names = tuple(str(i) for i in range(10))
    return Dataset("digits", Split(x[~test], y[~test]), Split(x[test], y[test]), names)


def _scans() -> tuple[np.ndarray, np.ndarray]:
    """float64[1797, 64] and int[1797]: a file in scikit-learn, whose import takes a second."""
    spec = find_spec("sklearn")
    for place in (spec and spec.submodule_search_locations) or ():
        file = os.path.join(place, "datasets", "data", "digits.csv.gz")
        if os.path.exists(file):
            rows = np.loadtxt(file, delimiter=",")
            return rows[:, :-1], rows[:, -1].astype(int)
    from sklearn.datasets import load_digits  # another layout: the library itself knows its own

    found: Any = load_digits()
    return found.data, found.target


def describe(source: Dataset) -> dict[str, object]:
    """What a record says of its data: name, shapes, counts and a fingerprint of every byte.

    Args:
      source: any source.

    Returns:
      JSON-ready: ``name``; ``num_classes``; for each split ``examples``, ``shape`` of one example,
      ``dtype`` and ``per_class`` counts; ``fingerprint``, 32 hex digits (blake2b) over shapes,
      dtypes and contents of all four arrays in their order, and the label names.
    """
    digest = hashlib.blake2b("\0".join(source.label_names).encode(), digest_size=16)
    about: dict[str, object] = {"name": source.name, "num_classes": source.num_classes}
    for split, (x, y) in (("train", source.train), ("test", source.test)):
        for array in (x, y):
            digest.update(f"\n{array.dtype.str}{array.shape}".encode())
            digest.update(np.ascontiguousarray(array).data)
        about[split] = {
            "examples": len(y),
            "shape": list(x.shape[1:]),
            "dtype": str(x.dtype),
            "per_class": np.bincount(y, minlength=source.num_classes).tolist(),
        }
    return about | {"fingerprint": digest.hexdigest()}
