"""Maximum pools that mean what PyTorch's mean.

Of equal numbers in a window the first one, row by row, has the whole gradient, as in PyTorch;
``jnp.maximum`` gives each a share. A window that holds NaN gives NaN.
"""

import jax
import jax.numpy as jnp

from cls_jax.core.types import Array


def max_pool_2x2(x: Array) -> Array:
    """float[b, ceil(h/2), ceil(w/2), c]: maxima of 2x2 windows, the last ones cut by the border.

    Its gradient is known in reverse mode alone: one pass over the image in place of three.

    Source: torch.nn.MaxPool2d(2, 2, ceil_mode=True).
    """
    rows, columns = x.shape[1:3]
    return _largest_of_four(_pad(x, (0, rows % 2), (0, columns % 2)))


@jax.custom_vjp
def _largest_of_four(x: Array) -> Array:
    return _largest_and_place(x)[0]


@jax.jit
def _largest_and_place(x: Array) -> tuple[Array, Array]:
    """The largest of each window and its place, int8, row by row; of an even number of both."""
    batch, rows, columns, channels = x.shape
    windows = x.reshape(batch, rows // 2, 2, columns // 2, 2, channels)
    largest = windows[:, :, 0, :, 0]
    place = jnp.zeros(largest.shape, jnp.int8)
    for number, (row, column) in enumerate(((0, 1), (1, 0), (1, 1)), 1):
        value = windows[:, :, row, :, column]
        place = jnp.where(_is_larger(value, largest), jnp.int8(number), place)
        largest = _first_max(largest, value)
    return largest, place


@jax.jit
def _to_its_place(place: Array, gradient: Array) -> tuple[Array]:
    batch, rows, columns, channels = gradient.shape
    places = jnp.arange(4, dtype=jnp.int8).reshape(2, 1, 2, 1)
    whole = jnp.where(place[:, :, None, :, None] == places, gradient[:, :, None, :, None], 0)
    return (whole.reshape(batch, 2 * rows, 2 * columns, channels),)


_largest_of_four.defvjp(_largest_and_place, _to_its_place)


def max_pool_3x3(x: Array) -> Array:
    """float[b, ceil(h/2), ceil(w/2), c]: maxima of 3x3 windows, two apart, around even pixels.

    Source: torch.nn.MaxPool2d(3, 2, padding=1).
    """
    x = _pad(x, (1, x.shape[1] % 2), (1, x.shape[2] % 2))
    columns = _first_max(_first_max(x[:, :, :-1:2], x[:, :, 1::2]), x[:, :, 2::2])
    return _first_max(_first_max(columns[:, :-1:2], columns[:, 1::2]), columns[:, 2::2])


def _first_max(a: Array, b: Array) -> Array:
    """The larger one, NaN if one is; equal ones are ``a``, which has the whole gradient."""
    return jnp.where(_is_larger(b, a), b, a)


def _is_larger(b: Array, a: Array) -> Array:
    return (b > a) | jnp.isnan(b)


def _pad(x: Array, rows: tuple[int, int], columns: tuple[int, int]) -> Array:
    """``x`` with minus infinity around it."""
    return jnp.pad(x, ((0, 0), rows, columns, (0, 0)), constant_values=-jnp.inf)
