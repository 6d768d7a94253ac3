"""Inner products of gradients: the same without the gradients, one by one, and by hand."""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cls_jax.core.losses import row_cross_entropy
from cls_jax.nets.base import Net
from cls_jax.nets.dense_layers import dense_layers
from cls_jax.nets.gradient_gram import gradient_gram
from cls_jax.nets.layers import Conv, Dense
from cls_jax.nets.linen import apply_linen, init_linen
from cls_jax.nets.mlp import mlp
from tests.support.nets import normed_net, telling_net
from tests.support.oracle_weights import random_vars

Y = jnp.array([0, 1, 2, 0, 1])


class Nested(nn.Module):
    width: int = 4

    @nn.compact
    def __call__(self, x, *, train, valid=None):
        x = nn.tanh(nn.Sequential([nn.Dense(self.width, use_bias=False), nn.relu])(x))
        return Dense(3)(x)


class Twice(nn.Module):
    @nn.compact
    def __call__(self, x, *, train, valid=None):
        layer = nn.Dense(6)
        return nn.Dense(3)(layer(nn.relu(layer(x))))


class Rows(nn.Module):
    @nn.compact
    def __call__(self, x, *, train, valid=None):
        return nn.Dense(3)(nn.Dense(2)(x.reshape(len(x), 3, 2)).mean(1))


class Block(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.relu(nn.Dense(5)(x))


class Remade(nn.Module):
    @nn.compact
    def __call__(self, x, *, train, valid=None):
        return nn.Dense(3)(nn.remat(Block)()(x))


class Pictures(nn.Module):
    @nn.compact
    def __call__(self, x, *, train, valid=None):
        x = nn.relu(Conv(4)(x.reshape(len(x), 3, 2, 1)))
        return Dense(3)(x.mean((1, 2)))


def net_of(module):
    return Net(lambda key, x: init_linen(key, module, x), partial(apply_linen, module))


NETS = {
    "mlp": (mlp(3, (4, 5)), True),
    "linear": (mlp(3, ()), True),
    "nested": (net_of(Nested()), True),
    "a layer used twice": (net_of(Twice()), False),
    "a layer over rows": (net_of(Rows()), False),
    "a layer that is computed twice": (net_of(Remade()), False),
    "pictures": (net_of(Pictures()), False),
    "BatchNorm": (normed_net(3), False),
    "no linen": (telling_net(tells=False), False),
}


def losses_of(logits, targets):
    y, valid = targets
    return row_cross_entropy(logits, y, valid=valid)


def explicit(net, vars, x, y):
    """float64[b, b] of gradients that stand one by one."""

    def loss(params, i):
        logits, _ = net.apply(vars.replace(params=params), x[i : i + 1], train=False)
        return -jax.nn.log_softmax(logits)[0, y[i]]

    each = [jax.tree.leaves(jax.grad(loss)(vars.params, i)) for i in range(len(y))]
    flat = np.stack([np.concatenate([np.ravel(leaf) for leaf in one]) for one in each])
    return flat.astype(np.float64) @ flat.astype(np.float64).T


@pytest.mark.parametrize("name", NETS)
def test_it_is_that_of_gradients_one_by_one(name):
    net, dense = NETS[name]
    x = jnp.asarray(np.random.default_rng(0).normal(size=(5, 6)), jnp.float32)
    vars = net.init(jax.random.key(0), x)
    assert (dense_layers(net, vars, x) is not None) == dense
    gram = jax.jit(partial(gradient_gram, net, losses=losses_of))(
        vars=vars, x=x, targets=(Y, jnp.ones(5, bool))
    )
    np.testing.assert_allclose(gram, explicit(net, vars, x, Y), atol=1e-5)
    assert gram.dtype == jnp.float32


def test_a_row_that_does_not_count_is_orthogonal_to_all():
    net = mlp(3, (4,))
    x = jnp.ones((5, 6)).at[2].set(jnp.nan)
    vars = random_vars(jax.eval_shape(net.init, jax.random.key(0), x))
    valid = jnp.arange(5) != 2
    gram = gradient_gram(net, vars, jnp.where(valid[:, None], x, 1), losses_of, (Y, valid))
    assert (gram[2] == 0).all()
    assert (gram[:, 2] == 0).all()
    assert (jnp.diagonal(gram)[jnp.array([0, 1, 3, 4])] > 0).all()


def test_hidden_layers_of_few_bits_are_summed_in_many():
    net = mlp(3, (4,), "bfloat16")
    x = jnp.ones((5, 6))
    vars = random_vars(jax.eval_shape(net.init, jax.random.key(0), x))
    gram = gradient_gram(net, vars, x, losses_of, (Y, jnp.ones(5, bool)))
    assert gram.dtype == jnp.float32
    np.testing.assert_allclose(gram, explicit(net, vars, x, Y), rtol=0.03)
