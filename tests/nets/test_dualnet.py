"""DualNet's networks: the counts, shapes and numerical oracles of the DualNet card."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cls_jax.core.errors import InputError
from cls_jax.core.self_supervised import barlow_twins
from cls_jax.core.types import Variables
from cls_jax.nets.dualnet import dualnet
from tests.support.oracle_weights import count, oracle_images, oracle_vars, random_vars

KEY = jax.random.key(0)
SLOW = {
    "conv1": 1_728,
    "bn1": 128,
    "layer1": 147_968,
    "layer2": 525_568,
    "layer3": 2_099_712,
    "layer4": 8_393_728,
    "projector": 262_656,
}
FAST = {"f_conv1": 1_920, "f_conv2": 74_112, "f_conv3": 295_680, "f_conv4": 1_181_184}


def shapes(net, side):
    x = jnp.zeros((1, side, side, 3))
    return jax.eval_shape(net.init_slow, KEY, x), jax.eval_shape(net.init_fast, KEY, x)


@pytest.mark.parametrize(("num_classes", "head"), [(85, 43_605), (50, 25_650)])
def test_counts_of_every_part(num_classes, head):
    slow, fast = shapes(dualnet(num_classes), 84)
    assert {name: count(tree) for name, tree in slow.params.items()} == SLOW
    assert {name: count(tree) for name, tree in fast.params.items()} == {**FAST, "linear": head}
    slow_too, _ = shapes(dualnet(num_classes, predictor=True), 84)
    assert {name: count(tree) for name, tree in slow_too.params.items()} == {
        **SLOW,
        "predictor": 262_656,
    }
    assert count((slow_too.stats, fast.stats)) == 12_544


def test_counts_when_narrow():
    slow, fast = shapes(dualnet(4, width=2, predictor=True), 84)
    assert count((slow.params, fast.params)) == 30_382


@pytest.mark.parametrize(
    ("side", "sides"),
    [
        (84, (42, 21, 11, 6)),
        (32, (16, 8, 4, 2)),
        (64, (32, 16, 8, 4)),
        (45, (23, 12, 6, 3)),
        (28, (14, 7, 4, 2)),
    ],
)
def test_shapes(side, sides):
    net = dualnet(85, predictor=True)
    slow, fast = shapes(net, side)
    x = jnp.zeros((3, side, side, 3))

    def everything(slow, fast, x):
        maps, _ = net.features(slow, x, train=True)
        return maps, net.embed(slow, x, train=True)[0], net.classify(fast, x, maps, train=True)[0]

    maps, (z, p), logits = jax.eval_shape(everything, slow, fast, x)
    widths = (64, 128, 256, 512)
    assert [h.shape for h in maps] == [(3, s, s, w) for s, w in zip(sides, widths, strict=True)]
    assert (z.shape, p.shape, logits.shape) == ((3, 512), (3, 512), (3, 85))


def oracle_trees(net, x):
    """The card's weights, slow and fast."""
    return [oracle_vars(jax.eval_shape(init, KEY, x)) for init in (net.init_slow, net.init_fast)]


def test_forward_oracle():
    expected = [
        [0.84371548, 2.22658424, 3.40368734, 1.32581382],
        [0.10833819, -0.05604318, 0.0463864, 0.08023743],
        [0.06232741, -0.06704078, 0.04745218, 0.03719402],
        [0.75982735, 3.9161634, 5.57853402, 2.56618461],
    ]
    with jax.enable_x64(True):
        net = dualnet(4, width=2, dtype="float64")
        x = oracle_images(np.sin, 1e-4, (4, 3, 84, 84))
        slow, fast = oracle_trees(net, x)

        @jax.jit
        def logits(slow, fast, x):
            maps, _ = net.features(slow, x, train=True)
            return net.classify(fast, x, maps, train=True)[0]

        np.testing.assert_allclose(logits(slow, fast, x), expected, atol=1e-6)


def test_slow_round_oracle():
    """Two inner Barlow Twins steps and the look-ahead of parameters and statistics."""
    with jax.enable_x64(True):
        net = dualnet(4, width=2, dtype="float64")
        views = [
            oracle_images(np.sin, 1e-4, (4, 3, 84, 84)),
            oracle_images(np.cos, 1.1e-4, (4, 3, 84, 84)),
        ]
        start, _ = oracle_trees(net, views[0])

        @jax.jit
        def ssl_step(slow):
            def loss(params):
                stats, zs = slow.stats, []
                for view in views:
                    vars = Variables(params=params, stats=stats)
                    embedding, stats = net.embed(vars, view, train=True)
                    zs.append(embedding.z)
                return barlow_twins(*zs), stats

            (value, stats), grads = jax.value_and_grad(loss, has_aux=True)(slow.params)
            params = jax.tree.map(lambda p, g: p - 3e-4 * g, slow.params, grads)
            return value, Variables(params=params, stats=stats)

        first, slow = ssl_step(start)
        second, slow = ssl_step(slow)
        np.testing.assert_allclose([first, second], [13.92819050, 6.84811498], atol=1e-6)
        end = jax.tree.map(lambda old, new: old + 0.05 * (new - old), start, slow)
        sums = [vars.params["conv1"]["kernel"].sum() for vars in (start, slow, end)]
        np.testing.assert_allclose(sums, [4.76827333, 4.65063366, 4.76239135], atol=1e-6)
        running = end.stats["bn1"]
        np.testing.assert_allclose(running["mean"], [1.1652e-4, 1.1381e-4], atol=1e-8)
        np.testing.assert_allclose(running["var"], [1.00179954, 1.00387204], atol=1e-7)


@pytest.fixture(scope="module")
def small():
    net = dualnet(3, width=2, predictor=True)
    x = jax.random.normal(jax.random.key(1), (5, 16, 16, 3))
    slow, fast = (random_vars(jax.eval_shape(init, KEY, x)) for init in net[:2])
    return net, slow, fast, x


def test_each_forward_gives_its_whole_stats_tree(small):
    net, slow, fast, x = small
    maps, stats = jax.jit(lambda v, x: net.features(v, x, train=True))(slow, x)
    chex.assert_trees_all_equal_shapes_and_dtypes(stats, slow.stats)
    for part in slow.stats:
        moved = not np.array_equal(
            *(jnp.concatenate(jax.tree.leaves(tree[part])) for tree in (stats, slow.stats))
        )
        assert moved == (part not in ("projector", "predictor"))
    _, embed_stats = jax.jit(lambda v, x: net.embed(v, x, train=True))(slow, x)
    trunk = {part: stats[part] for part in stats if part not in ("projector", "predictor")}
    chex.assert_trees_all_close({part: embed_stats[part] for part in trunk}, trunk, rtol=1e-6)
    for part in ("projector", "predictor"):
        assert not np.array_equal(embed_stats[part]["bn"]["var"], slow.stats[part]["bn"]["var"])
    _, fast_stats = jax.jit(lambda v, x, m: net.classify(v, x, m, train=True))(fast, x, maps)
    chex.assert_trees_all_equal_shapes_and_dtypes(fast_stats, fast.stats)


def test_eval_gives_the_statistics_back(small):
    net, slow, fast, x = small

    @jax.jit
    def stats_after(slow, fast, x):
        maps, features_stats = net.features(slow, x, train=False)
        embed_stats = net.embed(slow, x, train=False)[1]
        return features_stats, embed_stats, net.classify(fast, x, maps, train=False)[1]

    expected = (slow.stats, slow.stats, fast.stats)
    chex.assert_trees_all_equal(stats_after(slow, fast, x), expected)


def test_padded_rows_do_not_exist(small):
    net, slow, fast, x = small
    valid = np.array([True, False, True, True, True])

    @jax.jit
    def everything(slow, fast, x, valid):
        maps, slow_stats = net.features(slow, x, train=True, valid=valid)
        logits, fast_stats = net.classify(fast, x, maps, train=True, valid=valid)
        embedding, embed_stats = net.embed(slow, x, train=True, valid=valid)
        return (logits, *embedding), (slow_stats, fast_stats, embed_stats)

    rows, stats = everything(slow, fast, x, jnp.asarray(valid))
    alone, alone_stats = everything(slow, fast, x[valid], None)
    kept = jax.tree.map(lambda values: values[valid], rows)
    chex.assert_trees_all_close(kept, alone, rtol=1e-3, atol=1e-3)
    chex.assert_trees_all_close(stats, alone_stats, rtol=1e-3, atol=1e-5)
    rows, stats = everything(slow, fast, x, jnp.zeros(5, bool))
    chex.assert_tree_all_finite(rows)
    chex.assert_trees_all_equal(stats, (slow.stats, fast.stats, slow.stats))


def test_initialisation_follows_the_key():
    net = dualnet(3, width=2)
    x = jax.random.normal(jax.random.key(1), (5, 16, 16, 3))
    first, again, other = (net.init_fast(jax.random.key(seed), x) for seed in (0, 0, 1))
    chex.assert_trees_all_equal(first, again)
    for part in first.params:
        for name in ("kernel", "bias"):
            one, two = (
                tree.params[part].get("conv", tree.params[part])[name] for tree in (first, other)
            )
            assert not np.array_equal(one, two)
    chex.assert_trees_all_equal(first.stats, other.stats)


def test_no_predictor_no_p():
    net = dualnet(3, width=2)
    slow, _ = shapes(net, 16)
    embedding, _ = jax.eval_shape(
        lambda v, x: net.embed(v, x, train=True), slow, jnp.zeros((2, 16, 16, 3))
    )
    assert embedding.p is None


def test_bfloat16_computes_low_and_keeps_high(small):
    _, slow, fast, x = small
    net = dualnet(3, width=2, predictor=True, dtype="bfloat16")

    def everything(slow, fast, x):
        maps, slow_stats = net.features(slow, x, train=True)
        logits, fast_stats = net.classify(fast, x, maps, train=True)
        return maps, slow_stats, logits, fast_stats, net.embed(slow, x, train=True)[0]

    maps, slow_stats, logits, fast_stats, embedding = jax.eval_shape(everything, slow, fast, x)
    assert {h.dtype for h in maps} == {jnp.dtype("bfloat16")}
    kinds = {leaf.dtype for leaf in jax.tree.leaves((slow_stats, fast_stats, logits, embedding))}
    assert kinds == {jnp.dtype("float32")}


@pytest.mark.parametrize("arguments", [{"num_classes": 0}, {"width": 0}, {"dtype": "int8"}])
def test_impossible_networks_are_named(arguments):
    with pytest.raises(InputError, match=next(iter(arguments))):
        dualnet(**{"num_classes": 10, **arguments})
