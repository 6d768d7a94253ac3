"""A copy a group: the card's oracles, what one group must be, and what the groups do to a step."""

from functools import cache

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cls_jax.core.augment import Augment
from cls_jax.core.errors import InputError
from cls_jax.core.losses import logit_mse, weighted_logit_mse
from cls_jax.core.memory import Memory
from cls_jax.methods.base import hidden_task
from cls_jax.methods.cls.group_ema import group_ema
from cls_jax.methods.cls.group_ema_rules import (
    literal_weights,
    most_confident,
    planned_groups,
    soft_weights,
    update_rates,
)
from cls_jax.methods.cls.mean_er import mean_er
from cls_jax.nets.mlp import mlp
from tests.support.drive import Drive, label_of, made_batch, pictures, task_of
from tests.support.nets import normed_net
from tests.support.nets import perceptron as drawn_perceptron
from tests.support.numpy_mlp import (
    backward,
    by_letter,
    ce,
    descended,
    inputs,
    logits_of,
    softmax,
)
from tests.support.problems import flat_augment, own_problem

PLAIN = Augment(train=lambda key, x: x, test=lambda x: x)
BATCH, CLASSES = 6, 3


@cache
def perceptron():
    return mlp(CLASSES, (7,))


def vectors(number, domain=0, num=BATCH):
    """Vectors that tell three classes apart, whose numbers stand in an order of each domain."""
    rng = np.random.default_rng(number)
    y = np.arange(num) % CLASSES
    x = rng.normal(size=(num, 6)) + 4 * np.eye(6)[y]
    return made_batch(np.roll(x, 3 * domain, axis=1).astype(np.float32), y)


def built(factory=group_ema, net=None, num_tasks=3, **arguments):
    net = net or perceptron()
    problem = own_problem(net, augment=PLAIN, num_classes=CLASSES, num_tasks=num_tasks)
    return factory(problem, **{"memory_size": 30, "replay_size": 5, **arguments})


def walk(method, domains, steps=4):
    """The learner after tasks of these domains."""
    learner = Drive(method, vectors, (0,))
    for number, domain in enumerate(domains):
        if method.needs.boundaries:
            learner.begin(task_of(number), vectors(100, domain, 30), key=jax.random.key(number))
        for step in range(steps):
            learner.step(10 * number + step, domain)
    return learner


def copy_of(state, group):
    return jax.tree.map(lambda leaf: leaf[group], state.copies)


# --- oracles of the card --------------------------------------------------------------------------

SIMILAR = jnp.array([0.8, 0.5, 0.1])


@pytest.mark.parametrize(
    ("temperature", "expected"),
    [
        (0.3, [0.682663, 0.251138, 0.066199]),
        (1.0, [0.446947, 0.331106, 0.221947]),
        (0.1, [0.951747, 0.047385, 0.000868]),
    ],
)
def test_oracle_3_soft_weights(temperature, expected):
    opened = jnp.array([True, True, True, False])
    found = soft_weights(jnp.append(SIMILAR, 0.9), opened, temperature)
    np.testing.assert_allclose(found, [*expected, 0], atol=1e-6)


def test_oracle_4_the_loss_is_to_each_copy_not_to_their_mean():
    logits, targets = np.array([[1.0, 0]]), np.array([[[0.0, 0]], [[1, 2]]])
    weights = np.array([[0.75, 0.25]])
    loss, gradient = jax.value_and_grad(weighted_logit_mse)(logits, targets, weights)
    mean, same = jax.value_and_grad(logit_mse)(logits, np.einsum("mg,gmc->mc", weights, targets))
    np.testing.assert_allclose([0.15 * loss, 0.15 * mean], [0.13125, 0.0609375], rtol=1e-6)
    np.testing.assert_allclose(gradient, same, rtol=1e-6)


def test_the_surest_and_the_literal_weights_know_open_groups_alone():
    opened, score = jnp.array([True, False, True]), jnp.array([[0.2, 0.5], [0.9, 0.9], [0.3, 0.5]])
    np.testing.assert_array_equal(most_confident(score, opened), [2, 0])
    found = literal_weights(jnp.array([-0.5, 0.9, 0.4]), opened)
    np.testing.assert_allclose(found, [0, 0, 0.4], rtol=1e-6)


def test_a_row_that_is_not_valid_keeps_nothing():
    logits, targets = np.array([[1.0, 0], [np.nan, 9]]), np.array([[[0.0, 0], [5, np.nan]]])
    found = weighted_logit_mse(logits, targets, np.ones((2, 1)), valid=np.array([True, False]))
    np.testing.assert_allclose(found, 0.5)


@pytest.mark.parametrize(("similar", "rate"), [(0.65, 0.15), (0.3, 0), (0.1, 0), (1, 0.3)])
def test_oracle_7_update_rates(similar, rate):
    """The own copy (number 1), another one, and one that is not open."""
    similar, opened = jnp.array([similar, 0.9, 0.9]), jnp.array([True, True, False])
    rule = {"own_rate": 0.9, "other_rate": 0.3, "threshold": 0.3}
    found = update_rates(similar, opened, jnp.int32(1), **rule)
    np.testing.assert_allclose(found, [rate, 0.9, 0], atol=1e-6)


def test_oracle_8_one_group_is_mean_er_bit_for_bit():
    """Compiled without optimisations, which add up in another order in another program."""
    as_written = {"xla_backend_optimization_level": 0}
    states = []
    for method in (built(max_groups=1), built(mean_er, warmup="updates")):
        state = jax.jit(method.init)(jax.random.key(0), vectors(0))
        if method.name == "group_ema":  # the first task has begun
            state = state.replace(task=jnp.int32(0), group=jnp.array([0, -1, -1], jnp.int32))
        step = jax.jit(method.step, compiler_options=as_written)
        for number in range(8):
            state, _ = step(jax.random.key(number), state, vectors(number, number // 4))
        states.append(state)
    mine, theirs = states
    chex.assert_trees_all_equal(mine.working, theirs.working)
    chex.assert_trees_all_equal(copy_of(mine, 0), theirs.stable)
    for name, leaf in theirs.memory.slots.items():
        np.testing.assert_array_equal(mine.memory.slots[name], leaf)


@pytest.mark.more
def test_oracle_8_with_batch_statistics_it_is_so_to_rounding():
    """The sums of a batch are added up in another order where copies are side by side."""
    normed = normed_net(CLASSES)
    mine = walk(built(net=normed._replace(features=normed.apply), max_groups=1), [0, 1]).state
    theirs = walk(built(mean_er, normed, warmup="updates"), [0, 1]).state
    chex.assert_trees_all_close(mine.working, theirs.working, rtol=1e-5, atol=1e-6)
    chex.assert_trees_all_close(copy_of(mine, 0), theirs.stable, rtol=1e-5, atol=1e-6)


@pytest.mark.more
def test_oracle_8_names_of_groups_do_not_matter():
    rule = {"grouping": "told", "max_groups": 2, "own_rate": 1.0}
    one, other = (walk(built(told_groups=told, **rule), [0, 1, 0]).state for told in RENAMED)
    chex.assert_trees_all_close(one.working, other.working, rtol=1e-5, atol=1e-6)
    for group in range(2):
        pair = copy_of(one, group), copy_of(other, 1 - group)
        chex.assert_trees_all_close(*pair, rtol=1e-5, atol=1e-6)


RENAMED = (0, 1, 0), (1, 0, 1)


# --- groups of a stream ---------------------------------------------------------------------------


def test_similar_tasks_share_a_copy_and_the_others_copy_stands_still():
    """Domains 0, 1, 0: the third task joins the first."""
    method = built(max_groups=3, told_at_test=True, own_rate=1.0)
    learner = walk(method, [0, 1])
    before = learner.state
    np.testing.assert_array_equal(before.group, [0, 1, -1])
    learner.begin(task_of(2), vectors(100, 0, 30))
    np.testing.assert_array_equal(learner.state.group, [0, 1, 0])
    chex.assert_trees_all_equal(learner.state.copies, before.copies)
    for number in range(3):
        learner.step(number)
    state = learner.state
    np.testing.assert_array_equal(state.copies.updates, [4 + 3, 4, 0])
    chex.assert_trees_all_equal(copy_of(state, 1), copy_of(before, 1))
    assert not np.array_equal(
        *(one.copies.vars.params["fc1"]["bias"][0] for one in (state, before))
    )
    np.testing.assert_array_equal(state.similarity, state.similarity.T)
    assert state.similarity[0, 2] > 0.5 > state.similarity[0, 1]
    found = method.algorithm.capacity(state)
    np.testing.assert_array_equal(found["groups"], [1, 2, 2])
    np.testing.assert_array_equal(found["group"], state.group)
    network = (6 * 7 + 7 + 7 * 3 + 3) * 32
    np.testing.assert_array_equal(found["bits"] - 30 * (6 + 2) * 32, network * np.array([1, 2, 2]))

    # Who answers: the copy of the nearest exemplars' group, the told task's, the surest, or theta.
    x = jnp.concatenate([vectors(50, 0, 3).x, vectors(51, 1, 3).x])

    @jax.jit
    def every(state):
        nets = [*(copy_of(state, g).vars for g in range(2)), state.working.vars]
        logits = jnp.stack([perceptron().apply(vars, x, train=False)[0] for vars in nets])
        hidden, views = hidden_task(CLASSES), method.views
        by = {name: views[name](state, x, hidden) for name in views}
        by["told 1"] = views["told"](state, x, hidden.replace(index=jnp.int32(1)))
        return logits, {"route": method.predict(state, x, hidden), **by}

    logits, by = every(state)
    first = np.arange(6)[:, None] < 3
    surest = jax.nn.softmax(logits[:2]).max(-1)
    expected = {
        "route": np.where(first, logits[0], logits[1]),
        "told": np.where(first, logits[0], logits[1]),
        "told 1": logits[1],
        "conf": np.where((surest[0] >= surest[1])[:, None], logits[0], logits[1]),
        "working": logits[2],
    }
    assert by.keys() == expected.keys()
    for name, one in expected.items():
        np.testing.assert_allclose(by[name], one, rtol=1e-5, atol=1e-6, err_msg=name)


@pytest.mark.more
@pytest.mark.parametrize("changes", [{"calibrated": False}, {"router": "features"}])
def test_options_find_the_same_groups(changes):
    state = walk(built(**changes), [0, 1, 0]).state
    np.testing.assert_array_equal(state.group, [0, 1, 0])


def plan(grouping, told=(), num_tasks=9, num_groups=3):
    return np.asarray(planned_groups(jax.random.key(1), grouping, told, num_tasks, num_groups))


def test_planned_groups():
    np.testing.assert_array_equal(plan("similarity"), [-1] * 9)
    np.testing.assert_array_equal(plan("snapshots"), [0, 0, 0, 1, 1, 1, 2, 2, 2])
    np.testing.assert_array_equal(plan("snapshots", num_groups=20), range(9))
    np.testing.assert_array_equal(plan("told", (0, 2, 0), 3), [0, 2, 0])
    random = plan("random")
    np.testing.assert_array_equal(np.bincount(random), [3, 3, 3])
    assert (random != np.arange(9) % 3).any()


# --- a whole step ---------------------------------------------------------------------------------

WEIGHT, RATE = 0.8, 0.1
OLD, NEW, OLD_TASKS = [0, 21, 41, 62], [80, 1, 22, 101], [0, 1, 0, 1]
SIMILARITY = [[1, 0.3, 0], [0.3, 1, 0.7], [0, 0.7, 1]]


def numpy_weights(reference, logits, y):
    """[m, G] of each row and copy; tasks 0, 1, 2 are of groups 0, 1, 1."""
    similar = np.array(SIMILARITY) @ np.array([[1, 0], [0, 0.5], [0, 0.5]])
    if reference == "hard":
        return np.eye(2)[OLD_TASKS]
    if reference == "conf":
        true = np.stack([softmax(z)[np.arange(4), y] for z in logits], axis=1)
        return np.eye(2)[true.argmax(1)]
    if reference == "soft":
        return softmax(similar[OLD_TASKS] / 0.5)
    return np.tile(similar[2], (4, 1))


@pytest.mark.more
@pytest.mark.parametrize("reference", ["hard", "conf", "soft", "literal"])
@pytest.mark.parametrize("update", ["flat", "similarity"])
def test_a_whole_step_as_transcribed(reference, update):
    """The second group is the current one; the first one's rate is 1 at similarity .3 - and 0."""
    rates = {"own_rate": 1.0, "other_rate": 1.0, "rate_threshold": 0.0, "learning_rate": RATE}
    problem = own_problem(drawn_perceptron(), augment=flat_augment(), num_classes=6)
    sizes = {"memory_size": 4, "replay_size": 4, "max_groups": 2, "soft_temperature": 0.5}
    choices = {"reference": reference, "update": update, "consistency_weight": WEIGHT}
    learner = Drive(group_ema(problem, **sizes, **choices, **rates))
    keys = jax.random.split(jax.random.key(7), 2)
    copies = [drawn_perceptron().init(key, jnp.zeros((1, 12))) for key in keys]
    learner.state = learner.state.replace(
        copies=learner.state.copies.replace(
            vars=jax.tree.map(lambda *each: jnp.stack(each), *copies),
            updates=jnp.array([5, 0]),
        ),
        memory=Memory(
            {
                "x": pictures(OLD),
                "y": jnp.array(label_of(OLD), jnp.int32),
                "task": jnp.array(OLD_TASKS, jnp.int32),
            },
            jnp.int32(4),
        ),
        task=jnp.int32(2),
        group=jnp.array([0, 1, 1], jnp.int32),
        similarity=jnp.array(SIMILARITY, jnp.float32),
    )
    before = learner.state
    metrics = learner.step(NEW)

    params, copies = by_letter(before.working.vars.params), [by_letter(c.params) for c in copies]
    value, gradient = ce(params, OLD + NEW)
    logits = [logits_of(copy, OLD) for copy in copies]
    weights = numpy_weights(reference, logits, label_of(OLD))
    gaps = [logits_of(params, OLD) - z for z in logits]
    keep = sum(w[:, None] * gap**2 for w, gap in zip(weights.T, gaps, strict=True)).mean()
    slope = sum(2 * w[:, None] * gap for w, gap in zip(weights.T, gaps, strict=True)) / (4 * 6)
    after = descended(params, RATE, (1, gradient), (WEIGHT, backward(params, inputs(OLD), slope)))
    np.testing.assert_allclose(metrics["loss"], value + WEIGHT * keep, rtol=1e-5)
    for name, leaf in by_letter(learner.state.working.vars.params).items():
        np.testing.assert_allclose(leaf, after[name], rtol=1e-4, atol=1e-6)
    updates = np.asarray(learner.state.copies.updates)
    assert updates[1] == 1  # the first one follows with probability .35, if at all
    assert updates[0] == 5 or update == "similarity"
    for group, decay in ((0, 1 - 1 / 7), (1, 0.5)):
        moved = updates[group] != before.copies.updates[group]
        decay = decay if moved else 1
        found = by_letter(copy_of(learner.state, group).vars.params)
        for name, leaf in found.items():
            expected = decay * copies[group][name] + (1 - decay) * after[name]
            np.testing.assert_allclose(leaf, expected, rtol=1e-4, atol=1e-6)


# --- what is refused ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"replay_size": 31}, "replay_size=31 must be between 1 and the memory's 30"),
        ({"max_groups": 0}, "max_groups is 0; give a value at least 1"),
        (
            {"grouping": "best"},
            "grouping is 'best'; use one of similarity, random, snapshots, told",
        ),
        ({"grouping": "told"}, "told_groups holds 0 numbers and there are 3 tasks"),
        ({"told_groups": (0, 1, 0)}, "told_groups is .0, 1, 0., but grouping is 'similarity'"),
        ({"grouping": "told", "told_groups": (0, 5, 0)}, "give numbers from 0 to 4"),
        (
            {"net": perceptron()._replace(features=None)},
            "group_ema compares tasks by what the last",
        ),
        ({"soft_temperature": 0.0}, "soft_temperature is 0.0; give a value above 0"),
    ],
)
def test_bad_values_are_refused(change, sentence):
    with pytest.raises(InputError, match=sentence):
        jax.eval_shape(built(**change).init, jax.random.key(0), vectors(0))
