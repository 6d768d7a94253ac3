"""Variables made without compiling an initialiser; the method cards' oracles start from some."""

import jax
import jax.numpy as jnp
import numpy as np


def oracle_vars(shapes):
    """Float64 Variables with w = 2/sqrt(fan_in) sin(.37 i^2 + 1), i flat in PyTorch's layout.

    Biases and running means are 0, BatchNorm scales and running variances 1.
    """

    def leaf(path, value):
        shape, name = value.shape, path[-1].key
        if name != "kernel":
            return jnp.full(shape, float(name in ("scale", "var")), jnp.float64)
        index = np.arange(value.size, dtype=np.float64)
        fan_in = value.size // shape[-1]
        flat = 2 / np.sqrt(fan_in) * np.sin(0.37 * index**2 + 1)
        if len(shape) == 2:
            return jnp.asarray(flat.reshape(shape[::-1]).T.copy())
        height, width, inputs, outputs = shape
        torch_layout = flat.reshape(outputs, inputs, height, width)
        return jnp.asarray(torch_layout.transpose(2, 3, 1, 0).copy())

    return jax.tree_util.tree_map_with_path(leaf, shapes)


def random_vars(shapes, seed=0):
    """Float32 Variables as fresh ones are: scaled uniform kernels, other leaves at their start."""
    rng = np.random.default_rng(seed)

    def leaf(path, value):
        shape, name = value.shape, path[-1].key
        if name != "kernel":
            return jnp.full(shape, float(name in ("scale", "var")), jnp.float32)
        bound = (shape[-1] / value.size) ** 0.5
        return jnp.asarray(rng.uniform(-bound, bound, shape), jnp.float32)

    return jax.tree_util.tree_map_with_path(leaf, shapes)


def oracle_images(wave, frequency, shape):
    """float64 images wave(frequency i^2), i flat over ``shape`` = (b, c, h, w), as (b, h, w, c)."""
    index = np.arange(np.prod(shape), dtype=np.float64)
    return jnp.asarray(wave(frequency * index**2).reshape(shape).transpose(0, 2, 3, 1).copy())


def count(tree):
    """Numbers in a tree of arrays or shapes."""
    return sum(leaf.size for leaf in jax.tree.leaves(tree))
