"""Rates, frozen parts, AdamW and ASAM of DyTox: the card's numbers (O1) and NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from cls_jax.methods.architecture.dytox_updates import adamw, ascended, epoch_rate, moved_by, only

PARAMS = {
    "encoder": {"places": jnp.full((2, 3), 2.0), "block0": {"gate": jnp.full(2, 2.0)}},
    "decoder": {"out": {"kernel": jnp.full((3, 3), 2.0), "bias": jnp.full(3, 2.0)}},
    "tokens": jnp.full((3, 3), 2.0),
    "heads": {
        "scale": jnp.full((3, 3), 2.0),
        "shift": jnp.full((3, 3), 2.0),
        "kernel": jnp.full((6, 3), 2.0),
        "bias": jnp.full(6, 2.0),
    },
    "divergence": {"kernel": jnp.full((7, 3), 2.0), "scale": jnp.full(3, 2.0)},
}
OWNER = jnp.array([0, 0, 1, 1, 2, 2])
NEWEST, KNOWN = jnp.array([False, True, False]), jnp.array([True, True, False])


@pytest.mark.parametrize(
    ("place", "rate"),
    [
        *((0, 1e-6), (1, 2.58e-5), (4, 1.002e-4), (5, 1.2497163e-4), (250, 6.75e-5)),
        (498, 1.0004539958e-5),
    ],
)
def test_o1_the_schedule_of_one_gpu(place, rate):
    found = epoch_rate(jnp.int32(place + 1), (1e-6, 1.25e-4, 1e-5), 5, 500)
    np.testing.assert_allclose(found, rate, rtol=2e-6)


def test_epochs_0_and_1_have_the_first_rate_and_without_warmup_the_highest():
    for epoch in (0, 1):
        assert float(epoch_rate(jnp.int32(epoch), (1e-6, 1.0, 0.1), 5, 10)) == np.float32(1e-6)
        assert float(epoch_rate(jnp.int32(epoch), (1e-6, 1.0, 0.1), 0, 10)) == 1


def test_in_a_later_task_all_but_old_and_future_tokens_and_heads_move():
    ones = jax.tree.map(jnp.ones_like, PARAMS)
    found = only(ones, moved_by(PARAMS, NEWEST, NEWEST[OWNER], encoder=True))
    assert all(
        leaf.all() for part in ("encoder", "decoder", "divergence") for leaf in leaves(found[part])
    )
    heads = found["heads"]
    for leaf in (found["tokens"], heads["scale"], heads["shift"]):
        assert leaf.any(1).tolist() == leaf.all(1).tolist() == [False, True, False]
    for leaf in (heads["kernel"], heads["bias"][:, None]):
        assert (
            leaf.all(1).tolist() == leaf.any(1).tolist() == [False, False, True, True, False, False]
        )


leaves = jax.tree.leaves


def test_in_the_second_phase_the_encoder_stands_still_and_all_known_tokens_move():
    ones = jax.tree.map(jnp.ones_like, PARAMS)
    found = only(ones, moved_by(PARAMS, KNOWN, KNOWN[OWNER], encoder=False))
    assert not any(leaf.any() for part in ("encoder", "divergence") for leaf in leaves(found[part]))
    assert all(leaf.all() for leaf in leaves(found["decoder"]))
    assert found["tokens"].all(1).tolist() == [True, True, False]
    assert found["heads"]["bias"].tolist() == [1, 1, 1, 1, 0, 0]


def test_what_stands_still_does_not_decay_either_and_only_matrices_tokens_and_places_decay():
    moved = moved_by(PARAMS, NEWEST, NEWEST[OWNER], encoder=True)
    descent, nothing = adamw(0.5, 0.1, moved), jax.tree.map(jnp.zeros_like, PARAMS)
    updates, _ = descent.update(nothing, descent.init(PARAMS), PARAMS)
    after = optax.apply_updates(PARAMS, updates)
    for decayed in (after["encoder"]["places"], after["decoder"]["out"]["kernel"]):
        np.testing.assert_allclose(decayed, 1.9)
    np.testing.assert_allclose(after["tokens"][:, 0], [2, 1.9, 2])
    np.testing.assert_allclose(after["heads"]["kernel"][:, 0], [2, 2, 1.9, 1.9, 2, 2])
    still = [
        after["encoder"]["block0"],
        after["decoder"]["out"]["bias"],
        after["divergence"]["scale"],
    ]
    still += [after["heads"][name] for name in ("scale", "shift", "bias")]
    assert all((leaf == 2).all() for leaf in leaves(still))


def test_asam_climbs_by_the_square_of_each_weight_and_the_norm_is_one_for_all():
    params = {"a": jnp.array([1.0, -2.0]), "b": jnp.array([[3.0]])}
    gradient = {"a": jnp.array([0.5, 0.25]), "b": jnp.array([[-1.0]])}
    norm = np.sqrt(0.5**2 + 0.5**2 + 3.0**2)
    found = ascended(params, gradient, 0.3)
    np.testing.assert_allclose(
        found["a"], [1 + 0.3 * 0.5 / norm, -2 + 0.3 * 4 * 0.25 / norm], rtol=1e-6
    )
    np.testing.assert_allclose(found["b"], [[3 - 0.3 * 9 / norm]], rtol=1e-6)
    zero = jax.tree.map(jnp.zeros_like, gradient)
    np.testing.assert_array_equal(ascended(params, zero, 0.3)["a"], params["a"])
