"""One picture file as RGB pixels: which formats are opened, and what each kind of pixel means.

Only formats of pixels are opened, whatever a file is called: Pillow also knows ones that are
programs or wrap other programs' files (PostScript starts Ghostscript). A file is one of:

* 1, 2, 4 or 8 bits a channel, grey, palette, RGB, CMYK, YCbCr or Lab: converted as Pillow does; of
  16 bits a channel in colour Pillow keeps the upper eight;
* 16-bit (or 12-bit TIFF) grey: scaled so that its largest number is white, and rounded;
* floating-point grey: 0 is black and 1 is white; other values are refused, as 32-bit integers are,
  since nothing says which number is white;
* transparent: laid over white;
* turned as its EXIF orientation says;
* several frames or pages: the first one.

Colour profiles and gamma are not applied.
"""

import contextlib
import functools
import threading
import warnings
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from cls_jax.core.errors import InputError
from cls_jax.data.local import resize

if TYPE_CHECKING:
    from PIL.Image import Image as Picture

_FORMATS = frozenset(
    "AVIF BMP DIB GIF ICO JPEG JPEG2000 MPO PCX PNG PPM QOI SGI TGA TIFF WEBP".split()  # noqa: SIM905
)
_ONE_AT_A_TIME = threading.RLock()
_BITS, _PHOTOMETRIC, _WHITE_IS_ZERO = 258, 262, 0  # TIFF tags, and a value of the second


def printable(name: str) -> str:
    """A name or path as it may be printed on one line."""
    return name if name.isprintable() else ascii(name)[1:-1]


@functools.cache
def suffixes() -> frozenset[str]:
    """Suffixes of the files that are taken for pictures, in lower case, with their dots."""
    from PIL import Image

    known = Image.registered_extensions().items()
    return frozenset(suffix for suffix, kind in known if kind in _FORMATS)


@contextlib.contextmanager
def only_pixels() -> Iterator[None]:
    """While it lasts, Pillow opens nothing but formats of pixels, whoever calls it.

    Nor does it open a picture of more than ``PIL.Image.MAX_IMAGE_PIXELS`` pixels: what is a warning
    otherwise is an error. Both hold for the whole process, so another thread waits here.
    """
    from PIL import Image

    with _ONE_AT_A_TIME, warnings.catch_warnings():
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        pixels, before = _formats(), Image.ID[:]
        Image.ID[:] = pixels
        try:
            yield
        finally:
            Image.ID[:] = before


@functools.cache
def _formats() -> tuple[str, ...]:
    """Those of ``_FORMATS`` that this Pillow opens, in the order in which it tries them."""
    from PIL import Image

    Image.init()
    return tuple(kind for kind in Image.ID if kind in _FORMATS)


def read_picture(file: str, size: int) -> tuple[np.ndarray, bool]:
    """A picture, resized, and whether its file holds several; the safe limit is ``only_pixels``'s.

    Returns:
      uint8[size, size, 3], red, green and blue; whether that is the first of several frames.

    Raises:
      InputError: the file cannot be decoded, or nothing says which of its numbers is white.
    """
    from PIL import Image, ImageOps, UnidentifiedImageError

    try:
        with Image.open(file, formats=_formats()) as picture:
            several = getattr(picture, "is_animated", False)
            white = _white(picture)
            ImageOps.exif_transpose(picture, in_place=True)
            return resize(np.asarray(_rgb(picture, white)), size), several
    except Exception as error:  # Pillow's plugins raise whatever they like on a broken file
        why = " ".join(str(error).split()) or type(error).__name__
        remedy = "repair it, save it as 8-bit PNG, or remove it"
        if isinstance(error, UnidentifiedImageError):
            why = f"it is damaged, or none of {', '.join(sorted(_FORMATS))}"
        elif isinstance(error, Image.DecompressionBombError | Image.DecompressionBombWarning):
            remedy = "make it smaller, or remove it"
        elif isinstance(error, OSError) and error.errno:
            why, remedy = error.strerror, "mend its permissions, or remove it"
        raise InputError(
            f"{printable(file)} cannot be decoded as a picture ({why}); {remedy}"
        ) from error


def pixels_of(picture: "Picture") -> np.ndarray:
    """uint8[h, w] of a picture of 8-bit grey, uint8[h, w, 3] of any other.

    Raises:
      InputError: nothing says which of its numbers is white.
    """
    if picture.mode == "L" and not picture.has_transparency_data:
        return np.asarray(picture)
    try:
        return np.asarray(_rgb(picture, _white(picture)))
    except ValueError as error:
        raise InputError(f"a picture cannot be read ({error}); save it as 8-bit PNG") from error


def _white(picture: "Picture") -> int:
    """The number that is white in a picture of one integer channel; negative: black is it."""
    tags = getattr(picture, "tag_v2", {})
    bits = tags.get(_BITS, (16,))[0]
    white = 2**bits - 1
    return -white if tags.get(_PHOTOMETRIC) == _WHITE_IS_ZERO else white


def _rgb(picture: "Picture", white: int) -> "Picture":
    """RGB of the same size; raises ValueError where nothing says which number is white."""
    from PIL import Image

    if picture.mode in ("I", "F") or picture.mode.startswith("I;"):
        if "transparency" in picture.info:
            raise ValueError(f"it has a transparent value among pixels of kind {picture.mode}")
        picture = Image.fromarray(_grey(picture, white))
    if picture.has_transparency_data:
        ground = Image.new("RGBA", picture.size, "white")
        picture = Image.alpha_composite(ground, picture.convert("RGBA"))
    return picture.convert("RGB")


def _grey(picture: "Picture", white: int) -> np.ndarray:
    """uint8[h, w] of pixels that are wider than a byte."""
    values = np.asarray(picture)
    if picture.mode == "F":
        low, high = float(values.min()), float(values.max())
        if not (low >= 0 and high <= 1):  # NaN is neither
            raise ValueError(f"its floating-point pixels go from {low:g} to {high:g}, not 0 to 1")
        scaled = np.floor(values * 255 + 0.5)
    elif picture.mode == "I" and picture.format not in ("PNG", "PPM"):  # these two scale to 16 bits
        raise ValueError("its pixels are signed or 32-bit integers, of which none is said to be "
                         "white")  # fmt: skip
    else:
        scaled = (values.astype(np.uint32) * 255 + abs(white) // 2) // abs(white)
    return (scaled if white > 0 else 255 - scaled).astype(np.uint8)
