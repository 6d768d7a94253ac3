"""GDumb: the rate of every epoch, passes over the memory, steps by hand, CutMix, a new start."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cls_jax.core.augment import Augment
from cls_jax.core.errors import InputError
from cls_jax.methods.baselines.gdumb import (
    clipped_sgd,
    cutmix_batch,
    gdumb,
    learning_rate_of,
)
from cls_jax.nets.mlp import mlp
from cls_jax.streams.class_il import class_il
from cls_jax.training.runner import run
from tests.conftest import small_method, small_source
from tests.learning.test_bounds import NetConfig, scores
from tests.support.drive import CLASSES, Drive, batch, task_of
from tests.support.nets import shown, telling_net
from tests.support.numpy_mlp import ce
from tests.support.problems import flat_augment, own_problem

RATE, LOW, MOMENTUM, DECAY = 0.4, 0.04, 0.5, 0.01
HYPER = {"learning_rate": RATE, "min_learning_rate": LOW}
HYPER |= {"momentum": MOMENTUM, "weight_decay": DECAY}
SLOTS, SIZE = 16, 5
STEPS = 4  # of an epoch: ceil(16 / 5)


def drive(net=None, augment=None, **changes):
    sizes = {"memory_size": SLOTS, "fit_epochs": 3, "fit_batch_size": SIZE, "cutmix": False}
    net, augment = net or telling_net(tells=True), augment or flat_augment()
    problem = own_problem(net, augment=augment, num_classes=CLASSES)
    return Drive(gdumb(problem, **{**HYPER, **sizes, **changes}))


def begin_fit(learner, seed=9):
    learner.enter("fit", task_of(0), key=jax.random.key(seed))


def filled_with(names, **kind):
    """A learner whose memory holds these names and whose fit begins."""
    learner = drive(**kind)
    assert float(learner.step(names, phase="collect")["loss"]) == 0
    begin_fit(learner)
    return learner


def fit(learner):
    """A step of the fit; gives its loss."""
    return float(learner.step([0, 0], 0, phase="fit")["loss"])


# --- the rate -------------------------------------------------------------------------------------


def slow_rates(num_epochs, high, low):
    """The official loop around PyTorch's CosineAnnealingWarmRestarts(T_0=1, T_mult=2)."""
    rates, now, period = [], 0, 1
    for epoch in range(num_epochs):
        if epoch == 0:
            rates.append(high / 10)
        elif epoch == 1:
            rates.append(high)
        else:
            now += 1
            if now >= period:
                now, period = now - period, 2 * period
            rates.append(low + (high - low) * (1 + np.cos(np.pi * now / period)) / 2)
    return rates


def test_every_epoch_has_the_official_rate():
    hyper = small_method("gdumb").hyper
    ends = hyper["learning_rate"], hyper["min_learning_rate"]
    found = jax.vmap(lambda epoch: learning_rate_of(epoch, *ends))(jnp.arange(256))
    np.testing.assert_allclose(found, slow_rates(256, 0.05, 0.0005), rtol=1e-4)
    np.testing.assert_allclose(found[:4], [0.005, 0.05, 0.05, 0.02525], rtol=1e-5)


# --- the update -----------------------------------------------------------------------------------


def test_gradients_are_clipped_then_decayed_then_gathered():
    """A gradient of norm 50 becomes one of norm 10; epoch 1 has the highest rate."""
    rule = clipped_sgd(learning_rate_of(jnp.int32(1), RATE, LOW), MOMENTUM, DECAY)
    params = {"w": jnp.array([1.0, -2.0])}
    opt = rule.init(params)
    first, opt = rule.update({"w": jnp.array([30.0, 40.0])}, opt, params)
    np.testing.assert_allclose(first["w"], [-0.4 * (6 + 0.01), -0.4 * (8 - 0.02)], rtol=1e-5)
    second, _ = rule.update({"w": jnp.array([1.0, 0.0])}, opt, params)
    expected = [0.5 * (6 + 0.01) + 1 + 0.01, 0.5 * (8 - 0.02) - 0.02]
    np.testing.assert_allclose(second["w"], -0.4 * np.array(expected), rtol=1e-5)


def test_steps_by_hand():
    """Two epochs over twelve examples: losses and parameters from the definition."""
    learner = filled_with([0, 20, 40, 60, 80, 100, 1, 21, 41, 61, 81, 101])
    params = learner.params
    momentum = dict.fromkeys(params, 0.0)
    for step in range(2 * STEPS):
        loss, after = fit(learner), learner.params
        if step % STEPS == STEPS - 1:  # nothing left: 5 + 5 + 2
            assert loss == 0
            chex.assert_trees_all_equal(after, params)
            continue
        (names,) = shown(learner, 1)
        assert len(names) == [5, 5, 2][step % STEPS]
        value, gradient = ce(params, names)
        np.testing.assert_allclose(loss, value, rtol=1e-5)
        rate = [0.04, 0.4][step // STEPS]
        momentum = {k: 0.5 * momentum[k] + gradient[k] + 0.01 * params[k] for k in params}
        params = {k: params[k] - rate * momentum[k] for k in params}
        chex.assert_trees_all_close(after, params, rtol=1e-4, atol=1e-6)
        params = after


# --- passes over the memory -----------------------------------------------------------------------


@pytest.mark.parametrize("held", [SLOTS, 11, 5, 3])
def test_every_epoch_shows_each_example_once(held):
    names = [20 * (i % CLASSES) + i for i in range(held)]
    learner, orders = filled_with(names), []
    for _ in range(3):
        order = []
        for step in range(STEPS):
            before = np.asarray(learner.state.model.vars.stats["shown"])
            fit(learner)
            after = np.asarray(learner.state.model.vars.stats["shown"])
            if held > step * SIZE:
                order.append(np.flatnonzero(after[-1]).tolist())
                assert after[-1].max() == 1
                assert len(order[-1]) == min(SIZE, held - step * SIZE)
            else:
                np.testing.assert_array_equal(after, before)
        assert sorted(np.concatenate(order)) == sorted(names)
        orders.append(order)
    if held > SIZE:
        assert orders[0] != orders[1] != orders[2]


def test_empty_slots_have_no_influence():
    learner = filled_with(range(7))
    state, step = learner.state, learner.fn("step", "fit")
    rubbish = {"x": 255, "y": CLASSES - 1}
    slots = {k: v.at[7:].set(rubbish[k]) for k, v in state.memory.slots.items()}
    other = state.replace(memory=state.memory.replace(slots=slots))
    for number in range(2 * STEPS):
        key = jax.random.key(number)
        state, one = step(key, state, batch([0, 0], 0))
        other, two = step(key, other, batch([0, 0], 0))
        chex.assert_trees_all_equal((state.model, one), (other.model, two))


def test_a_fit_begins_from_nothing():
    learner = filled_with(range(0, 120, 10))
    first = learner.state.model
    for _ in range(6):
        fit(learner)
    assert int(learner.state.fit_step) == 6
    begin_fit(learner)
    chex.assert_trees_all_equal(learner.state.model, first)
    assert int(learner.state.fit_step) == 0
    begin_fit(learner, seed=10)
    assert np.abs(learner.params["w1"] - first.vars.params["w1"]).max() > 0.1


def test_a_run_collects_once_and_fits_as_long_as_it_should():
    """Three epochs of the stream offer each example once; 3 tasks x (6 + 3 x 3) steps."""
    method = small_method("gdumb")
    source = small_source()
    stream = class_il(source, tasks=3, batch_size=4, epochs=3)
    seen = []
    result = run(method, stream, observe=seen.append)
    state = result.states[0]
    assert seen[0].num_steps == 3 * (6 + 3 * 3)
    assert state.memory.seen.tolist() == [4] * 6
    held = np.asarray(state.memory.slots["x"]).reshape(24, -1)
    train = source.train.x.reshape(len(source.train.x), -1)
    rows = [int(np.flatnonzero((train == image).all(1))[0]) for image in held]
    assert len(set(rows)) == 24
    np.testing.assert_array_equal(source.train.y[rows], state.memory.slots["y"])
    assert int(state.fit_step) == 9


# --- CutMix ---------------------------------------------------------------------------------------


def test_cutmix_pastes_one_box_among_valid_images():
    """Each image is one number, so every pixel tells where it came from."""
    x = jnp.broadcast_to(jnp.arange(6.0)[:, None, None, None], (6, 8, 10, 3))
    valid = jnp.arange(6) < 4
    keys = jax.random.split(jax.random.key(0), 2000)
    mixed, other, share = map(
        np.asarray, jax.jit(jax.vmap(lambda key: cutmix_batch(key, x, valid)))(keys)
    )
    np.testing.assert_array_equal(np.sort(other[:, :4]), np.tile(np.arange(4), (2000, 1)))
    moved = other != np.arange(6)
    own = np.arange(6)[:, None, None, None]
    for run_mixed, run_other, run_share, run_moved in zip(mixed, other, share, moved, strict=True):
        boxes = (run_mixed != own)[run_moved]
        if not len(boxes):
            continue
        assert (boxes == boxes[0]).all()
        box = boxes[0, :, :, 0]
        assert box.sum() == box.any(1).sum() * box.any(0).sum()
        np.testing.assert_allclose(run_share, 1 - box.mean(), atol=1e-6)
        pasted = run_mixed[np.arange(6)[run_moved]][:, box]
        assert (pasted == run_other[run_moved][:, None, None]).all()
    fraction, mean = slow_shares(8, 10)
    assert abs((share == 1).mean() - fraction) < 0.04  # sd 0.011
    assert abs(share.mean() - mean) < 0.015  # sd 0.004
    np.testing.assert_allclose(share.min(), 1 - 6 * 8 / 80, rtol=1e-6)


def slow_shares(height, width, draws=20000):
    """Of the official boxes: how often nothing is pasted, and the mean share that stays."""
    rng, shares = np.random.default_rng(0), []
    for _ in range(draws):
        if rng.random() >= 0.5:
            shares.append(1.0)
            continue
        ratio = np.sqrt(1 - rng.beta(1, 1))
        area = 1
        for side in (height, width):
            half, centre = int(side * ratio) // 2, rng.integers(side)
            area *= min(centre + half, side) - max(centre - half, 0)
        shares.append(1 - area / (height * width))
    return np.mean(np.equal(shares, 1)), np.mean(shares)


def test_cutmix_weighs_both_labels():
    """The loss of a step: share * CE(own label) + (1 - share) * CE(the other's)."""

    def plain(x):
        return x.astype(jnp.float32).repeat(4, 1).repeat(4, 2) / 255

    augment = Augment(train=lambda key, x: plain(x), test=plain)
    net = mlp(CLASSES, hidden=(7,))
    learner = filled_with(range(0, 119, 8), net=net, augment=augment, cutmix=True)
    state, mixes = learner.state, 0
    for seed in range(12):
        key = jax.random.key(seed)
        after, metrics = learner.fn("step", "fit")(key, state, batch([0, 0], 0))
        rows = after.order[:SIZE]
        x, y = plain(state.memory.slots["x"][rows]), np.asarray(state.memory.slots["y"][rows])
        x, other, share = cutmix_batch(jax.random.split(key, 3)[2], x, jnp.ones(SIZE, bool))
        logits, _ = net.apply(state.model.vars, x, train=True)
        log_probs = np.asarray(jax.nn.log_softmax(logits), np.float64)
        both = [-log_probs[np.arange(SIZE), labels].mean() for labels in (y, y[other])]
        expected = share * both[0] + (1 - share) * both[1]
        np.testing.assert_allclose(metrics["loss"], expected, rtol=1e-5)
        mixes += abs(both[0] - expected) > 1e-3
    assert mixes >= 3


# --- choices --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["fit_epochs", "fit_batch_size"])
def test_sizes_below_one_are_refused(name):
    with pytest.raises(InputError, match=f"{name}=0 fits nothing"):
        drive(**{name: 0})


def test_vectors_cannot_be_mixed():
    with pytest.raises(InputError, match="cutmix=True mixes images"):
        drive(cutmix=True)


@pytest.mark.slow
def test_it_learns_from_memory_alone():
    """100 of 1257 digits, 16 epochs. Seeds 0 and 1: class-IL .861 and .858 (sgd: .2)."""
    sizes = {"memory_size": 100, "fit_epochs": 16, "cutmix": False}
    class_il_score = scores("gdumb", NetConfig(net="mlp"), 8, None, sizes, (0, 1), 1)[:, 0]
    assert (class_il_score > 0.75).all()
