"""Speeds of groups' parameters (the card's oracle O6) and the TAG optimizer (O7)."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from cls_jax.methods.cls.group_masks import SHARED
from cls_jax.methods.cls.group_speeds import channel_speeds, group_speeds, scale_by_speed
from cls_jax.methods.tag_optimizer import attention, tag

GRADIENT = {"fc1": {"kernel": jnp.array([[0.4, -2.0]]), "bias": jnp.array([3.0, -0.1])}}
HALF = {"fc1": {"kernel": jnp.float32(0.5), "bias": jnp.float32(0.5)}}


def first_update(optimizer, gradient):
    """Of a fresh optimizer state."""
    return optimizer.update(gradient, optimizer.init(gradient), gradient)[0]


def close(one, other, **kind):
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        np.testing.assert_allclose(a, b, **kind)


def by(share, tree):
    return jax.tree.map(lambda leaf: share * leaf, tree)


def test_oracle_6_adam_undoes_a_factor_of_gradients_and_sgd_does_not():
    """Half a gradient: Adam's first step ``lr g / |g|`` stays. Half an update is half a step."""
    adam, sgd = optax.adam(0.1, eps=1e-12), optax.sgd(0.1)
    halved = optax.stateless(lambda updates, params: by(0.5, updates))
    plain = first_update(adam, GRADIENT)
    close(plain, jax.tree.map(lambda g: -0.1 * jnp.sign(g), GRADIENT), rtol=1e-5)
    close(first_update(optax.chain(halved, adam), GRADIENT), plain, rtol=1e-5)
    close(first_update(optax.chain(adam, halved), GRADIENT), by(0.5, plain), rtol=1e-6)
    half_of_sgd = by(0.5, first_update(sgd, GRADIENT))
    for chain in (optax.chain(halved, sgd), optax.chain(sgd, halved)):
        close(first_update(chain, GRADIENT), half_of_sgd, rtol=1e-6)


def test_speeds_scale_updates_and_their_mean_is_one():
    """Kernel .25 and bias 1: the mean .625 over four numbers, so .4 and 1.6 of Adam's step."""
    multipliers = {"fc1": {"kernel": jnp.float32(0.25), "bias": jnp.float32(1)}}
    adam = optax.adam(0.1)
    plain = first_update(adam, GRADIENT)["fc1"]
    found = first_update(optax.chain(adam, scale_by_speed(multipliers)), GRADIENT)["fc1"]
    close(found["kernel"], 0.4 * plain["kernel"], rtol=1e-6)
    close(found["bias"], 1.6 * plain["bias"], rtol=1e-6)


def test_equal_speeds_are_no_speeds():
    """All one: not a bit differs. All a half: the mean is divided out."""
    adam = optax.adam(0.1)
    plain = first_update(adam, GRADIENT)
    ones = by(2.0, HALF)
    for a, b in zip(
        jax.tree.leaves(first_update(optax.chain(adam, scale_by_speed(ones)), GRADIENT)),
        jax.tree.leaves(plain),
        strict=True,
    ):
        np.testing.assert_array_equal(a, b)
    close(first_update(optax.chain(adam, scale_by_speed(HALF)), GRADIENT), plain, rtol=1e-6)


KNOWN = jnp.array([True, True, True, False])
SIMILAR = jnp.array([0.5, 0.0, 1.0, 0.0])


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("fast", [0.625, 0.25, 1.0, 1]),  # .625 and .25: the card's O6
        ("slow", [0.625, 1.0, 0.25, 1]),
        ("mid", [0.25, 1.0, 1.0, 1]),
        ("flat", [0.625, 0.625, 0.625, 1]),
    ],
)
def test_oracle_6_the_speed_of_each_group(kind, expected):
    """rho in [.25, 1]; a group without a task has 1."""
    found = group_speeds(jax.random.key(0), kind, SIMILAR, KNOWN, 0.25, 1.0)
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_shuffled_speeds_are_those_of_the_groups_there_are():
    seen = set()
    shuffled = jax.jit(lambda key: group_speeds(key, "shuffle", SIMILAR, KNOWN, 0.25, 1.0))
    for number in range(40):
        found = np.asarray(shuffled(jax.random.key(number))).round(4).tolist()
        assert sorted(found[:3]) == [0.25, 0.625, 1.0]
        assert found[3] == 1
        seen.add(tuple(found))
    assert len(seen) == 6


def test_a_channel_has_the_speed_of_its_group():
    """The columns that produce it, its bias, its norm; shared ones and the head have one."""
    params = {
        "layer1": {"conv": {"kernel": jnp.zeros((3, 3, 2, 4))}, "bn": {"scale": jnp.zeros(4)}},
        "linear": {"kernel": jnp.zeros((4, 2))},
    }
    owners = (jnp.array([0, SHARED, 1, 1]),)
    found = channel_speeds(params, (("layer1", 4),), owners, jnp.array([0.5, 2.0]))
    for leaf in (found["layer1"]["conv"]["kernel"], found["layer1"]["bn"]["scale"]):
        np.testing.assert_array_equal(leaf, [0.5, 1, 2, 2])
    np.testing.assert_array_equal(found["linear"]["kernel"], 1)


# --- TAG ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("cosine", "factor"), [(1, 5.448177), (0, 0.986791), (-1, 0.082078)])
def test_oracle_7_an_opposed_old_task_shortens_the_step(cosine, factor):
    """V_own = 4, V_old = 1, b = 5: ``1 / sqrt(e^-5 4 + e^(-5 c))``."""
    first = jnp.array([[cosine, (1 - cosine**2) ** 0.5], [2.0, 0.0], [9.0, 9.0]])
    alpha = attention(first, 1, 5.0)
    np.testing.assert_allclose(alpha, [np.exp(-5.0 * cosine), np.exp(-5.0), 0], rtol=1e-5)
    np.testing.assert_allclose(1 / np.sqrt(alpha @ np.array([1.0, 4, 7])), factor, rtol=1e-5)


def test_tag_is_the_official_update():
    """Three tasks of two steps on two tensors, in NumPy as tag_update.py has it."""
    rng, rate, b = np.random.default_rng(0), 0.01, 5.0
    gradients = [{"a": rng.normal(size=(2, 3)), "b": rng.normal(size=4)} for _ in range(6)]
    step = jax.jit(lambda task, *given: tag(rate, task, 3).update(*given))
    state = tag(rate, 0, 3).init(jax.tree.map(jnp.float32, gradients[0]))
    first, second = ({k: np.zeros((3, g.size)) for k, g in gradients[0].items()} for _ in range(2))
    for number, gradient in enumerate(gradients):
        t = number // 2
        found, state = step(t, jax.tree.map(jnp.float32, gradient), state)
        for name, g in gradient.items():
            flat = g.ravel()
            first[name][t] = 0.9 * first[name][t] + 0.1 * flat
            second[name][t] = 0.99 * second[name][t] + 0.01 * flat**2
            m = first[name] / np.maximum(np.linalg.norm(first[name], axis=1, keepdims=True), 1e-30)
            alpha = np.exp([*(-b * (m[:t] @ m[t])), -b]) if t else np.ones(1)
            wanted = -rate * flat / (np.sqrt(alpha @ second[name][: t + 1]) + 1e-8)
            np.testing.assert_allclose(np.ravel(found[name]), wanted, rtol=2e-5)
