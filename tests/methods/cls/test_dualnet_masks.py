"""DualNet's masks of task groups: each variant against its equation, and against none."""

from dataclasses import fields
from functools import cache

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cls_jax.core.errors import InputError
from cls_jax.core.memory import reservoir
from cls_jax.methods.base import hidden_task
from cls_jax.methods.cls.dualnet_masks import masking
from cls_jax.methods.cls.dualnet_tasks import DualNetState
from cls_jax.methods.cls.group_masks import SHARED
from cls_jax.nets.dualnet import dualnet
from tests.support.drive import CLASSES, pictures, task_of
from tests.support.dualnet import drive, learn, small_dualnet
from tests.support.nets import WIDTHS, toy_dualnets
from tests.support.problems import flat_augment


@cache
def passes():
    """Logits of the toy networks without masks, and with masks of 0 and 1, product and neutral."""
    nets, x = toy_dualnets(CLASSES), jax.random.normal(jax.random.key(2), (2, 8, 8, 3))
    mask = {m: [jnp.full((2, width), m) for width in WIDTHS] for m in (0.0, 1.0)}

    @jax.jit
    def run(x):
        slow, fast = nets.init_slow(jax.random.key(0), x), nets.init_fast(jax.random.key(1), x)
        maps, _ = nets.features(slow, x, train=True)
        found = {"plain": nets.classify(fast, x, maps, train=True)[0]}
        for m, masks in mask.items():
            for neutral in (False, True):
                kind = {"masks": masks, "neutral": neutral}
                found[f"{m:g} {neutral}"] = nets.classify(fast, x, maps, train=True, **kind)[0]
        cut = [mask[0.0][0].at[:, 0].set(1), mask[1.0][1]]
        found["cut"] = nets.features(slow, x, train=True, masks=cut)[0]
        return fast.params["Dense_0"], maps, found

    return jax.tree.map(np.asarray, run(x))


def test_oracle_8_what_is_masked_neutrally_leaves_the_slow_map():
    """A1 with M = 0: m_l = h_l, so the head sees the pooled last map of the trunk alone."""
    head, maps, found = passes()
    expected = maps[-1].mean((1, 2)) @ head["kernel"] + head["bias"]
    np.testing.assert_allclose(found["0 True"], expected, rtol=1e-5, atol=1e-6)


def test_what_is_masked_by_a_product_is_nothing():
    head, _, found = passes()
    np.testing.assert_allclose(found["0 False"], np.broadcast_to(head["bias"], (2, CLASSES)))


def test_a_mask_of_ones_is_none():
    _, _, found = passes()
    for neutral in (False, True):
        np.testing.assert_allclose(found[f"1 {neutral}"], found["plain"], rtol=1e-6, atol=1e-7)


def test_a_masked_map_goes_no_further():
    """The first map has one channel left, and the second one is made of that."""
    _, maps, found = passes()
    first, second = found["cut"]
    np.testing.assert_allclose(first[..., 0], maps[0][..., 0], rtol=1e-6)
    assert not first[..., 1:].any()
    assert not np.allclose(second, maps[1], atol=1e-3)


@pytest.mark.more
def test_the_networks_of_the_paper_take_the_same_masks():
    """Width 2: all masked neutrally, the head sees h4; a masked h4 is silent in its channels."""
    nets, x = dualnet(3, width=2), jax.random.normal(jax.random.key(2), (2, 8, 8, 3))
    sizes = (2, 4, 8, 16)
    nothing = [jnp.zeros((2, size)) for size in sizes]
    cut = [jnp.ones((2, size)) for size in sizes[:3]] + [jnp.zeros((2, 16)).at[:, ::3].set(1)]

    @jax.jit
    def run(x):
        slow, fast = nets.init_slow(jax.random.key(0), x), nets.init_fast(jax.random.key(1), x)
        maps, _ = nets.features(slow, x, train=True, masks=cut)
        kind = {"masks": nothing, "neutral": True}
        return fast.params["linear"], maps, nets.classify(fast, x, maps, train=True, **kind)[0]

    head, maps, logits = jax.tree.map(np.asarray, run(x))
    pooled = maps[-1].mean((1, 2))
    np.testing.assert_allclose(logits, pooled @ head["kernel"] + head["bias"], rtol=1e-4, atol=1e-5)
    assert (pooled[:, ::3] > 0).any()
    assert not np.delete(pooled, np.arange(0, 16, 3), axis=1).any()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"masks": "neutral"}, "told_groups holds 0 numbers and there are 3 tasks; give the group"),
        ({"told_groups": (0, 1, 0)}, "masks is none, so they would do nothing; leave told_groups"),
        ({"masks": "hard"}, "masks is 'hard'; use one of none, product, neutral, trunk"),
        (
            {"masks": "trunk", "told_groups": (0, 1, 0), "task_aware": False},
            "masks is trunk, and a task-free learner knows no group; use masks none",
        ),
    ],
)
def test_what_does_not_fit_is_named(changes, message):
    with pytest.raises(InputError, match=message):
        small_dualnet(**changes)


@pytest.mark.parametrize(("kind", "slow"), [("product", 0), ("neutral", 0), ("trunk", 1)])
def test_only_trunk_masks_what_the_slow_network_learns_by(kind, slow):
    """Its keywords are those of ``embed``, too; fast channels are shared to 1/4, slow to 3/4."""
    rule = masking(kind, (0, 1, 1), 3, reservoir(4), flat_augment())
    state = rule.start(jax.random.key(0), empty_state(), (16,))
    cut = rule.of(state, jnp.array([0, 2]))
    assert len(cut.slow) == slow
    assert cut.fast["neutral"] == (kind == "neutral")
    for name, share in (("fast", 4), ("slow", 12)):
        (owner,) = state.owners[name]
        assert int((owner == SHARED).sum()) == share
    (mask,), (owner,) = cut.fast["masks"], state.owners["fast"]
    for row, group in zip(np.asarray(mask), (0, 1), strict=True):
        np.testing.assert_array_equal(row, (owner == SHARED) | (owner == group))


def empty_state():
    """A state, of which only the fields matter."""
    return DualNetState(**dict.fromkeys(one.name for one in fields(DualNetState)))


# --- whole steps ----------------------------------------------------------------------------------


@cache
def walked(kind, shared=False):
    """A learner after two tasks of group 0 and 1; with all channels shared if so."""
    groups = {} if kind == "none" else {"told_groups": (0, 1, 1)}
    learner = drive(masks=kind, **groups)
    if shared:
        owners = jax.tree.map(lambda owner: jnp.full_like(owner, -1), learner.state.owners)
        learner.state = learner.state.replace(owners=owners)
    learn(learner, 0, [0, 1, 2, 3], [4, 5, 6, 7])
    learn(learner, 1, [100, 101, 102, 103])
    return learner


every_kind = pytest.mark.parametrize(
    "kind", ["neutral", *(pytest.param(k, marks=pytest.mark.more) for k in ("product", "trunk"))]
)


@every_kind
def test_channels_that_all_share_are_dualnet(kind):
    """To rounding, whichever the masks; without any the state is what it was."""
    plain, masked = walked("none").state, walked(kind, shared=True).state
    assert type(plain) is DualNetState
    for name in ("slow", "fast", "memory"):
        mine, theirs = getattr(masked, name), getattr(plain, name)
        chex.assert_trees_all_close(mine, theirs, rtol=1e-4, atol=1e-5)


@every_kind
def test_the_fast_channels_of_another_group_wait(kind):
    learner = drive(masks=kind, told_groups=(0, 1, 1))
    before, (owner,) = learner.state, learner.state.owners["fast"]
    learn(learner, 0, [0, 1, 2, 3])
    moved = np.asarray(learner.state.fast.vars.params["adapt"]) != before.fast.vars.params["adapt"]
    assert not moved.any(0)[np.asarray(owner) == 1].any()
    assert moved.any(0)[np.asarray(owner) == 0].any()


@every_kind
def test_the_group_is_told_or_that_of_the_nearest_exemplars(kind):
    """Remembered images lie nearest to their own task's: hidden or told, the same answer."""
    learner = walked(kind)
    assert learner.method.needs.told_task_at_test
    x = pictures([0, 1])
    told, other = (learner.predict(x, task_of(number)) for number in (0, 1))
    assert np.abs(told - other).max() > 1e-4
    np.testing.assert_allclose(learner.predict(x, hidden_task(CLASSES)), told, rtol=1e-5, atol=1e-6)
