"""The steps that methods share."""

import chex
import jax
import jax.numpy as jnp
import pytest

from cls_jax.methods.steps import repeat

XS = {"a": jnp.arange(3.0), "b": jnp.arange(6.0).reshape(3, 2)}


@pytest.mark.parametrize("backend", ["cpu", "gpu"])
def test_inner_steps_are_written_out_on_a_cpu_and_a_loop_elsewhere(backend, monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: backend)
    traced = []

    def step(carry, x):
        traced.append(1)
        return 0.5 * carry + x["a"], x["b"].sum() * carry

    steps = jax.jit(lambda xs: repeat(step, jnp.float32(1), xs))
    last, found = steps(XS)
    chex.assert_trees_all_close(last, 2.625)
    chex.assert_trees_all_close(found, jnp.array([1.0, 5 * 0.5, 9 * 1.25]))
    assert len(traced) == 1
    assert (" scan[" in str(steps.trace(XS).jaxpr)) == (backend == "gpu")
