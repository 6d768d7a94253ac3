"""Rotation of small images by integer arithmetic: the same pixels on every device.

Angles become fixed-point matrices on the host, in double precision; the device only adds, shifts
and gathers. This is what Pillow does, so every pixel is the one that torchvision would give.
"""

import jax
import jax.numpy as jnp
import numpy as np

from cls_jax.core.errors import InputError
from cls_jax.core.types import Array
from cls_jax.data.dataset import Dataset

_ONE = 1 << 16  # coordinates have 16 binary places


def rotation(degrees: np.ndarray, side: int) -> np.ndarray:
    """Where each pixel of a rotated image comes from, int32[..., 6].

    With the numbers (a, b, c, d, e, f), the pixel of column i and row j comes from column
    (a i + b j + c) >> 16 and row (d i + e j + f) >> 16; outside the image there is zero.

    Args:
      degrees: float[...] counter-clockwise, any number; 0 is the exact identity.
      side: pixels of the square image, about whose centre it turns.

    Source: torchvision.transforms.functional.rotate on a Pillow image (NEAREST, expand=False):
      PIL/Image.py (rotate) and src/libImaging/Geometry.c (affine_fixed).
    """
    turn = -np.radians(np.asarray(degrees, np.float64) % 360)
    cos, sin = np.round(np.cos(turn), 15), np.round(np.sin(turn), 15)
    centre = side / 2
    c = centre - centre * (cos + sin) + (cos + sin) / 2  # halves: a pixel is taken at its centre
    f = centre - centre * (cos - sin) + (cos - sin) / 2
    matrix = np.stack([cos, sin, c, -sin, cos, f], axis=-1)
    return np.floor(matrix * _ONE + 0.5).astype(np.int32)


def rotate(x: Array, matrix: Array) -> Array:
    """Images rotated by nearest neighbour, of the shape and dtype of ``x``.

    Args:
      x: uint8[b, h, h, channels].
      matrix: int32[6] for all images, or int32[b, 6]; see ``rotation``.
    """
    side = x.shape[1]
    at = jnp.arange(side, dtype=jnp.int32)

    def one(image: Array, matrix: Array) -> Array:
        a, b, c, d, e, f = matrix
        column = (a * at + b * at[:, None] + c) >> 16
        row = (d * at + e * at[:, None] + f) >> 16
        inside = (column >= 0) & (column < side) & (row >= 0) & (row < side)
        moved = image[jnp.clip(row, 0, side - 1), jnp.clip(column, 0, side - 1)]
        return jnp.where(inside[..., None], moved, 0).astype(image.dtype)

    return jax.vmap(one)(x, jnp.broadcast_to(matrix, (len(x), 6)))


def check_square(source: Dataset) -> int:
    """Pixels on each side of the images of ``source``.

    Raises:
      InputError: unless they are square images.
    """
    shape = source.train.x.shape[1:]
    if len(shape) != 3 or shape[0] != shape[1]:
        raise InputError(
            f"{source.name} holds examples of shape {'x'.join(map(str, shape))}; only square "
            "images can be rotated, so give --image-size or another data set"
        )
    return shape[0]
