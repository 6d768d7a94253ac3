"""DyTox's network: counted, against the official loops in float64, tokens apart, heads apart."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cls_jax.core.errors import InputError
from cls_jax.nets.convit import drop_path, gated, position_kernel, relative_positions
from cls_jax.nets.dytox import dytox_net, head_logits, new_head, task_logits
from tests.support import official_dytox as official
from tests.support.drive import float64
from tests.support.oracle_weights import count

WIDTH, HEADS, TASKS, CLASSES = 16, 4, 3, 7
NET = dytox_net(CLASSES, TASKS, WIDTH, num_blocks=2, head_size=4)
X = jax.random.normal(jax.random.key(1), (3, 4, 6, 2))
OWNER = jnp.array([2, 0, 1, 1, 0, 2, 0], jnp.int32)
close = np.testing.assert_allclose


def shifted(params):
    """The parameters a little moved, so that none of them is 0 or 1."""
    leaves, tree = jax.tree.flatten(params)
    keys = jax.random.split(jax.random.key(9), len(leaves))
    moved = [p + 0.2 * jax.random.normal(k, p.shape) for p, k in zip(leaves, keys, strict=True)]
    return jax.tree.unflatten(tree, moved)


PARAMS = shifted(NET.init(jax.random.key(0), X).params)


# --- O10: parameters ------------------------------------------------------------------------------


@pytest.mark.parametrize(("tasks", "total"), [(10, 10733584), (20, 10745104), (50, 10779664)])
def test_parameters_of_the_paper(tasks, total):
    """10.73, 10.74 and 10.77 million: CIFAR-100, no divergence head; nothing is computed."""
    x = jnp.zeros((1, 32, 32, 3))
    params = jax.eval_shape(dytox_net(100, tasks).init, jax.random.key(0), x).params
    assert count(params["encoder"]["block0"]) == 1_773_372
    assert count(params["decoder"]) == 1_773_312
    assert count(params) == total


# --- O6: attention by place -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kernel", "first", "mixed"),
    [
        ((0, 0, -1), (0.534447, 0.196612, 0.196612, 0.072329), (0.457947, 0.210970, 0.120112)),
        ((2, 0, -1), (0.196612, 0.534447, 0.072329, 0.196612), None),
    ],
)
def test_the_place_decides_on_a_grid_of_four(kernel, first, mixed):
    scores = relative_positions(2, 2) @ np.array(kernel)
    place = jax.nn.softmax(jnp.asarray(scores))
    close(place[0], first, atol=1e-6)
    if mixed is not None:
        gate = jax.nn.sigmoid(jnp.ones(1))
        close(gate, 0.731059, atol=1e-6)
        weights = gated(jnp.full((1, 1, 4, 4), 0.25), place[None], gate)[0, 0]
        close(weights[0], [mixed[0], mixed[1], mixed[1], mixed[2]], atol=1e-6)
        close(weights.sum(-1), 1, rtol=1e-6)


def test_each_local_head_looks_at_a_place_of_its_own():
    """12 heads: 3 x 3 places, head h1 + 3 h2 at (dx, dy) = (h2 - 1, h1 - 1); three draw."""
    kernel = np.asarray(position_kernel(jax.random.key(0), (3, 12)))
    places = relative_positions(5, 5)[12]  # seen from the middle
    highest = places[(places @ kernel)[:, :9].argmax(0)]
    assert highest[:, :2].tolist() == [[h2 - 1, h1 - 1] for h2 in range(3) for h1 in range(3)]
    assert np.abs(kernel[:, 9:]).max() < 0.1
    even = np.asarray(position_kernel(jax.random.key(0), (3, 4)))
    assert even.T.tolist() == [[-1, -1, -1], [-1, 1, -1], [1, -1, -1], [1, 1, -1]]


def test_it_begins_with_values_as_they_are_and_open_gates():
    params = NET.init(jax.random.key(0), X).params
    block = params["encoder"]["block1"]["attention"]
    np.testing.assert_array_equal(block["value"]["kernel"], np.eye(WIDTH))
    np.testing.assert_array_equal(block["gate"], np.ones(HEADS))
    for kernel in (block["qk"]["kernel"], params["tokens"], params["encoder"]["places"]):
        assert 0.015 < np.asarray(kernel).std() < 0.025
    heads = params["heads"]
    assert np.abs(heads["kernel"]).max() <= WIDTH**-0.5
    assert np.abs(heads["kernel"]).max() > 0.9 * WIDTH**-0.5
    assert np.abs(heads["bias"]).max() > 0


# --- the whole of it, against loops ---------------------------------------------------------------


def test_embeddings_and_logits_are_those_of_loops_over_images_tokens_and_heads():
    """O7, first half: all tokens at once equal the official loop over tokens."""
    with jax.enable_x64(True):
        params = jax.tree.map(jnp.asarray, float64(PARAMS))
        images = jnp.asarray(float64(X))
        expected = jax.jit(lambda params, x: official.embeddings(params, x, HEADS))(params, images)
        answers = official.logits(params, expected, OWNER.tolist())
    found = NET.embed(PARAMS, X)
    close(found, expected, rtol=1e-4, atol=1e-5)
    close(task_logits(PARAMS["heads"], found, OWNER), answers, rtol=1e-4, atol=1e-4)


def test_a_token_does_not_see_another():
    """O7, second half: to the bit."""
    other = {**PARAMS, "tokens": PARAMS["tokens"].at[1].add(3.0)}
    one, two = NET.embed(PARAMS, X), NET.embed(other, X)
    np.testing.assert_array_equal(one[:, [0, 2]], two[:, [0, 2]])
    assert np.abs(one[:, 1] - two[:, 1]).max() > 0.1


def test_tasks_to_come_change_no_logit_of_earlier_ones():
    """Whatever stands in their tokens and heads, bit for bit. With room for four times as many
    tasks to rounding: products have other shapes, whose sums some processors order otherwise (one
    with AVX2 alone; where CI ran before the bits were equal).
    """
    logits = task_logits(PARAMS["heads"], NET.embed(PARAMS, X), OWNER)
    garbage = jax.tree.map(lambda leaf: leaf, PARAMS)
    garbage["tokens"] = garbage["tokens"].at[2].set(1e3)
    rows = jnp.asarray(OWNER) == 2
    heads = {n: PARAMS["heads"][n].at[2].set(-1e3) for n in ("scale", "shift")}
    heads |= {n: PARAMS["heads"][n].at[rows].set(1e3) for n in ("kernel", "bias")}
    garbage["heads"] = heads
    known = np.asarray(OWNER) < 2
    there = task_logits(heads, NET.embed(garbage, X), OWNER)
    np.testing.assert_array_equal(there[:, known], logits[:, known])

    def wider(leaf):
        return jnp.concatenate([leaf, jnp.ones((3 * TASKS, WIDTH))])

    many = {**PARAMS, "tokens": wider(PARAMS["tokens"])}
    many["heads"] = {
        **PARAMS["heads"],
        **{n: wider(PARAMS["heads"][n]) for n in ("scale", "shift")},
    }
    net = dytox_net(CLASSES, 4 * TASKS, WIDTH, num_blocks=2, head_size=4)
    found = task_logits(many["heads"], net.embed(many, X), OWNER)
    np.testing.assert_allclose(found, logits, rtol=1e-5, atol=2e-6)


def test_a_head_alone_is_a_norm_and_a_map():
    head = shifted(new_head(jax.random.key(3), 4, (WIDTH,), jnp.dtype("float32")))
    x, p = float64(NET.embed(PARAMS, X)[:, 0]), float64(head)
    z = x - x.mean(-1, keepdims=True)
    z = z / np.sqrt(np.square(z).mean(-1, keepdims=True) + 1e-5) * p["scale"] + p["shift"]
    expected = z @ p["kernel"].T + p["bias"]
    close(head_logits(head, jnp.asarray(x, jnp.float32)), expected, rtol=1e-4, atol=1e-5)


# --- drop-path ------------------------------------------------------------------------------------


def test_drop_path_leaves_rows_out_and_keeps_the_mean():
    x = jnp.ones((2000, 3, 2))
    dropped = np.asarray(drop_path(jax.random.key(0), x, 0.25, 1))
    np.testing.assert_array_equal(dropped, dropped[:, :1, :1] * np.ones((1, 3, 2)))
    assert set(np.unique(dropped).round(5)) == {0, np.float32(4 / 3).round(5)}
    assert abs(dropped.mean() - 1) < 0.03
    each = np.asarray(drop_path(jax.random.key(0), x, 0.25, 2))
    assert (each[:, :, 0] != each[:, :1, 0]).any()
    np.testing.assert_array_equal(drop_path(jax.random.key(0), x, 0.0, 1), x)
    gradient = jax.grad(lambda x: drop_path(jax.random.key(0), x, 1.0, 1).sum())(x)
    np.testing.assert_array_equal(gradient, 0)


def test_drop_path_is_drawn_in_training_alone_and_the_decoder_drops_a_token_at_a_time():
    """At rate 1 the decoder drops all, so a token is its own embedding; the first block never."""
    one = NET.embed(PARAMS, X, key=jax.random.key(0), drop_path_rate=1.0)
    np.testing.assert_array_equal(one, jnp.broadcast_to(PARAMS["tokens"], one.shape))
    plain = NET.embed(PARAMS, X)
    np.testing.assert_array_equal(plain, NET.embed(PARAMS, X, key=jax.random.key(0)))
    half = NET.embed(PARAMS, X, key=jax.random.key(0), drop_path_rate=0.5)
    alone = np.abs(half - PARAMS["tokens"]).max(-1) == 0
    assert alone.any()
    assert not alone.all()


# --- bad input ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"num_blocks": 0}, "num_blocks is 0"),
        ({"num_tasks": 0}, "num_tasks is 0"),
        ({"head_size": 0}, "head_size is 0"),
        ({"width": 0}, "width = 0"),
    ],
)
def test_a_size_that_cannot_be_is_told(changes, named):
    with pytest.raises(InputError, match=named):
        dytox_net(**{"num_classes": 2, "num_tasks": 2, **changes})


def test_vectors_have_no_patches():
    with pytest.raises(InputError, match=r"looks at patches of images.* vectors"):
        NET.init(jax.random.key(0), jnp.zeros((2, 5)))
