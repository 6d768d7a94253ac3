"""APD's LeNet: its sizes, the normalisation against NumPy, and how it is drawn."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cls_jax.core.errors import InputError
from cls_jax.nets.lenet import lenet, local_response_norm


def sizes(params):
    return {name: {k: v.shape for k, v in layer.items()} for name, layer in params.items()}


def test_sizes_on_cifar():
    """apd card, oracle 7: 2,986,500 weights before the last layer."""
    net = lenet(10)
    vars = jax.eval_shape(net.init, jax.random.key(0), jnp.zeros((1, 32, 32, 3)))
    assert vars.stats == {}
    found = sizes(vars.params)
    assert found[net.head] == {"kernel": (500, 10), "bias": (10,)}
    kernels = [layer["kernel"] for name, layer in found.items() if name != net.head]
    assert kernels == [(5, 5, 3, 20), (5, 5, 20, 50), (3200, 800), (800, 500)]
    assert sum(np.prod(shape) for shape in kernels) == 2_986_500


def test_the_normalisation_by_hand():
    x = np.random.default_rng(0).normal(0, 20, (2, 3, 3, 12))
    expected = np.empty_like(x)
    for c in range(12):
        near = x[..., max(c - 4, 0) : c + 5]
        expected[..., c] = x[..., c] / (1 + 0.001 / 9 * np.square(near).sum(-1)) ** 0.75
    np.testing.assert_allclose(local_response_norm(jnp.float32(x)), expected, rtol=1e-5)


def test_head_of_features_is_the_output():
    net, x = lenet(4), jax.random.normal(jax.random.key(1), (2, 9, 9, 3))
    vars = net.init(jax.random.key(0), x)
    features, _ = net.features(vars, x, train=False)
    logits, stats = net.apply(vars, x, train=True)
    head = vars.params[net.head]
    assert features.shape == (2, 500)
    assert stats == {}
    np.testing.assert_allclose(features @ head["kernel"] + head["bias"], logits, atol=1e-5)


def test_it_is_drawn_with_the_std_of_its_fan_in():
    """Biases too: as if there were as many inputs as biases."""
    params = lenet(10).init(jax.random.key(0), jnp.zeros((1, 32, 32, 3))).params
    for leaf, fan_in in (
        (params["fc1"]["kernel"], 3200),
        (params["conv2"]["kernel"], 500),
        (params["fc1"]["bias"], 800),
    ):
        np.testing.assert_allclose(leaf.std() * fan_in**0.5, 1, atol=0.1)
        assert np.abs(leaf).max() <= 2 / 0.87962 / fan_in**0.5


def test_bfloat16_computes_low_and_keeps_high():
    full, low = lenet(3), lenet(3, dtype="bfloat16")
    x = jax.random.normal(jax.random.key(1), (2, 9, 9, 3))
    vars = low.init(jax.random.key(0), x)
    one, two = (net.apply(vars, x, train=False)[0] for net in (full, low))
    assert one.dtype == two.dtype == jnp.float32
    assert 0 < np.abs(one - two).max() < 0.05 * np.abs(one).max()


@pytest.mark.parametrize(
    ("arguments", "words"), [((0,), "num_classes = 0"), ((2, "int8"), "dtype = 'int8'")]
)
def test_impossible_networks_are_named(arguments, words):
    with pytest.raises(InputError, match=words):
        lenet(*arguments)
