"""Masks over units: the card's oracles, a masked network and a whole pruned step again in NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cls_jax.core.errors import InputError
from cls_jax.core.types import Trainable, Variables
from cls_jax.methods.architecture.channel_masks import (
    compensated,
    held_near,
    mask_scale,
    numbers_left,
    share_of,
    with_channel_masks,
    with_scale,
)
from cls_jax.methods.architecture.der_expandable import der_expandable
from cls_jax.nets.mlp import mlp
from cls_jax.nets.registry import NetConfig, networks
from tests.conftest import small_problem
from tests.support.drive import CLASSES, Drive, float64, label_of, padded, task_of
from tests.support.nets import HIDDEN, perceptron
from tests.support.numpy_mlp import inputs
from tests.support.problems import SHIFT, shifted_problem

RATE, DECAY, WEIGHT, LARGEST = 0.1, 0.01, 0.7, 8
SMALL = {
    "memory_size": 12,
    "replay_size": 12,
    "warmup_epochs": 0,
    "balanced_epochs": 0,
    "prune_units": True,
    "largest_scale": LARGEST,
    "learning_rate": RATE,
    "weight_decay": DECAY,
    "sparsity_weight": WEIGHT,
}
FIRST, SECOND = np.arange(0, 40, 3), np.arange(40, 80, 2)  # names of classes 0, 1 and 2, 3


def test_oracle_of_the_scale():
    """O4: ten batches, s_max 10; a batch more keeps s_max, an epoch of one batch is its start."""
    found = [float(mask_scale(jnp.int32(b - 1), jnp.int32(10), 10)) for b in (1, 5, 10, 11)]
    np.testing.assert_allclose(found, [0.1, 4.5, 10, 10], rtol=1e-6)
    np.testing.assert_allclose(mask_scale(jnp.int32(0), jnp.int32(1), 10), 0.1, rtol=1e-6)


def test_oracle_of_the_share():
    """O4: (3 * 1.5 + 1.5 * 1.25) / (3 * 4 + 4 * 2); open masks let everything pass."""
    masks = [jnp.array([1, 0.5, 0, 0]), jnp.array([1, 0.25])]
    np.testing.assert_allclose(share_of(masks, 3), 0.31875, rtol=1e-6)
    np.testing.assert_allclose(share_of([jnp.ones(4), jnp.ones(2)], 3), 1, rtol=1e-6)


@pytest.mark.parametrize("train", [True, False])
def test_a_mask_multiplies_what_a_unit_gives(train):
    """Soft with s = 3 in training; what is off gives nothing in an answer."""
    net = with_channel_masks(mlp(CLASSES, (4, 3)), ("fc1", "fc2"))
    e = {"fc1": jnp.array([1.0, -2, 0.1, 0]), "fc2": jnp.array([-0.3, 0.2, 5])}
    x = np.random.default_rng(0).normal(size=(5, 6))
    vars = net.init(jax.random.key(0), jnp.zeros((1, 6)))
    vars = vars.replace(params={**vars.params, "masks": e}, stats={"scale": jnp.float32(3)})
    found, stats = net.features(vars, jnp.asarray(x, jnp.float32), train=train)
    assert float(stats["scale"]) == 3
    expected = x
    for name, layer in (("fc1", e["fc1"]), ("fc2", e["fc2"])):
        mine, layer = float64(vars.params[name]), np.asarray(layer, np.float64)
        mask = 1 / (1 + np.exp(-3 * layer)) if train else layer > 0
        expected = mask * np.maximum(expected @ mine["kernel"] + mine["bias"], 0)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


def test_what_is_left_is_counted():
    """Six inputs, three of four units, two of three: 7 * 3 + 4 * 2 numbers."""
    params = {"fc1": {"kernel": jnp.zeros((6, 4))}}
    params["masks"] = {"fc1": jnp.array([1.0, -1, 2, 3]), "fc2": jnp.array([1.0, 0, 2])}
    numbers, features = numbers_left(params, ("fc1", "fc2"))
    assert (float(numbers), float(features)) == (29, 2)


def test_the_gradient_is_that_of_a_sigmoid_of_e_with_the_largest_scale():
    """``d sigmoid(s e) / d e`` becomes ``s_max`` times that of sigmoid(e): HAT's aim."""
    e, scale = np.array([-1.5, 0.2, 2.0]), 3.0
    sigmoid = 1 / (1 + np.exp(-scale * e))
    gradient = {"masks": {"fc1": jnp.asarray(scale * sigmoid * (1 - sigmoid), jnp.float32)}}
    params = {"masks": {"fc1": jnp.asarray(e, jnp.float32)}}
    found = compensated(gradient, params, jnp.float32(scale), 10)["masks"]["fc1"]
    plain = 1 / (1 + np.exp(-e))
    np.testing.assert_allclose(found, 10 * plain * (1 - plain), rtol=1e-5)
    far = {"masks": {"fc1": jnp.array([-9.0, 1, 9])}}
    held = held_near(Trainable(Variables(far, {}), None)).vars.params["masks"]["fc1"]
    assert held.tolist() == [-6, 1, 6]
    model = with_scale(Trainable(Variables(far, {"scale": jnp.float32(1)}), None), jnp.float32(2))
    assert float(model.vars.stats["scale"]) == 2


# --- in DER ---------------------------------------------------------------------------------------


def whole_loss(p, names, scale, y):
    """Cross-entropy and share of weights of the first task, of two classes."""
    mask = 1 / (1 + np.exp(-scale * p["e"]))
    h = mask * np.maximum((inputs(names) + SHIFT) @ p["w1"] + p["b1"], 0)
    z = h @ p["weights"][:2, 0].T
    ce = np.log(np.exp(z).sum(1)) - z[np.arange(len(y)), y]
    return ce.mean() + WEIGHT * mask.sum() / HIDDEN


def of(learner):
    """float64 copies of what the loss depends on."""
    extractor, classifier = (
        float64(m.vars.params) for m in (learner.state.extractor, learner.state.classifier)
    )
    return {
        "e": extractor["masks"]["fc1"],
        "w1": extractor["fc1"]["kernel"],
        "b1": extractor["fc1"]["bias"],
        "weights": classifier["weights"],
    }


def test_a_pruned_step_by_hand():
    """Three batches of an epoch, so s rises to s_max; masks are not decayed."""
    learner = Drive(der_expandable(shifted_problem(), **SMALL, momentum=0.0))
    data = padded(list(FIRST[:12]))
    learner.begin(task_of(0), data)
    for number, names in enumerate([[0, 21, 3, 24], [6, 27, 9, 30], [12, 33, 15, 0]]):
        before, scale = of(learner), 1 / LARGEST + (LARGEST - 1 / LARGEST) * number / 2
        loss = learner.step(names, phase="representation")["loss"]
        y, after = label_of(names), of(learner)
        np.testing.assert_allclose(loss, whole_loss(before, names, scale, y), rtol=1e-5)
        for name, value in before.items():
            slope = np.zeros(value.shape)
            for place in np.ndindex(value.shape):
                move = np.zeros(value.shape)
                move[place] = 1e-6
                high, low = (
                    whole_loss({**before, name: value + sign * move}, names, scale, y)
                    for sign in (1, -1)
                )
                slope[place] = (high - low) / 2e-6
            if name == "e":
                rise = (np.cosh(np.clip(scale * value, -50, 50)) + 1) / (np.cosh(value) + 1)
                expected = np.clip(value - RATE * slope * rise * LARGEST / scale, -6, 6)
            else:
                expected = value - RATE * (slope + DECAY * value)
            np.testing.assert_allclose(after[name], expected, rtol=1e-3, atol=1e-5)


def test_what_a_pruned_run_keeps_is_what_its_masks_leave():
    """Of frozen extractors their own masks, of the newest its; all classes read all features."""
    learner, left = Drive(der_expandable(shifted_problem(), **SMALL)), []
    for number, names in enumerate((FIRST, SECOND)):
        learner.begin(task_of(number), padded(names))
        for at in range(3):
            learner.step(names[4 * at : 4 * at + 4], phase="representation")
        learner.end(task_of(number), padded(names))
        left.append((of(learner)["e"] > 0).sum())
    bits = learner.method.algorithm.capacity(learner.state)["bits"]
    first, both = left[0], left[0] + left[1]
    expected = [13 * first + 2 * first, 13 * both + 4 * both]
    np.testing.assert_array_equal(bits[:2], 32 * np.array(expected))
    assert 0 < first < HIDDEN


def test_only_a_perceptron_can_be_pruned():
    problem = small_problem(networks(NetConfig(net="resnet18", width=1)))
    with pytest.raises(
        InputError, match=r"net is 'resnet18' .* and prune_units masks the units of a per"
    ):
        der_expandable(problem, **SMALL)
    linear = shifted_problem(perceptron(), hidden=())
    with pytest.raises(InputError, match=r"with hidden .*, and prune_units masks"):
        der_expandable(linear, **SMALL)
    with pytest.raises(InputError, match="largest_scale is 0; give a value at least 1"):
        der_expandable(shifted_problem(), **{**SMALL, "largest_scale": 0})
