"""Experience replay: one mean over the batch and the replay."""

import jax
import jax.numpy as jnp
import numpy as np

from cls_jax.core.augment import Augment
from cls_jax.methods.replay.er import er
from cls_jax.nets.mlp import mlp
from tests.support.drive import made_batch
from tests.support.problems import own_problem


def test_oracle_9_batch_and_replay_are_one_mean_of_twenty():
    """Baselines card, O9: 10 + 10 rows; the replay is all of a memory of 10, so it is known."""
    net = mlp(4, (6,))
    augment = Augment(lambda key, x: x, lambda x: x)
    problem = own_problem(net, augment=augment, num_classes=4)
    method = er(problem, memory_size=10, replay_size=10, learning_rate=0.5)
    rng = np.random.default_rng(0)

    def batch():
        y = rng.integers(0, 4, 10)
        return made_batch(rng.normal(size=(10, 5)).astype(np.float32), y)

    first, second = batch(), batch()
    state = method.init(jax.random.key(0), first)
    state, _ = method.phases[0].step(jax.random.key(1), state, first)
    vars = state.model.vars
    _, metrics = method.phases[0].step(jax.random.key(2), state, second)
    x, y = np.concatenate([first.x, second.x]), np.concatenate([first.y, second.y])
    logits = np.asarray(net.apply(vars, jnp.asarray(x), train=True)[0], np.float64)
    terms = np.log(np.exp(logits).sum(1)) - logits[np.arange(20), y]
    np.testing.assert_allclose(metrics["loss"], terms.mean(), rtol=1e-5)
