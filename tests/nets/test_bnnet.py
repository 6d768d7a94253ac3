"""BNNet: against NumPy, its masks, its batch statistics, and what it cannot be."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl.testing import parameterized

from cls_jax.core.errors import InputError
from cls_jax.core.types import Variables
from cls_jax.methods.architecture.supermasks import signed_constant
from cls_jax.nets.bnnet import bnnet
from tests.support.oracle_weights import count

KEY = jax.random.key(0)


def by_hand(params, x):
    """float64[b, C]: every row of ``x`` counts."""
    h = np.asarray(x, np.float64).reshape(len(x), -1)
    for name, scale in params["scales"].items():
        h = h @ np.asarray(params["kernels"][name], np.float64)
        h = (h - h.mean(0)) / np.sqrt(h.var(0) + 1e-5) * np.asarray(scale)
        h = h / (1 + np.exp(-h))
    return h @ np.asarray(params["kernels"][f"fc{len(params['scales']) + 1}"], np.float64)


def with_scales(vars, *scales):
    """The same kernels under other scales."""
    named = {f"fc{i}": jnp.asarray(scale) for i, scale in enumerate(scales, 1)}
    return Variables(params={**vars.params, "scales": named}, stats={})


class BnnetTest(chex.TestCase):
    @chex.variants(with_jit=True, without_jit=True)
    @parameterized.parameters((((6, 4, 4, 3)),), ((6, 48),))
    def test_matches_numpy(self, shape):
        net = bnnet(5, (7, 9), signed_constant)
        x = jax.random.normal(jax.random.key(1), shape)
        vars = with_scales(net.init(KEY, x), jnp.arange(7) / 3, 1.0 * (jnp.arange(9) % 2))
        logits, stats = self.variant(lambda v, x: net.apply(v, x, train=True))(vars, x)
        assert stats == {}
        np.testing.assert_allclose(logits, by_hand(vars.params, x), rtol=1e-4, atol=1e-5)
        still, _ = net.apply(vars, x, train=False)
        np.testing.assert_allclose(still, logits, rtol=1e-6, atol=1e-6)


def test_the_published_network():
    vars = bnnet(10, (2048, 2048), signed_constant).init(KEY, jnp.zeros((2, 28, 28, 1)))
    assert vars.stats == {}
    assert {k: v.shape for k, v in vars.params["kernels"].items()} == {
        "fc1": (784, 2048),
        "fc2": (2048, 2048),
        "fc3": (2048, 10),
    }
    assert count(vars.params["scales"]) == 4096
    assert all((scale == 1).all() for scale in vars.params["scales"].values())
    magnitude = jnp.abs(vars.params["kernels"]["fc1"])
    np.testing.assert_allclose(magnitude, 0.0505076, rtol=1e-5)


def test_a_unit_of_scale_zero_is_gone():
    """Whatever it weighs: the network without it answers the same."""
    net, x = bnnet(3, (6, 5), signed_constant), jax.random.normal(KEY, (8, 10))
    vars = net.init(KEY, x)
    mask = jnp.array([1.0, 0, 1, 1, 0, 1])
    masked = with_scales(vars, mask, jnp.ones(5))
    kernels = dict(vars.params["kernels"])
    kernels["fc1"] = kernels["fc1"][:, mask == 1]
    kernels["fc2"] = kernels["fc2"][mask == 1]
    small = {"kernels": kernels, "scales": {"fc1": jnp.ones(4), "fc2": jnp.ones(5)}}
    logits, _ = net.apply(masked, x, train=True)
    np.testing.assert_allclose(logits, by_hand(small, x), rtol=1e-4, atol=1e-5)


def test_rows_that_are_not_valid_are_in_no_statistic():
    net, x = bnnet(3, (6,), signed_constant), jax.random.normal(KEY, (8, 10))
    vars, valid = net.init(KEY, x), jnp.arange(8) < 5
    for garbage in (0.0, 1e3):
        mixed = jnp.where(valid[:, None], x, garbage)
        logits, _ = net.apply(vars, mixed, train=True, valid=valid)
        np.testing.assert_allclose(logits[:5], by_hand(vars.params, x[:5]), rtol=1e-4, atol=1e-5)


def test_bfloat16_computes_low_and_keeps_high():
    full, net = (bnnet(3, (32, 32), signed_constant, dtype=d) for d in ("float32", "bfloat16"))
    x = jax.random.normal(jax.random.key(1), (16, 20))
    vars = net.init(KEY, x)
    chex.assert_trees_all_equal(vars, full.init(KEY, x))
    logits, expected = (each.apply(vars, x, train=True)[0] for each in (net, full))
    assert logits.dtype == jnp.float32
    assert 0 < np.abs(logits - expected).max() < 0.05 * np.abs(expected).max()
    program = str(jax.make_jaxpr(lambda x: net.apply(vars, x, train=True))(x))
    assert "bf16[16,32]" in program


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"hidden": ()}, "hidden is"),
        ({"hidden": (4, 0)}, "hidden is"),
        ({"num_classes": 0}, "num_classes"),
        ({"dtype": "int8"}, "dtype"),
    ],
)
def test_impossible_networks_are_named(change, expected):
    given = {"num_classes": 3, "hidden": (4,), "kernel_init": signed_constant}
    with pytest.raises(InputError, match=expected):
        bnnet(**{**given, **change})
