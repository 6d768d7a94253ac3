"""Who owns a channel, what an example of a group sees, and which examples a task is told by."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cls_jax.core.errors import InputError
from cls_jax.core.similarity import Labelled
from cls_jax.methods.base import hidden_task
from cls_jax.methods.cls.group_ema_rules import some_of
from cls_jax.methods.cls.group_masks import (
    SHARED,
    draw_owners,
    maskable,
    masks_of,
    task_at_test,
)
from cls_jax.nets.base import Net
from cls_jax.nets.mlp import mlp
from cls_jax.nets.resnet import resnet18
from tests.support.drive import made_batch, task_of


def test_what_is_not_shared_is_divided_evenly():
    draw = jax.jit(lambda share: draw_owners(jax.random.key(0), (64, 64, 3), 3, share))
    for share in (0.0, 0.25, 0.5, 1.0):
        for owner in map(np.asarray, draw(share)):
            shared = (owner == SHARED).sum()
            assert shared == np.round(share * owner.size)
            own = np.bincount(owner[owner != SHARED], minlength=3)
            assert own.max() - own.min() <= 1
            assert own.sum() + shared == owner.size
    first, second = draw(0.5)[:2]
    assert (first != second).any()  # each layer has a draw of its own


def test_an_example_sees_its_groups_channels_and_the_shared_ones():
    owners = (jnp.array([0, SHARED, 1]), jnp.array([1, 1]))
    hard, soft = masks_of(owners, jnp.array([0, 1]), 0.0), masks_of(owners, jnp.array([0, 1]), 0.3)
    np.testing.assert_array_equal(hard[0], [[1, 1, 0], [0, 1, 1]])
    np.testing.assert_array_equal(hard[1], [[0, 0], [1, 1]])
    np.testing.assert_allclose(soft[0], [[1, 1, 0.3], [0.3, 1, 1]], rtol=1e-6)
    for mask in masks_of(owners, jnp.array([0, 1]), 1.0):
        np.testing.assert_array_equal(mask, 1)


def test_a_masked_unit_is_silent_and_a_mask_of_ones_changes_no_bit():
    net, x = mlp(3, (5, 4)), np.random.default_rng(1).normal(size=(2, 6)).astype(np.float32)
    assert net.stages == (("fc1", 5), ("fc2", 4))
    ones = [np.ones((2, 5), np.float32), np.ones((2, 4), np.float32)]
    masks = [np.array([[1, 1, 1, 1, 1], [1, 0, 0.5, 1, 0]], np.float32), ones[1]]

    @jax.jit
    def passes(x, *sets):
        vars = net.init(jax.random.key(0), x)
        found = [net.masked(vars, x, masks=masks, train=True)[0] for masks in sets]
        return vars.params, net.apply(vars, x, train=True)[0], *found

    p, plain, same, found = jax.tree.map(np.asarray, passes(x, ones, masks))
    np.testing.assert_array_equal(same, plain)
    h = np.maximum(x @ p["fc1"]["kernel"], 0) * masks[0]
    h = np.maximum(h @ p["fc2"]["kernel"], 0)
    np.testing.assert_allclose(found, h @ p["fc3"]["kernel"], rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(found[0], plain[0])


@pytest.mark.more
def test_stages_of_a_resnet_are_masked_behind_their_relu():
    """A mask of ones changes nothing, to rounding. Of the last stage the head sees what is left."""
    net, x = resnet18(3, width=2), jax.random.normal(jax.random.key(1), (4, 8, 8, 3))
    vars = net.init(jax.random.key(0), x)
    assert net.stages == (("layer1", 2), ("layer2", 4), ("layer3", 8), ("layer4", 16))
    ones = [jnp.ones((4, size)) for _, size in net.stages]
    last = jnp.zeros((4, 16)).at[:, ::3].set(1)
    seen, stats = jax.jit(lambda: net.features(vars, x, train=True))()
    masked = jax.jit(lambda masks: net.masked(vars, x, masks=masks, train=True))
    head = vars.params["linear"]
    for masks, left in ((ones, seen), ([*ones[:3], last], seen * last)):
        found, same = masked(masks)
        expected = left @ head["kernel"] + head["bias"]
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
        chex.assert_trees_all_close(same, stats, rtol=1e-5, atol=1e-6)


def test_the_task_at_test_is_told_or_that_of_the_nearest_exemplars():
    """The card's addenda: means 1 and 10; 4 goes to the first (9 against 36), 6 to the second."""
    stored = Labelled(jnp.array([[0.0], [2.0], [10.0], [5.0]]), jnp.array([0, 0, 1, 1]), None)
    stored = stored._replace(valid=jnp.array([True, True, True, False]))
    x, tasks = jnp.array([[4.0], [6.0]]), jnp.array([0, 0, 2, 1])
    at_test = jax.jit(task_at_test)
    np.testing.assert_array_equal(at_test(hidden_task(6), x, stored, tasks), [0, 2])
    np.testing.assert_array_equal(at_test(task_of(1), x, stored, tasks), [1, 1])


def test_a_task_is_compared_by_labelled_rows_of_its_own():
    batch = made_batch(np.arange(6.0)[:, None], [0] * 6, valid=4, labelled=[1, 0, 1, 1, 0, 0])
    probe = jax.jit(some_of)(jax.random.key(0), batch)
    assert sorted(np.asarray(probe.x)[np.asarray(probe.valid), 0]) == [0, 2, 3]
    assert probe.x.shape == batch.x.shape


@pytest.mark.parametrize("net", [mlp(3, ()), Net(lambda key, x: None, lambda *_, **__: None)])
def test_a_network_without_stages_is_named(net):
    with pytest.raises(InputError, match=r"net is 'odd', which has no stages .*use 'resnet18', or"):
        maskable(net, "odd")
