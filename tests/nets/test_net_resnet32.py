"""ResNet-32: counts by formula, the last block without its ReLU, padding, statistics."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cls_jax.nets.resnet32 import resnet32, resnet32_extractor
from cls_jax.types import InputError
from tests.nets.oracle_weights import count, random_vars

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


@pytest.mark.parametrize(("width", "trunk"), [(16, 466_256), (2, 7_596)])
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


@pytest.fixture(scope="module")
def small():
    """(extractor, net, variables of the extractor's trunk, images)."""
    extractor, net = resnet32_extractor(2), resnet32(3, 2)
    x = jax.random.normal(jax.random.key(1), (4, 8, 8, 3))
    return extractor, net, random_vars(jax.eval_shape(extractor.init, KEY, x)), x


def test_only_the_extractor_leaves_out_the_last_relu(small):
    """On the same weights: the net's features are the mean of the positive parts of its maps."""
    extractor, net, vars, x = small
    apply = jax.jit(lambda v, x: extractor.apply(v, x, train=False)[0])
    seen = apply(vars, x)
    np.testing.assert_allclose(seen.features, seen.maps.mean((1, 2)), rtol=1e-4, atol=1e-5)
    assert (seen.features < 0).any()
    inner = vars.replace(params={"trunk": vars.params}, stats={"trunk": vars.stats})
    features, _ = jax.jit(lambda v, x: net.features(v, x, train=False))(inner, x)
    expected = np.maximum(seen.maps, 0).mean((1, 2))
    np.testing.assert_allclose(features, expected, rtol=1e-4, atol=1e-5)
    assert (features >= 0).all()


def test_padded_rows_do_not_exist(small):
    extractor, _, vars, x = small
    valid = np.array([True, True, False, True])
    apply = jax.jit(lambda v, x, m: extractor.apply(v, x, train=True, valid=m))
    seen, stats = apply(vars, x.at[2].set(50.0), jnp.asarray(valid))
    alone, alone_stats = apply(vars, x[valid], None)
    np.testing.assert_allclose(seen.features[valid], alone.features, rtol=1e-3, atol=1e-3)
    chex.assert_trees_all_close(stats, alone_stats, rtol=1e-3, atol=1e-5)
    seen, stats = apply(vars, x, jnp.zeros(4, bool))
    chex.assert_tree_all_finite(seen.features)
    chex.assert_trees_all_equal(stats, vars.stats)


def test_evaluation_gives_the_statistics_back(small):
    extractor, _, vars, x = small
    apply = jax.jit(lambda v, x: extractor.apply(v, x, train=False))
    seen, stats = apply(vars, x)
    chex.assert_trees_all_equal(stats, vars.stats)
    one_by_one = np.stack([apply(vars, row[None])[0].features[0] for row in x])
    np.testing.assert_allclose(seen.features, one_by_one, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("arguments", [{"width": 0}, {"dtype": "int8"}])
def test_impossible_networks_are_named(arguments):
    for make in (lambda **kind: resnet32(10, **kind), resnet32_extractor):
        with pytest.raises(InputError, match=next(iter(arguments))):
            make(**arguments)
