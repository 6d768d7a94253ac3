"""Losses against the cards' hand numbers and NumPy, and what padded rows may never do."""

import functools
import inspect

import chex
import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cls_jax.core import losses
from cls_jax.core import self_supervised as view_losses
from cls_jax.core.errors import InputError

# Last pair of the dualnet card's oracle 1; its last row of B is zero, so its cosine is 0.
A = [[1, 2], [3, 4], [5, 0], [7, 2]]
B = [[0, 1], [1, 0], [1, 1], [0, 0]]
TRIANGLE = [[1, 0], [0, 1], [-1, -1]]
STUDENT, TEACHER = [[1, 0, -1], [2, 2, 0]], [[0, 1, 0], [1, 0, 3]]

TWO_INPUTS = {
    "cross_entropy": lambda a, b, valid: losses.cross_entropy(a, jnp.argmax(b, -1), valid=valid),
    "soft_target_kl": lambda a, b, valid: losses.soft_target_kl(
        a, jax.nn.softmax(b), temperature=2.0, valid=valid
    ),
    "logit_mse": lambda a, b, valid: losses.logit_mse(a, b, valid=valid),
    "barlow_twins": lambda a, b, valid: view_losses.barlow_twins(a, b, valid=valid),
    "simclr": lambda a, b, valid: view_losses.simclr(a, b, valid=valid),
    "simclr_as_in_code": lambda a, b, valid: view_losses.simclr_as_in_code(a, b, valid=valid),
    "simsiam": lambda a, b, valid: view_losses.simsiam(a, b, b, a, valid=valid),
    "byol": lambda a, b, valid: view_losses.byol(a, b, b, a, valid=valid),
    "byol_as_in_code": lambda a, b, valid: view_losses.byol_as_in_code(a, b, b, a, valid=valid),
}
every_loss = pytest.mark.parametrize("name", TWO_INPUTS)


def pair(seed, rows=6, columns=4, dtype=np.float32):
    rng = np.random.default_rng(seed)
    return tuple(rng.normal(size=(rows, columns)).astype(dtype) for _ in range(2))


@functools.cache
def gradients_of(name):
    return jax.jit(jax.value_and_grad(TWO_INPUTS[name], argnums=(0, 1)))


def kl(**options):
    def loss(student, teacher):
        targets = jax.nn.softmax(teacher / 2)
        return losses.soft_target_kl(student, targets, temperature=2.0, **options)

    return loss


ORACLES = {
    "13.1 barlow, equal views": (view_losses.barlow_twins, (TRIANGLE, TRIANGLE), 2 / 9 * 1.002),
    "13.1 barlow, opposite": (
        view_losses.barlow_twins,
        (TRIANGLE, np.negative(TRIANGLE)),
        50 / 9 + 0.002 * 2 / 9,
    ),
    "13.1 barlow, generic": (view_losses.barlow_twins, (A, B), 3.342135171779821),
    "13.4 kl, TA": (kl(), (STUDENT, TEACHER), 0.1160653),
    "13.4 kl, batch mean": (kl(reduction="batchmean"), (STUDENT, TEACHER), 0.3481958),
    "13.4 kl, TF": (lambda s, t: 2 * kl()(s, t), (STUDENT, TEACHER), 0.2321305),
    "13.11 simclr as in code": (view_losses.simclr_as_in_code, (A, B), 1.94984281),
    "13.11 2 - 2 cos": (lambda a, b: view_losses.byol(a, a, b, b), (A, B), 0.89923301),
    "13.11 2 - 2 cos, as in code": (
        lambda a, b: view_losses.byol_as_in_code(a, a, b, b),
        (A, B),
        0.89923301,
    ),
    "13.11 as simsiam": (
        lambda a, b: view_losses.simsiam(a, a, b, b),
        (A, B),
        0.89923301 / 2 - 1,
    ),
    "clser 3": (losses.logit_mse, ([[2, 0, 0], [0, 3, 0]], np.zeros((2, 3))), 13 / 6),
    "baselines O2": (losses.logit_mse, ([[1, 2, 3]], [[1, 0, 3]]), 4 / 3),
    "baselines O6, plain": (
        lambda z: losses.cross_entropy(z, jnp.array([2])),
        (np.zeros((1, 4)),),
        np.log(4),
    ),
    "baselines O6, masked": (
        lambda z: losses.cross_entropy(
            z, jnp.array([2]), classes=jnp.array([False, False, True, True])
        ),
        (np.zeros((1, 4)),),
        np.log(2),
    ),
}


@pytest.mark.parametrize("name", ORACLES)
@pytest.mark.parametrize("wide", [False, True])
def test_oracle(name, wide):
    loss, inputs, expected = ORACLES[name]
    with jax.enable_x64(wide):
        dtype = jnp.float64 if wide else jnp.float32
        value = jax.jit(loss)(*(jnp.asarray(x, dtype) for x in inputs))
        assert value.dtype == dtype
        np.testing.assert_allclose(value, expected, rtol=0 if wide else 1e-4, atol=1e-6 * wide)


def test_nt_xent_is_what_a_loop_over_rows_says():
    a, b = pair(0, dtype=np.float64)
    z = np.concatenate([a, b])
    z /= np.linalg.norm(z, axis=1, keepdims=True)
    terms = []
    for i in range(12):
        scores = np.exp(z @ z[i] / 0.5)
        terms.append(-np.log(scores[(i + 6) % 12] / (scores.sum() - scores[i])))
    np.testing.assert_allclose(view_losses.simclr(a, b), np.mean(terms), rtol=1e-5)


def test_float32_barlow_twins_is_sound_at_the_size_of_the_paper():
    rng = np.random.default_rng(1)
    za = 30 + rng.normal(size=(32, 512))  # a mean far from 0 is what float32 could lose
    zb = za + 0.3 * rng.normal(size=za.shape)
    with jax.enable_x64(True):
        expected = view_losses.barlow_twins(jnp.asarray(za), jnp.asarray(zb))
    value = view_losses.barlow_twins(jnp.float32(za), jnp.float32(zb))
    np.testing.assert_allclose(value, expected, rtol=1e-4)


@every_loss
@hypothesis.settings(max_examples=15)
@hypothesis.given(data=st.data())
def test_padded_rows_have_no_influence(name, data):
    valid = np.array(data.draw(st.lists(st.booleans(), min_size=6, max_size=6)))
    junk = data.draw(st.sampled_from([0.0, 7.0, 1e30, np.inf, np.nan]))
    a, b = pair(data.draw(st.integers(0, 99)))
    loss = gradients_of(name)
    value, grads = loss(a, b, valid)
    spoilt = [np.where(valid[:, None], x, np.float32(junk)) for x in (a, b)]
    other_value, other_grads = loss(*spoilt, valid)
    if name == "soft_target_kl":  # its targets come through a softmax here, NaN before the loss
        grads, other_grads = grads[:1], other_grads[:1]
    chex.assert_trees_all_equal((value, grads), (other_value, other_grads))
    assert np.isfinite(value)
    for grad in grads:
        assert np.isfinite(grad).all()
        assert not grad[~valid].any()
    if not valid.any():
        assert value == 0
        assert not any(grad.any() for grad in grads)


@every_loss
def test_a_padded_batch_costs_what_the_short_one_does(name):
    a, b = pair(1)
    valid = np.array([True, False, True, True, False, True])
    value = gradients_of(name)(a, b, valid)[0]
    short = jax.jit(TWO_INPUTS[name])(a[valid], b[valid], None)
    np.testing.assert_allclose(value, short, rtol=1e-5, atol=1e-6)


def test_labels_of_padded_rows_may_be_anything():
    logits, _ = pair(2)
    valid = np.arange(6) < 3
    for junk in (-1, 99):
        y = np.where(valid, 1, junk)
        value, grad = jax.value_and_grad(losses.cross_entropy)(logits, y, valid=valid)
        assert value == losses.cross_entropy(logits, np.ones(6, int), valid=valid)
        assert np.isfinite(grad).all()


@every_loss
def test_gradients_are_finite_on_zeros_and_on_equal_rows(name):
    for fill in (0.0, 3.0):
        x = jnp.full((6, 4), fill)
        value, grads = gradients_of(name)(x, x, np.ones(6, bool))
        assert np.isfinite(value)
        assert all(np.isfinite(grad).all() for grad in grads)
        assert all(np.abs(grad).max() < 1e3 for grad in grads)


@pytest.mark.parametrize("loss", [view_losses.barlow_twins, view_losses.simclr_as_in_code])
def test_fewer_than_two_rows_cannot_be_standardised(loss):
    a, b = pair(3)
    value, grad = jax.value_and_grad(loss)(a, b, valid=np.arange(6) < 1)
    assert value == 0
    assert not grad.any()


@pytest.mark.parametrize(
    "loss",
    [view_losses.barlow_twins, view_losses.simclr, view_losses.simclr_as_in_code, losses.logit_mse],
)
def test_swapping_the_views_changes_nothing(loss):
    a, b = pair(4)
    np.testing.assert_allclose(loss(a, b), loss(b, a), rtol=1e-5)


@pytest.mark.parametrize(
    "loss", [view_losses.simsiam, view_losses.byol, view_losses.byol_as_in_code]
)
def test_two_view_losses_are_symmetric_and_ignore_lengths(loss):
    (a, b), (c, d) = pair(5), pair(6)
    np.testing.assert_allclose(loss(a, b, c, d), loss(b, a, d, c), rtol=1e-5)
    np.testing.assert_allclose(loss(a, b, c, d), loss(3 * a, b, 0.1 * c, d), rtol=1e-4)


@pytest.mark.parametrize(
    ("loss", "moving"),
    [
        (view_losses.simsiam, (True, True, False, False)),
        (view_losses.byol, (True, True, False, False)),
        (view_losses.byol_as_in_code, (False, False, True, True)),
    ],
)
def test_where_the_gradient_is_stopped(loss, moving):
    grads = jax.grad(loss, argnums=(0, 1, 2, 3))(*pair(5), *pair(6))
    assert tuple(bool(np.any(grad)) for grad in grads) == moving


def test_classes_are_a_gather_of_columns():
    logits, other = pair(7)
    columns = np.array([1, 3])
    classes = np.isin(np.arange(4), columns)
    y = np.array([0, 1, 1, 0, 0, 1])
    whole = losses.cross_entropy(logits, columns[y], classes=classes)
    np.testing.assert_allclose(whole, losses.cross_entropy(logits[:, columns], y), rtol=1e-6)

    targets = np.full((6, 4), np.nan, np.float32)  # columns that are not asked for are not read
    targets[:, columns] = jax.nn.softmax(other[:, columns])
    for reduction in ("elements", "batchmean"):
        options = {"temperature": 2.0, "reduction": reduction}
        whole = losses.soft_target_kl(logits, targets, classes=classes, **options)
        part = losses.soft_target_kl(logits[:, columns], targets[:, columns], **options)
        np.testing.assert_allclose(whole, part, rtol=1e-5)
    rows = np.broadcast_to(classes, (6, 4))
    assert whole == losses.soft_target_kl(logits, targets, classes=rows, **options)
    grad = jax.grad(losses.soft_target_kl)(logits, targets, classes=rows, **options)
    assert np.isfinite(grad).all()
    assert not grad[:, ~classes].any()


def test_kl_is_zero_at_its_targets_and_takes_hard_ones():
    logits, _ = pair(8)
    same = losses.soft_target_kl(logits, jax.nn.softmax(logits / 3), temperature=3.0)
    np.testing.assert_allclose(same, 0, atol=1e-7)
    hard = np.eye(4, dtype=np.float32)[[0, 1, 2, 3, 0, 1]]
    value = losses.soft_target_kl(logits, hard, temperature=1.0, reduction="batchmean")
    cross = losses.cross_entropy(logits, jnp.argmax(hard, -1))
    np.testing.assert_allclose(value, cross, rtol=1e-6)
    grads = jax.grad(losses.soft_target_kl, argnums=(0, 1))(logits, hard, temperature=1.0)
    chex.assert_tree_all_finite(grads)


def test_mask_logits_leaves_nothing_to_win():
    logits = jnp.array([[5.0, 1.0, np.nan]])
    masked = losses.mask_logits(logits, jnp.array([False, True, False]))
    np.testing.assert_array_equal(masked, np.float32([[losses.FLOOR, 1, losses.FLOOR]]))
    np.testing.assert_array_equal(jax.nn.softmax(masked), [[0, 1, 0]])


@every_loss
def test_narrow_floats_are_computed_in_float32(name):
    a, b = (jnp.asarray(x, jnp.bfloat16) for x in pair(9))
    value = TWO_INPUTS[name](a, b, None)
    assert value.dtype == jnp.float32
    wide = TWO_INPUTS[name](a.astype(jnp.float32), b.astype(jnp.float32), None)
    np.testing.assert_allclose(value, wide, rtol=1e-2)


def test_binary_cross_entropy_is_a_weighted_mean_over_rows_and_classes():
    rng = np.random.default_rng(0)
    logits, targets = rng.normal(size=(4, 5)), rng.random((4, 5))
    weight, classes = np.array([1, 0, 2.5, 1]), np.array([True, False, True, True, False])
    share = 1 / (1 + np.exp(-logits))
    each = -(targets * np.log(share) + (1 - targets) * np.log(1 - share))
    expected = (weight * each[:, classes].mean(1)).sum() / weight.sum()
    logits[1], targets[1] = np.nan, np.inf
    found = losses.binary_cross_entropy(
        *map(jnp.float32, (logits, targets, weight)), jnp.array(classes)
    )
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    nothing = losses.binary_cross_entropy(
        jnp.ones((2, 3)), jnp.ones((2, 3)), jnp.zeros(2), jnp.ones(3) > 0
    )
    assert float(nothing) == 0


def test_gradients_at_ties_are_those_of_pytorch():
    """|x| at 0: 0. clamp at its bound: 1. NaN is never hidden."""
    x = jnp.array([-2.0, -0.0, 0.0, 3.0])
    np.testing.assert_array_equal(losses.magnitude(x), [2, 0, 0, 3])
    slope = jax.grad(lambda x: losses.magnitude(x).sum())(x)
    np.testing.assert_array_equal(slope, [-1, 0, 0, 1])
    np.testing.assert_array_equal(losses.at_least(x, 0.0), [0, 0, 0, 3])
    slope = jax.grad(lambda x: losses.at_least(x, 0.0).sum())(x)
    np.testing.assert_array_equal(slope, [0, 1, 1, 1])
    assert jnp.isnan(losses.at_least(jnp.nan, 0.0))
    assert jnp.isnan(losses.magnitude(jnp.nan))


EQUAL = {
    "zeros": np.zeros((6, 4), np.float32),
    "ones": np.ones((6, 4), np.float32),
    "equal rows": np.tile(np.float32([0.5, -1, 2, 0]), (6, 1)),
    "tiny": np.full((6, 4), 1e-20, np.float32),
}
"""Rows and columns without a difference, without a length, and of a length whose square is 0."""


@every_loss
@pytest.mark.parametrize("kind", EQUAL)
def test_gradients_are_finite_where_nothing_differs(name, kind):
    same = EQUAL[kind]
    value, slopes = gradients_of(name)(same, same, np.ones(6, bool))
    chex.assert_tree_all_finite((value, slopes))
    assert max(np.abs(slope).max() for slope in slopes) < 1e3


def test_an_unknown_reduction_is_refused():
    with pytest.raises(InputError, match=r"reduction='sum'.*elements"):
        losses.soft_target_kl(*pair(0), temperature=1.0, reduction="sum")


@pytest.mark.parametrize("module", [losses, view_losses])
def test_options_are_keywords(module):
    for name, function in inspect.getmembers(module, inspect.isfunction):
        if function.__module__ != module.__name__ or name.startswith("_"):
            continue
        for parameter in inspect.signature(function).parameters.values():
            optional = parameter.default is not parameter.empty
            assert not optional or parameter.kind is parameter.KEYWORD_ONLY, (name, parameter)


@pytest.mark.parametrize(
    ("logits", "other"),
    [((4, 3), (3,)), ((4, 3), (4, 1)), ((4, 3), (1, 3)), ((4, 3), (3, 4)), ((3,), (3,))],
)
def test_what_would_broadcast_is_refused(logits, other):
    logits, other = jnp.ones(logits), jnp.ones(other)
    for loss in (losses.logit_mse, functools.partial(losses.soft_target_kl, temperature=2.0)):
        with pytest.raises(AssertionError, match=r"assert_(rank|equal_shape) failed"):
            loss(logits, other)


@pytest.mark.parametrize("y", [(4, 1), (4, 3), (3,), ()])
def test_labels_are_one_a_row(y):
    with pytest.raises(AssertionError, match="assert_shape failed"):
        losses.cross_entropy(jnp.ones((4, 3)), jnp.zeros(y, jnp.int32))


def test_rows_that_count_are_one_a_row():
    with pytest.raises(AssertionError, match="assert_shape failed"):
        losses.entropy(jnp.ones((4, 3)), valid=jnp.ones((4, 1), bool))
