"""One convolution in two forms."""

import chex
import jax
import jax.numpy as jnp
import pytest

from cls_jax.nets.convolution import convolve, map_product, patch_product, side_by_side


@pytest.mark.parametrize(("side", "stride"), [(3, 1), (3, 2), (1, 2)])
def test_a_product_of_patches_is_the_convolution(side, stride):
    same_in_both_forms(patch_product, convolve, (5, 6), side, stride)


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("sizes", [(1, 1), (2, 2), (1, 8), (4, 2)])
def test_a_product_of_small_maps_is_that_of_their_patches(sizes, stride):
    same_in_both_forms(map_product, patch_product, sizes, 3, stride)


def same_in_both_forms(one, other, sizes, side, stride):
    """Values and both gradients, of two networks on two batches."""
    keys = jax.random.split(jax.random.key(0), 2)
    x = jax.random.normal(keys[0], (2, 3, *sizes, 4))
    kernel = jax.random.normal(keys[1], (2, side, side, 4, 7))

    def both(conv):
        def weighed(x, kernel):
            y = conv(x, kernel, stride)
            return (y * jnp.sin(jnp.arange(y.size)).reshape(y.shape)).sum(), y

        found = jax.value_and_grad(weighed, (0, 1), has_aux=True)
        return jax.jit(jax.vmap(found))(x, kernel)

    chex.assert_trees_all_close(both(one), both(other), rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize("backend", ["cpu", "gpu"])
def test_networks_side_by_side_are_products_on_a_gpu_alone(monkeypatch, backend):
    x, kernels = jnp.zeros((3, 5, 6, 4)), jnp.zeros((2, 3, 3, 4, 7))
    monkeypatch.setattr(jax, "default_backend", lambda: backend)

    def operations(fn, kernel):
        text = jax.jit(fn).lower(x, kernel).as_text()
        return "stablehlo.convolution" in text, "stablehlo.dot_general" in text

    def scanned(x, kernel):
        """In a loop, as the steps of a chunk are."""
        return jax.lax.scan(lambda c, _: (c, convolve(x, kernel, 1).sum()), 0.0, None, length=2)[1]

    mapped, how = side_by_side(scanned)
    products = operations(jax.vmap(mapped, (None, 0)), kernels)
    assert products == {"cpu": (True, False), "gpu": (False, True)}[backend]
    assert how == {"cpu": {}, "gpu": {"xla_gpu_enable_triton_gemm": False}}[backend]
    assert operations(lambda x, k: convolve(x, k, 1), kernels[0]) == (True, False)
