"""One convolution in several forms."""

from functools import partial

import chex
import jax
import jax.numpy as jnp
import pytest

from cls_jax.nets import convolution
from cls_jax.nets.convolution import by_kernels, convolve, patch_product

AXES = {"one": None, "images": (0, None), "kernels": (None, 0), "both": (0, 0)}


@pytest.mark.parametrize("axes", AXES)
@pytest.mark.parametrize(("side", "stride"), [(3, 1), (3, 2), (1, 2)])
def test_what_a_gpu_computes_is_the_convolution(axes, side, stride):
    """Values and gradients, for one network and for several, whose images may be the same."""
    keys, many = jax.random.split(jax.random.key(0), 3), AXES[axes]
    lead = [() if many is None or axis is None else (2,) for axis in (many or (None, None))]
    x = jax.random.normal(keys[0], (*lead[0], 3, 5, 6, 4))
    kernel = jax.random.normal(keys[1], (*lead[1], side, side, 4, 7))

    def both(conv):
        def weighed(x, kernel):
            y = conv(x, kernel, stride)
            return (y * jnp.sin(jnp.arange(y.size)).reshape(y.shape)).sum(), y

        found = jax.value_and_grad(weighed, (0, 1), has_aux=True)
        return jax.jit(found if many is None else jax.vmap(found, many))(x, kernel)

    expected = both(convolve)
    for conv in (by_kernels, patch_product):
        chex.assert_trees_all_close(both(conv), expected, rtol=2e-5, atol=2e-5)


def test_kernels_side_by_side_are_products_on_a_gpu_alone(monkeypatch):
    x, kernels = jnp.zeros((3, 5, 6, 4)), jnp.zeros((2, 3, 3, 4, 7))

    def operations(backend, kernel, axes):
        monkeypatch.setattr(convolution.jax, "default_backend", lambda: backend)
        conv = partial(convolve, stride=1)
        conv = conv if axes is None else jax.vmap(conv, axes)
        text = jax.jit(lambda x, k: conv(x, k)).lower(x, kernel).as_text()
        return "stablehlo.convolution" in text, "stablehlo.dot_general" in text

    assert operations("gpu", kernels, (None, 0)) == (False, True)
    assert operations("gpu", kernels[0], None) == (True, False)
    assert operations("cpu", kernels, (None, 0)) == (True, False)
