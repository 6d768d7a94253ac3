"""Extractors: the same by hand, features that may be negative, what does not count, dtypes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cls_jax.core.errors import InputError
from cls_jax.nets.extractor import flat_extractor, small_extractor
from cls_jax.nets.registry import NetConfig, make_extractor
from tests.support.oracle_weights import count

KEY = jax.random.key(0)
IMAGES = jax.random.normal(jax.random.key(1), (5, 8, 8, 3))
EXTRACTORS = {"small": small_extractor(4), "flat": flat_extractor((9, 6))}
every_extractor = pytest.mark.parametrize("name", EXTRACTORS)


def convolved(x, kernel, bias):
    """3x3, stride 2, one zero around: a loop over places, in float64."""
    x = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    side = (x.shape[1] - 1) // 2
    out = np.zeros((len(x), side, side, kernel.shape[-1]))
    for i in range(side):
        for j in range(side):
            patch = x[:, 2 * i : 2 * i + 3, 2 * j : 2 * j + 3]
            out[:, i, j] = np.einsum("bijc,ijco->bo", patch, kernel) + bias
    return out


def test_the_small_one_by_hand():
    vars = EXTRACTORS["small"].init(KEY, IMAGES)
    p = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), vars.params)
    assert count(p) == (27 * 4 + 4) + (36 * 8 + 8) + (2 * 2 * 8 * 8 + 8)
    x = np.asarray(IMAGES, np.float64)
    for layer in ("conv0", "conv1"):
        x = np.maximum(convolved(x, p[layer]["kernel"], p[layer]["bias"]), 0)
    expected = x.reshape(5, -1) @ p["dense"]["kernel"] + p["dense"]["bias"]
    seen, stats = EXTRACTORS["small"].apply(vars, IMAGES, train=True)
    np.testing.assert_allclose(seen.maps, x, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(seen.features, expected, rtol=1e-4, atol=1e-5)
    assert stats == vars.stats == {}


def test_the_flat_one_by_hand():
    vars = EXTRACTORS["flat"].init(KEY, IMAGES)
    p = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), vars.params)
    x = np.asarray(IMAGES, np.float64).reshape(5, -1)
    hidden = np.maximum(x @ p["fc1"]["kernel"] + p["fc1"]["bias"], 0)
    seen, stats = EXTRACTORS["flat"].apply(vars, IMAGES, train=True)
    expected = hidden @ p["fc2"]["kernel"] + p["fc2"]["bias"]
    np.testing.assert_allclose(seen.features, expected, rtol=1e-4, atol=1e-5)
    assert seen.maps is None
    assert stats == vars.stats == {}


@every_extractor
def test_features_may_be_negative(name):
    extractor = EXTRACTORS[name]
    seen, _ = extractor.apply(extractor.init(KEY, IMAGES), IMAGES, train=False)
    assert (seen.features < 0).any()
    assert (seen.features > 0).any()


@every_extractor
def test_every_row_is_seen_by_itself(name):
    extractor = EXTRACTORS[name]
    vars = extractor.init(KEY, IMAGES)
    valid = jnp.array([True, True, False, True, True])
    whole, _ = extractor.apply(vars, IMAGES.at[2].set(1e6), train=True, valid=valid)
    alone, _ = extractor.apply(vars, IMAGES, train=False)
    keep = np.asarray(valid)
    np.testing.assert_allclose(whole.features[keep], alone.features[keep], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ["small", "mlp"])
def test_bfloat16_computes_low_and_keeps_high(name):
    seen = {}
    for dtype in ("float32", "bfloat16"):
        extractor = make_extractor(NetConfig(net=name, width=2, hidden=(9, 6), dtype=dtype))
        vars = extractor.init(KEY, IMAGES)
        seen[dtype], _ = extractor.apply(vars, IMAGES, train=False)
        kinds = {leaf.dtype for leaf in jax.tree.leaves((vars, seen[dtype].features))}
        assert kinds == {jnp.dtype("float32")}
        if name == "small":
            assert seen[dtype].maps.dtype == jnp.dtype(dtype)
    full, low = (seen[dtype].features for dtype in ("float32", "bfloat16"))
    assert 0 < np.abs(full - low).max() < 0.2 * np.abs(full).max()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: small_extractor(0), "width = 0"),
        (lambda: small_extractor(dtype="int8"), "dtype = 'int8'"),
        (lambda: flat_extractor(()), r"hidden = \(\)"),
        (lambda: flat_extractor((4, 0)), r"hidden = \(4, 0\)"),
        (lambda: make_extractor(NetConfig(net="resnet18")), "'resnet18'; cosine classifiers"),
    ],
)
def test_impossible_extractors_are_named(make, message):
    with pytest.raises(InputError, match=message):
        make()
