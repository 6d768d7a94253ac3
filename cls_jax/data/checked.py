"""The door of every stream: a data set is what its type says, or one sentence says what is wrong.

What can be converted exactly is converted: lists and JAX arrays, integers 0..255 of another dtype,
grey images without an axis of channels, a column of labels. Nothing is guessed: a picture in
[0, 1], labels with gaps or a mask would learn, and the numbers would be wrong.
"""

from typing import Any

import jax.numpy as jnp
import numpy as np

from cls_jax.core.checks import short_repr
from cls_jax.core.errors import InputError
from cls_jax.data.dataset import Dataset, Split

_SPLITS = ("train", "test")


def checked(source: Dataset, *, every_class: bool = True) -> Dataset:
    """``source`` as every scenario needs it; the same object where nothing had to be converted.

    Args:
      source: as the user built it. Each split: x images of whole numbers 0..255, [n, h, w, c] or
        [n, h, w], or vectors of floats [n, d]; y whole numbers 0..C-1, [n] or [n, 1]; each an array
        of NumPy or JAX or a list. ``label_names``: C texts.
      every_class: each of the C classes must have an example in both splits; a stream's own source
        may keep a class aside, as MNIST-360's does the tenth.

    Returns:
      A source of x uint8[n, h, w, c] or float32[n, d], y int32[n].

    Raises:
      InputError: naming the field that does not fit.
    """
    if not isinstance(source, Dataset):
        raise InputError(
            f"source is {short_repr(source)}; give a Dataset, from load() or built by hand"
        )
    if not isinstance(source.name, str):
        raise InputError(f"the name of a source is {short_repr(source.name)}; give a text")
    about = source.name
    train, test = splits = [_split(about, split, getattr(source, split)) for split in _SPLITS]
    check_alike(about, ("train.x", "test.x"), train, test)
    names = _names(about, source.label_names)
    for split, (_, y) in zip(_SPLITS, splits, strict=True):
        if y.max() >= len(names):
            raise InputError(
                f"{about}: {split}.y has label {y.max()}, but label_names has {len(names)} names; "
                "give one name a class, and labels from 0 on"
            )
        empty = np.flatnonzero(np.bincount(y, minlength=len(names)) == 0)
        if every_class and empty.size:
            raise InputError(
                f"the {split} split of {about} has no example of class {empty[0]} "
                f"({names[empty[0]]}); every class needs one in both splits"
            )
    new = Dataset(about, train, test, names)
    return source if all(a is b for a, b in zip(new, source, strict=True)) else new


def check_alike(where: str, names: tuple[str, str], train: Split, test: Split) -> None:
    """Raises InputError unless an example of both splits has one shape and dtype.

    Args:
      where: the arrays are.
      names: of the two arrays, as the user knows them.
      train, test: the splits.
    """
    if train.x.shape[1:] != test.x.shape[1:] or train.x.dtype != test.x.dtype:
        raise InputError(
            f"{where}: {names[0]} holds {train.x.dtype}{[*train.x.shape[1:]]} and {names[1]} "
            f"{test.x.dtype}{[*test.x.shape[1:]]} an example; both splits must hold the same"
        )


def examples(where: str, names: tuple[str, str], x: Any, y: Any) -> Split:
    """A split of two arrays.

    Args:
      where: the arrays are: the name of a source, or a file.
      names: of ``x`` and ``y``, as the user knows them.
      x, y: as for ``checked``.

    Returns:
      x uint8[n, h, w, c] or finite float32[n, d] and y int32[n], none negative; n > 0.

    Raises:
      InputError: naming the array that does not fit.
    """
    x_name, y_name = (f"{where}: {name}" for name in names)
    x, y = _pixels(x_name, _array(x_name, x)), _labels(y_name, _array(y_name, y))
    if len(x) != len(y):
        raise InputError(
            f"{x_name} has {len(x)} examples but {names[1]} has {len(y)} labels; "
            "they must be as many"
        )
    return Split(x, y)


def _split(about: str, name: str, split: Any) -> Split:
    try:
        x, y = split
    except (TypeError, ValueError):
        raise InputError(f"{about}: {name} is {short_repr(split)}; give Split(x, y)") from None
    found = examples(about, (f"{name}.x", f"{name}.y"), x, y)
    return split if isinstance(split, Split) and found.x is x and found.y is y else found


def _names(about: str, given: Any) -> tuple[str, ...]:
    try:
        names = () if isinstance(given, str) else tuple(given)
    except TypeError:
        names = ()
    if not names or not all(isinstance(name, str) for name in names):
        raise InputError(
            f"{about}: label_names is {short_repr(given)}; give a text for each class, e.g. "
            '("cat", "dog")'
        )
    return given if isinstance(given, tuple) else tuple(map(str, names))


def _array(name: str, given: Any) -> np.ndarray:
    """What was given as a NumPy array; the same object where it is one."""
    if isinstance(given, np.ma.MaskedArray):
        raise InputError(f"{name} is a masked array, and a mask is not looked at; give a plain one")
    if type(given) in (np.ndarray, np.memmap):
        array = given
    else:
        try:
            array = np.asarray(given)
        except Exception as error:  # whatever a foreign container raises
            raise InputError(
                f"{name} is {short_repr(given)}, which NumPy cannot read as an array "
                f"({type(error).__name__}); give an array of numbers"
            ) from None
    if array.dtype.hasobject:
        raise InputError(f"{name} holds Python objects; give a plain array of numbers")
    form = f"{array.dtype}{[*array.shape]}"
    if array.ndim == 0 or len(array) == 0:
        raise InputError(f"{name} is empty, {form}; give at least one example a class")
    if array.size == 0:
        raise InputError(f"{name} is {form}, examples of 0 numbers; give at least one in each")
    return array


def _pixels(name: str, x: np.ndarray) -> np.ndarray:
    """uint8[n, h, w, c] or finite float32[n, d]."""
    images, floats = x.ndim in (3, 4), jnp.issubdtype(x.dtype, np.floating)
    if images and (x.dtype.kind in "iu" or floats):
        x = _bytes(name, x, floats=floats)
        return x if x.ndim == 4 else x[..., None]
    if x.ndim == 2 and floats:
        with np.errstate(over="ignore"):
            x = x if x.dtype == np.float32 else x.astype(np.float32)
        if np.isfinite(x).all():
            return x
        raise InputError(
            f"{name} holds {int((~np.isfinite(x)).sum())} values that are NaN or beyond "
            "float32; replace or drop them"
        )
    raise InputError(_not_pixels(name, x))


def _bytes(name: str, x: np.ndarray, *, floats: bool) -> np.ndarray:
    """Images as uint8 of the same numbers."""
    if x.dtype == np.uint8:
        return x
    low, high = x.min(), x.max()
    if not (low >= 0 and high <= 255):
        raise InputError(f"{_not_pixels(name, x)}; here they are {low}..{high}")
    if floats and high <= 1:
        raise InputError(f"{_not_pixels(name, x)}; pixels in [0, 1] are np.uint8(np.rint(255 * x))")
    whole = x.astype(np.uint8)
    if floats and not (whole == x).all():
        raise InputError(f"{_not_pixels(name, x)}; here they are not whole numbers")
    return whole


def _not_pixels(name: str, x: np.ndarray) -> str:
    return (
        f"{name} is {x.dtype}{[*x.shape]}; it must be images uint8[n, h, w], [n, h, w, 1] "
        "or [n, h, w, 3] with pixels 0..255, or vectors float32[n, d]: reshape or cast it"
    )


def _labels(name: str, y: np.ndarray) -> np.ndarray:
    """int32[n], none negative; a column [n, 1] is taken as [n]."""
    if y.ndim == 2 and y.shape[1] == 1:
        y = y[:, 0]
    if y.ndim != 1 or y.dtype.kind not in "iu":
        raise InputError(
            f"{name} is {y.dtype}{[*y.shape]}; labels must be integers [n], the number of the class"
        )
    if y.min() < 0 or y.max() >= 2**31 - 1:
        raise InputError(
            f"{name} has label {y.min() if y.min() < 0 else y.max()}; "
            "labels must be 0..C-1: renumber them"
        )
    return y if y.dtype == np.int32 else y.astype(np.int32)
