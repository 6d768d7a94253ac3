"""ResNet-18: the counts and the forward oracle of the CLS-ER card, masks, dtypes."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cls_jax.core.errors import InputError
from cls_jax.nets.resnet import resnet18
from tests.support.oracle_weights import count, oracle_images, oracle_vars, random_vars

KEY = jax.random.key(0)


@pytest.mark.parametrize(
    ("num_classes", "expected"), [(10, 11_173_962), (100, 11_220_132), (200, 11_271_432)]
)
def test_counts(num_classes, expected):
    net = resnet18(num_classes)
    vars = jax.eval_shape(net.init, KEY, jnp.zeros((1, 32, 32, 3)))
    assert count(vars.params) == expected
    assert count(vars.stats) == 9_600
    assert len(jax.tree.leaves(vars.params)) == 62
    layers = [count(vars.params[f"layer{number}"]) for number in (1, 2, 3, 4)]
    assert layers == [147_968, 525_568, 2_099_712, 8_393_728]
    assert [count(vars.params[name]) for name in ("conv1", "bn1")] == [1_728, 128]


def test_forward_oracle():
    with jax.enable_x64(True):
        net = resnet18(4, width=2, dtype="float64")
        x = oracle_images(np.sin, 1e-4, (4, 3, 32, 32))
        vars = oracle_vars(jax.eval_shape(net.init, KEY, x))
        assert count(vars.params) == 11_318
        logits, stats = jax.jit(lambda v, x: net.apply(v, x, train=True))(vars, x)
        assert {leaf.dtype for leaf in jax.tree.leaves(stats)} == {jnp.dtype("float64")}
        expected = [1.29862919, 1.54595569, 3.08405816, 1.31315135]
        np.testing.assert_allclose(logits[0], expected, atol=1e-6)


@pytest.fixture(scope="module")
def small():
    net = resnet18(3, width=2)
    x = jax.random.normal(jax.random.key(1), (4, 8, 8, 3))
    return net, random_vars(jax.eval_shape(net.init, KEY, x)), x


def test_padded_rows_do_not_exist(small):
    net, vars, x = small
    valid = np.array([True, True, False, True])
    apply = jax.jit(lambda v, x, m: net.apply(v, x, train=True, valid=m))
    logits, stats = apply(vars, x, jnp.asarray(valid))
    alone, alone_stats = apply(vars, x[valid], None)
    np.testing.assert_allclose(logits[valid], alone, rtol=1e-3, atol=1e-3)
    chex.assert_trees_all_close(stats, alone_stats, rtol=1e-3, atol=1e-5)
    logits, stats = apply(vars, x, jnp.zeros(4, bool))
    chex.assert_tree_all_finite(logits)
    chex.assert_trees_all_equal(stats, vars.stats)


def test_eval_gives_the_statistics_back(small):
    net, vars, x = small
    apply = jax.jit(lambda v, x: net.apply(v, x, train=False))
    logits, stats = apply(vars, x)
    chex.assert_trees_all_equal(stats, vars.stats)
    one_by_one = [apply(vars, row[None])[0][0] for row in x]
    np.testing.assert_allclose(logits, np.stack(one_by_one), rtol=1e-4, atol=1e-5)


def test_bfloat16_computes_low_and_keeps_high(small):
    full, vars, x = small
    net = resnet18(3, width=2, dtype="bfloat16")
    logits, stats = jax.jit(lambda v, x: net.apply(v, x, train=True))(vars, x)
    kinds = {leaf.dtype for leaf in jax.tree.leaves((vars, logits, stats))}
    assert kinds == {jnp.dtype("float32")}
    expected, _ = jax.jit(lambda v, x: full.apply(v, x, train=True))(vars, x)
    difference = np.abs(logits - expected).max()
    assert 0 < difference < 0.2 * np.abs(expected).max()


@pytest.mark.parametrize("arguments", [{"num_classes": 0}, {"width": 0}, {"dtype": "int8"}])
def test_impossible_networks_are_named(arguments):
    with pytest.raises(InputError, match=next(iter(arguments))):
        resnet18(**{"num_classes": 10, **arguments})
