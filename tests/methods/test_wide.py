"""Methods with masks and residues under jax_enable_x64: every function traces, no dtype moves."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.conftest import CLASSES, TASKS, small_method, small_source
from tests.laws.test_laws import batch_of, data_of
from tests.support.drive import task_of

VARIANTS = {
    "apd": {},
    "apd, fixed": {"retroactive": False, "consolidate_every": 0},
    "hopsupsup": {},
    "supsup": {},
    "supsup, edges": {"rule": "edge_popup", "optimizer": "adam", "transfer": True},
    "supsup_nns": {},
    "l2_transfer": {},
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_it_traces_with_64_bits(variant):
    """Nothing is computed. The state keeps its dtypes, which are those of 32 bits."""
    name, kinds = variant.split(",")[0], lambda tree: jax.tree.map(lambda x: x.dtype, tree)
    x = small_source().test.x[:5]

    def states():
        method = small_method(name, **VARIANTS[variant])
        key, hyper = jax.random.key(0), jax.tree.map(jnp.float32, dict(method.hyper))
        task, data = task_of(1), data_of(method, 1)
        batch = batch_of(1, told=method.needs.told_task)

        def traced(part, *args):
            """What a function of the Algorithm gives; its hyper-parameters are traced as well."""
            return jax.eval_shape(lambda hyper, *args: part(method.at(hyper))(*args), hyper, *args)

        new = traced(lambda algorithm: algorithm.init, key, batch)
        yield new
        yield traced(lambda algorithm: algorithm.begin_task, key, new, task, data["begin"])
        for i in range(len(method.phases)):
            yield traced(lambda algorithm, i=i: algorithm.phases[i].step, key, new, batch)[0]
        yield traced(lambda algorithm: algorithm.end_task, key, new, task, data["end"])
        logits = traced(lambda algorithm: algorithm.predict, new, jnp.asarray(x), task)
        assert (logits.shape, logits.dtype) == ((5, CLASSES), jnp.float32)
        if method.algorithm.capacity is not None:
            for value in traced(lambda algorithm: algorithm.capacity, new).values():
                assert value.shape in ((), (TASKS,))

    narrow = kinds(next(states()))
    with jax.enable_x64(True):
        wide = [kinds(state) for state in states()]
    assert all(each == narrow for each in wide)
    assert np.float64 not in jax.tree.leaves(narrow)
