"""ResNet-32: counts by formula, the last block without its ReLU, padding, statistics."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cls_jax.core.errors import InputError
from cls_jax.nets.resnet32 import resnet32, resnet32_extractor
from tests.support.oracle_weights import count, random_vars

KEY = jax.random.key(0)


def trunk_count(width):
    """Stem, 15 blocks of two 3x3 convolutions, two 1x1 shortcuts; a scale and a bias a channel."""
    conv = lambda side, inputs, outputs: side**2 * inputs * outputs + 2 * outputs  # noqa: E731
    total, inputs = conv(3, 3, width), width
    for stage in range(3):
        outputs = width * 2**stage
        for _ in range(5):
            total += conv(3, inputs, outputs) + conv(3, outputs, outputs)
            total += conv(1, inputs, outputs) if inputs != outputs else 0
            inputs = outputs
    return total


@pytest.mark.parametrize(("width", "trunk"), [(16, 466_256), (2, 7_602)])
def test_counts(width, trunk):
    """He et al.: 0.46 M; without the two 1x1 shortcuts of the official code 463,504."""
    x = jnp.zeros((1, 32, 32, 3))
    extractor, net = resnet32_extractor(width), resnet32(100, width)
    found = jax.eval_shape(extractor.init, KEY, x)
    assert count(found.params) == trunk_count(width) == trunk
    whole = jax.eval_shape(net.init, KEY, x)
    assert count(whole.params) == trunk + 4 * width * 100 + 100
    features = jax.eval_shape(lambda v: extractor.apply(v, x, train=False)[0].features, found)
    assert features.shape == (1, 4 * width)
    maps = jax.eval_shape(lambda v: extractor.apply(v, x, train=False)[0].maps, found)
    assert maps.shape == (1, 8, 8, 4 * width)
    shortcuts = {name for name, block in found.params.items() if "shortcut_conv" in block}
    assert shortcuts == {"layer2_block0", "layer3_block0"}


def test_kernels_are_kaiming_normal_over_their_outputs():
    params = resnet32_extractor().init(KEY, jnp.zeros((1, 32, 32, 3))).params
    for block, fan_out in (("layer1_block1", 9 * 16), ("layer3_block4", 9 * 64)):
        kernel = np.asarray(params[block]["conv2"]["kernel"])
        np.testing.assert_allclose(kernel.std(), (2 / fan_out) ** 0.5, rtol=0.06)
        assert abs(kernel.mean()) < 4 * kernel.std() / kernel.size**0.5


X = jax.random.normal(jax.random.key(1), (4, 8, 8, 3))


def applied(extractor, **kind):
    """``apply``, compiled."""
    return jax.jit(lambda vars, x, valid=None: extractor.apply(vars, x, valid=valid, **kind))


@pytest.fixture(scope="module")
def small():
    """(extractor, its variables, what it sees in X in evaluation, the statistics after it).

    The last block's last bias is below zero, as it may be once trained.
    """
    extractor = resnet32_extractor(2)
    vars = random_vars(jax.eval_shape(extractor.init, KEY, X))
    last = vars.params["layer3_block4"]
    last = {**last, "bn2": {**last["bn2"], "bias": jnp.full(8, -0.03)}}
    vars = vars.replace(params={**vars.params, "layer3_block4": last})
    return extractor, vars, *applied(extractor, train=False)(vars, X)


def test_evaluation_pools_the_maps_and_gives_the_statistics_back(small):
    _, vars, seen, stats = small
    chex.assert_trees_all_equal(stats, vars.stats)
    np.testing.assert_allclose(seen.features, seen.maps.mean((1, 2)), rtol=1e-4, atol=1e-5)


def test_only_the_extractor_leaves_out_the_last_relu(small):
    """On the same weights: the net's features are the mean of the positive parts of its maps."""
    _, vars, seen, _ = small
    assert (seen.features < 0).any()
    net = resnet32(3, 2)
    inner = vars.replace(params={"trunk": vars.params}, stats={"trunk": vars.stats})
    features = jax.jit(lambda v, x: net.features(v, x, train=False)[0])
    features = features(inner, X)
    expected = np.maximum(seen.maps, 0).mean((1, 2))
    np.testing.assert_allclose(features, expected, rtol=1e-4, atol=1e-5)
    assert (features >= 0).all()


def test_padded_rows_do_not_exist(small):
    extractor, vars, _, _ = small
    valid = np.array([True, True, False, True])
    apply = applied(extractor, train=True)
    seen, stats = apply(vars, X.at[2].set(50.0), jnp.asarray(valid))
    alone, alone_stats = apply(vars, X[valid], None)
    np.testing.assert_allclose(seen.features[valid], alone.features, rtol=1e-3, atol=1e-3)
    chex.assert_trees_all_close(stats, alone_stats, rtol=1e-3, atol=1e-5)
    seen, stats = apply(vars, X, jnp.zeros(4, bool))
    chex.assert_tree_all_finite(seen.features)
    chex.assert_trees_all_equal(stats, vars.stats)


def test_bfloat16_computes_low_and_keeps_high(small):
    _, vars, full, _ = small
    low, stats = applied(resnet32_extractor(2, "bfloat16"), train=False)(vars, X)
    assert low.maps.dtype == jnp.dtype("bfloat16")
    kinds = {leaf.dtype for leaf in jax.tree.leaves((low.features, stats))}
    assert kinds == {jnp.dtype("float32")}
    difference = np.abs(low.features - full.features).max()
    assert 0 < difference < 0.2 * np.abs(full.features).max()


@pytest.mark.parametrize("arguments", [{"width": 0}, {"dtype": "int8"}])
def test_impossible_networks_are_named(arguments):
    for make in (lambda **kind: resnet32(10, **kind), resnet32_extractor):
        with pytest.raises(InputError, match=next(iter(arguments))):
            make(**arguments)
