"""Sources from the user's own files: an .npz of arrays; what these share with pictures."""

import zipfile
from pathlib import Path

import numpy as np

from cls_jax.streams.stream import Examples, Source
from cls_jax.types import InputError

_NPZ_KEYS = (
    ("train_x", "train_y", "test_x", "test_y"),
    ("x_train", "y_train", "x_test", "y_test"),
    ("train_images", "train_labels", "test_images", "test_labels"),
)
_MODES = {1: "L", 3: "RGB", 4: "RGBA"}  # channels -> Pillow mode


def held_out(labels: np.ndarray) -> np.ndarray:
    """bool[n], True for the fixed test fifth of a set without a split of its own.

    Within each class the second of every five examples, in the order given, is held out: every
    class with two examples is on both sides, and neither a seed nor a library version changes it.
    """
    mask = np.zeros(len(labels), bool)
    for label in np.unique(labels):
        mask[np.flatnonzero(labels == label)[1::5]] = True
    return mask


def resize(image: np.ndarray, size: int) -> np.ndarray:
    """uint8[size, size, c] from uint8[h, w, c]: bilinear, antialiased when it shrinks (Pillow)."""
    from PIL import Image

    if image.shape[:2] == (size, size):
        return image
    channels = image.shape[2]
    if channels not in _MODES:
        raise InputError(f"size={size} needs images of 1, 3 or 4 channels, got {channels}")
    picture = Image.fromarray(image[:, :, 0] if channels == 1 else image, _MODES[channels])
    resized = picture.resize((size, size), Image.Resampling.BILINEAR)
    return np.asarray(resized).reshape(size, size, channels)


def load_npz(file: str, size: int | None = None) -> Source:
    """The source in a NumPy archive ``file``; see ``sources.load`` for what it must hold."""
    path = Path(file).expanduser()
    try:
        with np.load(path, allow_pickle=False) as stored:
            keys = next((k for k in _NPZ_KEYS if set(k) <= set(stored.files)), None)
            if keys is None:
                raise InputError(
                    f"{path} must hold the arrays train_x, train_y, test_x and test_y (or x_train, "
                    "..., or train_images, train_labels, ...); it holds "
                    f"{', '.join(sorted(stored.files)) or 'nothing'}: save it with "
                    "np.savez(file, train_x=..., train_y=..., test_x=..., test_y=...)"
                )
            arrays = [_npz_array(path, key, stored) for key in keys]
    except FileNotFoundError:
        raise InputError(f"no file {path}; npz:FILE needs the path of a NumPy .npz file") from None
    except InputError:
        raise
    except (OSError, ValueError, EOFError, AttributeError, TypeError, zipfile.BadZipFile) as error:
        raise InputError(
            f"{path} cannot be read as a NumPy .npz file ({error}); write it with np.savez"
        ) from error
    splits = []
    for x_key, y_key, x, y in ((*keys[:2], *arrays[:2]), (*keys[2:], *arrays[2:])):
        x, y = _npz_pixels(path, x_key, x), _npz_labels(path, y_key, y)
        if len(x) != len(y):
            raise InputError(
                f"{path}: {x_key} has {len(x)} examples but {y_key} has {len(y)} labels; "
                "they must be as many"
            )
        splits.append(Examples(x, y))
    train, test = splits
    if train.x.shape[1:] != test.x.shape[1:] or train.x.dtype != test.x.dtype:
        raise InputError(
            f"{path}: {keys[0]} holds {train.x.dtype}{[*train.x.shape[1:]]} and {keys[2]} "
            f"{test.x.dtype}{[*test.x.shape[1:]]} an example; both splits must hold the same"
        )
    classes = max(train.y.max(), test.y.max()) + 1
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
        train, test = (
            Examples(np.stack([resize(image, size) for image in split.x]), split.y)
            for split in splits
        )
    return Source(path.name, train, test, tuple(str(i) for i in range(classes)))


def _npz_array(path: Path, key: str, stored: np.lib.npyio.NpzFile) -> np.ndarray:
    """One array of the archive; pickled objects are refused, never loaded."""
    try:
        array = stored[key]
    except ValueError:
        raise InputError(
            f"{path}: {key} holds Python objects, which are not loaded; save a plain array"
        ) from None
    if array.ndim == 0 or len(array) == 0:
        raise InputError(f"{path}: {key} is empty; give at least one example a class")
    return array


def _npz_pixels(path: Path, key: str, x: np.ndarray) -> np.ndarray:
    """uint8[n, h, w, c] or finite float32[n, d]."""
    if x.dtype == np.uint8 and x.ndim == 3:
        return x[..., None]
    if x.dtype == np.uint8 and x.ndim == 4 and x.shape[3] in (1, 3):
        return x
    if x.ndim == 2 and np.issubdtype(x.dtype, np.floating):
        with np.errstate(over="ignore"):
            x = x.astype(np.float32)
        if np.isfinite(x).all():
            return x
        raise InputError(
            f"{path}: {key} holds {int((~np.isfinite(x)).sum())} values that are NaN or beyond "
            "float32; replace or drop them"
        )
    raise InputError(
        f"{path}: {key} is {x.dtype}{[*x.shape]}; it must be images uint8[n, h, w], [n, h, w, 1] "
        "or [n, h, w, 3] with pixels 0..255, or vectors float32[n, d]: reshape or cast it"
    )


def _npz_labels(path: Path, key: str, y: np.ndarray) -> np.ndarray:
    """int32[n], none negative; a column [n, 1] is taken as [n]."""
    if y.ndim == 2 and y.shape[1] == 1:
        y = y[:, 0]
    if y.ndim != 1 or not np.issubdtype(y.dtype, np.integer):
        raise InputError(
            f"{path}: {key} is {y.dtype}{[*y.shape]}; labels must be integers [n], the number of "
            "the class"
        )
    if y.min() < 0 or y.max() >= 2**31 - 1:
        raise InputError(
            f"{path}: {key} has label {y.min() if y.min() < 0 else y.max()}; "
            "labels must be 0..C-1: renumber them"
        )
    return y.astype(np.int32)
