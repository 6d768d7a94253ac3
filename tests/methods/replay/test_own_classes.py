"""ER and DER++ by each task's own columns, and several updates a batch; losses by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cls_jax.core.augment import Augment
from cls_jax.core.errors import InputError
from cls_jax.methods.replay.der import der, derpp
from cls_jax.methods.replay.er import er
from cls_jax.nets.mlp import mlp
from tests.support.drive import made_batch, task_of
from tests.support.problems import own_problem

NET = mlp(6, (5,))
PROBLEM = own_problem(NET, augment=Augment(lambda key, x: x, lambda x: x), num_classes=6)
ALPHA, BETA = 0.7, 0.3
METHODS = {
    "er_own": er(PROBLEM, memory_size=4, replay_size=4, own_classes=True, learning_rate=0.5),
    "der_own": der(
        PROBLEM,
        memory_size=4,
        replay_size=4,
        own_classes=True,
        learning_rate=0.5,
        logit_weight=ALPHA,
    ),
    "derpp_own": derpp(
        PROBLEM,
        memory_size=4,
        replay_size=4,
        own_classes=True,
        learning_rate=0.5,
        logit_weight=ALPHA,
        label_weight=BETA,
    ),
}


def batch(task, labels, seed):
    x = np.random.default_rng(seed).normal(size=(len(labels), 3)).astype(np.float32)
    return made_batch(x, labels, task=task)


FIRST, SECOND = batch(0, [0, 1, 1, 0], 1), batch(1, [2, 3, 3, 2], 2)


def begun(method, number, state):
    return method.begin_task(jax.random.key(0), state, task_of(number), None)


def after_first(method):
    """A state whose memory of four is the first task's batch, with the second task begun."""
    state = begun(method, 0, method.init(jax.random.key(3), FIRST))
    state, _ = jax.jit(method.step)(jax.random.key(4), state, FIRST)
    return begun(method, 1, state)


def logits(vars, x):
    return np.asarray(NET.apply(vars, jnp.asarray(x), train=True)[0], np.float64)


def ce(z, y, task):
    """Of each row, among the two columns of its task."""
    own = z[:, 2 * task : 2 * task + 2]
    return np.log(np.exp(own).sum(1)) - z[np.arange(len(y)), y]


@pytest.mark.parametrize("name", METHODS)
def test_the_loss_is_by_the_columns_of_each_rows_own_task(name):
    """The memory holds as many as are drawn, so what is replayed is known."""
    method = METHODS[name]
    assert method.name == name
    assert method.needs.told_task
    state = after_first(method)
    _, metrics = jax.jit(method.step)(jax.random.key(5), state, SECOND)
    new, old = (logits(state.model.vars, one.x) for one in (SECOND, FIRST))
    new_ce, old_ce = ce(new, np.asarray(SECOND.y), 1), ce(old, np.asarray(FIRST.y), 0)
    if name == "er_own":
        want = np.concatenate([new_ce, old_ce]).mean()
    else:
        held = state.memory.slots
        order = [int(np.flatnonzero((held["x"] == x).all(1))[0]) for x in FIRST.x]
        stored = np.asarray(held["logits"], np.float64)[order]
        want = new_ce.mean() + ALPHA * np.square(old - stored)[:, :2].mean()
        want += BETA * old_ce.mean() if name == "derpp_own" else 0
    np.testing.assert_allclose(metrics["loss"], want, rtol=1e-5)


@pytest.mark.parametrize("name", METHODS)
def test_columns_of_other_tasks_do_not_move(name):
    method = METHODS[name]
    state = begun(method, 0, method.init(jax.random.key(3), FIRST))
    before = jax.tree.map(np.asarray, state.model.vars.params)
    after, _ = jax.jit(method.step)(jax.random.key(4), state, FIRST)
    heads = [
        (a, b)
        for a, b in zip(
            jax.tree.leaves(before), jax.tree.leaves(after.model.vars.params), strict=True
        )
        if a.shape[-1] == 6
    ]
    assert len(heads) == 2  # kernel and bias
    for a, b in heads:
        np.testing.assert_array_equal(a[..., 2:], b[..., 2:])
        assert (a[..., :2] != b[..., :2]).any()


@pytest.mark.parametrize("name", METHODS)
def test_a_label_of_another_task_is_padding(name):
    """A blurry task has such rows: in no loss, never stored."""
    method = METHODS[name]
    state = begun(method, 0, method.init(jax.random.key(3), FIRST))
    strange = FIRST.replace(y=FIRST.y.at[1].set(5))
    padded = FIRST.replace(valid=FIRST.valid.at[1].set(False))
    step = jax.jit(method.step)
    one, other = (step(jax.random.key(4), state, given)[0] for given in (strange, padded))
    assert int(one.memory.seen) == 3
    jax.tree.map(np.testing.assert_array_equal, one.model, other.model)


def test_two_updates_a_batch_are_two_steps_that_store_once():
    """With nothing to replay the draws do not matter: the second update starts from the first."""
    once, twice = (er(PROBLEM, inner_steps=n, learning_rate=0.5) for n in (1, 2))
    state = once.init(jax.random.key(3), FIRST)
    jax.tree.map(np.testing.assert_array_equal, state, twice.init(jax.random.key(3), FIRST))
    want = state
    for _ in range(2):
        moved, info = jax.jit(once.step)(jax.random.key(4), want, FIRST)
        want = moved.replace(memory=want.memory)
    got, metrics = jax.jit(twice.step)(jax.random.key(4), state, FIRST)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), got.model, want.model)
    np.testing.assert_allclose(metrics["loss"], info["loss"], rtol=1e-6)
    assert int(got.memory.seen) == 4
    jax.tree.map(np.testing.assert_array_equal, got.memory, moved.memory)


def test_each_update_replays_a_draw_of_its_own():
    """A memory of two, one drawn an update: over twenty keys both updates see both, not in step."""
    method = er(PROBLEM, memory_size=2, replay_size=1, inner_steps=2, learning_rate=0.5)
    plain = er(PROBLEM, memory_size=2, replay_size=1, learning_rate=0.5)
    state = method.init(jax.random.key(3), FIRST)
    state, _ = jax.jit(plain.step)(jax.random.key(4), state, FIRST)
    step, one = jax.jit(method.step), jax.jit(plain.step)
    same = []
    for number in range(20):
        key = jax.random.key(number)
        twice = one(key, one(key, state, SECOND)[0].replace(memory=state.memory), SECOND)[0]
        got = step(key, state, SECOND)[0]
        same.append(
            all(
                np.allclose(a, b, rtol=1e-6)
                for a, b in zip(
                    jax.tree.leaves(twice.model), jax.tree.leaves(got.model), strict=True
                )
            )
        )
    assert 0 < sum(same) < 20


def test_no_update_is_refused():
    with pytest.raises(InputError, match="inner_steps"):
        er(PROBLEM, inner_steps=0)
