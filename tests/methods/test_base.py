"""The steps that methods share: forwards one after another, and one optimizer step."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from cls_jax.core.losses import cross_entropy
from cls_jax.methods import steps
from cls_jax.methods.steps import (
    apply_gradient,
    forward_each,
    gradient_of,
    gradient_step,
    in_turn,
    init_model,
)
from cls_jax.nets.mlp import mlp
from tests.support.nets import normed_net

SIZES, CLASSES = (4, 3, 5), 6
NETS = {"mlp": mlp(CLASSES, hidden=(7,)), "normed": normed_net(CLASSES)}


def batches(number=0):
    """Inputs of three sizes; the last row of each is padding."""
    keys = jax.random.split(jax.random.key(number), len(SIZES))
    xs = [jax.random.normal(key, (size, 2, 2, 3)) for key, size in zip(keys, SIZES, strict=True)]
    return xs, [jnp.arange(size) < size - 1 for size in SIZES]


def variables(name):
    return NETS[name].init(jax.random.key(7), jnp.zeros((1, 2, 2, 3)))


@pytest.mark.parametrize("name", NETS)
def test_forward_each_is_one_forward_after_another(name):
    net, vars, (xs, valids) = NETS[name], variables(name), batches()
    outputs, stats = jax.jit(lambda v: forward_each(net, v, xs, valids))(vars)
    assert [out.shape for out in outputs] == [(size, CLASSES) for size in SIZES]
    for x, valid, out in zip(xs, valids, outputs, strict=True):
        expected, after = net.apply(vars, x, train=True, valid=valid)
        vars = vars.replace(stats=after)
        np.testing.assert_allclose(out, expected, rtol=1e-5, atol=1e-6)
    chex.assert_trees_all_close(stats, vars.stats, rtol=1e-5, atol=1e-6)


def test_each_batch_is_normalised_by_itself_and_moves_the_statistics_in_its_turn():
    """By hand: a tenth of the way to the mean of each batch's valid rows, one after another."""
    net, vars, (xs, valids) = NETS["normed"], variables("normed"), batches()
    dense = vars.params["Dense_0"]
    mean = np.zeros(5)
    for x, valid in zip(xs, valids, strict=True):
        hidden = np.asarray(x).reshape(len(x), -1) @ dense["kernel"] + dense["bias"]
        mean += 0.1 * (hidden[np.asarray(valid)].mean(axis=0) - mean)
    outputs, stats = forward_each(net, vars, xs, valids)
    np.testing.assert_allclose(stats["BatchNorm_0"]["mean"], mean, rtol=1e-4, atol=1e-6)
    other, _ = forward_each(net, vars, [xs[0], 3 * xs[1], xs[2]], valids)
    chex.assert_trees_all_close([other[0], other[2]], [outputs[0], outputs[2]])
    assert not np.allclose(other[1], outputs[1])


def test_a_batch_of_padding_leaves_the_statistics_as_they_were():
    net, vars, (xs, valids) = NETS["normed"], variables("normed"), batches()
    _, without = forward_each(net, vars, xs[:1], valids[:1])
    none = [jnp.zeros_like(valid) for valid in valids[1:]]
    _, stats = forward_each(net, vars, xs, [valids[0], *none])
    chex.assert_trees_all_equal(stats, without)


@pytest.mark.parametrize("padding", [(1, 2, 0), (4, 0, 4)])
def test_small_batches_go_at_once_to_the_numbers_of_one_after_another(monkeypatch, padding):
    """Outputs, statistics and gradient, where rows are padding or whole batches are."""
    net, vars = NETS["normed"], variables("normed")
    xs = 3 * jax.random.normal(jax.random.key(1), (3, 4, 2, 2, 3)) + 1
    valids = [jnp.arange(4) < 4 - rows for rows in padding]
    calls = []

    def forward(vars, x, valid):
        calls.append(valid.shape)
        outputs, stats = net.apply(vars, x, train=True, valid=valid)
        return outputs, vars.replace(stats=stats)

    def loss(params):
        outputs, after = in_turn(forward, vars.replace(params=params), list(xs), valids)
        return sum((out[v] ** 3).sum() for out, v in zip(outputs, valids, strict=True)), (
            outputs,
            after.stats,
        )

    gradient = jax.grad(loss, has_aux=True)
    at_once = gradient(vars.params)
    assert calls == [(3, 4)]
    monkeypatch.setattr(steps, "AT_ONCE", 3)
    chex.assert_trees_all_close(at_once, gradient(vars.params), rtol=1e-4, atol=1e-5)
    assert calls == [(3, 4), (4,), (4,), (4,)]


@pytest.mark.parametrize("name", NETS)
def test_a_gradient_and_a_move_are_a_descent(name):
    """In parameters alone; statistics come from the loss; the parts of momentum are kept."""
    net, (xs, valids) = NETS[name], batches()
    optimizer = optax.sgd(0.1, momentum=0.9)
    model = init_model(jax.random.key(3), net, xs[0], optimizer)
    y = jnp.arange(SIZES[0])

    def loss(vars):
        logits, stats = net.apply(vars, xs[0], train=True, valid=valids[0])
        return cross_entropy(logits, y, valid=valids[0]), stats

    once, value = gradient_step(model, optimizer, loss)
    twice, _ = gradient_step(once, optimizer, loss)
    (same, stats), first = gradient_of(loss, model.vars)
    assert same == value
    chex.assert_trees_all_close(apply_gradient(model, optimizer, first, stats), once)
    _, second = gradient_of(loss, once.vars)
    expected = jax.tree.map(
        lambda p, one, two: p - 0.1 * (two + 0.9 * one), once.vars.params, first, second
    )
    chex.assert_trees_all_close(twice.vars.params, expected, rtol=1e-5, atol=1e-6)
