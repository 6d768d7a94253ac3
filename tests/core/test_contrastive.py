"""Contrastive losses against the card in double precision, and what padding may not do."""

from functools import partial

import jax
import numpy as np
import pytest

from cls_jax.core.contrastive import relation_distillation, supervised_contrastive
from cls_jax.core.self_supervised import simclr

STUDENT = [0, 0.5, 2.0, 0.1, 0.8, 2.5]
"""Angles of three images in view 1, then in view 2."""
TEACHER = [0.2, 0.4, 1.8, 0.0, 0.9, 2.6]
Y = np.array([2, 3, 0, 2, 3, 0])
CURRENT = Y >= 2
TERMS = [6.3373237576, 7.9055037737, 3.8810854509, 6.8154403957, 7.0924225796, 1.7811265031]
L_ASYM = 4.6917817511


def at(angles):
    return np.stack([np.cos(angles), np.sin(angles)], axis=1)


@pytest.fixture
def x64():
    with jax.enable_x64(True):
        yield


def test_oracles_1_to_3_and_5(x64):
    """The asymmetric loss 4.691782, of which each anchor's part; distillation; and a rotation of
    all vectors, which changes neither."""
    z, taught, turn = at(STUDENT), at(TEACHER), at([0.7, 0.7 + np.pi / 2])

    @jax.jit
    def all_of_them(z, taught):
        new = partial(supervised_contrastive, z, Y)
        ird, both = relation_distillation, {"temperature": 0.2, "teacher_temperature": 0.2}
        return {
            "asymmetric": new(CURRENT),
            "terms": jax.vmap(lambda one: 6 * new(one))(np.eye(6, dtype=bool)),
            "symmetric": new(np.ones(6, bool)),
            "distillation": ird(z, taught),
            "equally cool": ird(z, taught, **both),
            "of itself": ird(z, z, **both),
            "slope of itself": jax.grad(ird)(z, z, **both),
            "slope of itself, cooler": jax.grad(ird)(z, z),
            "slope of the teacher": jax.grad(ird, argnums=1)(z, taught),
        }

    found = all_of_them(z, taught)
    close = partial(np.testing.assert_allclose, rtol=0, atol=2e-10)
    close(found["asymmetric"], L_ASYM)
    close(found["terms"], TERMS)
    close(found["symmetric"], 5.6354837434)
    close(found["distillation"], 0.5884975377)
    close(found["equally cool"], 1.0144762007)
    close(found["asymmetric"] + found["distillation"], 5.2802792888)
    close(found["of itself"], 0.7596441272)  # the entropy
    close(found["slope of itself"], 0)
    assert np.abs(found["slope of itself, cooler"]).max() > 0.1
    assert not np.any(found["slope of the teacher"])
    turned = all_of_them(z @ turn, taught @ turn)
    for name in ("asymmetric", "terms", "distillation"):
        close(turned[name], found[name])


def test_with_a_label_for_each_image_it_is_simclr(x64):
    """O6: the other view is the only row of a row's label."""
    z = np.random.default_rng(0).normal(size=(10, 4))
    z /= np.linalg.norm(z, axis=1, keepdims=True)
    y, every = np.tile(np.arange(5), 2), np.ones(10, bool)
    kind = {"temperature": 0.3, "base_temperature": 0.3}
    found = jax.jit(partial(supervised_contrastive, **kind))(z, y, every)
    np.testing.assert_allclose(found, simclr(z[:5], z[5:], temperature=0.3), rtol=1e-12)


@jax.jit
@partial(jax.value_and_grad, has_aux=True)
def whole(z, taught, y, valid):
    new = supervised_contrastive(z, y, y >= 2, valid=valid)
    kept = relation_distillation(z, taught, valid=valid)
    return new + kept, (new, kept)


def test_rows_that_do_not_count_have_no_influence():
    """Two rows of padding between the card's six, whatever they hold; and none that counts."""
    index, valid = np.array([0, 1, 2, 0, 3, 4, 5, 0]), np.ones(8, bool)
    valid[[3, 7]] = False
    rows = (at(STUDENT)[index], at(TEACHER)[index], Y[index])
    slopes = []
    for junk in (0.0, np.nan):
        z, taught = (np.where(valid[:, None], r, junk).astype(np.float32) for r in rows[:2])
        (_, (new, kept)), slope = whole(z, taught, np.where(valid, rows[2], 3), valid)
        np.testing.assert_allclose([new, kept], [L_ASYM, 0.5884975377], rtol=1e-5)
        assert np.isfinite(slope).all()
        assert not slope[~valid].any()
        slopes.append(slope)
    np.testing.assert_array_equal(*slopes)
    (value, _), slope = whole(z, taught, rows[2], np.zeros(8, bool))
    assert value == 0
    assert not slope.any()


def test_opposite_rows_at_a_low_temperature_are_no_nan():
    """Quirk 6: similarities down to -1 / .01 = -100 times what the code shifts by."""
    z = np.float32(at([0, np.pi, 0.1, np.pi + 0.1]))
    kind = {"temperature": 0.01, "teacher_temperature": 0.005}

    @jax.jit
    @jax.value_and_grad
    def loss(z):
        return relation_distillation(z, z[::-1], **kind) + supervised_contrastive(
            *(z, np.array([0, 0, 1, 1]), np.ones(4, bool)), temperature=0.01
        )

    for part in loss(z):
        assert np.isfinite(part).all()
