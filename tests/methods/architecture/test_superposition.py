"""Superposition: the card's oracles 5 to 8, and slopes against what they stand for."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cls_jax.methods.architecture import superposition as sp
from cls_jax.methods.architecture.supermasks import pack


def packed(*masks):
    return jnp.stack([pack(jnp.asarray(mask)) for mask in masks])


def linear(weights, objective, num_labels, x=(1.0, 1.0)):
    """The uncertainty of one linear layer, inputs x outputs, under a mixture of masks."""
    weights = jnp.asarray(weights, jnp.float32)

    def uncertainty(mixture):
        logits = jnp.asarray([x]) @ (weights * mixture.reshape(weights.shape))
        return objective(logits, num_labels, jnp.ones(1, bool))

    return uncertainty


# --- the card's oracles ---------------------------------------------------------------------------


def test_oracle_of_one_shot_by_entropy():
    """O5: logits (1.5, -1.5) at equal shares; the first mask is the one."""
    masks = packed([1, 1, 1, 1], [1, 1, 0, 0])
    uncertainty = linear([[1, -1], [1, -1]], sp.entropy, 2)
    mixture = sp.superposed(masks, jnp.array([0.5, 0.5]), 4)
    np.testing.assert_allclose(mixture, [1, 1, 0.5, 0.5])
    np.testing.assert_allclose(uncertainty(mixture), 0.190865, rtol=1e-5)
    slopes = sp.slopes_of(uncertainty, masks, 4)
    np.testing.assert_allclose(slopes(jnp.array([0.5, 0.5])), [-0.542120, -0.271060], rtol=1e-5)
    assert sp.one_shot(slopes, jnp.ones(2, bool)) == 0


def test_oracle_of_one_shot_by_superfluous_outputs():
    """O6: two labels, two further outputs."""
    masks = packed([1, 1, 1, 1, 0, 0, 0, 0], [0, 0, 0, 0, 1, 1, 1, 1])
    uncertainty = linear([[2, 0, -2, -4], [1, 0, 0, -1]], sp.superfluous, 2)
    slopes = sp.slopes_of(uncertainty, masks, 8)
    np.testing.assert_allclose(slopes(jnp.array([0.5, 0.5])), [-0.179393, -0.0138385], rtol=1e-5)
    assert sp.one_shot(slopes, jnp.ones(2, bool)) == 0


def test_the_value_of_superfluous_is_that_of_all_outputs():
    value = sp.superfluous(jnp.array([[2.0, 0, -1, -3]]), 2, jnp.ones(1, bool))
    np.testing.assert_allclose(value, 2.175515, rtol=1e-6)


@pytest.mark.parametrize(("slope", "ratio", "new"), [(0.2, 1.16961, False), (0.1, 1.08240, True)])
def test_oracle_of_new_tasks(slope, ratio, new):
    """O7: five masks, of which one has a slope; two more are not compared."""
    slopes = jnp.array([-slope, 0, 0, 0, 0, -9.0, -9.0])
    found, nu = sp.is_new(slopes, jnp.arange(7) < 5, 1.125, 1.0)
    np.testing.assert_allclose(5 * nu.max(), ratio, rtol=1e-5)
    assert found == new
    np.testing.assert_allclose(nu.sum(), 1, rtol=1e-6)
    assert (nu[5:] == 0).all()
    assert int(jnp.argmax(nu)) == 0


def test_the_second_bound_on_new_tasks():
    """Of two masks one with .88: new by 2.2 / 2 alone, new by .9, known by .85."""
    slopes, compared = jnp.array([-2.0, 0.0]), jnp.ones(2, bool)
    assert 0.85 < sp.is_new(slopes, compared, 2.2, 0.9)[1][0] < 0.9
    assert sp.is_new(slopes, compared, 2.2, 1.0)[0]
    assert sp.is_new(slopes, compared, 2.2, 0.9)[0]
    assert not sp.is_new(slopes, compared, 2.2, 0.85)[0]


def test_oracle_of_halving():
    """O8: up to the lower median; 36 masks take six rounds."""
    good = sp.better_half(jnp.array([-0.5, -0.1, 0.2, 0.3]), jnp.ones(4, bool))
    np.testing.assert_array_equal(good, [True, True, False, False])
    slopes, good, left = jax.random.normal(jax.random.key(0), (36,)), jnp.ones(36, bool), []
    while good.sum() > 1:
        good = sp.better_half(slopes, good)
        left.append(int(good.sum()))
    assert left == [18, 9, 5, 3, 2, 1]
    assert int(jnp.argmax(good)) == int(jnp.argmin(slopes))


# --- what they stand for --------------------------------------------------------------------------


def deep(masks, objective, num_labels=3):
    """(uncertainty by the mixture, the same by shares of the masks: a sum of whole networks)."""
    keys = jax.random.split(jax.random.key(1), 3)
    w1, w2 = jax.random.normal(keys[0], (5, 7)), jax.random.normal(keys[1], (7, 6))
    x, valid = jax.random.normal(keys[2], (4, 5)), jnp.array([True, True, True, False])
    x = x.at[3].set(1e3)  # does not count

    def uncertainty(mixture):
        first, second = mixture[:35].reshape(5, 7), mixture[35:].reshape(7, 6)
        return objective(jax.nn.relu(x @ (w1 * first)) @ (w2 * second), num_labels, valid)

    return uncertainty, lambda shares: uncertainty(shares @ masks.astype(jnp.float32))


@pytest.mark.parametrize("objective", [sp.entropy, sp.superfluous])
@pytest.mark.parametrize("num_masks", [1, 7, 8, 19])
def test_slopes_are_the_gradient_by_the_shares(objective, num_masks):
    """77 bits a mask: the last byte is not full; 19 masks: the last pass is not full."""
    masks = jax.random.bernoulli(jax.random.key(2), 0.5, (num_masks, 77))
    by_mixture, by_shares = deep(masks, objective)
    shares = jax.random.uniform(jax.random.key(3), (num_masks,))
    found = sp.slopes_of(by_mixture, jax.vmap(pack)(masks), 77)(shares)
    np.testing.assert_allclose(found, jax.grad(by_shares)(shares), rtol=2e-4, atol=1e-6)


def test_the_entropy_gradient_by_hand():
    """dH / dz_c = -p_c (ln p_c + H); with G it is p_c beyond the labels, else 0."""
    logits, yes = jnp.array([[0.3, -1.0, 2.0, 0.5]]), jnp.ones(1, bool)
    p = np.asarray(jax.nn.softmax(logits), np.float64)
    h = -(p * np.log(p)).sum()
    found = jax.grad(lambda z: sp.entropy(z, 2, yes))(logits)
    np.testing.assert_allclose(found, -p * (np.log(p) + h), rtol=1e-5)
    found = jax.grad(lambda z: sp.superfluous(z, 2, yes))(logits)
    np.testing.assert_allclose(found, p * [0, 0, 1, 1], rtol=1e-5)


def test_without_further_outputs_g_always_says_the_first():
    masks = jax.random.bernoulli(jax.random.key(2), 0.5, (9, 77))
    by_mixture, _ = deep(masks, sp.superfluous, num_labels=6)
    slopes = sp.slopes_of(by_mixture, jax.vmap(pack)(masks), 77)
    assert (slopes(jnp.full(9, 1 / 9)) == 0).all()
    assert sp.one_shot(slopes, jnp.ones(9, bool)) == 0


@pytest.mark.parametrize("infer", [sp.one_shot, sp.binary])
def test_only_known_masks_are_chosen(infer):
    """The best slopes belong to masks that nothing was learned under."""

    def slopes(shares):
        return jnp.array([3.0, 1.0, 2.0, -9.0, -9.0])

    assert infer(slopes, jnp.arange(5) < 3) == 1
    assert infer(slopes, jnp.arange(5) < 1) == 0
    assert infer(slopes, jnp.zeros(5, bool)) == 0


@pytest.mark.parametrize("num_masks", [1, 2, 3, 5, 36])
def test_halving_mixes_those_that_are_left_in_equal_shares(num_masks):
    """Slopes that depend on who is left: the largest number wins each round but the last."""
    seen = []

    def slopes(shares):
        jax.debug.callback(lambda s: seen.append(np.asarray(s)), shares, ordered=True)
        return -jnp.arange(num_masks, dtype=jnp.float32)

    found = sp.binary(slopes, jnp.ones(num_masks, bool))
    jax.effects_barrier()
    assert found == num_masks - 1
    assert len(seen) == (num_masks - 1).bit_length()
    for shares in seen:
        np.testing.assert_allclose(shares.sum(), 1, rtol=1e-5)
        assert len(np.unique(shares[shares > 0])) == 1


def test_equal_slopes_leave_the_first():
    """The official search leaves its loop with nothing decided."""
    assert sp.binary(lambda shares: jnp.zeros(6), jnp.ones(6, bool)) == 0
