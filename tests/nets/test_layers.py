"""Layers against NumPy transcriptions and against their own meaning."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl.testing import parameterized

from cls_jax.nets import layers, pooling

KEY = jax.random.key(0)
PADDED = np.array([True, False, True, True, False, True])


def images(key=KEY, shape=(6, 5, 3, 4), offset=0.0):
    return jax.random.normal(key, shape) * 2 + offset


def run(module, variables, x, **keywords):
    return module.apply(variables, x, mutable=["batch_stats"], **keywords)


def norm_and_variables(shape, **fields):
    module = layers.BatchNorm(**fields)
    variables = module.init(KEY, jnp.zeros(shape), train=False)
    params = {
        "scale": jnp.linspace(0.5, 2.0, shape[-1]),
        "bias": jnp.linspace(-1.0, 1.0, shape[-1]),
    }
    return module, {"params": params, "batch_stats": variables["batch_stats"]}


class BatchNormTest(chex.TestCase):
    @chex.variants(with_jit=True, without_jit=True)
    @parameterized.product(shape=[(6, 5, 3, 4), (6, 4)], unbiased=[True, False])
    def test_matches_numpy(self, shape, unbiased):
        module, variables = norm_and_variables(shape, unbiased_running=unbiased)
        x = images(shape=shape, offset=1.0)
        apply = self.variant(lambda v, x: run(module, v, x, train=True))
        y, after = apply(variables, x)
        flat = np.asarray(x, np.float64).reshape(-1, shape[-1])
        mean, var = flat.mean(0), flat.var(0)
        scale, bias = (np.asarray(variables["params"][name]) for name in ("scale", "bias"))
        expected = (np.asarray(x) - mean) / np.sqrt(var + 1e-5) * scale + bias
        np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-5)
        running = flat.var(0, ddof=1) if unbiased else var
        stats = after["batch_stats"]
        np.testing.assert_allclose(stats["mean"], 0.1 * mean, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(stats["var"], 0.9 + 0.1 * running, rtol=1e-5)

    @chex.variants(with_jit=True, without_jit=True)
    @parameterized.parameters((((6, 5, 3, 4)),), ((6, 4),))
    def test_padded_rows_do_not_exist(self, shape):
        module, variables = norm_and_variables(shape)
        x, weights = images(shape=shape, offset=3.0), images(jax.random.key(1), shape)

        def loss(params, x, weights, valid):
            v = {"params": params, "batch_stats": variables["batch_stats"]}
            y, after = run(module, v, x, train=True, valid=valid)
            rows = (y * weights).sum(tuple(range(1, y.ndim)))
            total = rows.sum() if valid is None else jnp.where(valid, rows, 0).sum()
            return total, (y, after)

        grad = self.variant(jax.value_and_grad(loss, argnums=(0, 1), has_aux=True))
        params = variables["params"]
        masked, (masked_params, masked_x) = grad(params, x, weights, jnp.asarray(PADDED))
        alone, (alone_params, alone_x) = grad(params, x[PADDED], weights[PADDED], None)
        chex.assert_trees_all_close(masked[0], alone[0], rtol=1e-5)
        chex.assert_trees_all_close(masked[1][0][PADDED], alone[1][0], rtol=1e-5, atol=1e-5)
        chex.assert_trees_all_close(masked[1][1], alone[1][1], rtol=1e-5)
        chex.assert_trees_all_close(masked_params, alone_params, rtol=1e-5, atol=1e-5)
        chex.assert_trees_all_close(masked_x[PADDED], alone_x, rtol=1e-4, atol=1e-5)
        np.testing.assert_array_equal(masked_x[~PADDED], 0)
        # What stands in the padding changes no bit of anything that counts.
        other = jnp.where(PADDED.reshape(-1, *[1] * (len(shape) - 1)), x, 1e4)
        again, (again_params, again_x) = grad(params, other, weights, jnp.asarray(PADDED))
        chex.assert_trees_all_equal(masked[1][1], again[1][1])
        chex.assert_trees_all_equal(masked[1][0][PADDED], again[1][0][PADDED])
        chex.assert_trees_all_equal((masked_params, masked_x), (again_params, again_x))

    @chex.variants(with_jit=True, without_jit=True)
    def test_no_valid_row(self):
        module, variables = norm_and_variables((6, 5, 3, 4))
        x, none = images(offset=50.0), jnp.zeros(6, bool)

        def loss(x):
            y, after = run(module, variables, x, train=True, valid=none)
            return y.sum(), (y, after)

        (_, (y, after)), grad = self.variant(jax.value_and_grad(loss, has_aux=True))(x)
        chex.assert_trees_all_equal(after["batch_stats"], variables["batch_stats"])
        chex.assert_tree_all_finite((y, grad))
        expected = module.apply(variables, x, train=False)
        np.testing.assert_allclose(y, expected, rtol=1e-6)

    def test_one_value_a_channel_stays_finite(self):
        module, variables = norm_and_variables((1, 4))
        y, after = run(module, variables, jnp.full((1, 4), 7.0), train=True)
        np.testing.assert_allclose(y[0], variables["params"]["bias"])
        chex.assert_tree_all_finite(after)

    @chex.variants(with_jit=True, without_jit=True)
    def test_eval_uses_running_statistics_and_leaves_them(self):
        module, variables = norm_and_variables((6, 5, 3, 4))
        stats = {"mean": jnp.arange(4.0), "var": jnp.arange(1.0, 5.0)}
        variables = {**variables, "batch_stats": stats}
        x = images()
        apply = self.variant(lambda v, x: run(module, v, x, train=False))
        y, after = apply(variables, x)
        chex.assert_trees_all_equal(after["batch_stats"], stats)
        scale, bias = variables["params"]["scale"], variables["params"]["bias"]
        expected = (x - stats["mean"]) / jnp.sqrt(stats["var"] + 1e-5) * scale + bias
        np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-5)

    def test_precise_where_the_mean_is_large(self):
        module, variables = norm_and_variables((64, 8, 8, 4))
        x = 1000 + jax.random.normal(KEY, (64, 8, 8, 4))
        _, after = run(module, variables, x, train=True)
        flat = np.asarray(x, np.float64).reshape(-1, 4)
        var = (np.asarray(after["batch_stats"]["var"]) - 0.9) / 0.1
        np.testing.assert_allclose(var, flat.var(0, ddof=1), rtol=1e-4)

    def test_bfloat16_keeps_float32_statistics(self):
        module, variables = norm_and_variables((6, 5, 3, 4), dtype="bfloat16")
        x = images().astype(jnp.bfloat16)
        y, after = run(module, variables, x, train=True)
        assert y.dtype == jnp.bfloat16
        chex.assert_tree_shape_prefix(after, (4,))
        assert {leaf.dtype for leaf in jax.tree.leaves(after)} == {jnp.dtype("float32")}
        full, variables32 = norm_and_variables((6, 5, 3, 4))
        y32, after32 = run(full, variables32, x.astype(jnp.float32), train=True)
        chex.assert_trees_all_close(after, after32, rtol=1e-6)
        np.testing.assert_allclose(y.astype(np.float32), y32, rtol=1e-2, atol=1e-2)


def windows(x, side, stride, before):
    """Maxima of square windows, cut by the border, by loops."""
    height, width = x.shape[1:3]
    rows, columns = -(-height // stride), -(-width // stride)
    out = np.empty((x.shape[0], rows, columns, x.shape[3]), x.dtype)
    for i in range(rows):
        for j in range(columns):
            top, left = max(i * stride - before, 0), max(j * stride - before, 0)
            bottom, right = i * stride - before + side, j * stride - before + side
            out[:, i, j] = x[:, top:bottom, left:right].max((1, 2))
    return out


class PoolTest(chex.TestCase):
    @chex.variants(with_jit=True, without_jit=True)
    @parameterized.parameters((8, 8), (7, 8), (5, 7), (1, 2), (21, 11))
    def test_pools_match_loops(self, height, width):
        x = images(shape=(2, height, width, 3), offset=-9.0)
        for pool, side, before in ((pooling.max_pool_2x2, 2, 0), (pooling.max_pool_3x3, 3, 1)):
            y = self.variant(pool)(x)
            np.testing.assert_array_equal(y, windows(np.asarray(x), side, 2, before))

    @chex.variants(with_jit=True, without_jit=True)
    @parameterized.parameters((8, 8), (5, 7))
    def test_gradient_goes_to_the_maximum(self, height, width):
        x = images(shape=(2, height, width, 3))
        for pool, side, low in ((pooling.max_pool_2x2, 2, 0), (pooling.max_pool_3x3, 3, 1)):
            high = [(low, (size + low) % 2 if side == 2 else size % 2) for size in (height, width)]

            def by_window(x, side=side, high=high):
                pads = ((0, 0), *high, (0, 0))
                dims, strides = (1, side, side, 1), (1, 2, 2, 1)
                return jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, dims, strides, pads)

            weights = images(jax.random.key(1), pool(x).shape)
            ours = self.variant(jax.grad(lambda x, p=pool, w=weights: (p(x) * w).sum()))(x)
            theirs = jax.grad(lambda x, w=weights, f=by_window: (f(x) * w).sum())(x)
            np.testing.assert_allclose(ours, theirs, rtol=1e-6, atol=1e-6)

    @chex.variants(with_jit=True, without_jit=True)
    @parameterized.parameters((8, 8), (5, 7))
    def test_of_equal_numbers_the_first_has_the_gradient(self, height, width):
        """Row by row, as in PyTorch: windows of few different numbers, against a loop."""
        x = np.floor(images(shape=(2, height, width, 3)) * 1.5)
        for pool, side, before in ((pooling.max_pool_2x2, 2, 0), (pooling.max_pool_3x3, 3, 1)):
            weights = np.asarray(images(jax.random.key(1), pool(x).shape))
            expected = np.zeros_like(x)
            for b, i, j, c in np.ndindex(weights.shape):
                top, left = max(i * 2 - before, 0), max(j * 2 - before, 0)
                window = x[b, top : i * 2 - before + side, left : j * 2 - before + side, c]
                down, right = np.unravel_index(window.argmax(), window.shape)
                expected[b, top + down, left + right, c] += weights[b, i, j, c]
            found = self.variant(jax.grad(lambda x, p=pool, w=weights: (p(x) * w).sum()))(x)
            np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
            assert np.isnan(pool(x + np.where(np.arange(width) == 1, np.nan, 0)[:, None])).any()


@pytest.mark.parametrize(
    ("kernel", "stride", "side"),
    [
        (3, 1, 8),
        (3, 2, 8),
        (3, 2, 7),
        (3, 2, 4),
        (1, 2, 7),
        (3, 1, 2),
        (3, 2, 2),
        (3, 1, 1),
        (3, 2, 1),
    ],
)
def test_convolution_matches_loops(kernel, stride, side):
    module = layers.Conv(4, kernel, stride, use_bias=True)
    x = images(shape=(2, side, side, 3))
    variables = module.init(KEY, x)
    weights, bias = (np.asarray(variables["params"][name]) for name in ("kernel", "bias"))
    pad = kernel // 2
    padded = np.pad(np.asarray(x), ((0, 0), (pad, pad), (pad, pad), (0, 0)))
    y = np.asarray(module.apply(variables, x))
    for i in range(y.shape[1]):
        for j in range(y.shape[2]):
            top, left = i * stride, j * stride
            patch = padded[:, top : top + kernel, left : left + kernel]
            expected = np.tensordot(patch, weights, ((1, 2, 3), (0, 1, 2))) + bias
            np.testing.assert_allclose(y[:, i, j], expected, rtol=1e-4, atol=1e-5)
    assert y.shape == (2, -(-side // stride), -(-side // stride), 4)


@pytest.mark.parametrize("module", [layers.Conv(64, 3, use_bias=True), layers.Dense(512)])
def test_initialisation_is_torchs(module):
    shape = (1, 4, 4, 32) if isinstance(module, layers.Conv) else (1, 288)
    params = module.init(KEY, jnp.zeros(shape))["params"]
    bound = 288**-0.5
    for name in ("kernel", "bias"):
        values = np.asarray(params[name])
        assert np.abs(values).max() <= bound
        assert np.abs(values).max() > 0.95 * bound
        assert values.std() == pytest.approx(bound / 3**0.5, rel=0.1)
        assert abs(values.mean()) < 0.15 * bound
