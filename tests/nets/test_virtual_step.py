"""A step that is not taken: by the layers' inputs and slopes, and by moving the weights."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cls_jax.core.losses import cross_entropy
from cls_jax.nets.mlp import mlp
from cls_jax.nets.virtual_step import VirtualStep, outputs_after
from tests.nets.test_gradient_gram import NETS, Nested, net_of
from tests.support.oracle_weights import random_vars

RATE = 0.3
WIDE = {"mlp": mlp(3, (40, 30)), "no bias in one layer": net_of(Nested(40))}


def outputs(net, num_learned, wrong_gradient=False):
    """After the step: as ``outputs_after`` has it, by moved weights, and as they were."""
    learned, x = np.split(np.random.default_rng(0).normal(size=(num_learned + 6, 6)), [num_learned])
    learned, x = jnp.asarray(learned, jnp.float32), jnp.asarray(x, jnp.float32)
    vars = random_vars(jax.eval_shape(net.init, jax.random.key(0), x))
    labels, valid = jnp.arange(num_learned) % 3, jnp.arange(num_learned) != 1
    loss = partial(cross_entropy, y=labels, valid=valid)

    @jax.jit
    def both(vars):
        def of_params(params):
            return loss(net.apply(vars.replace(params=params), learned, train=True)[0])

        gradient = jax.grad(of_params)(vars.params)
        moved = jax.tree.map(lambda p, g: p - RATE * g, vars.params, gradient)
        if wrong_gradient:
            gradient = jax.tree.map(lambda g: jnp.nan * g, gradient)
        step = VirtualStep(learned, loss, gradient, jnp.float32(RATE))
        every = jnp.ones(len(x), bool)
        after = outputs_after(net, vars, step, x, every)
        return after, *(
            net.apply(vars.replace(params=params), x, train=True, valid=every)[0]
            for params in (moved, vars.params)
        )

    return both(vars)


@pytest.mark.parametrize("name", WIDE)
def test_a_few_examples_move_no_weights(name):
    """The gradient in the weights is not looked at."""
    after, moved, before = outputs(WIDE[name], 2, wrong_gradient=True)
    np.testing.assert_allclose(after, moved, rtol=1e-4, atol=1e-5)
    assert abs(moved - before).max() > 0.1


@pytest.mark.parametrize(
    ("net", "num_learned"),
    [(WIDE["mlp"], 30), (NETS["BatchNorm"][0], 2), (NETS["pictures"][0], 2)],
    ids=["many examples", "BatchNorm", "pictures"],
)
def test_otherwise_the_weights_move(net, num_learned):
    after, moved, _ = outputs(net, num_learned)
    np.testing.assert_allclose(after, moved, rtol=1e-5, atol=1e-6)
    assert np.isnan(outputs(net, num_learned, wrong_gradient=True)[0]).all()


def test_layers_of_few_bits_keep_their_dtype():
    after, moved, _ = outputs(mlp(3, (40, 30), "bfloat16"), 2, wrong_gradient=True)
    assert after.dtype == jnp.float32
    np.testing.assert_allclose(after, moved, rtol=0.05, atol=0.05)
