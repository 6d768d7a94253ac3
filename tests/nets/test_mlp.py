"""The MNIST perceptron: counts, bounds, output."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl.testing import parameterized

from cls_jax.core.errors import InputError
from cls_jax.nets.mlp import mlp
from tests.support.oracle_weights import count


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


def test_bfloat16_computes_low_and_keeps_high():
    full, net, x = mlp(3), mlp(3, dtype="bfloat16"), jax.random.normal(jax.random.key(1), (4, 8, 8))
    vars = net.init(jax.random.key(0), x)
    chex.assert_trees_all_equal(vars, full.init(jax.random.key(0), x))

    def loss(params, net):
        logits, stats = net.apply(vars.replace(params=params), x, train=True)
        return (logits**2).sum(), (logits, stats, net.features(vars, x, train=True)[0])

    def both(net):
        (_, outputs), gradient = jax.value_and_grad(loss, has_aux=True)(vars.params, net)
        return outputs[0], (outputs, gradient)

    logits, everything = both(net)
    assert {leaf.dtype for leaf in jax.tree.leaves(everything)} == {jnp.dtype("float32")}
    expected, _ = both(full)
    assert 0 < np.abs(logits - expected).max() < 0.02 * np.abs(expected).max()
    hidden = str(jax.make_jaxpr(lambda x: net.apply(vars, x, train=True))(x)).split("dot_general")
    assert "bf16[4,100]" in hidden[0]
    assert "f32[4,3]" in hidden[2]


def test_hidden_may_be_empty():
    assert count(mlp(3, ()).init(jax.random.key(0), jnp.zeros((1, 5))).params) == 18


@pytest.mark.parametrize(
    ("arguments", "words"),
    [((0,), "num_classes = 0"), ((10, (100, 0)), "hidden"), ((10, (9,), "int8"), "dtype = 'int8'")],
)
def test_impossible_networks_are_named(arguments, words):
    with pytest.raises(InputError, match=words):
        mlp(*arguments)
