"""A step in parts: as many programs as there are kinds of inner steps, and the numbers of one."""

import chex
import jax
import jax.numpy as jnp
import pytest

from cls_jax.methods.steps import repeat, repeated
from cls_jax.streams.class_il import class_il
from cls_jax.training.parts import in_parts
from cls_jax.training.runner import Plan, run
from tests.conftest import TASKS, small_method, small_source
from tests.support.dualnet import batch_of, small_dualnet

KEY = jax.random.key(0)
STATE = {"weights": jnp.arange(1.0, 4.0), "memory": jnp.zeros((5, 3)), "kept": jnp.arange(2)}


def step(rounds, state, batch):
    """Rounds of inner steps that end in a look-ahead, then as many of another kind."""

    def slow(carry, x):
        return 0.5 * carry + x**2, carry.sum()

    def outer(anchor, xs):
        moved, sums = repeat(slow, anchor, xs)
        return anchor + 0.25 * (moved - anchor), sums

    def fast(carry, x):
        return carry * x, carry.max()

    memory = state["memory"].at[0].set(batch[0])
    xs = batch[: 2 * rounds].reshape(rounds, 2, -1)
    weights, sums = repeat(outer, state["weights"], xs)
    weights, _ = repeat(fast, weights, jnp.flip(xs[0]) + memory.sum())
    return {**state, "memory": memory, "weights": weights}, sums.mean()


@pytest.fixture
def compiled():
    """Grows by one with every program that is compiled, or taken from the cache."""
    found = []

    def listen(event, seconds, **_):
        if event.endswith("backend_compile_duration"):
            found.append(seconds)

    jax.monitoring.register_event_duration_secs_listener(listen)
    yield found
    jax.monitoring.clear_event_listeners()


def test_the_numbers_are_those_of_one_program_and_more_rounds_compile_no_more(compiled):
    batch, counts = jnp.linspace(0.5, 1.5, 18).reshape(6, 3), []
    for rounds in (2, 3):
        expected = jax.jit(lambda *a, rounds=rounds: step(rounds, *a))(STATE, batch)
        parts = in_parts(lambda *a, rounds=rounds: step(rounds, *a))
        compiled.clear()
        for _ in range(2):  # the second time nothing is compiled
            chex.assert_trees_all_close(parts(STATE, batch), expected, rtol=1e-6)
        counts.append(len(compiled))
    # What is before and behind; slow, what is before and behind it in a round; fast.
    assert counts == [6, 6]


def test_what_is_given_up_and_used_for_the_last_time_is_written_over():
    batch, old = jnp.ones((4, 3)), jax.tree.map(jnp.copy, STATE)
    memory = old["memory"].unsafe_buffer_pointer()
    new, _ = in_parts(lambda *a: step(2, *a), (0,))(old, batch)
    assert new["memory"].unsafe_buffer_pointer() == memory
    assert old["memory"].is_deleted()
    chex.assert_trees_all_equal(batch, jnp.ones((4, 3)))


def inner_steps(jaxpr):
    """Every call of an inner step, those within inner steps too: the traced program of each."""
    calls = [eqn for eqn in jaxpr.eqns if eqn.primitive.name == "jit"]
    for body, name in ((eqn.params["jaxpr"].jaxpr, eqn.params["name"]) for eqn in calls):
        yield from [body] * (name == repeated.__name__)
        yield from inner_steps(body)


def test_dualnet_has_four_kinds_of_parts_however_many_it_makes():
    """A view, the round, its self-supervised step, and the supervised one, each compiled once."""
    method, batch = small_dualnet(n_outer=2, inner_steps=3), batch_of(0, [0, 1, 2, 3])
    state = jax.eval_shape(method.init, KEY, batch)
    found = [id(body) for body in inner_steps(jax.make_jaxpr(method.step)(KEY, state, batch).jaxpr)]
    assert (len(found), len(set(found))) == (2 + 2 + 2 * 3 + 3, 4)


@pytest.mark.more
def test_where_nothing_is_rewritten_dualnets_parts_have_the_bits_of_one_program():
    """All of the state and the metrics, after two steps.

    XLA's algebraic simplifier moves operations over the borders at which programs are cut: with it
    two of a layer's 60 weights differ by their last bit.
    """
    method, batch = small_dualnet(n_outer=2, inner_steps=2), batch_of(0, [0, 1, 2, 3])
    plain = {"xla_backend_optimization_level": 0, "xla_disable_hlo_passes": "algsimp"}
    start = jax.jit(method.init)(KEY, batch)
    ends = []
    for step in (jax.jit(method.step, compiler_options=plain), in_parts(method.step, (), plain)):
        state = start
        for key in jax.random.split(KEY, 2):
            state, metrics = step(key, state, batch)
        ends.append((state, metrics))
    chex.assert_trees_all_equal(*ends)


@pytest.mark.more
def test_a_run_step_by_step_is_the_run_in_a_loop():
    """To rounding; and what is stored, bit for bit."""
    method = small_method("dualnet", n_outer=1)
    stream = class_il(small_source(), tasks=TASKS, batch_size=4)
    states = []
    for mode in ("loop", "scan"):
        plan = Plan(mode=mode, over_seeds="sequential", score="end")
        states.append(run(method, stream, seeds=(0, 1), plan=plan).states[1])
    chex.assert_trees_all_equal(*(one.memory.slots["x"] for one in states))
    chex.assert_trees_all_close(*(one.fast.vars.params for one in states), rtol=1e-3, atol=1e-4)
