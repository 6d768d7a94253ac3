"""Compute in bfloat16, for every method: what is kept, optimised and reported stays float32."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cls_jax.methods import METHODS
from cls_jax.nets.registry import NetConfig, networks
from tests.conftest import SMALL, small_method, small_problem
from tests.laws.test_laws import batch_of, data_of, enter_data, or_more
from tests.support.drive import task_of

FULL, LOW = jnp.dtype("float32"), jnp.dtype("bfloat16")
every_method = pytest.mark.parametrize("name", sorted(METHODS))


NETS = {"den": "mlp", **dict.fromkeys(("spb", "spb_i", "spb_m", "ucir"), "resnet32")}
"""Methods that stand on other networks: DEN grows a perceptron, some have cosine classifiers."""


def convolutional(name):
    """The method on the narrowest networks that the command line can ask for, in bfloat16."""
    net = networks(NetConfig(net=NETS.get(name, "resnet18"), width=1, dtype=LOW.name))
    return METHODS[name](small_problem(net), **SMALL.get(name, {}))


def training(method, run, tasks=2, steps=2):
    """The state in the midst of the last task, and the metrics of every step on the way.

    ``run(fn, *arguments)`` computes, or only tells shapes and dtypes.
    """
    told = method.needs.told_task
    state = run(method.init, jax.random.key(0), batch_of(0))
    every = []
    for number in range(tasks):
        key, task, data = jax.random.key(number), task_of(number), data_of(method, number)
        state = run(method.begin_task, key, state, task, data["begin"])
        for phase in method.phases:
            state = run(phase.enter, key, state, task, enter_data(method, phase, number))
            for s in range(steps):
                key = jax.random.key(10 * number + s)
                state, metrics = run(phase.step, key, state, batch_of(number, s, told=told))
                every.append(metrics)
        if number == 0:
            state = run(method.end_task, jax.random.key(2), state, task, data["end"])
    return state, every


def compute(fn, *arguments):
    return jax.jit(fn)(*arguments)


def kinds(tree):
    """Shape and dtype of every leaf."""
    return jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), tree)


@pytest.mark.parametrize("name", [or_more(one) for one in sorted(METHODS)])
def test_state_and_metrics_are_kept_in_float32(name):
    """Parameters, statistics, optimizer states, memory, logits and losses; nothing is computed."""
    method = convolutional(name)
    state, metrics = training(method, jax.eval_shape, tasks=1, steps=1)
    predicts, x = (method.predict, *method.views.values()), batch_of(0).x
    logits = [jax.eval_shape(predict, state, x, task_of(0)) for predict in predicts]
    assert {leaf.dtype for leaf in jax.tree.leaves((metrics, logits))} == {FULL}
    kept = {leaf.dtype for leaf in jax.tree.leaves(state)}
    assert {dtype for dtype in kept if jnp.issubdtype(dtype, jnp.floating)} == {FULL}


@pytest.mark.more
@every_method
def test_bfloat16_trains_and_its_metrics_are_finite(name):
    """A little off the float32 run, since its forwards are rounded, and never far."""
    state, every = training(small_method(name, dtype=LOW.name), compute)
    full, full_every = training(small_method(name), compute)
    assert kinds(state) == kinds(full)
    for metrics in every:
        for value in metrics.values():
            assert value.dtype == FULL
            assert jnp.isfinite(value)
    first, full_first = ([float(m["loss"]) for m in each] for each in (every, full_every))
    assert first != full_first
    np.testing.assert_allclose(first[0], full_first[0], rtol=0.05)
