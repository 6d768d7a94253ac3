"""Cosine classifiers: the card's oracles, loops in NumPy, and what must not depend on what."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cls_jax.core.errors import InputError
from cls_jax.core.herding import class_means, unit
from cls_jax.core.losses import cross_entropy
from cls_jax.methods.checks import check_milestones
from cls_jax.methods.prototypes.cosine import (
    contrastive,
    cosine_logits,
    embedding_loss,
    imprint,
    initial_weights,
    loss_weights,
    margin_ranking,
    step_decay,
)
from cls_jax.methods.steps import torch_sgd


def unit_np(v):
    return v / np.linalg.norm(v, axis=-1, keepdims=True)


def of(classes, size=6):
    """bool[size]."""
    return jnp.isin(jnp.arange(size), jnp.array(classes, int))


def first(num, size=100):
    """bool[size] whose first ``num`` are True."""
    return jnp.arange(size) < num


# --- logits ---------------------------------------------------------------------------------------


def test_oracle_of_the_logits():
    """O1: cosines .6 and .8 at scale 10; neither lengths of features nor of weights count."""
    for lengths in ([1, 1], [2, 1], [1, 2]):
        features = unit(lengths[0] * jnp.array([[3.0, 4.0]]))
        weights = jnp.array([[1.0, 0.0], [0.0, 2.0 * lengths[1]]])
        np.testing.assert_allclose(cosine_logits(features, weights, 1.0), [[0.6, 0.8]], rtol=1e-6)
        logits = cosine_logits(features, weights, 10.0)
        np.testing.assert_allclose(jax.nn.softmax(logits), [[0.119203, 0.880797]], atol=1e-6)
        np.testing.assert_allclose(cross_entropy(logits, jnp.array([1])), 0.126928, atol=1e-6)


def test_logits_of_several_classifiers_at_once():
    rng = np.random.default_rng(0)
    features, weights = unit_np(rng.normal(size=(4, 3, 5))), rng.normal(size=(4, 6, 5))
    logits = cosine_logits(jnp.float32(features), jnp.float32(weights), 2.0)
    for each, f, w in zip(logits, features, weights, strict=True):
        np.testing.assert_allclose(each, 2 * f @ unit_np(w).T, rtol=1e-4, atol=1e-5)


@settings(max_examples=25)
@given(st.floats(0.01, 100), st.floats(0.01, 100), st.integers(0, 99))
def test_scale_invariance(of_features, of_weights, seed):
    rng = np.random.default_rng(seed)
    features, weights = jnp.float32(rng.normal(size=(3, 5))), jnp.float32(rng.normal(size=(4, 5)))
    one = cosine_logits(unit(features), weights, 3.0)
    two = cosine_logits(unit(of_features * features), of_weights * weights, 3.0)
    np.testing.assert_allclose(one, two, rtol=1e-4, atol=1e-5)
    assert (jnp.abs(one) <= 3.0001).all()


def test_zero_features_and_weights_have_finite_gradients():
    y, yes = jnp.array([0, 1]), jnp.ones(2, bool)

    def loss(features, weights):
        cosines = cosine_logits(unit(features), weights, 5.0)
        near = embedding_loss(unit(features), jnp.ones((2, 3)) / 3**0.5, yes)
        return cross_entropy(cosines, y) + near + margin_ranking(cosines, y, of([1], 2), yes, 0.5)

    features, weights = jnp.zeros((2, 3)).at[1, 0].set(1), jnp.zeros((2, 3)).at[1, 1].set(1)
    value, slopes = jax.value_and_grad(loss, argnums=(0, 1))(features, weights)
    assert jnp.isfinite(value)
    assert all(jnp.isfinite(slope).all() for slope in slopes)
    assert (cosine_logits(unit(features), weights, 5.0) == 0).all()


def test_initial_weights_fill_their_bounds():
    weights = initial_weights(jax.random.key(0), (4, 50, 16))
    assert weights.shape == (4, 50, 16)
    assert 0.24 < jnp.abs(weights).max() <= 0.25
    assert abs(float(weights.mean())) < 0.01  # standard error 0.0026


# --- imprinting -----------------------------------------------------------------------------------


def test_oracle_of_the_prototype():
    """O4: mean of the normalised, re-normalised; not the normalised mean of the raw features."""
    raw = jnp.array([[3.0, 4.0], [1.0, 0.0], [0.0, 2.0]])
    mean = class_means(unit(raw), jnp.zeros(3, jnp.int32), jnp.ones(3, bool), 2)
    np.testing.assert_allclose(mean[0], [0.533333, 0.6], atol=1e-6)
    weights = imprint(jnp.ones((2, 2)), mean, of([0], 2), of([], 2))
    np.testing.assert_allclose(weights, [[0.664364, 0.747409], [1, 1]], atol=1e-6)


def test_new_weights_are_as_long_as_past_ones_on_average():
    rng = np.random.default_rng(1)
    weights, prototypes = rng.normal(size=(2, 6, 4))
    found = imprint(*map(jnp.float32, (weights, prototypes)), of([3, 5]), of([0, 1, 2]))
    expected = weights.copy()
    length = np.linalg.norm(weights[:3], axis=1).mean()
    expected[[3, 5]] = length * unit_np(prototypes[[3, 5]])
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    others = [0, 1, 2, 4]
    np.testing.assert_array_equal(np.asarray(found)[others], weights.astype(np.float32)[others])


# --- losses ---------------------------------------------------------------------------------------


def test_oracle_of_the_embedding_loss():
    """O2: .8 = 2 (1 - .6); the padded row holds what must not be seen."""
    new, old = jnp.array([[1.0, 0.0], [9.0, 9.0]]), jnp.array([[0.6, 0.8], [-9.0, 7.0]])
    valid = jnp.array([True, False])
    value, slope = jax.value_and_grad(embedding_loss)(new, old, valid)
    np.testing.assert_allclose(value, 0.8, rtol=1e-6)
    assert (slope[1] == 0).all()
    assert embedding_loss(new, old, jnp.zeros(2, bool)) == 0


def test_the_embedding_loss_is_twice_one_minus_the_cosine():
    rng = np.random.default_rng(2)
    new, old = unit_np(rng.normal(size=(2, 7, 5)))
    valid = np.array([True, True, False, True, False, True, True])
    expected = 2 * (1 - (new * old).sum(1))[valid].mean()
    found = embedding_loss(jnp.float32(new), jnp.float32(old), jnp.asarray(valid))
    np.testing.assert_allclose(found, expected, rtol=1e-5)


@pytest.mark.parametrize(
    ("new", "past", "expected"),
    [
        (10, 50, (0.2, 5)),
        (10, 90, (0.111111, 9)),
        (5, 50, (0.1, 10)),
        (5, 95, (0.052632, 19)),
        (50, 0, (1, 0)),
    ],
)
def test_oracle_of_reciprocal_weights(new, past, expected):
    """O3, and the first phase; L_ce 2 and L_em .1 make .9 at (10, 50)."""
    masks = first(new + past) & ~first(past), first(past)
    found = loss_weights("reciprocal", *masks)
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    if (new, past) == (10, 50):
        np.testing.assert_allclose(found[0] * 2.0 + found[1] * 0.1, 0.9, rtol=1e-6)


@pytest.mark.parametrize(
    ("weighting", "expected"),
    [("equal", (1, 1)), ("none", (1, 0)), ("sqrt", (1, 11.18034 / 2))],
)
def test_the_other_weights(weighting, expected):
    """O8: UCIR's 5 sqrt(5) is on half the embedding loss."""
    masks = first(60) & ~first(50), first(50)
    np.testing.assert_allclose(loss_weights(weighting, *masks), expected, rtol=1e-6)
    np.testing.assert_array_equal(loss_weights(weighting, first(50), first(0)), (1, 0))


def test_oracle_of_the_margin():
    """O8: own .3 against the new classes' .6 and .1: (.8 + .3) / 2."""
    cosines = jnp.array([[0.3, 0.9, 0.6, -0.5, 0.1]])
    found = margin_ranking(cosines, jnp.array([0]), of([2, 3, 4], 5), jnp.ones(1, bool), 0.5)
    np.testing.assert_allclose(found, 0.55, rtol=1e-6)


@pytest.mark.parametrize("new", [[], [4], [3, 4, 5]])
@pytest.mark.parametrize("hardest", [1, 2, 4])
def test_the_margin_is_of_past_rows_alone(new, hardest):
    """A loop; with fewer new classes than wanted, all of them; without any, nothing."""
    rng = np.random.default_rng(3)
    cosines, y = rng.uniform(-1, 1, (9, 6)), np.array([0, 1, 4, 2, 0, 5, 1, -1, 2])
    valid = np.array([True] * 7 + [False, True])
    terms = [
        max(0, 0.5 - row[label] + other)
        for row, label, counts in zip(cosines, y, valid, strict=True)
        if counts and label not in new
        for other in sorted(row[new], reverse=True)[:hardest]
    ]
    cosines[7] = 1e3
    arguments = jnp.float32(cosines), jnp.asarray(y), of(new), jnp.asarray(valid), 0.5, hardest
    value, slope = jax.value_and_grad(margin_ranking)(*arguments)
    np.testing.assert_allclose(value, np.mean(terms) if terms else 0, rtol=1e-5)
    still = [row for row in range(9) if not valid[row] or y[row] in new or not new]
    assert (slope[jnp.array(still)] == 0).all()
    assert bool(jnp.any(slope)) == bool(new)


def test_at_the_margin_a_row_still_counts():
    """PyTorch's margin_ranking_loss clamps, and a clamp has gradient 1 at its bound."""
    slope = jax.grad(margin_ranking)(
        jnp.array([[1.0, 0.5]]), jnp.array([0]), of([1], 2), jnp.ones(1, bool), 0.5
    )
    np.testing.assert_array_equal(slope, [[-1, 1]])


def test_no_past_row_has_no_margin():
    cosines, y = jnp.ones((2, 6)), jnp.array([3, 4])
    assert margin_ranking(cosines, y, of([3, 4]), jnp.ones(2, bool), 0.5) == 0


def test_oracle_of_the_contrastive_loss():
    """O7: positive cosine .9, negatives .5 and .2, at temperature .1.

    Two views of two images; the angles are chosen so that one anchor has these cosines, and the
    other three anchors are computed beside it.
    """
    anchor = np.array([1.0, 0, 0, 0])

    def at(cosine, axis):
        return cosine * anchor + (1 - cosine**2) ** 0.5 * np.eye(4)[axis]

    views = np.array([[anchor, at(0.5, 2)], [at(0.9, 1), at(0.2, 3)]])  # [view, image, d]

    def one(v, i):
        s = views @ views[v, i] / 0.1
        positive, others = np.exp(s[1 - v, i]), np.exp(s[:, 1 - i]).sum()
        return -np.log(positive / (positive + others))

    np.testing.assert_allclose(one(0, 0), 0.019045, atol=1e-6)
    expected = np.mean([one(v, i) for v in (0, 1) for i in (0, 1)])
    lengths = np.array([[[2.0], [1.0]], [[0.5], [3.0]]])
    padded = np.concatenate([lengths * views, np.full((2, 1, 4), 7.0)], axis=1)
    valid = jnp.array([True, True, False])
    value, slope = jax.value_and_grad(contrastive)(jnp.float32(padded), valid, 0.1)
    np.testing.assert_allclose(value, expected, rtol=1e-4)
    assert (slope[:, 2] == 0).all()
    assert contrastive(jnp.float32(padded), jnp.zeros(3, bool), 0.1) == 0


# --- rates ----------------------------------------------------------------------------------------


def test_rates_fall_tenfold_at_milestones():
    epochs = [0, 79, 80, 81, 119, 120, 159]
    found = [float(step_decay(jnp.int32(epoch), (80, 120))) for epoch in epochs]
    np.testing.assert_allclose(found, [1, 1, 0.1, 0.1, 0.1, 0.01, 0.01], rtol=1e-6)
    assert step_decay(jnp.int32(1000), ()) == 1


@pytest.mark.parametrize("epochs", [(80, 80), (120, 80), (0,)])
def test_milestones_must_rise(epochs):
    with pytest.raises(InputError, match=r"^decays is .* rising"):
        check_milestones("decays", epochs)


@pytest.mark.parametrize("undecayed", [(), ("scale",)])
def test_sgd_is_that_of_torch(undecayed):
    """torch.optim.SGD: g += wd p; v = momentum v + g (v = g first); p -= rate v."""
    rng = np.random.default_rng(4)
    params = {"weights": rng.normal(size=(3, 2)), "scale": np.array(2.0)}
    found = jax.tree.map(jnp.float32, params)
    opt = torch_sgd(0.0, 0.9, 0.01, undecayed).init(found)
    speed = {}
    for rate in (0.1, 0.1, 0.01, 0.01):
        gradient = {name: rng.normal(size=value.shape) for name, value in params.items()}
        updates, opt = torch_sgd(rate, 0.9, 0.01, undecayed).update(
            jax.tree.map(jnp.float32, gradient), opt, found
        )
        found = optax.apply_updates(found, updates)
        for name in params:
            slope = gradient[name] + (0 if name in undecayed else 0.01) * params[name]
            speed[name] = 0.9 * speed[name] + slope if name in speed else slope
            params[name] = params[name] - rate * speed[name]
            np.testing.assert_allclose(found[name], params[name], rtol=1e-5)
