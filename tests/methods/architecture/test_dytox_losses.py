"""DyTox's losses and mixed labels, against the card's numbers (O2 to O5, O9) and NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cls_jax.methods.architecture.dytox_losses import (
    Outputs,
    distillation_loss,
    divergence_loss,
    label_loss,
    mix_up,
    mixed_targets,
    total_loss,
)

SEEN = jnp.array([True] * 4 + [False] * 2)
PAST = jnp.array([True, True] + [False] * 4)
TARGETS = jax.nn.one_hot(jnp.array([2]), 6)
ALL = jnp.ones(1, bool)


def row(*values, width=6, fill=9.0):
    """One row of logits; those of classes to come hold numbers that must not matter."""
    return jnp.array([[*values, *[fill] * (width - len(values))]])


@pytest.mark.parametrize(("z", "mean"), [((1, -1, 0, 2), 1.111650), ((0, 0, 0, 2), 1.051592)])
def test_o2_labels(z, mean):
    assert abs(float(label_loss(row(*z), TARGETS, ALL, SEEN)) - mean) < 1e-6


@pytest.mark.parametrize(("student", "value"), [((0, 0), 0.163907), ((1, -1), 0.0)])
def test_o3_distillation_is_a_mean_over_old_classes_too(student, value):
    found = distillation_loss(row(*student), row(2, 0, fill=-9.0), ALL, PAST)
    assert abs(float(found) - value) < 1e-6


@pytest.mark.parametrize(("y", "mean"), [(2, 0.439890), (0, 0.773224), (1, 0.773224)])
def test_o4_divergence_knows_new_classes_and_old_ones_as_one(y, mean):
    """[0, 1, -1] is "old", class 2, class 3; of an old label log 2, 1.313262, .313262."""
    z = row(0.0, 9.0, 9.0, 1.0, -1.0, width=7)
    targets = jax.nn.one_hot(jnp.array([y]), 6)
    assert abs(float(divergence_loss(z, targets, ALL, PAST, SEEN)) - mean) < 1e-6


OUTPUTS = Outputs(row(0, 0, 0, 2), row(0.0, 9.0, 9.0, 1.0, -1.0, width=7), TARGETS, row(2, 0), ALL)


def test_o5_the_total():
    assert abs(float(total_loss(OUTPUTS, PAST, SEEN, 0.1, distillation=True)) - 0.651739) < 1e-6
    without = total_loss(OUTPUTS, PAST, SEEN, 0.1, distillation=False)
    assert abs(float(without) - (1.051592 + 0.1 * 0.439890)) < 1e-6
    first = total_loss(OUTPUTS, jnp.zeros(6, bool), SEEN, 0.1, distillation=True)
    assert abs(float(first) - 1.051592) < 1e-6


def test_a_row_that_is_not_valid_has_no_influence():
    rows = Outputs(*(jnp.concatenate([leaf, leaf]) for leaf in OUTPUTS))
    garbage = Outputs(*(leaf.at[1].set(jnp.nan) for leaf in rows[:4]), jnp.array([True, False]))
    found = total_loss(garbage, PAST, SEEN, 0.1, distillation=True)
    assert float(found) == float(total_loss(OUTPUTS, PAST, SEEN, 0.1, distillation=True))


# --- MixUp ----------------------------------------------------------------------------------------


def test_o9_smoothed_and_mixed():
    found = mixed_targets(jnp.array([0]), jnp.array([3]), jnp.float32(0.7), SEEN)
    np.testing.assert_allclose(found, [[0.655, 0.025, 0.025, 0.295, 0, 0]], atol=1e-6)


@pytest.mark.parametrize("valid", [[1, 1, 1, 1, 1], [1, 0, 1, 1, 0], [0, 1, 0, 0, 0], [0] * 5])
def test_rows_are_mixed_in_pairs_of_those_that_are_there(valid):
    """Image i is 2^i: the mixture tells with whom, and the target says the same."""
    valid, x = np.array(valid, bool), 2.0 ** np.arange(5)[:, None]
    y, seen = jnp.array([0, 1, 2, 3, 4]), jnp.ones(6, bool)
    mixed, targets = mix_up(jax.random.key(3), jnp.asarray(x), y, jnp.asarray(valid), seen)
    share = float(jax.random.beta(jax.random.split(jax.random.key(3))[0], 0.8, 0.8))
    assert 0 < share < 1
    np.testing.assert_array_equal(np.asarray(mixed)[~valid], x[~valid])
    there = np.flatnonzero(valid)
    other = (np.asarray(mixed)[:, 0] - share * x[:, 0]) / (1 - share)
    partner = {i: int(np.log2(other[i]).round()) for i in there}
    assert {partner[partner[i]] for i in there} == {*there}
    assert all(partner[partner[i]] == i for i in there)
    assert len(there) < 3 or any(partner[i] != i for i in there)
    for i in there:
        expected = 0.1 / 6 + 0.9 * (share * np.eye(6)[i] + (1 - share) * np.eye(6)[partner[i]])
        np.testing.assert_allclose(targets[i], expected, atol=1e-5)


def test_pairs_are_drawn_anew_with_every_key():
    x, y, seen = jnp.arange(8.0)[:, None], jnp.zeros(8, jnp.int32), jnp.ones(2, bool)
    orders = set()
    for number in range(6):
        key = jax.random.key(number)
        mixed, _ = mix_up(key, x, y, jnp.ones(8, bool), seen)
        share = float(jax.random.beta(jax.random.split(key)[0], 0.8, 0.8))
        other = (np.asarray(mixed)[:, 0] - share * np.arange(8)) / (1 - share)
        orders.add(tuple(other.round().astype(int)))
    assert len(orders) == 6
