"""Methods with masks and residues under jax_enable_x64: every function traces, no dtype moves."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.conftest import CLASSES, TASKS, small_method, small_source
from tests.laws.test_laws import batch_of, data_of, task_of

VARIANTS = {
    "apd": {},
    "apd, fixed": {"retroactive": False, "consolidate_every": 0},
    "hopsupsup": {},
    "supsup": {},
    "supsup, edges": {"rule": "edge_popup", "optimizer": "adam", "transfer": True},
    "supsup, not told": {"told_task": False},
    "l2_transfer": {},
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_it_traces_with_64_bits(variant):
    """Nothing is computed. The state keeps its dtypes, which are those of 32 bits."""
    name, kinds = variant.split(",")[0], lambda tree: jax.tree.map(lambda x: x.dtype, tree)
    x = small_source().test.x[:5]

    def states():
        method, hyper = small_method(name, **VARIANTS[variant])
        key, hyper = jax.random.key(0), jax.tree.map(jnp.float32, hyper)
        told, data = task_of(1), data_of(method, 1)
        batch = batch_of(1, told=method.needs.told_task)
        born = jax.eval_shape(method.init, key, batch, hyper)
        yield born
        yield jax.eval_shape(method.begin_task, key, born, told, data["begin"])
        for phase in method.phases:
            yield jax.eval_shape(phase.step, key, born, batch)[0]
        yield jax.eval_shape(method.end_task, key, born, told, data["end"])
        logits = jax.eval_shape(method.predict, born, jnp.asarray(x), told)
        assert (logits.shape, logits.dtype) == ((5, CLASSES), jnp.float32)
        for kept in jax.eval_shape(method.capacity, born).values():
            assert kept.shape in ((), (TASKS,))

    narrow = kinds(next(states()))
    with jax.enable_x64(True):
        wide = [kinds(state) for state in states()]
    assert all(each == narrow for each in wide)
    assert np.float64 not in jax.tree.leaves(narrow)
