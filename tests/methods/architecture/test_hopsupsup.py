"""HopSupSup: training and recovery by hand, what is stored, and masks recovered on real digits."""

from itertools import pairwise

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cls_jax.core.augment import recipe
from cls_jax.core.errors import InputError
from cls_jax.core.losses import cross_entropy, entropy
from cls_jax.core.types import Task, Variables
from cls_jax.data.load import load
from cls_jax.methods.architecture.hopfield import empty, stored
from cls_jax.methods.architecture.hopsupsup import hopsupsup, pattern, recover
from cls_jax.methods.architecture.supermasks import signed_constant
from cls_jax.methods.steps import torch_sgd
from cls_jax.nets.bnnet import bnnet
from tests.support.drive import made_batch
from tests.support.problems import own_problem

KEY = jax.random.key(0)
HIDDEN = (12, 9)
SMALL = {"recovery_steps": 4, "learning_rate": 0.3, "momentum": 0.8, "weight_decay": 0.01}
NET = bnnet(10, HIDDEN, signed_constant)
AUGMENT = recipe((8, 8, 3), normalisation="half")


def digits_problem(hidden=HIDDEN):
    """8x8 digits and a perceptron of these hidden layers."""
    return own_problem(augment=AUGMENT, num_classes=10, hidden=hidden)


def small(**changes):
    """(method, its state before the first task) on 8x8 digits."""
    method = hopsupsup(digits_problem(), **{**SMALL, **changes})
    return method, method.init(KEY, batch_of(np.arange(6)))


def batch_of(index, valid=None):
    """Training digits by their numbers."""
    data = load("digits", size=8).train
    return made_batch(data.x[index], data.y[index], valid=valid, task=0)


def tree(*arrays):
    """fc1, fc2, … of these."""
    return {f"fc{i}": jnp.asarray(a, jnp.float32) for i, a in enumerate(arrays, 1)}


# --- training -------------------------------------------------------------------------------------


def test_scores_train_straight_through_with_momentum_and_decay():
    """Three steps of torch.optim.SGD in NumPy on d(loss)/d(mask), from all units on."""
    method, state = small()
    scores = {k: np.asarray(v, np.float64) for k, v in state.model.vars.params.items()}
    assert all((s == 0).all() for s in scores.values())
    speed, step = {k: np.zeros_like(v) for k, v in scores.items()}, jax.jit(method.phases[0].step)
    off = 0
    for number in range(3):
        batch = batch_of(np.arange(12) + 12 * number, np.arange(12) < 10)

        def loss(masks, batch=batch):
            vars = Variables({"kernels": state.kernels, "scales": masks}, {})  # noqa: B023
            logits, _ = NET.apply(vars, AUGMENT.test(batch.x), train=True, valid=batch.valid)
            return cross_entropy(logits, batch.y, valid=batch.valid)

        value, slope = jax.value_and_grad(loss)(tree(*(1.0 * (s >= 0) for s in scores.values())))
        state, metrics = step(KEY, state, batch)
        np.testing.assert_allclose(metrics["loss"], value, rtol=1e-4)
        for k in scores:
            speed[k] = 0.8 * speed[k] + np.asarray(slope[k]) + 0.01 * scores[k]
            scores[k] = scores[k] - 0.3 * speed[k]
            np.testing.assert_allclose(state.model.vars.params[k], scores[k], rtol=1e-3, atol=1e-5)
        off += sum((s < 0).sum() for s in scores.values())
    assert off > 5


def test_a_task_starts_anew_and_leaves_its_pattern():
    """Scores and momentum are forgotten, weights never move, and what is stored is 2 mask - 1."""
    method, state = small()
    kernels, patterns = jax.tree.map(np.array, state.kernels), []
    for number in range(3):
        state = jax.jit(method.begin_task)(KEY, state, None, None)
        assert all((leaf == 0).all() for leaf in jax.tree.leaves(state.model))
        for s in range(3):
            state, _ = method.phases[0].step(KEY, state, batch_of(np.arange(12) + 12 * s + number))
        scores = state.model.vars.params
        patterns.append(jax.tree.map(lambda s: np.where(np.asarray(s) >= 0, 1.0, -1.0), scores))
        state = jax.jit(method.end_task)(KEY, state, None, None)
    chex.assert_trees_all_equal(jax.tree.map(np.array, state.kernels), kernels)
    expected = empty({"fc1": 12, "fc2": 9})
    for z in patterns:
        expected = stored(expected, tree(*z.values()))
    chex.assert_trees_all_close(state.hopfield, expected, atol=1e-6)
    assert state.hopfield.stored == 3
    assert any((a["fc1"] != b["fc1"]).any() for a, b in pairwise(patterns))


# --- recovery -------------------------------------------------------------------------------------


def test_entropy_oracle():
    """The card's oracle 5; ln 4 where nothing is known."""
    assert entropy(jnp.array([[1.5, -1.5]])) == pytest.approx(0.190865, abs=1e-6)
    assert entropy(jnp.zeros((3, 4))) == pytest.approx(np.log(4), abs=1e-6)
    assert jnp.isfinite(jax.grad(entropy)(jnp.array([[1e4, -1e4]]))).all()


def test_patterns_pass_twice_the_gradient():
    z, back = jax.vjp(pattern, jnp.array([-0.3, 0.0, 2.0]))
    np.testing.assert_array_equal(z, [-1, 1, 1])
    np.testing.assert_array_equal(back(jnp.array([1.0, -2.0, 3.0]))[0], [2.0, -4.0, 6.0])


def test_recovery_by_hand():
    """Linear answers, two images a step of five: each step's scores, in NumPy."""
    rng, steps, rate, gamma = np.random.default_rng(0), 6, 4.0, 0.2
    x, w = rng.normal(size=(5, 3)), rng.normal(size=(3, 7, 4))
    patterns = rng.choice([-1.0, 1.0], (3, 7))
    hopfield = empty({"fc1": 7})
    for z in patterns:
        hopfield = stored(hopfield, tree(z))
    how = {"optimizer": torch_sgd(rate, 0.8, 0.01), "energy_weight": gamma}
    sizes = {"num_steps": steps, "batch_size": 2}

    def logits_of(scores, x):
        mask = (pattern(scores["fc1"]) + 1) / 2
        return jnp.einsum("bi,iuc,u->bc", x, jnp.asarray(w, jnp.float32), mask)

    found = recover(logits_of, hopfield, jnp.asarray(x, jnp.float32), **how, **sizes)["fc1"]
    psi, q = np.asarray(hopfield.weights["fc1"], np.float64), patterns.mean(0)
    speed = np.zeros(7)
    for t in range(steps):
        mask, rows = 1.0 * (q >= 0), x[[(2 * t) % 5, (2 * t + 1) % 5]]
        units = np.einsum("bi,iuc->buc", rows, w)
        logits = (units * mask[:, None]).sum(1)
        p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
        surprise = -(p * np.log(p)).sum(1, keepdims=True)
        unsure = -p * (np.log(p) + surprise)
        late = (t + 1) / steps
        slope = (1 - late) * np.einsum("buc,bc->u", units, unsure) / 2
        slope += gamma * late * 2 * -(psi @ (2 * mask - 1))
        speed = 0.8 * speed + slope + 0.01 * q
        q = q - rate * speed
        np.testing.assert_allclose(found[t], q, rtol=1e-3, atol=1e-4)
    assert found.shape == (steps, 7)


def as_published():
    """How the method recovers a mask if nothing is changed."""
    given = {name: one.default for name, one in hopsupsup.signature.arguments.items()}
    return {
        "optimizer": torch_sgd(
            given["recovery_learning_rate"], given["momentum"], given["weight_decay"]
        ),
        "energy_weight": given["energy_weight"],
        "num_steps": given["recovery_steps"],
        "batch_size": given["recovery_batch_size"],
    }


@pytest.mark.parametrize("seed", range(3))
def test_a_corrupted_mask_is_recovered_by_the_energy_alone(seed):
    """Answers that say nothing: from a fifth of wrong signs, exactly, in both layers."""
    rng, hopfield = np.random.default_rng(seed), empty({"fc1": 200, "fc2": 150})
    patterns = [tree(*(rng.choice([-1.0, 1.0], n) for n in (200, 150))) for _ in range(5)]
    for z in patterns:
        hopfield = stored(hopfield, z)
    for z in patterns:
        flip = jax.tree.map(lambda a: jnp.where(rng.random(a.shape) < 0.2, -a, a), z)
        path = recover(
            lambda scores, x: jnp.zeros((len(x), 3)),
            hopfield.replace(mean=flip),
            jnp.zeros((4, 2)),
            **as_published(),
        )
        assert any((flip[k] != z[k]).any() for k in z)
        chex.assert_trees_all_equal(jax.tree.map(lambda q: pattern(q[-1]), path), z)


def test_predict_uses_no_task_and_works_on_any_number_of_images():
    method, state = small()
    state = method.end_task(KEY, state, None, None)
    every = jnp.ones(10, bool)
    for number in (1, 5, 100):
        x = batch_of(np.arange(number)).x
        logits = [
            jax.jit(method.predict)(state, x, Task(jnp.int32(t), every, every)) for t in (-1, 2)
        ]
        assert logits[0].shape == (number, 10)
        assert jnp.isfinite(logits[0]).all()
        np.testing.assert_array_equal(*logits)


def test_capacity_is_one_matrix_and_one_mean_a_layer():
    method, state = small()
    for _ in range(2):
        assert method.algorithm.capacity(state)["bits"] == 32 * (12**2 + 9**2 + 12 + 9)
        state = method.end_task(KEY, state, None, None)


@pytest.mark.parametrize("field", ["recovery_steps", "recovery_batch_size"])
def test_a_recovery_without_steps_or_images_is_refused(field):
    with pytest.raises(InputError, match=f"{field} is 0"):
        small(**{field: 0})


# --- on digits ------------------------------------------------------------------------------------


@pytest.mark.slow
def test_it_finds_the_masks_of_most_tasks_on_digits():
    """The quick preset of experiments/hopsupsup_mnist.py; what it finds, it finds to the last unit.

    Seeds 0, 1, 2: the masks of 3, 4 and 5 of the five tasks; under a task's own mask the worst of
    15 scores .958, under the recovered ones the mean is .840. A wrong mask is often another task's.
    """
    changed = {"recovery_steps": 120, "recovery_learning_rate": 200.0, "energy_weight": 7.5e-3}
    source, hidden = load("digits", size=8), (512, 512)
    net = bnnet(10, hidden, signed_constant)
    method = hopsupsup(digits_problem(hidden), **changed)
    how = {**as_published(), "optimizer": torch_sgd(200.0, 0.9, 1e-4)}
    how |= {"energy_weight": changed["energy_weight"], "num_steps": changed["recovery_steps"]}
    step, predict = jax.jit(method.phases[0].step), jax.jit(method.predict)

    @jax.jit
    def under(kernels, scores, x):
        scales = jax.tree.map(lambda z: (z + 1) / 2, jax.tree.map(pattern, scores))
        return net.apply(Variables({"kernels": kernels, "scales": scales}, {}), x, train=False)[0]

    @jax.jit
    def recovered(state, x):
        def logits_of(scores, x):
            return under(state.kernels, scores, x)

        path = recover(logits_of, state.hopfield, x, **how)
        return jax.tree.map(lambda scores: scores[-1], path)

    known, found, exact = [], [], []
    for seed in (0, 1, 2):
        rng, learned = np.random.default_rng(seed), []
        state = method.init(jax.random.key(seed), batch_of(np.arange(32)))
        for task in range(5):
            state, mine = method.begin_task(KEY, state, None, None), source.train.y // 2 == task
            for order in (rng.permutation(np.flatnonzero(mine)) for _ in range(5)):
                for i in range(0, len(order) - 31, 32):
                    state, _ = step(KEY, state, batch_of(order[i : i + 32]))
            learned.append(state.model.vars.params)
            state = method.end_task(KEY, state, None, None)
        for task, own in enumerate(learned):
            mine = source.test.y // 2 == task
            x, y = jnp.asarray(source.test.x[mine]), source.test.y[mine]
            scores = recovered(state, AUGMENT.test(x))
            exact.append(all(((scores[k] >= 0) == (own[k] >= 0)).all() for k in own))
            known.append((under(state.kernels, own, AUGMENT.test(x)).argmax(1) == y).mean())
            found.append((predict(state, x, None).argmax(1) == y).mean())
    known, found, exact = np.array(known), np.array(found), np.array(exact)
    assert known.min() > 0.9
    assert exact.sum() >= 9
    np.testing.assert_array_equal(found[exact], known[exact])
    assert found.mean() > 0.65
