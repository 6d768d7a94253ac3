"""Data sets of other libraries, whose examples come one by one, read once into arrays.

Neither ``datasets`` nor ``torch`` is imported: what their data sets can do is enough.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from cls_jax.core.checks import short_repr
from cls_jax.core.errors import InputError
from cls_jax.core.host_memory import check_bytes
from cls_jax.data.dataset import Dataset
from cls_jax.data.local import resize
from cls_jax.data.pictures import pixels_of

Row = tuple[Any, Any]


def from_huggingface(
    train: Any,
    test: Any,
    *,
    image: str,
    label: str,
    size: int | None,
    test_fraction: float | None,
    seed: int,
    name: str | None,
) -> Dataset:
    """See ``Dataset.from_huggingface``."""
    for title, one in (("train", train), ("test", test)):
        if one is None and title == "test":
            continue
        if isinstance(one, Mapping):
            splits = ", ".join(map(repr, one))
            raise InputError(f"{title} is several splits ({splits}); give one of them")
        columns = getattr(one, "column_names", None)
        if not isinstance(columns, list) or not hasattr(one, "__len__"):
            raise InputError(
                f"{title} is {short_repr(one)}; give a split of a data set of Hugging Face that is "
                "not streamed"
            )
        if missing := [column for column in (image, label) if column not in columns]:
            raise InputError(
                f"{title} has no column {missing[0]!r}, but {', '.join(columns)}; say which ones "
                "are the image and the label"
            )
    info, feature = getattr(train, "info", None), train.features[label]
    title = name or getattr(info, "dataset_name", None) or "huggingface"

    def rows(split: Any) -> Iterator[Row]:
        return ((row[image], row[label]) for row in split)

    names = getattr(feature, "names", None)
    return _dataset(title, train, test, rows, size, test_fraction, seed, names)


def from_torch(
    train: Any,
    test: Any,
    *,
    size: int | None,
    test_fraction: float | None,
    seed: int,
    name: str | None,
) -> Dataset:
    """See ``Dataset.from_torch``."""
    for title, one in (("train", train), ("test", test)):
        able = hasattr(one, "__getitem__") and hasattr(one, "__len__")
        if (one is not None or title == "train") and not able:
            raise InputError(
                f"{title} is {short_repr(one)}; give a map-style data set, one with len() and [i]"
            )

    def rows(split: Any) -> Iterator[Row]:
        for number in range(len(split)):
            row = split[number]
            if not isinstance(row, tuple | list) or len(row) < 2:
                raise InputError(
                    f"example {number} of {type(split).__name__} is {short_repr(row)}; it must be "
                    "a pair of image (or vector) and label"
                )
            yield row[0], row[1]

    title = name or type(train).__name__
    names = getattr(train, "classes", None)
    return _dataset(title, train, test, rows, size, test_fraction, seed, names)


def _dataset(
    name: str,
    train: Any,
    test: Any,
    rows: Callable[[Any], Iterator[Row]],
    size: int | None,
    test_fraction: float | None,
    seed: int,
    label_names: Any,
) -> Dataset:
    arrays = []
    for title, split in (("train", train), ("test", test)):
        if split is not None:
            arrays += _stacked(f"{name}: {title}", rows(split), len(split), size)
    how = {"test_fraction": test_fraction, "seed": seed, "name": name}
    return Dataset.from_arrays(*arrays, **how, label_names=label_names)


def _stacked(
    where: str, rows: Iterator[Row], number: int, size: int | None
) -> tuple[np.ndarray, np.ndarray]:
    """All examples of a split: images uint8[n, h, w, c] or vectors [n, d], and integer labels."""
    x, y = [], []
    for one, label in rows:
        pixels = _example(f"{where}[{len(x)}]", one, size)
        if not x:
            check_bytes(where, 2 * number * pixels.nbytes, "give a smaller size, or fewer examples")
        x.append(pixels)
        y.append(_label(f"{where}[{len(y)}]", label))
    if not x:
        raise InputError(f"{where} is empty; give at least one example a class")
    if len({pixels.shape[-1] for pixels in x if pixels.ndim == 3}) > 1:  # grey among colours
        x = [np.broadcast_to(pixels, (*pixels.shape[:2], 3)) for pixels in x]
    shapes = {pixels.shape for pixels in x}
    if len(shapes) > 1:
        listed = " and ".join(map(str, sorted(shapes)[:2]))
        raise InputError(f"{where} holds examples of {listed}; give size, to which all are resized")
    return np.stack(x), np.asarray(y)


def _example(where: str, one: Any, size: int | None) -> np.ndarray:
    """uint8[h, w, c] of a picture, or the numbers of a vector."""
    if hasattr(one, "convert") and hasattr(one, "mode"):  # of Pillow
        one = pixels_of(one)
    array = np.asarray(one)
    if array.ndim == 2:
        array = array[..., None]
    if array.ndim == 1 and array.dtype.kind == "f":
        return array
    if array.ndim != 3 or array.dtype != np.uint8 or array.shape[2] not in (1, 3):
        raise InputError(
            f"{where} is {array.dtype}{[*array.shape]}; it must be a picture of Pillow, uint8 "
            "[h, w], [h, w, 1] or [h, w, 3], or a vector of floats: leave out transforms such as "
            "ToTensor, which the library does on the device"
        )
    return array if size is None else resize(array, size)


def _label(where: str, label: Any) -> int:
    array = np.asarray(label)
    if array.ndim or array.dtype.kind not in "iu":
        raise InputError(
            f"{where} has the label {short_repr(label)}; labels must be whole numbers 0..C-1 (of "
            "texts in a data set of Hugging Face: train.class_encode_column)"
        )
    return int(array)
