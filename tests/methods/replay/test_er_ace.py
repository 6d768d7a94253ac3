"""ER-ACE: the card's oracle, whole steps by hand, and which classes count as seen."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cls_jax.core.errors import InputError
from cls_jax.methods.replay.er_ace import er_ace
from tests.support.drive import CLASSES, Drive, batch, label_of
from tests.support.nets import perceptron, shown
from tests.support.numpy_mlp import ce, descended, inputs
from tests.support.problems import flat_augment, own_problem, telling_problem

RATE = 0.4
SIZES = {"memory_size": 8, "replay_size": 3}


def drive(tells=True, **changes):
    """With the network's own last layer, whose gradient is written down by hand."""
    arguments = {"learning_rate": RATE, **SIZES, "head": "linear", **changes}
    return Drive(er_ace(telling_problem(tells=tells), **arguments))


STREAM = [([0, 21, 5, 30], 4), ([41, 1, 62, 103], 3), ([80, 81, 42, 43], 4), ([100, 101, 2, 3], 4)]
"""Classes 0 and 1; 2, 0 and 3 (5 is padding); 4 and 2; 5 and 0."""


def test_steps_are_those_of_the_paper():
    learner, params, seen = drive(), drive().params, set()
    for number, (names, num_valid) in enumerate(STREAM):
        held = set(learner.held()[: min(8, 4 * number)])
        metrics = learner.step(names, num_valid)
        stream, replayed = shown(learner, 2)
        assert sorted(stream) == sorted(names[:num_valid])
        present = set(label_of(stream))
        allowed = np.array([c in present or c not in seen for c in range(CLASSES)])
        seen |= present
        total, gradient = ce(params, stream, allowed)
        terms = [(1, gradient)]
        assert len(replayed) == (0 if number == 0 else 3)
        if number > 0:
            assert set(replayed) <= held
            value, gradient = ce(params, replayed)
            total, terms = total + value, [*terms, (1, gradient)]
        params = descended(params, RATE, *terms)
        np.testing.assert_allclose(metrics["loss"], total, rtol=1e-5)
        chex.assert_trees_all_close(learner.params, params, rtol=1e-4, atol=1e-6)
        assert set(np.flatnonzero(learner.state.seen)) == seen
    assert seen == set(range(CLASSES))
    np.testing.assert_array_equal(learner.state.memory.slots["y"], label_of(learner.held()))


@pytest.mark.parametrize(("seen", "expected"), [([0, 1, 2, 4, 5], np.log(2)), ([], np.log(6))])
def test_oracle(seen, expected):
    """Equal logits, one class in the batch, and of the others only the unseen ones: log 2."""
    learner = drive()
    learner.state = learner.state.replace(
        model=jax.tree.map(jnp.zeros_like, learner.state.model),
        seen=jnp.zeros(CLASSES, bool).at[jnp.array(seen, int)].set(True),
    )
    np.testing.assert_allclose(learner.step([40, 41, 42, 43])["loss"], expected, rtol=1e-6)


def test_the_stream_does_not_move_old_classes():
    """With replay of an empty memory alone, the columns of absent seen classes stay."""
    learner = drive()
    learner.state = learner.state.replace(seen=jnp.arange(CLASSES) < 4)
    before = learner.params
    learner.step([40, 41, 60, 61])
    change = np.abs(learner.params["w2"] - before["w2"]).sum(0)
    assert (change[[0, 1]] == 0).all()
    assert (change[[2, 3, 4, 5]] > 0).all()


def test_a_batch_of_padding_changes_nothing():
    learner = drive()
    before = learner.state
    metrics = learner.step([40, 41, 60, 61], num_valid=0)
    assert metrics["loss"] == 0
    chex.assert_trees_all_equal(learner.state, before)


def test_one_forward_for_all_is_the_same_step():
    """A network without statistics takes stream and replay in one pass."""
    telling, silent = drive(), drive(tells=False)
    for names, num_valid in STREAM:
        telling.step(names, num_valid), silent.step(names, num_valid)
    chex.assert_trees_all_close(telling.params, silent.params, rtol=1e-5, atol=1e-6)
    chex.assert_trees_all_equal(telling.state.memory, silent.state.memory)


def cosines(params, names):
    """float64[n, CLASSES]: ten times the cosine of features and weights."""
    params = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params)
    w1, b1, w2 = params["fc1"]["kernel"], params["fc1"]["bias"], params["fc2"]["kernel"]
    features = np.maximum(inputs(names) @ w1 + b1, 0)
    features /= np.linalg.norm(features, axis=1, keepdims=True)
    return 10 * features @ (w2 / np.linalg.norm(w2, axis=0))


def test_the_default_head_is_ten_times_the_cosine_without_bias():
    """As in both published codes; the loss of the first step, and an answer, by hand."""
    problem = own_problem(perceptron(), augment=flat_augment(), num_classes=CLASSES)
    method = er_ace(problem, learning_rate=RATE, **SIZES)
    names = [0, 21, 41, 62]
    state = method.init(jax.random.key(0), batch(names))
    before = state.model.vars.params
    assert set(before["fc2"]) == {"kernel"}
    state, metrics = jax.jit(method.phases[0].step)(jax.random.key(1), state, batch(names))
    logits = cosines(before, names)
    picked = logits[np.arange(4), label_of(names)]
    np.testing.assert_allclose(
        metrics["loss"], (np.log(np.exp(logits).sum(1)) - picked).mean(), rtol=1e-5
    )
    after = state.model.vars.params
    assert all((a != b).any() for a, b in zip(*map(jax.tree.leaves, (after, before)), strict=True))
    answer = method.predict(state, batch(names).x, None)
    np.testing.assert_allclose(answer, cosines(after, names), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("head", "sentence"),
    [("cosin", "head is 'cosin'; use one of cosine, linear"), ("cosine", "or head 'linear'")],
)
def test_a_head_that_cannot_be_is_refused(head, sentence):
    with pytest.raises(InputError, match=sentence):
        drive(head=head)


def test_a_draw_larger_than_the_memory_is_refused():
    with pytest.raises(InputError, match="replay_size=9 must be between 1 and the memory's 8"):
        drive(replay_size=9)


def test_seen_counts_what_is_valid_alone():
    learner = drive()
    examples = batch([0, 20, 40, 60], num_valid=2)
    state, _ = learner.fn("step", "train")(jax.random.key(0), learner.state, examples)
    np.testing.assert_array_equal(state.seen, [True, True, False, False, False, False])
