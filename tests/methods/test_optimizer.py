"""The optimizer of a problem: the optax chain it stands for, its schedule, what it refuses."""

from functools import cache

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from cls_jax.app.method_flags import OPEN_OPTIMIZER
from cls_jax.core.errors import InputError
from cls_jax.core.own import OPTIMIZERS
from cls_jax.methods import METHODS
from cls_jax.methods.optimizer import Optimizer, OptimizerConfig, make_optimizer
from cls_jax.methods.problem import Problem
from cls_jax.streams.class_il import class_il
from cls_jax.training.group import schedule_key
from cls_jax.training.plan import Plan
from cls_jax.training.runner import run
from tests.conftest import TASKS, small_method, small_problem, small_source
from tests.support.drive import made_batch

STEPS, WARMUP = 24, 5
RATE = 0.02


def chain(*parts):
    """Learning rate -> the chain of these, each of the rate."""
    return lambda rate: optax.chain(*(part(rate) for part in parts))


def warm(rate):
    """A rise and a cosine, optax's own, which takes no rate that is traced."""
    del rate
    return optax.warmup_cosine_decay_schedule(0.0, RATE, WARMUP, STEPS)


CHAINS = {
    "sgd": ({}, optax.sgd),
    "momentum and L2": (
        {"momentum": 0.9, "weight_decay": 0.1},
        chain(
            lambda _: optax.add_decayed_weights(0.1),
            lambda _: optax.trace(0.9),
            optax.scale_by_learning_rate,
        ),
    ),
    "adam": ({"optimizer": "adam"}, optax.adam),
    "adamw": (
        {"optimizer": "adamw", "weight_decay": 0.1},
        chain(
            lambda _: optax.scale_by_adam(),
            lambda _: optax.add_decayed_weights(0.1),
            optax.scale_by_learning_rate,
        ),
    ),
    "all of it": (
        {
            "optimizer": "adamw",
            "clip_norm": 0.5,
            "schedule": "cosine",
            "schedule_steps": STEPS,
            "warmup_steps": WARMUP,
        },
        chain(lambda _: optax.clip_by_global_norm(0.5), lambda rate: optax.adamw(warm(rate))),
    ),
}
"""The words of a config, and what they are in optax."""


@cache
def trained(optimizer):
    """The parameters of er after 20 steps; its rate is data, as within a run."""
    method = METHODS["er"](small_problem(optimizer=optimizer), memory_size=24, replay_size=6)
    step = jax.jit(lambda rate, *given: method.at({"learning_rate": rate}).step(*given))
    source, order = small_source(), np.random.default_rng(0).permutation(60).reshape(-1, 4)
    example = made_batch(source.train.x[:4], source.train.y[:4])
    state = jax.jit(method.init)(jax.random.key(0), example)
    for number in range(20):
        chosen = order[number % len(order)]
        batch = made_batch(source.train.x[chosen], source.train.y[chosen])
        state, _ = step(jnp.float32(RATE), jax.random.key(number), state, batch)
    return state.model.vars.params


@pytest.mark.parametrize("name", CHAINS)
def test_er_learns_as_with_the_optax_chain(name):
    words, by_hand = CHAINS[name]
    ours = trained(make_optimizer(OptimizerConfig(**words)))
    chex.assert_trees_all_equal(ours, trained(Optimizer(factory=by_hand)))
    pairs = zip(*map(jax.tree.leaves, (ours, trained(Optimizer()))), strict=True)
    assert any((a != b).any() for a, b in pairs) == (name != "sgd")


def test_nothing_asked_for_is_plain_sgd():
    """The state of optax.sgd and no other, so what was saved before can be read."""
    assert Problem(*small_problem()[:4]).optimizer == make_optimizer(OptimizerConfig())
    params = {"w": jnp.ones(3)}
    ours, theirs = (make(0.1).init(params) for make in (Optimizer(), optax.sgd))
    assert jax.tree.structure(ours) == jax.tree.structure(theirs)


def test_sgd_is_that_of_pytorch():
    """``b <- m b + g + d p; p <- p - r b``, the first b without momentum, in NumPy."""
    config = OptimizerConfig(momentum=0.9, weight_decay=0.1)
    optimizer, p, b = make_optimizer(config)(0.5), np.array([1.0, -2.0]), np.zeros(2)
    params = jnp.asarray(p, jnp.float32)
    state = optimizer.init(params)
    for step in range(4):
        g = np.array([0.3, -0.1]) * (step + 1)
        b = 0.9 * b + g + 0.1 * p
        p = p - 0.5 * b
        updates, state = optimizer.update(jnp.asarray(g, jnp.float32), state, params)
        params = optax.apply_updates(params, updates)
    np.testing.assert_allclose(params, p, rtol=1e-6)


def test_the_rate_rises_and_falls_as_it_is_written():
    words = {"schedule": "cosine", "schedule_steps": 6, "warmup_steps": 2}
    optimizer = make_optimizer(OptimizerConfig(**words))(jnp.float32(0.5))
    params, rates = jnp.zeros(()), []
    state = optimizer.init(params)
    for _ in range(8):
        update, state = optimizer.update(jnp.ones(()), state, params)
        rates.append(-float(update))
    falls = [0.25 * (1 + np.cos(np.pi * k / 4)) for k in range(5)]
    np.testing.assert_allclose(rates, [0, 0.25, *falls, 0], atol=1e-7)


def test_a_gradient_is_clipped_before_the_momentum():
    optimizer = make_optimizer(OptimizerConfig(momentum=0.5, clip_norm=1.0))(1.0)
    params = jnp.zeros(2)
    state = optimizer.init(params)
    for expected in ((0.6, 0.8), (0.9, 1.2)):
        update, state = optimizer.update(jnp.array([3.0, 4.0]), state, params)
        np.testing.assert_allclose(-update, expected, rtol=1e-6)


def test_only_real_updates_count():
    """Two seeds side by side, of unequal length: an empty batch moves no schedule."""
    stream = class_il(small_source(), tasks=TASKS, batch_size=4, label_fraction=0.5)
    lengths = [int(stream.schedule(schedule_key(s)).num_labelled.sum()) for s in range(2)]
    assert lengths[0] != lengths[1]
    config = OptimizerConfig(optimizer="adamw", schedule="cosine", schedule_steps=STEPS)
    method = small_method("sgd", learns_with=config)
    states = run(method, stream, seeds=(0, 1), plan=Plan(over_seeds="vmap", score="end")).states
    for state, length in zip(states, lengths, strict=True):
        counts = [leaf for leaf in jax.tree.leaves(state.model.opt) if leaf.dtype == jnp.int32]
        assert [int(count) for count in counts] == [length, length]  # Adam's and the schedule's


def test_only_what_is_trained_has_an_optimizer_state():
    """CLS-ER's two averages have none; DualNet's three states are in its own tests."""
    method = small_method("clser", learns_with=OptimizerConfig(optimizer="adamw"))
    x, y = small_source().train
    state = jax.jit(method.init)(jax.random.key(0), made_batch(x[:4], y[:4]))
    state, _ = jax.jit(method.step)(jax.random.key(1), state, made_batch(x[::16], y[::16]))
    adam = state.working.opt[0]
    for moment in (adam.mu, adam.nu):
        assert jax.tree.structure(moment) == jax.tree.structure(state.working.vars.params)
        assert all(leaf.any() for leaf in jax.tree.leaves(moment))
    assert not any(hasattr(tree, "opt") for tree in (state.plastic, state.stable))


@pytest.mark.parametrize("name", METHODS)
def test_a_method_takes_it_or_refuses_it_by_name(name):
    config = OptimizerConfig(optimizer="adam", schedule="cosine", schedule_steps=STEPS)
    if name in OPEN_OPTIMIZER:
        assert small_method(name, learns_with=config).name == name
        return
    said = (
        f"^optimizer is adam, schedule is cosine, schedule_steps is {STEPS}, but {name} has its own"
    )
    with pytest.raises(InputError, match=said):
        small_method(name, learns_with=config)


COSINE = {"schedule": "cosine", "schedule_steps": STEPS}
REFUSED = {
    "no name": ({"optimizer": "adm"}, "optimizer is 'adm'; use sgd, adam, adamw, another of optax"),
    "no optimizer": ({"optimizer": "clip"}, "optimizer is 'clip'; use sgd"),
    "of more than gradients": ({"optimizer": "lbfgs"}, "lbfgs cannot be used .*'value'"),
    "momentum of adam": ({"optimizer": "adam", "momentum": 0.9}, "momentum is 0.9, but .* adam "),
    "L2 of adam": ({"optimizer": "adam", "weight_decay": 0.1}, "weight_decay is 0.1, but .* adam "),
    "momentum 1": ({"momentum": 1.0}, "momentum is 1.0; give a value at least 0 and below 1"),
    "decay below 0": ({"weight_decay": -0.1}, "weight_decay is -0.1; give a value at least 0"),
    "a word as decay": ({"weight_decay": "much"}, "weight_decay is 'much'; give a number"),
    "norm 0": ({"clip_norm": 0.0}, "clip_norm is 0.0; give a value above 0"),
    "schedule": ({"schedule": "linear"}, "schedule is 'linear'; use one of constant, cosine"),
    "a rise alone": ({"warmup_steps": 3}, "warmup_steps is 3, but schedule is constant"),
    "length of none": ({"schedule_steps": 3}, "schedule_steps is 3, but schedule is constant"),
    "no length": ({"schedule": "cosine"}, "give schedule_steps"),
    "a rise of 0": ({**COSINE, "warmup_steps": 0}, "warmup_steps is 0; give a value at least 1"),
    "half a step": ({**COSINE, "warmup_steps": 1.5}, "warmup_steps is 1.5; give a whole number"),
    "only a rise": ({**COSINE, "warmup_steps": STEPS}, f"has {STEPS} updates; give fewer"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_fits_no_optimizer_is_one_sentence(case):
    words, said = REFUSED[case]
    with pytest.raises(InputError, match=said) as caught:
        make_optimizer(OptimizerConfig(**words))
    assert "\n" not in str(caught.value)


def test_one_of_ones_own_goes_by_its_name():
    def slow(learning_rate):
        return optax.sgd(learning_rate, momentum=0.5)

    OPTIMIZERS["slow"] = slow
    made = make_optimizer(OptimizerConfig(optimizer="slow"))
    assert made == Optimizer(OptimizerConfig(optimizer="slow"), slow)


@pytest.mark.parametrize("name", ["sgd", "lion"])
def test_a_name_of_optax_is_taken(name):
    OPTIMIZERS[name] = optax.adam
    with pytest.raises(InputError, match=f"optax has {name}, too; give your optimizer another"):
        make_optimizer(OptimizerConfig(optimizer=name))


def looks(rate):
    """Sees the value."""
    return optax.sgd(rate) if rate > 0 else optax.adam(rate)


def widens(rate):
    """Its state gets longer."""
    return optax.GradientTransformation(
        lambda params: jnp.zeros(1), lambda g, state, params: (g, jnp.append(state, 0))
    )


@pytest.mark.parametrize("factory", [looks, widens, lambda rate: rate, lambda: optax.sgd(0.1)])
def test_a_factory_that_makes_no_optimizer_is_refused(factory):
    with pytest.raises(
        InputError, match=r"^optimizer mine cannot be used \(.*give a function from"
    ):
        make_optimizer(OptimizerConfig(optimizer="mine"), factory)
