"""The convolution of every network here, in the form that is fast where it runs."""

from collections.abc import Callable
from contextvars import ContextVar
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from cls_jax.core.types import Array, PyTree

_AS_PRODUCTS = ContextVar("as_products", default=False)


def convolve(x: Array, kernel: Array, stride: int) -> Array:
    """float[b, h', w', o]: ``x`` float[b, h, w, i] convolved, padded by half the kernel's side.

    Where a map smaller than the kernel comes out, this is a product: there XLA's CPU convolution
    takes ten times as long (2x2 maps of 128 channels, batch 32: 4.8 ms against 0.4; forward and
    gradients from 4x4 maps of 64 to them, 2.3 against 0.7). So is every convolution of
    ``side_by_side``, there of patches.
    """
    (height, width), side = x.shape[1:3], kernel.shape[0]
    if _AS_PRODUCTS.get():
        return patch_product(x, kernel, stride)
    if -(-min(height, width) // stride) < side:
        few = height * width < side**2
        return (map_product if few else patch_product)(x, kernel, stride)
    pad, labels = side // 2, ("NHWC", "HWIO", "NHWC")
    pads = [(pad, pad)] * 2
    return lax.conv_general_dilated(x, kernel, (stride, stride), pads, dimension_numbers=labels)


@partial(jax.jit, static_argnames="stride")
def patch_product(x: Array, kernel: Array, stride: int) -> Array:
    """The convolution as one product of its patches [b h' w', kh kw i] and a matrix."""
    side, pad = kernel.shape[0], kernel.shape[0] // 2
    rows, columns = (-(-size // stride) for size in x.shape[1:3])
    padded = jnp.pad(x, ((0, 0), (pad, pad), (pad, pad), (0, 0)))
    taps = [
        padded[:, top : top + x.shape[1] : stride, left : left + x.shape[2] : stride]
        for top in range(side)
        for left in range(side)
    ]
    patches = jnp.concatenate(taps, -1).reshape(x.shape[0] * rows * columns, -1)
    y = patches @ kernel.reshape(-1, kernel.shape[-1])
    return y.reshape(x.shape[0], rows, columns, -1)


@partial(jax.jit, static_argnames="stride")
def map_product(x: Array, kernel: Array, stride: int) -> Array:
    """The convolution as one product of whole maps [b, h w i] and a matrix [h w i, h' w' o].

    For maps of fewer pixels than the kernel: without patches there is less to compile.
    """
    side = kernel.shape[0]
    places = [range(size) for size in x.shape[1:3]]
    ends = [range(-(-size // stride)) for size in x.shape[1:3]]
    taps = np.zeros((*map(len, (*places, *ends)), side, side), x.dtype)
    for top, left, row, column in np.ndindex(*taps.shape[:4]):
        at = top - stride * row + side // 2, left - stride * column + side // 2
        if max(at) < side and min(at) >= 0:
            taps[(top, left, row, column, *at)] = 1
    matrix = jnp.einsum("hwrckl,klio->hwirco", taps, kernel)
    return jnp.einsum("bhwi,hwirco->brco", x, matrix)


def side_by_side(fn: Callable[..., PyTree]) -> tuple[Callable[..., PyTree], dict[str, bool]]:
    """``fn`` of one network, to be mapped over several, and how XLA should compile that.

    On a GPU its convolutions become products, since as grouped convolutions ten seeds of ER's
    ResNet-18 of width 16 take 10.6 ms a step on an H100 in place of 3.7 (records/, side_by_side).
    XLA of JAX 0.11 aborts in its Triton fusions of these products, so it is to make none.
    """
    if jax.default_backend() != "gpu":
        return fn, {}

    def as_products(*arguments: PyTree) -> PyTree:
        before = _AS_PRODUCTS.set(True)
        try:
            return fn(*arguments)
        finally:
            _AS_PRODUCTS.reset(before)

    return as_products, {"xla_gpu_enable_triton_gemm": False}
