"""One file outside the library: a method, a network and a data set of somebody's own.

Used by tests as a user would: ``--import my_method.py``, or ``cls.import_file``.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import struct

import cls_jax as cls


@cls.dataset
def waves() -> cls.Dataset:
    """Six classes of noisy sines, 20 numbers each."""
    rng, time = np.random.default_rng(0), np.linspace(0, 1, 20, dtype=np.float32)

    def split(per_class: int) -> cls.Split:
        y = np.repeat(np.arange(6, dtype=np.int32), per_class)
        x = np.sin(2 * np.pi * (1 + y[:, None]) * time)
        return cls.Split((x + 0.3 * rng.normal(size=x.shape)).astype(np.float32), y)

    return cls.Dataset("waves", split(40), split(10), tuple("abcdef"))


@cls.net
def tiny(num_outputs: int) -> nn.Module:
    """Two layers."""
    return nn.Sequential([nn.Dense(24), nn.relu, nn.Dense(num_outputs)])


@struct.dataclass
class MineState:
    """The network and its optimizer's state."""

    model: cls.Trainable
    pulled: jax.Array


@cls.method
def mine(problem: cls.Problem, *, pull: float = 1e-3, learning_rate: float = 0.1) -> cls.Algorithm:
    """SGD that pulls weights to zero.

    Args:
      pull: of half the squared weights, >= 0; ours.
      learning_rate: step length of plain SGD, >= 0; ours.
    """
    net, augment, optimizer = problem.net(), problem.augment, problem.optimizer(learning_rate)

    def init(key, example):
        vars = net.init(key, augment.test(example.x))
        model = cls.Trainable(vars, optimizer.init(vars.params))
        return MineState(model, jnp.float32(0))

    def step(key, state, batch):
        x = augment.train(key, batch.x)

        def loss(params):
            vars = state.model.vars.replace(params=params)
            logits, stats = net.apply(vars, x, train=True, valid=batch.valid)
            squares = sum(jnp.square(leaf).sum() for leaf in jax.tree.leaves(params))
            ce = cls.losses.cross_entropy(logits, batch.y, valid=batch.valid)
            return ce + pull * squares / 2, (stats, squares)

        (value, (stats, squares)), gradient = jax.value_and_grad(loss, has_aux=True)(
            state.model.vars.params
        )
        params = state.model.vars.params
        updates, opt = optimizer.update(gradient, state.model.opt, params)
        params = optax.apply_updates(params, updates)
        model = cls.Trainable(cls.Variables(params, stats), opt)
        return MineState(model, squares), {"loss": value}

    def predict(state, x, task):
        return net.apply(state.model.vars, augment.test(x), train=False)[0]

    return cls.Algorithm(init=init, step=step, predict=predict)
