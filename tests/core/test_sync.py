"""Look-ahead and averaging against hand numbers, optax and their limits."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from absl.testing import parameterized
from hypothesis import given, settings
from hypothesis import strategies as st

from cls_jax.core import sync

TREE = {"a": jnp.arange(4.0), "b": {"c": -jnp.ones((2, 3))}}
OTHER = jax.tree.map(lambda leaf: 3.0 * leaf + 0.1, TREE)


class SyncVariants(chex.TestCase, parameterized.TestCase):
    @chex.variants(with_jit=True, without_jit=True)
    @parameterized.parameters(0.0, 0.3, 1.0)
    def test_ema_is_optax_incremental_update(self, decay):
        got = self.variant(sync.ema)(TREE, OTHER, decay)
        chex.assert_trees_all_close(got, optax.incremental_update(OTHER, TREE, 1.0 - decay))

    @chex.variants(with_jit=True, without_jit=True)
    def test_off_switches_are_exact(self):
        ema, lookahead = self.variant(sync.ema), self.variant(sync.lookahead)
        chex.assert_trees_all_equal(ema(TREE, OTHER, 1.0), TREE)
        chex.assert_trees_all_equal(ema(TREE, OTHER, 0.0), OTHER)
        chex.assert_trees_all_equal(lookahead(TREE, OTHER, 0.0), TREE)
        chex.assert_trees_all_equal(lookahead(TREE, OTHER, 1.0), OTHER)

    @chex.variants(with_jit=True, without_jit=True)
    def test_select_takes_whole_trees(self):
        select = self.variant(sync.select)
        chex.assert_trees_all_equal(select(jnp.array(True), TREE, OTHER), TREE)
        chex.assert_trees_all_equal(select(jnp.array(False), TREE, OTHER), OTHER)


@pytest.mark.parametrize(
    ("rate", "step_size", "rounds", "want"),
    [(0.1, 0.05, 1, 0.9905), (0.1, 0.05, 2, 0.98109025), (0.5, 0.5, 1, 0.625)],
)
def test_lookahead_on_a_parabola(rate, step_size, rounds, want):
    """dualnet card 13.2: f(w) = w^2 / 2 from w = 1, two inner steps a round."""
    w = jnp.float32(1.0)
    for _ in range(rounds):
        reached = w * (1 - rate) ** 2
        w = sync.lookahead(w, reached, step_size)
    np.testing.assert_allclose(w, want, rtol=1e-6)


def test_lookahead_of_a_running_mean():
    """dualnet card 13.3: momentum 0.1, two view batches of mean 1, beta 0.05."""
    mean = 0.0
    for _ in range(2):
        mean = 0.9 * mean + 0.1
    np.testing.assert_allclose(sync.lookahead(0.0, mean, 0.05), 0.0095, rtol=1e-6)


def test_ema_with_warm_up_is_the_running_mean():
    """clser card 9.1: theta_t = t, cap 0.999 -> 0.5, 1, 1.5, 2, 2.5."""
    average, got = jnp.float32(0.0), []
    for step in range(1, 6):
        average = sync.ema(average, jnp.float32(step), sync.ema_decay(step, 0.999))
        got.append(float(average))
    np.testing.assert_allclose(got, [0.5, 1.0, 1.5, 2.0, 2.5], rtol=1e-6)
    np.testing.assert_allclose(sync.ema_decay(98, 0.99), 0.98989899, rtol=1e-6)
    np.testing.assert_allclose(sync.ema_decay(99, 0.99), 0.99, rtol=1e-6)


@settings(max_examples=50)
@given(st.floats(-1e3, 1e3, width=32), st.floats(0, 1, width=32), st.integers(1, 20))
def test_ema_of_a_constant_is_the_constant(value, decay, steps):
    average = jnp.float32(value)
    for _ in range(steps):
        average = sync.ema(average, jnp.float32(value), decay)
    np.testing.assert_allclose(average, value, rtol=1e-5, atol=1e-5)


def test_lookahead_every_k_is_optax_lookahead():
    """The explicit transform and the hidden one agree to the last bit."""
    fast_rule, slow_step = optax.sgd(0.1), 0.5
    hidden = optax.lookahead(fast_rule, sync_period=2, slow_step_size=slow_step)
    params = optax.LookaheadParams.init_synced(jnp.array([1.0, -2.0]))
    state = hidden.init(params)
    w = anchor = jnp.array([1.0, -2.0])
    for step in range(1, 7):
        updates, state = hidden.update(params.fast, state, params)  # the gradient of w^2 / 2
        params = optax.apply_updates(params, updates)
        w = w - 0.1 * w
        met = jnp.array(step % 2 == 0)
        anchor = sync.select(met, sync.lookahead(anchor, w, slow_step), anchor)
        w = sync.select(met, anchor, w)
        np.testing.assert_allclose(params.slow, anchor, rtol=1e-6)
