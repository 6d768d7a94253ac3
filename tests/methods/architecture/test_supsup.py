"""SupSup: steps by hand, what is kept, which task is answered, and tasks without an id."""

from functools import cache, partial

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cls_jax.core.errors import InputError
from cls_jax.core.losses import FLOOR
from cls_jax.core.types import Variables
from cls_jax.methods import METHODS
from cls_jax.methods.architecture.masked_net import frozen, kernels, num_bits, under
from cls_jax.methods.architecture.supermasks import unpack
from cls_jax.methods.architecture.supsup import most_labels, supsup
from cls_jax.methods.architecture.supsup_inference import TEST_GROUP, make_identify
from cls_jax.methods.architecture.supsup_nns import supsup_nns
from cls_jax.methods.base import hidden_task
from cls_jax.methods.columns import place_of
from cls_jax.nets.base import Net
from cls_jax.nets.mlp import mlp
from cls_jax.training.evaluate import answers
from tests.support.drive import CLASSES, Drive, batch, label_of, task_of
from tests.support.numpy_mlp import inputs
from tests.support.problems import flat_augment, own_problem

OUTPUTS, RATE, TASKS = 8, 0.05, 3
EVERY = jnp.ones(CLASSES, bool)
HIDDEN = hidden_task(CLASSES)


def shared_task(number):
    """A task with all classes."""
    return task_of(number, range(CLASSES))


def sixteen(outputs):
    """A perceptron of 16 units."""
    return mlp(outputs, (16,))


def small_problem(net=sixteen):
    return own_problem(net, augment=flat_augment(), num_classes=CLASSES, num_tasks=TASKS)


def drive(net=sixteen, name="supsup", **changes):
    """The method at its start; ``net`` makes its network of the number of outputs."""
    arguments = {"num_outputs": OUTPUTS, "learning_rate": RATE, **changes}
    return Drive(METHODS[name](small_problem(net), **arguments), partial(batch, task=0))


def learn(learner, task, *batches):
    """A whole task."""
    key = jax.random.key(100 + learner.clock)
    learner.begin(task, key=key)
    for names in batches:
        learner.step(names, task=int(task.index))
    learner.end(task, key=key)


def logits_of(learner, names, task):
    return learner.predict(batch(names).x, task)


@cache
def three_tasks(**changes):
    """One that no test moves on."""
    learner = drive(**changes)
    for number in range(TASKS):
        learn(learner, shared_task(number), *[[i, 20 + i, 40 + i, 60 + i] for i in range(6)])
    return learner


def at(tree, index):
    """One of several stacked trees."""
    return jax.tree.map(lambda leaf: leaf[index], tree)


# --- a step by hand -------------------------------------------------------------------------------


def linear_net(outputs):
    """Logits x W: what a mask does can be written down."""

    def init(key, x):
        return Variables({"w": jnp.zeros((x.shape[1], outputs))}, {})

    return Net(init, lambda vars, x, *, train, valid=None: (x @ vars.params["w"], {}))


def slope_of(weights, mask, names):
    """The gradient of the cross-entropy by the mask: x^T (p - y) / b, times the weights."""
    x, y = inputs(names), np.eye(OUTPUTS)[label_of(names)]
    z = x @ (weights * mask)
    p = np.exp(z) / np.exp(z).sum(1, keepdims=True)
    return x.T @ (p - y) / len(names) * weights, -np.log((p * y).sum(1)).mean()


BATCHES = [([0, 21, 42, 103], 4), ([5, 26, 47, 63], 3), ([9, 20, 44, 60], 4)]


@pytest.mark.parametrize("rule", ["threshold", "edge_popup"])
def test_steps_are_rmsprop_on_the_scores(rule):
    """As torch.optim.RMSprop: the square root first, then epsilon; the loss is over all outputs."""
    learner = drive(linear_net, rule=rule, density=2)
    weights = np.asarray(learner.state.weights["w"], np.float64)
    scores = np.asarray(learner.state.scores.vars.params["w"], np.float64)
    second = np.zeros_like(scores)
    for names, num_valid in BATCHES:
        if rule == "threshold":
            mask, sign = scores >= 0, 1
        else:
            kept = scores.size - int((1 - 2 * 20 / 96) * scores.size)
            least = np.sort(np.abs(scores).ravel())[-kept]
            mask, sign = np.abs(scores) >= least, np.sign(scores)
        gradient, value = slope_of(weights, mask, names[:num_valid])
        gradient = gradient * sign
        second = 0.99 * second + 0.01 * gradient**2
        scores = scores - RATE * gradient / (np.sqrt(second) + 1e-8)
        loss = learner.step(names, num_valid)["loss"]
        np.testing.assert_allclose(loss, value, rtol=1e-5)
        found = learner.state.scores.vars.params["w"]
        np.testing.assert_allclose(found, scores, rtol=1e-4, atol=1e-6)


def test_weight_decay_is_part_of_the_gradient_and_adam_follows_a_cosine():
    """Two steps of Adam at rates r and r / 2; in the third the rate is 0."""
    learner = drive(linear_net, weight_decay=0.3, optimizer="adam", cosine_steps=2)
    weights = np.asarray(learner.state.weights["w"], np.float64)
    scores = np.asarray(learner.state.scores.vars.params["w"], np.float64)
    first, second = np.zeros_like(scores), np.zeros_like(scores)
    for count, (names, num_valid) in enumerate(BATCHES):
        gradient, _ = slope_of(weights, scores >= 0, names[:num_valid])
        gradient = gradient + 0.3 * scores
        first, second = 0.9 * first + 0.1 * gradient, 0.999 * second + 0.001 * gradient**2
        size = np.sqrt(second / (1 - 0.999 ** (count + 1))) + 1e-8
        rate = RATE * (1 + np.cos(np.pi * count / 2)) / 2
        scores = scores - rate * first / (1 - 0.9 ** (count + 1)) / size
        learner.step(names, num_valid)
        found = learner.state.scores.vars.params["w"]
        np.testing.assert_allclose(found, scores, rtol=1e-4, atol=1e-6)


# --- what is kept ---------------------------------------------------------------------------------


def test_weights_are_signed_constants_without_biases():
    learner = three_tasks()
    weights = learner.state.weights
    assert set(kernels(weights)) == {"fc1/kernel", "fc2/kernel"}
    for name, fan_in in [("fc1", 12), ("fc2", 16)]:
        np.testing.assert_allclose(jnp.abs(weights[name]["kernel"]), (2 / fan_in) ** 0.5, rtol=1e-6)
        assert (weights[name]["bias"] == 0).all()
    chex.assert_trees_all_equal(weights, drive().state.weights)


def test_a_task_is_answered_bit_for_bit_as_when_it_ended():
    learner, names = drive(), list(range(0, 120, 7))
    answers = []
    for number in range(TASKS):
        learn(learner, shared_task(number), *[[i, 20 + i, 40 + i, 60 + i] for i in range(6)])
        answers.append(logits_of(learner, names, shared_task(number)))
    for number in range(TASKS):
        np.testing.assert_array_equal(
            logits_of(learner, names, shared_task(number)), answers[number]
        )
    assert not np.array_equal(answers[0], answers[1])
    parts = (("begin_task",), ("step", "train"), ("end_task",))
    assert {learner.program(*part)._cache_size() for part in parts} == {1}


def test_the_kept_mask_is_that_of_the_scores():
    learner = three_tasks()
    scores = learner.state.scores.vars.params
    flat = jnp.concatenate([scores["fc1/kernel"].ravel(), scores["fc2/kernel"].ravel()])
    size = num_bits(learner.state.weights)
    np.testing.assert_array_equal(unpack(learner.state.masks[2], (size,)), flat >= 0)
    params = under(learner.state.weights, learner.state.masks[2])
    np.testing.assert_array_equal(params["fc1"]["kernel"] != 0, scores["fc1/kernel"] >= 0)


def test_every_task_begins_anew_or_at_the_mean_of_the_scores():
    for transfer in (False, True):
        learner, ended = drive(transfer=transfer), []
        for number in range(2):
            learn(learner, shared_task(number), [0, 20, 40, 60], [1, 21, 41, 61])
            ended.append(learner.state.scores.vars.params)
        state = learner.fn("begin_task")(jax.random.key(9), learner.state, shared_task(2), None)
        assert jax.tree.all(jax.tree.map(lambda leaf: (leaf == 0).all(), state.scores.opt))
        mean = jax.tree.map(lambda a, b: (a + b) / 2, *ended)
        scores = state.scores.vars.params
        close = jax.tree.map(lambda a, b: bool(jnp.allclose(a, b, atol=1e-6)), mean, scores)
        assert all(jax.tree.leaves(close)) == transfer
        assert (jnp.abs(scores["fc1/kernel"]).max() < 12**-0.5) != transfer


def test_capacity_is_a_bit_a_weight_and_a_mask():
    """12 x 16 + 16 x 8 = 320 weights; the seed of the weights takes none."""
    learner = drive()
    learn(learner, shared_task(0), [0, 20, 40, 60])
    np.testing.assert_array_equal(learner.fn("capacity")(learner.state)["bits"], [320, 0, 0])
    capacity = three_tasks().fn("capacity")(three_tasks().state)
    np.testing.assert_array_equal(capacity["bits"], [320, 640, 960])
    np.testing.assert_array_equal(capacity["masks"], [1, 2, 3])
    assert capacity["weights"] == 320


def centred_net(outputs):
    """A linear layer of features minus their mean over the batch, or over all batches so far."""

    def init(key, x):
        params = {"trunk": jnp.zeros((x.shape[1], 9)), "last": jnp.zeros((9, outputs))}
        return Variables(params, {"mean": jnp.ones(9)})

    def apply(vars, x, *, train, valid=None):
        h, mean = x @ vars.params["trunk"], vars.stats["mean"]
        if not train:
            return jnp.tanh(h - mean) @ vars.params["last"], vars.stats
        now = jnp.where(valid[:, None], h, 0).sum(0) / jnp.maximum(valid.sum(), 1)
        return jnp.tanh(h - now) @ vars.params["last"], {"mean": 0.9 * mean + 0.1 * now}

    return Net(init, apply)


def test_every_task_has_statistics_of_its_own():
    learner, ended, names = drive(centred_net), [], [3, 33, 63, 93]
    for number in range(2):
        learn(learner, shared_task(number), [0, 20, 40, 60], [1, 21, 41, 61])
        ended.append(
            (
                learner.state.scores.vars.stats["mean"],
                logits_of(learner, names, shared_task(number)),
            )
        )
    np.testing.assert_array_equal(learner.state.stats["mean"][:2], [mean for mean, _ in ended])
    np.testing.assert_array_equal(learner.state.stats["mean"][2], jnp.ones(9))
    for number, (_, logits) in enumerate(ended):
        np.testing.assert_array_equal(logits_of(learner, names, shared_task(number)), logits)
    capacity = learner.fn("capacity")(learner.state)
    np.testing.assert_array_equal(capacity["bits"], [180 + 9 * 32, 360 + 18 * 32, 0])
    assert jnp.isfinite(logits_of(learner, names, HIDDEN)).all()


# --- labels ---------------------------------------------------------------------------------------


def test_a_class_is_learned_as_its_place_in_the_task():
    classes = jnp.array([False, True, False, False, True, True])
    np.testing.assert_array_equal(place_of(classes)[jnp.array([1, 4, 5])], [0, 1, 2])
    np.testing.assert_array_equal(place_of(EVERY), np.arange(CLASSES))


def test_tasks_with_classes_of_their_own_share_the_first_outputs():
    """Two outputs are enough for three tasks of two classes each; others are at the floor."""
    learner = drive(learning_rate=0.005, num_outputs=2, classes_per_task=2)
    for number in range(TASKS):
        learn(learner, task_of(number), *(150 * [[40 * number + i for i in (0, 3, 21, 24)]]))
    for number in range(TASKS):
        names = [40 * number + i for i in (0, 3, 21, 24)]
        logits = logits_of(learner, names, task_of(number))
        np.testing.assert_array_equal(logits.argmax(1) - 2 * number, [0, 0, 1, 1])
        outside = np.arange(CLASSES) // 2 != number
        assert (logits[:, outside] == FLOOR).all()


def test_a_task_of_more_classes_than_outputs_stops_the_run():
    """The runner ends a run whose loss is not finite."""
    learner = drive(num_outputs=2, classes_per_task=2)
    task = task_of(0, (0, 1, 2))
    learner.begin(task, key=jax.random.key(0))
    assert np.isfinite(learner.step([0, 20, 1, 21])["loss"])
    assert np.isnan(learner.step([0, 20, 40, 21])["loss"])


# --- which task -----------------------------------------------------------------------------------


def identify_of(learner, inference="one_shot", objective="H"):
    """The function from (state, images, which count) to the number of a mask."""
    net, how = mlp(OUTPUTS, (16,)), {"inference": inference, "objective": objective}
    labels = most_labels if hasattr(learner.state, "classes") else lambda state, known: CLASSES
    return jax.jit(make_identify(net, flat_augment(), **how, num_labels=labels))


def in_groups(learner, names, *, convolutional=False):
    """The logits of images in the groups that evaluate makes, of a task that is not told."""
    predict, group = learner.fn("predict"), learner.method.needs.test_group
    return answers(predict, group, convolutional, learner.state, batch(names).x, HIDDEN)


def test_the_first_images_of_each_128_decide():
    """300 images: three groups, of which the last has 44; each is answered under its own mask."""
    names = np.arange(300) % 120
    assert drive().method.needs.test_group == TEST_GROUP == 128
    for probe_size in (1, 128):
        learner = three_tasks(probe_size=probe_size)
        identify, x = identify_of(learner), batch(names).x
        found, chosen = in_groups(learner, names), []
        for start, stop in [(0, 128), (128, 256), (256, 300)]:
            probe = x[start : min(start + probe_size, stop)]
            chosen.append(int(identify(learner.state, probe)))
            known = logits_of(learner, names[start:stop], shared_task(chosen[-1]))
            np.testing.assert_allclose(found[start:stop], known, rtol=1e-5, atol=1e-6)
    one = [int(identify(learner.state, x[i : i + 1])) for i in range(120)]
    assert len(set(one)) > 1, "every image is given to one task: the test above says little"


def test_rows_that_do_not_count_decide_nothing():
    learner = three_tasks()
    identify, x = identify_of(learner), batch(np.arange(120)).x
    valid = jnp.arange(2) < 1
    padded = [int(identify(learner.state, x[jnp.array([i, 119 - i])], valid)) for i in range(60)]
    assert padded == [int(identify(learner.state, x[i : i + 1])) for i in range(60)]


def test_networks_with_convolutions_answer_the_same_one_group_after_another():
    names, learner = np.arange(200) % 120, three_tasks()
    other = in_groups(learner, names, convolutional=True)
    np.testing.assert_allclose(in_groups(learner, names), other, rtol=1e-5, atol=1e-6)


def test_before_a_task_is_learned_the_mask_in_training_answers():
    learner = drive()
    learner.begin(shared_task(0), key=jax.random.key(5))
    before = logits_of(learner, [0, 30, 60], shared_task(0))
    learner.step([0, 20, 40, 60])
    after = logits_of(learner, [0, 30, 60], shared_task(0))
    assert not np.array_equal(before, after)
    np.testing.assert_array_equal(logits_of(learner, [0, 30, 60], HIDDEN), after)
    learner.end(shared_task(0), key=jax.random.key(5))
    np.testing.assert_array_equal(logits_of(learner, [0, 30, 60], shared_task(0)), after)


# --- tasks without an id --------------------------------------------------------------------------

FREE = {"name": "supsup_nns", "num_masks": 4, "num_compared": 2, "decide_every": 3}
ALWAYS, NEVER = {"new_bound": 1e6}, {"new_bound": 0.0}
NAMES = [0, 20, 40, 60]


def test_a_new_mask_every_few_steps_until_there_is_no_room():
    """K = 3: masks 0, 0, 0, 1, 1, 1, ...; after the fourth the best of the known ones."""
    learner, current = drive(**ALWAYS, **FREE), []
    for _ in range(12):
        learner.step(NAMES)
        current.append(int(learner.state.current))
    assert current == [0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 3]
    assert learner.state.num_masks == 4
    for names in ([5, 105, 85, 65], [7, 27, 47, 67], NAMES):
        best = int(identify_of(learner)(learner.state, batch(names).x))
        for _ in range(3):
            learner.step(names)
            assert learner.state.current == best
    assert learner.state.num_masks == 4


def test_one_mask_where_nothing_is_new():
    learner = drive(**NEVER, **FREE)
    for _ in range(8):
        learner.step(NAMES)
    assert (learner.state.num_masks, learner.state.current) == (1, 0)
    assert learner.method.needs.told_task is False


def test_a_slot_has_its_own_scores_and_optimizer_state_from_the_start():
    """Another slot's training does not touch it; what is stored is what is in training."""
    learner = drive(**ALWAYS, **FREE)
    new = learner.state.slots
    for _ in range(4):
        learner.step(NAMES)
    slots = learner.state.slots
    chex.assert_trees_all_equal(at(slots, 1), learner.state.scores)
    for untouched in (2, 3):
        chex.assert_trees_all_equal(at(slots, untouched), at(new, untouched))
    assert jax.tree.all(jax.tree.map(lambda leaf: (leaf == 0).all(), at(slots, 2).opt))
    # The first slot: three steps alone, as a task that was told would have made.
    alone = drive(**NEVER, **FREE)
    for _ in range(3):
        alone.step(NAMES)
    chex.assert_trees_all_equal(at(slots, 0), at(alone.state.slots, 0))
    for slot in range(4):
        scores = at(slots, slot).vars.params
        flat = jnp.concatenate([scores["fc1/kernel"].ravel(), scores["fc2/kernel"].ravel()])
        np.testing.assert_array_equal(unpack(learner.state.masks[slot], (320,)), flat >= 0)


def test_padding_and_trials_do_not_disturb_the_choice():
    learner = drive(**ALWAYS, **FREE)
    clean = batch(NAMES, 3)
    garbage = clean.replace(x=clean.x.at[3].set(255), y=clean.y.at[3].set(5))
    key = jax.random.key(0)
    one, two = (
        learner.fn("step", "train")(key, learner.state, examples) for examples in (clean, garbage)
    )
    chex.assert_trees_all_equal(one, two)
    empty, _ = learner.fn("step", "train")(key, learner.state, batch(NAMES, 0))
    assert empty.num_masks == 0
    trials, _ = jax.vmap(learner.fn("step", "train"), (0, None, None))(
        jnp.stack([key, key]), learner.state, clean
    )
    single = one[0]
    for trial in range(2):
        mine = jax.tree.map(lambda leaf, i=trial: leaf[i], trials)
        chex.assert_trees_all_close(mine, single, rtol=1e-4, atol=1e-5)
    assert jax.eval_shape(lambda: single) == jax.eval_shape(lambda: learner.state)


# --- wrong input ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("factory", "changes", "message"),
    [
        (supsup, {"num_outputs": 5}, r"num_outputs=5 is less than the 6 classes of a task"),
        (
            supsup,
            {"num_outputs": 2, "classes_per_task": 3},
            r"num_outputs=2 is less than the 3 classes",
        ),
        (supsup, {"classes_per_task": 1}, r"classes_per_task is 1; give a value at least 2"),
        (supsup, {"classes_per_task": 7}, r"classes_per_task is 7.*at most 6"),
        (supsup, {"probe_size": 0}, r"probe_size is 0"),
        (supsup, {"probe_size": 129}, r"probe_size is 129.*at most 128"),
        (supsup, {"density": 0}, r"density is 0"),
        (supsup, {"cosine_steps": -1}, r"cosine_steps is -1"),
        (supsup, {"objective": "J"}, r"objective is 'J'; use one of H, G"),
        (supsup, {"rule": "magnitude"}, r"rule is 'magnitude'; use one of threshold, edge_popup"),
        (supsup, {"num_masks": 2}, r"supsup has no argument 'num_masks'"),
        (supsup_nns, {"transfer": True}, r"supsup_nns has no argument 'transfer'"),
        (supsup_nns, {"num_masks": 0}, r"num_masks=0 leaves.*give at least 1"),
        (supsup_nns, {"num_outputs": 5}, r"num_outputs=5 is less than the 6 classes of a task"),
        (supsup_nns, {"probe_size": 129}, r"probe_size is 129.*at most 128"),
        (supsup_nns, {"decide_every": 0}, r"decide_every is 0"),
        (supsup_nns, {"num_compared": 1}, r"num_compared is 1"),
    ],
)
def test_wrong_input_is_refused(factory, changes, message):
    with pytest.raises(InputError, match=message):
        factory(small_problem(), **{"num_outputs": OUTPUTS, **changes})


def test_biases_and_what_is_no_kernel():
    """A kernel gets constants, a bias 0; BatchNorm's scale stays 1."""
    params = {"bn": {"scale": jnp.ones(3), "bias": jnp.ones(3)}, "fc": {"kernel": jnp.ones((2, 3))}}
    weights = frozen(jax.random.key(0), params)
    assert (weights["bn"]["scale"] == 1).all()
    assert (weights["bn"]["bias"] == 0).all()
    np.testing.assert_allclose(jnp.abs(weights["fc"]["kernel"]), 1)
    assert set(kernels(params)) == {"fc/kernel"}
