"""RPS-Net's networks: the card's forward by hand and its counts; what rests stays as it is."""

from functools import partial

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cls_jax.core.errors import InputError
from cls_jax.core.types import Variables
from cls_jax.nets.path_modules import LEARNS, OFF, RESTS
from cls_jax.nets.rpsnet import perceptron_paths, residual_paths

W = [[[1, 0], [0, 1]], [[1, 1], [-1, 0]], [[0, -1], [2, 0]]]
V = [[[1, -1], [0, 1]], [[2, 0], [0, 0]], [[0, 0], [1, 1]]]


def test_oracle_of_the_forward_pass():
    """O3: module 0 is always on; a module at rest gets no gradient, one that is off has no say."""
    net = perceptron_paths(2, 3, (2, 2))

    def affine(matrices):
        kernel = jnp.swapaxes(jnp.asarray(matrices, jnp.float32), -1, -2)
        return {"layer": {"kernel": kernel, "bias": jnp.zeros((*kernel.shape[:-2], 2))}}

    shared = {"head": affine(np.eye(2))}
    params = {"modules": (affine(W), affine(V)), "shared": shared}
    stats = {"modules": ({}, {}), "shared": {}}

    def outputs(params, roles):
        logits, _ = net.apply(Variables(params, stats), roles, jnp.array([[1.0, 2]]), train=True)
        return logits[0]

    @jax.jit
    def four(params, roles):
        return jax.vmap(partial(outputs, params))(roles)

    rest = np.array(
        [[[1, 0, 0]] * 2, [[1, 1, 0], [1, 0, 1]], [[1, 1, 1]] * 2, [[1, 0, 1], [1, 1, 0]]]
    )
    roles = np.where(rest, RESTS, OFF)
    found = four(params, roles)
    np.testing.assert_array_equal(found, [[0, 2], [3, 6], [3, 8], [0, 4]])
    roles[1][0][1] = roles[1][1][2] = LEARNS
    np.testing.assert_array_equal(four(params, roles), found)
    gradient = jax.jit(jax.grad(lambda params, roles: outputs(params, roles).sum()))(
        params, roles[1]
    )
    moved = [np.abs(one["layer"]["kernel"]).sum((1, 2)) > 0 for one in gradient["modules"]]
    assert [m.tolist() for m in moved] == [[False, True, False], [False, False, True]]


def count(tree):
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


def test_oracle_of_the_sizes():
    """O6: parameters of all modules and of one path, for CIFAR-100 and for MNIST."""

    def sizes(net, shape):
        vars = jax.eval_shape(net.init, jax.random.key(0), jnp.zeros((1, *shape)))
        assert len(vars.params["modules"]) == net.num_layers
        stack, shared = count(vars.params["modules"]), count(vars.params["shared"])
        return stack + shared, stack // 8 + shared

    assert sizes(residual_paths(100, 8), (32, 32, 3)) == (89_593_572, 12_601_188)
    one = 785 * 400 + 401 * 128
    head = 129 * 10
    assert sizes(perceptron_paths(10, 8, (400, 128)), (28, 28, 1)) == (8 * one + head, one + head)


def test_what_cannot_be_is_said():
    for hidden in ((), (3, 0)):
        with pytest.raises(InputError, match="hidden is"):
            perceptron_paths(2, 2, hidden)
    with pytest.raises(InputError, match="vectors of"):
        residual_paths(2, 2, 1).init(jax.random.key(0), jnp.zeros((1, 5)))


@pytest.mark.more
def test_a_residual_module_at_rest_stays_as_it_is():
    """Its statistics, too, and it answers by them; one that is off is as if it were not there."""
    net = residual_paths(3, 3, width=2)
    x = jax.random.normal(jax.random.key(1), (6, 8, 8, 3))
    vars = jax.jit(net.init)(jax.random.key(0), x)
    roles = jnp.array([[RESTS, LEARNS, OFF]] * 9)

    def loss(params, x, roles):
        logits, stats = net.apply(vars.replace(params=params), roles, x, train=True)
        return jnp.square(logits).sum(), (stats, logits)

    step = jax.jit(jax.grad(loss, has_aux=True))
    gradient, (stats, logits) = step(vars.params, x, roles)
    for number in range(9):
        for tree in (gradient["modules"][number], _change(stats, vars.stats)["modules"][number]):
            moved = [
                np.abs(leaf).sum(tuple(range(1, leaf.ndim))) > 0 for leaf in jax.tree.leaves(tree)
            ]
            moved = np.stack(moved)
            assert not moved[:, [0, 2]].any()
            assert moved[:, 1].any()
    assert jax.tree.leaves(_change(stats, vars.stats)["shared"])
    for leaf in jax.tree.leaves(_change(stats, vars.stats)["shared"]):
        assert np.abs(leaf).sum() > 0
    other = jax.tree.map(lambda leaf: leaf.at[2].set(jnp.nan), vars.params["modules"])
    _, (_, same) = step({**vars.params, "modules": other}, x, roles)
    chex.assert_trees_all_equal(same, logits)
    # All at rest: each row by itself, in training too but for the skips' own BatchNorm.
    resting = jnp.minimum(roles, RESTS)
    answer = jax.jit(lambda x: net.apply(vars, resting, x, train=False)[0])
    np.testing.assert_allclose(
        answer(x)[:1], answer(jnp.tile(x[:1], (6, 1, 1, 1)))[:1], rtol=1e-4, atol=1e-6
    )


@pytest.mark.more
def test_on_a_cpu_modules_at_rest_are_one(monkeypatch):
    """Outputs, gradients and statistics are those of one module after another, in float64."""
    rng = np.random.default_rng(0)
    roles = rng.choice([OFF, RESTS], (9, 4))
    roles[np.arange(9), rng.integers(4, size=9)] = LEARNS
    roles[3] = [RESTS, RESTS, OFF, RESTS]  # a path that is no new one here
    valid = np.array([1, 1, 1, 0], bool)

    def moved(leaf):  # no statistic is what it is at first
        return leaf + 0.1 * jnp.cos(jnp.arange(1.0, 1 + leaf.size)).reshape(leaf.shape)

    def found(backend, train):
        with monkeypatch.context() as patch:
            patch.setattr(jax, "default_backend", lambda: backend)
            net = residual_paths(3, 4, width=2, dtype="float64", num_paths=5)
        x = jax.random.normal(jax.random.key(1), (4, 8, 8, 3), jnp.float64)
        vars = jax.jit(net.init)(jax.random.key(0), x)
        vars = jax.tree.map(moved, vars)

        def loss(params):
            at = vars.replace(params=params)
            logits, stats = net.apply(at, jnp.asarray(roles), x, train=train, valid=valid)
            return jnp.square(jnp.tanh(logits)).sum(), (logits, stats)

        fn = jax.jit(jax.value_and_grad(loss, has_aux=True) if train else loss)
        return fn(vars.params), "stablehlo.case" in fn.lower(vars.params).as_text()

    with jax.enable_x64(True):
        for train in (True, False):
            together, branches = found("cpu", train)
            assert not branches
            in_turn, branches = found("gpu", train)
            assert branches
            assert max(np.abs(leaf).max() for leaf in jax.tree.leaves(in_turn)) > 1e-3
            chex.assert_trees_all_close(together, in_turn, rtol=1e-9, atol=1e-12)


def _change(after, before):
    return jax.tree.map(jnp.subtract, after, before)
