"""The MNIST perceptron: counts, bounds, output."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl.testing import parameterized

from cls_jax.nets import mlp
from cls_jax.types import InputError
from tests.nets.oracle_weights import count


class MlpTest(chex.TestCase):
    @chex.variants(with_jit=True, without_jit=True)
    @parameterized.parameters((((3, 28, 28, 1)),), ((3, 784),))
    def test_matches_numpy(self, shape):
        net = mlp(10)
        x = jax.random.normal(jax.random.key(1), shape)
        vars = net.init(jax.random.key(0), x)
        logits, stats = self.variant(lambda v, x: net.apply(v, x, train=True))(vars, x)
        assert stats == {}
        assert vars.stats == {}
        h = np.asarray(x, np.float64).reshape(3, -1)
        for number in (1, 2, 3):
            layer = vars.params[f"fc{number}"]
            h = h @ np.asarray(layer["kernel"], np.float64) + np.asarray(layer["bias"])
            h = np.maximum(h, 0) if number < 3 else h
        np.testing.assert_allclose(logits, h, rtol=1e-4, atol=1e-5)


def test_counts_bounds_and_zero_biases():
    params = mlp(10).init(jax.random.key(0), jnp.zeros((2, 28, 28, 1))).params
    assert count(params) == 89_610
    for name, bound in (("fc1", 0.0823853), ("fc2", 0.1732051), ("fc3", 0.2335497)):
        kernel = np.abs(np.asarray(params[name]["kernel"]))
        assert 0.98 * bound < kernel.max() <= bound * 1.00001
        np.testing.assert_array_equal(params[name]["bias"], 0)


def test_hidden_may_be_empty():
    assert count(mlp(3, ()).init(jax.random.key(0), jnp.zeros((1, 5))).params) == 18


@pytest.mark.parametrize("arguments", [(0,), (10, (100, 0))])
def test_impossible_sizes_are_named(arguments):
    with pytest.raises(InputError, match="0"):
        mlp(*arguments)
