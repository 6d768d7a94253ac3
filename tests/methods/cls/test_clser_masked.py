"""CLS-ER with masks of groups: what it is without them, its answers, and what the card saw."""

from functools import cache

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import cls_jax as cls
from cls_jax.core.errors import InputError
from cls_jax.data.dataset import Dataset, Split
from cls_jax.methods.base import hidden_task
from cls_jax.methods.cls.clser import clser
from cls_jax.methods.cls.clser_masked import clser_masked
from cls_jax.methods.cls.group_masks import masks_of
from cls_jax.nets.mlp import mlp
from tests.support.drive import CLASSES, Drive, batch, pictures, task_of
from tests.support.problems import flat_augment, own_problem

SIZES = {"memory_size": 12, "replay_size": 6, "stable_rate": 0.5, "consistency_weight": 0.5}
GROUPS = (0, 1, 0)
BY_SIMILARITY = {"grouping": "similarity", "max_groups": 2}


@cache
def net():
    return mlp(CLASSES, (8, 6))


def built(factory=clser_masked, **arguments):
    """The method on a small perceptron; groups are told unless they are given."""
    problem = own_problem(net(), augment=flat_augment(), num_classes=CLASSES)
    if factory is clser_masked:
        told = {"grouping": "told", "told_groups": GROUPS, "max_groups": 2}
        arguments = {**({} if "grouping" in arguments else told), **arguments}
    return factory(problem, **{**SIZES, **arguments})


def walked(change=lambda state: state, **arguments):
    """After three tasks of three steps."""
    learner = Drive(built(**arguments))
    learner.state = change(learner.state)
    for number in range(3):
        names = 40 * number + np.arange(12)
        data = batch(names, task=number) if learner.method.needs.begin_data else None
        if learner.method.needs.boundaries:
            learner.begin(task_of(number), data, key=jax.random.key(99))  # steps keep theirs
        for part in np.split(names, 3):
            learner.step(part, task=number)
    return learner


TEACHERS = ("stable", "plastic")
SHARED_TREES = ("working", "plastic", "stable", "step")


def same_networks(one, other):
    """To the bit."""
    for name in SHARED_TREES:
        chex.assert_trees_all_equal(getattr(one.state, name), getattr(other.state, name))


def test_oracle_8_a_factor_of_one_is_clser():
    """And so are channels that are all shared, to the same bits; hard masks are another network.

    To rounding: a product with one has no error, but sums are in another order where XLA fuses.
    """
    plain, one = walked(factory=clser), walked(foreign_factor=1.0)
    same_networks(one, walked(shared_rate=1.0))
    for name in SHARED_TREES:
        mine, theirs = getattr(one.state, name), getattr(plain.state, name)
        chex.assert_trees_all_close(mine, theirs, rtol=1e-5, atol=1e-7)
    for name in ("x", "y"):
        np.testing.assert_array_equal(one.slots(name), plain.slots(name))
    hard = walked()
    assert not np.allclose(
        hard.state.working.vars.params["fc1"]["kernel"],
        plain.state.working.vars.params["fc1"]["kernel"],
        atol=1e-3,
    )


def test_oracle_8_the_names_of_groups_mean_nothing():
    """Groups 0 and 1 in place of 1 and 0, and each channel with its owner: the same bits."""

    def swapped(state):
        owners = tuple(jnp.where(owner < 0, owner, 1 - owner) for owner in state.owners)
        return state.replace(owners=owners)

    one, other = walked(), walked(swapped, told_groups=(1, 0, 1))
    same_networks(one, other)
    np.testing.assert_array_equal(other.state.group, [1, 0, 1])


def test_oracle_8_speeds_of_one_are_no_speeds():
    """Slowest and fastest 1, whatever the similarity: to rounding, since it is another program."""
    plain = walked()
    same = walked(speed="fast", slowest_factor=1.0, fastest_factor=1.0)
    for name in ("working", "plastic", "stable"):
        mine, theirs = (getattr(one.state, name).vars for one in (same, plain))
        chex.assert_trees_all_close(mine, theirs, rtol=1e-5, atol=1e-7)
    faster = walked(speed="fast")
    assert float(faster.state.speed.max() - faster.state.speed.min()) > 0.01
    assert not np.array_equal(
        faster.state.working.vars.params["fc1"]["kernel"],
        plain.state.working.vars.params["fc1"]["kernel"],
    )


@pytest.mark.more
def test_tag_keeps_moments_of_each_task():
    """In place of the problem's optimizer: after two tasks those of the third are zero."""
    learner = Drive(built(speed="tag", foreign_factor=1.0, learning_rate=1e-3))
    for number in range(2):
        learner.begin(task_of(number))
        learner.step(40 * number + np.arange(4), task=number)
    for moments in learner.state.working.opt:
        for leaf in jax.tree.leaves(moments):
            assert np.asarray(leaf[:2]).any(axis=tuple(range(1, leaf.ndim))).all()
            assert not leaf[2].any()


def test_a_short_stream_is_told_of_slow_copies():
    """As CLS-ER: too few updates for the stable copy, unless it warms up over its own."""
    rule = {"stable_rate": 0.1, "stable_decay": 0.999}
    assert "the stable copy will be made of initial weights" in built(**rule).advice(100, 1)
    assert built(**rule, warmup="updates").advice(100, 1) == ""


def test_another_groups_channels_stay_where_they_are():
    """Hard masks: what produces a channel of group 1 does not move before group 1 has a task."""
    learner = Drive(built())
    before = learner.state.working.vars.params["fc1"]
    learner.begin(task_of(0))
    learner.step([0, 1, 2, 3], task=0)
    after, owner = learner.state.working.vars.params["fc1"], np.asarray(learner.state.owners[0])
    moved = (np.asarray(after["kernel"]) != before["kernel"]).any(axis=0)
    assert moved[owner != 1].any()
    assert not moved[owner == 1].any()


def test_an_answer_is_that_of_the_group_that_is_told_or_found():
    learner = walked()
    x, state = flat_augment().test(pictures([3, 43, 83])), learner.state

    def by_hand(tree, group):
        masks = masks_of(state.owners, jnp.asarray(group), 0.0)
        return net().masked(getattr(state, tree).vars, x, masks=masks, train=False)[0]

    told = learner.predict(pictures([3, 43, 83]), task_of(1))
    np.testing.assert_allclose(told, by_hand("stable", [1, 1, 1]), rtol=1e-5, atol=1e-6)
    slots = state.memory.slots
    pairs = sorted({*zip(*(np.asarray(slots[n]).tolist() for n in ("task", "y")), strict=True)})
    stored = np.asarray(flat_augment().test(slots["x"]))
    held = np.arange(len(stored)) < int(state.memory.seen)
    means = []
    for task, y in pairs:
        rows = held & (np.asarray(slots["task"]) == task) & (np.asarray(slots["y"]) == y)
        means.append(stored[rows].mean(0))
    distance = np.square(np.asarray(x)[:, None] - np.asarray(means)).sum(-1)
    group = [GROUPS[pairs[i][0]] for i in distance.argmin(1)]
    free = learner.predict(pictures([3, 43, 83]), hidden_task(CLASSES))
    np.testing.assert_allclose(free, by_hand("stable", group), rtol=1e-5, atol=1e-6)


def test_tasks_alike_join_a_group():
    """A threshold that all reach: one group; that none reaches: one each, while there is room."""
    one = walked(**BY_SIMILARITY, group_threshold=0.0)
    np.testing.assert_array_equal(one.state.group, 0)
    other = walked(**BY_SIMILARITY, group_threshold=2.0)
    assert other.state.group[:2].tolist() == [0, 1]
    assert int(other.state.group[2]) in (0, 1)


@pytest.mark.more
@pytest.mark.parametrize("factor", [0.0, 0.3])
def test_a_step_is_its_equation_in_float64(factor):
    """Stream and replay under the masks of their own groups, each unit times its mask, in NumPy."""
    with jax.enable_x64(True):
        exact = mlp(CLASSES, (8, 6), dtype="float64")
        problem = own_problem(exact, augment=flat_augment(), num_classes=CLASSES)
        sizes = {**SIZES, "memory_size": 4, "replay_size": 4, "max_groups": 2}
        method = clser_masked(
            problem, grouping="told", told_groups=GROUPS, foreign_factor=factor, **sizes
        )
        at = method.at(jax.tree.map(jnp.float64, method.hyper))
        first, second = (batch(names, task=t) for t, names in enumerate(([0, 1, 2, 3], [40, 41])))
        state, step = jax.jit(at.init)(jax.random.key(0), first), jax.jit(at.step)
        for number, examples in enumerate((first, second)):
            state = at.begin_task(jax.random.key(9), state, task_of(number), None)
            before = state
            state, metrics = step(jax.random.key(number), state, examples)
        names, tasks = np.array([0, 1, 2, 3, 40, 41]), np.array([0, 0, 0, 0, 1, 1])
        x = np.asarray(flat_augment().test(pictures(names)), np.float64)
        owners = [np.asarray(owner) for owner in state.owners]
        group = np.array(GROUPS)[tasks][:, None]
        masks = [np.where((o < 0) | (o == group), 1.0, np.float64(factor)) for o in owners]

        def logits(params, rows):
            h = x[rows]
            for name, mask in zip(("fc1", "fc2"), masks, strict=True):
                h = jnp.maximum(h @ params[name]["kernel"] + params[name]["bias"], 0) * mask[rows]
            return h @ params["fc3"]["kernel"] + params["fc3"]["bias"]

        y, replay = np.concatenate([first.y, second.y]), np.arange(4)
        both = [np.asarray(logits(getattr(before, tree).vars.params, replay)) for tree in TEACHERS]
        sure = [np.exp(z)[replay, y[:4]] / np.exp(z).sum(1) for z in both]
        targets = np.where((sure[0] > sure[1])[:, None], *both)

        def loss(params):
            z = logits(params, np.arange(6))
            ce = (jax.nn.logsumexp(z, axis=1) - z[np.arange(6), y]).mean()
            return ce + method.hyper["consistency_weight"] * jnp.square(z[:4] - targets).mean()

        value, gradient = jax.jit(jax.value_and_grad(loss))(before.working.vars.params)
        rate = method.hyper["learning_rate"]
        moved = jax.tree.map(lambda p, g: p - rate * g, before.working.vars.params, gradient)
        np.testing.assert_allclose(metrics["loss"], value, rtol=1e-6)
        chex.assert_trees_all_close(state.working.vars.params, moved, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"told_groups": (0, 1)}, "told_groups holds 2 numbers and there are 3 tasks"),
        ({**BY_SIMILARITY, "told_groups": GROUPS}, "but grouping is 'similarity'"),
        ({"max_groups": 0}, "max_groups is 0; give a value at least 1"),
        ({"replay_size": 13}, "replay_size=13 must be between 1 and the memory's 12 slots"),
        ({"speed": "quick"}, "speed is 'quick'; use one of none, fast, slow"),
        ({"shared_rate": 1.5}, "shared_rate is 1.5; give a value at least 0 and at most 1"),
    ],
)
def test_what_does_not_fit_is_named(changes, message):
    with pytest.raises(InputError, match=message):
        built(**changes)


@pytest.mark.slow
def test_hard_masks_pay_only_where_the_groups_are_right():
    """The card's pilot: digits, nine tasks in three groups, half of the pixels moved.

    In each of four seeds true groups beat random ones of equal count, whether the group is told or
    found, and the router finds it: told, no more is right.
    """
    whole = cls.load_data("digits")
    parts = [Split(part.x[:, ::4, ::4, :1], part.y) for part in (whole.train, whole.test)]
    stream = cls.permuted(
        Dataset("digits8", *parts, whole.label_names),
        **{"tasks": 9, "batch_size": 32, "epochs": 2, "groups": 3, "group_spread": 0.5},
    )
    problem = cls.problem(stream, net="mlp", hidden=(64, 64), normalisation="none")
    rule = {"memory_size": 450, "learning_rate": 0.05, "consistency_weight": 0.15}
    rule |= {"warmup": "updates", "stable_rate": 0.3, "plastic_rate": 0.9, "stable_decay": 0.98}
    found = {}
    for label, groups in (
        ("true", {"grouping": "told", "told_groups": (0, 1, 2) * 3}),
        ("random", {"grouping": "random"}),
    ):
        method = clser_masked(problem, max_groups=3, **groups, **rule)
        (run,) = cls.train(method, stream, seeds=range(4)).runs
        working = run.views.index("working")
        found[label] = run.matrix[:, working, :, -1].mean(axis=-1)  # [seeds, (hidden, told)]
    gap = found["true"] - found["random"]
    assert (gap > 0).all()
    assert gap.mean() > 0.02
    np.testing.assert_allclose(found["true"][:, 0], found["true"][:, 1], atol=0.01)


def test_the_surest_masks_answer():
    """The view conf: of the groups that have a task, by the working network, told or not."""
    learner = walked(max_groups=3)  # the third group has no task
    state, x = learner.state, pictures([3, 44, 90, 7])
    method, hidden = learner.method, hidden_task(CLASSES)
    logits = []
    for group in (0, 1):
        task = GROUPS.index(group)
        logits.append(method.views["working"](state, x, task_of(task)))
    sure = [np.asarray(jax.nn.softmax(one)).max(axis=1) for one in logits]
    expected = np.where((sure[0] >= sure[1])[:, None], *logits)
    for task in (hidden, task_of(0)):
        found = method.views["conf"](state, x, task)
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
