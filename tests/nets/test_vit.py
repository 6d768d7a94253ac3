"""The small transformer: counted by hand, against NumPy in float64, one trace, each row alone."""

import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cls_jax.core.errors import InputError
from cls_jax.nets.registry import NetConfig, make_extractor, make_net
from cls_jax.nets.vit import DEPTH, num_heads, patch_size, vit, vit_extractor
from tests.support.oracle_weights import count

X = jax.random.normal(jax.random.key(1), (3, 8, 12, 2))
WIDTH, CLASSES = 36, 5
erf = np.vectorize(math.erf)


def test_parameters_by_hand():
    """32x32x3 in patches of 4: 64 tokens of 48 numbers."""
    vars = jax.eval_shape(vit(10).init, jax.random.key(0), jnp.zeros((1, 32, 32, 3)))
    block = 2 * 128 + (64 * 192 + 192) + (64 * 64 + 64) + (64 * 256 + 256) + (256 * 64 + 64)
    assert count(vars.params) == (48 * 64 + 64) + 64 * 64 + 4 * block + 128 + 650 == 207_946
    assert vars.stats == {}


@pytest.mark.parametrize(
    ("sides", "expected"),
    [
        *(((8, 8), 2), ((28, 28), 2), ((32, 32), 4), ((64, 64), 8), ((84, 84), 7)),
        *(((224, 224), 28), ((9, 9), 1), ((5, 7), 1), ((32, 40), 4), ((8, 12), 2)),
    ],
)
def test_a_patch_divides_both_sides(sides, expected):
    assert patch_size(*sides) == expected


def test_heads_divide_the_width():
    assert [num_heads(width) for width in (1, 16, 32, 36, 64, 67, 96)] == [1, 1, 2, 2, 4, 1, 6]
    assert [num_heads(width, 32) for width in (16, 64, 384)] == [1, 2, 12]


def normed(x, layer):
    x = x - x.mean(-1, keepdims=True)
    return x / np.sqrt(np.square(x).mean(-1, keepdims=True) + 1e-6) * layer["scale"] + layer["bias"]


def mapped(x, layer):
    return x @ layer["kernel"] + layer["bias"]


def attended(x, p):
    """Loops over images, heads and queries."""
    heads, size = num_heads(WIDTH), WIDTH // num_heads(WIDTH)
    out = np.zeros_like(x)
    for b, image in enumerate(x):
        q, k, v = np.split(mapped(image, p["qkv"]), 3, -1)
        for h in range(heads):
            part = slice(h * size, (h + 1) * size)
            for token in range(len(image)):
                scores = k[:, part] @ q[token, part] / math.sqrt(size)
                weights = np.exp(scores - scores.max())
                out[b, token, part] = weights @ v[:, part] / weights.sum()
    return mapped(out, p["out"])


def transcribed(x, p):
    """(features, logits), from the equations of Dosovitskiy et al., section 3.1."""
    trunk, side, tokens = p["trunk"], 2, []
    for row in range(0, x.shape[1], side):
        for column in range(0, x.shape[2], side):
            patch = x[:, row : row + side, column : column + side].reshape(len(x), -1)
            tokens.append(mapped(patch, trunk["embed"]))
    z = np.stack(tokens, 1) + trunk["places"]
    for number in range(DEPTH):
        block = trunk[f"block{number}"]
        z = z + attended(normed(z, block["norm1"]), block["attention"])
        hidden = mapped(normed(z, block["norm2"]), block["fc1"])
        z = z + mapped(hidden * (1 + erf(hidden / math.sqrt(2))) / 2, block["fc2"])
    features = normed(z, trunk["norm"]).mean(1)
    return features, mapped(features, p["head"])


@pytest.fixture(scope="module")
def drawn():
    """The network and its parameters, with biases and norms that are not trivial."""
    net = vit(CLASSES, WIDTH)
    vars = net.init(jax.random.key(0), X)
    rng = np.random.default_rng(2)
    moved = lambda leaf: np.float32(leaf + 0.1 * rng.normal(size=leaf.shape))  # noqa: E731
    return net, vars.replace(params=jax.tree.map(moved, vars.params))


def test_it_is_the_paper_s(drawn):
    net, vars = drawn
    p = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), vars.params)
    features, logits = transcribed(np.asarray(X, np.float64), p)
    np.testing.assert_allclose(net.apply(vars, X, train=True)[0], logits, rtol=1e-4, atol=2e-5)
    np.testing.assert_allclose(net.features(vars, X, train=False)[0], features, atol=2e-5)
    bare = vars.replace(params=vars.params["trunk"])
    seen, stats = vit_extractor(WIDTH).apply(bare, X, train=True)
    np.testing.assert_allclose(seen.features, features, rtol=1e-4, atol=2e-5)
    assert seen.maps.shape == (3, 4, 6, WIDTH)
    assert stats == {}


def test_in_float64_it_is_the_paper_s_to_the_last_digits(drawn):
    _, vars = drawn
    with jax.enable_x64(True):
        wide = jax.tree.map(lambda leaf: jnp.asarray(np.asarray(leaf, np.float64)), vars)
        x = jnp.asarray(np.asarray(X, np.float64))
        logits, _ = vit(CLASSES, WIDTH, "float64").apply(wide, x, train=False)
        p = jax.tree.map(np.asarray, wide.params)
        _, expected = transcribed(np.asarray(x), p)
        np.testing.assert_allclose(logits, expected, rtol=1e-11, atol=1e-12)


def test_every_row_is_seen_by_itself_and_training_draws_nothing(drawn):
    net, vars = drawn
    valid, traces = jnp.array([True, False, True]), []

    @partial(jax.jit, static_argnames="train")
    def step(vars, x, valid, train):
        traces.append(train)
        return net.apply(vars, x, train=train, valid=valid)[0]

    whole = step(vars, X.at[1].set(1e6), valid, train=True)
    again = step(vars, X, jnp.ones(3, bool), train=True)
    answer = step(vars, X, valid, train=False)
    np.testing.assert_array_equal(again, answer)
    np.testing.assert_allclose(whole[::2], again[::2], rtol=1e-5, atol=1e-5)
    assert traces == [True, False]


def test_bfloat16_computes_low_and_keeps_high(drawn):
    full, vars = drawn
    low = vit(CLASSES, WIDTH, "bfloat16")
    assert {leaf.dtype for leaf in jax.tree.leaves(low.init(jax.random.key(0), X))} == {
        jnp.dtype("float32")
    }
    logits, expected = (net.apply(vars, X, train=True)[0] for net in (low, full))
    assert logits.dtype == jnp.float32
    assert 0 < np.abs(logits - expected).max() < 0.1 * np.abs(expected).max()


def test_it_is_chosen_by_name():
    config = NetConfig(net="vit", width=8)
    vars = jax.eval_shape(make_net(config, 3).init, jax.random.key(0), X)
    assert vars.params["head"]["kernel"].shape == (8, 3)
    trunk = jax.eval_shape(make_extractor(config).init, jax.random.key(0), X)
    assert jax.tree.structure(trunk.params) == jax.tree.structure(vars.params["trunk"])
    with pytest.raises(InputError, match="width = 0: give the channels"):
        vit(3, 0)
