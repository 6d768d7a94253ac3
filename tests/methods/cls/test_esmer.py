"""ESMER against the method card's oracles, and against the methods that it is without its parts."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cls_jax.core.augment import Augment
from cls_jax.core.errors import InputError
from cls_jax.core.losses import mean_over
from cls_jax.core.memory import reservoir
from cls_jax.core.types import Variables
from cls_jax.methods.base import hidden_task
from cls_jax.methods.cls.ema_teacher import copy_of, maybe_ema_update
from cls_jax.methods.cls.esmer import esmer, modulation, without_outliers
from cls_jax.methods.cls.mean_er import mean_er
from cls_jax.methods.replay.er import er
from cls_jax.nets.base import Net
from cls_jax.nets.mlp import mlp
from tests.support.drive import CLASSES, Drive, batch, made_batch
from tests.support.nets import normed_net, perceptron
from tests.support.oracle_weights import oracle_vars
from tests.support.problems import flat_augment, own_problem

PLAIN = Augment(train=lambda key, x: x, test=lambda x: x)
SIZES = {"memory_size": 4, "replay_size": 4}
NO_MARGIN = 1e9
"""A margin that no loss reaches."""


def built(factory=esmer, net=None, **arguments):
    """The method on a small perceptron or ``net``; every draw is of the whole memory."""
    problem = own_problem(net or perceptron(), augment=flat_augment(), num_classes=CLASSES)
    return factory(problem, **{**SIZES, **arguments})


def drive(**arguments):
    return Drive(built(**arguments))


def params(tree):
    return tree.vars.params


# --- oracles of the card --------------------------------------------------------------------------

ERRORS = jnp.array([0.5, 0.95, 1, 1.2, 2, 4])


@pytest.mark.parametrize(
    ("margin", "weights", "admitted"),
    [
        (1.2, [1, 1, 1, 1 / 1.2, 0.5, 0.25], "111100"),
        (0.9, [1, 1 / 0.95, 1, 1 / 1.2, 0.5, 0.25], "100000"),
        (2.5, [1, 1, 1, 1, 1, 0.25], "111110"),
    ],
)
def test_oracle_1_weights_and_admission(margin, weights, admitted):
    weight, may = modulation(ERRORS, jnp.float32(1), jnp.float32(margin))
    np.testing.assert_allclose(weight, weights, rtol=1e-6)
    assert "".join(str(int(one)) for one in may) == admitted
    if margin == 1.2:
        np.testing.assert_allclose(mean_over(weight, may | True), 0.7638888889, rtol=1e-6)


def test_oracle_1_without_an_error_memory_all_weigh_one():
    weight, may = modulation(ERRORS, jnp.float32(0), jnp.float32(1.2))
    np.testing.assert_array_equal(weight, 1)
    assert may.all()


@pytest.mark.parametrize("error", [0.0, np.inf])
def test_no_loss_makes_a_weight_that_is_not_finite(error):
    weight, _ = modulation(jnp.full(2, error), jnp.float32(1), jnp.float32(0))
    assert jnp.isfinite(weight).all()


@pytest.mark.parametrize(
    ("errors", "mean"), [([1.0, 3, 4], 2.6666666667), ([1.0, 1, 2, 3], 1.3333333333)]
)
@pytest.mark.parametrize("padding", [0, 3])
def test_oracle_2_outliers_by_the_unbiased_deviation(errors, mean, padding):
    """The limits are 4.1941918983, which keeps 4, and 2.7074271078, which leaves 3 out."""
    valid = np.arange(len(errors) + padding) < len(errors)
    padded = jnp.array(errors + [np.nan] * padding)
    keep = without_outliers(padded, jnp.asarray(valid), jnp.float32(1))
    np.testing.assert_allclose(mean_over(padded, keep), mean, rtol=1e-6)


@pytest.mark.parametrize("number", [0, 1])
def test_fewer_than_two_rows_are_all_kept(number):
    valid = jnp.arange(3) < number
    keep = without_outliers(jnp.array([7.0, 1, 2]), valid, jnp.float32(0))
    np.testing.assert_array_equal(keep, valid)


def told(**arguments):
    """Drives a method on a network that answers x, so that the batch itself says what it costs.

    Of two classes, x = (log(e^l - 1), 0) costs l as class 1.
    """

    def apply(vars, x, *, train, valid=None):
        return x + 0.0 * vars.params["w"], {}

    net = Net(lambda key, x: Variables(params={"w": jnp.zeros(2)}, stats={}), apply)
    problem = own_problem(net, augment=PLAIN, num_classes=2)

    def examples(losses, **kind):
        x = np.array([[np.log(np.expm1(loss)), 0] for loss in losses], np.float32)
        return made_batch(x, [1] * len(losses), **kind)

    return Drive(esmer(problem, **{**SIZES, **arguments}), examples, ([1.0],))


def mu_after(learner, losses, number):
    """The error memory after steps of one example each, the first of which is ``number``."""
    learner.state = learner.state.replace(step=jnp.int32(number - 1))
    return [float(learner.step([loss])["mu"]) for loss in losses]


@pytest.mark.parametrize(
    ("clock", "expected"),
    [("steps", [0.3333333333, 0.4285714286, 0.4375]), ("updates", [2, 1.5, 1.1666666667])],
)
def test_oracle_3_the_error_memory_starts_at_zero(clock, expected):
    found = mu_after(told(mean_warmup=clock), [2, 1, 0.5], 5)
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_oracle_3_after_a_warm_up_it_is_too_small_for_long():
    """Of a constant loss of 1: a mean of all steps without a warm-up, and after 312 steps of it."""
    found = mu_after(told(), [1] * 99, 1)
    np.testing.assert_allclose(np.array(found)[[0, 1, 2, 98]], [0.5, 2 / 3, 0.75, 0.99], rtol=1e-5)
    found = np.array(mu_after(told(), [1] * 179, 313))
    expected = [0.01, 0.0199, 0.6339676587]
    np.testing.assert_allclose(found[[0, 1, 99]], expected, rtol=1e-4)
    for margin, updates in ((1.2, 179), (1.5, 110), (2.5, 51), (3, 41)):
        assert margin * found[updates - 2] < 1 <= margin * found[updates - 1]


def test_a_mean_that_is_not_finite_is_skipped():
    learner = told()
    mu_after(learner, [2], 1)
    before, (x, y) = learner.state, (jnp.array([[jnp.inf, 0]]), [1])
    after, _ = learner.fn("step", "train")(jax.random.key(0), before, made_batch(x, y))
    assert (float(after.mu), int(after.mu_updates)) == (float(before.mu), 1)


def test_oracle_4_the_cap_of_the_copy():
    """Weights 1, 2, 3 from 0, cap .6."""
    copy = copy_of(Variables(params=jnp.zeros(()), stats={}))
    for n, value in enumerate((0.5, 1.1, 1.86), start=1):
        rule = {"rate": 1.0, "decay": 0.6, "ema_bn": "own", "warmup": "steps"}
        weights = Variables(params=jnp.float32(n), stats={})
        copy = maybe_ema_update(jax.random.key(n), copy, weights, jnp.int32(n), **rule)
        np.testing.assert_allclose(copy.vars.params, value, rtol=1e-6)


def test_oracle_4_the_reservoir_numbers_admitted_offers_alone():
    """Offers 0 to 11 in threes, masks 101, 000, 110, 011."""
    policy, admitted, seen = reservoir(2), [], []
    memory = policy.init({"y": jnp.arange(3)})
    for number, mask in enumerate(([1, 0, 1], [0, 0, 0], [1, 1, 0], [0, 1, 1])):
        offers, mask = 3 * number + jnp.arange(3), jnp.array(mask, bool)
        memory = policy.add(jax.random.key(number), memory, {"y": offers}, mask)
        admitted += offers[mask].tolist()
        seen.append(int(memory.seen))
        assert set(memory.slots["y"].tolist()) <= set(admitted)
        if number < 2:
            assert memory.slots["y"].tolist() == [0, 2]
    assert seen == [2, 2, 4, 6]


ORACLE_5 = {
    0: (
        [1.2001425279, 1.6040163799, 1.8105551817, 1.9211381965, 1.9409504814],
        [0.4738724098, 0.7653779629, 0.9580438738, 1.0134567796, 1.0649253219],
        [6, 6, 7, 7, 7],
        [7.6052927442, 7.5594831346, 7.4852856941, 7.4744228959, 7.4732356290],
        [7.6194295740, 7.5994474275, 7.5709069941, 7.5516101745, 7.5385477502],
    ),
    1: (
        [1.2001425279, 1.5852379326, 1.9489139784, 2.1469809496, 2.1876697198],
        [0, 0.4494630231, 0.7212503760, 0.8241657745, 0.9080754821],
        [0, 6, 6, 6, 6],
        [7.6052927442, 7.5267852884, 7.4382102453, 7.3516774165, 7.2770456491],
        [7.6194295740, 7.5885481455, 7.5509636704, 7.5111064196, 7.4720962912],
    ),
}
"""Warm-up -> of each step the loss, mu, what is stored, and sums over both networks; two rows of
padding stand behind the six examples of a batch."""


def five_steps(warmup_epochs, skip_class_zero):
    """As ORACLE_5, from the official class and a NumPy version; the first step is epoch 0."""
    with jax.enable_x64(True):
        net = mlp(3, (5,), dtype="float64")
        start = oracle_vars(jax.eval_shape(net.init, jax.random.key(0), jnp.zeros((1, 4))))
        problem = own_problem(net._replace(init=lambda key, x: start), augment=PLAIN, num_classes=3)
        method = esmer(
            problem,
            memory_size=64,
            replay_size=64,
            warmup_epochs=warmup_epochs,
            skip_class_zero=skip_class_zero,
            learning_rate=0.1,
            consistency_weight=0.5,
            stable_rate=1.0,
            stable_decay=0.999,
            loss_margin=1.0,
        )
        method = method.at(jax.tree.map(jnp.float64, method.hyper))
        found, i = [], np.arange(24)
        for t in range(5):
            x = np.full((8, 4), 100.0)
            x[:6] = (((7 * i + 3 * t) % 11 - 5) / 4).reshape(6, 4)
            y = (np.arange(8) + t) % 3
            examples = made_batch(x, y, valid=6, epoch=int(t > 0))
            if t == 0:
                state = method.init(jax.random.key(0), examples)
            state, metrics = method.step(jax.random.key(t), state, examples)
            sums = [
                sum(float(leaf.sum()) for leaf in jax.tree.leaves(params(tree)))
                for tree in (state.working, state.stable)
            ]
            found.append([metrics["loss"], state.mu, int(state.memory.seen), *sums])
    return np.array(found, np.float64).T


@pytest.mark.parametrize("warmup_epochs", [1, pytest.param(0, marks=pytest.mark.more)])
def test_oracle_5_five_whole_steps_as_released(warmup_epochs):
    found = five_steps(warmup_epochs, skip_class_zero=True)
    np.testing.assert_allclose(found, ORACLE_5[warmup_epochs], atol=1e-9)


def test_oracle_5_five_whole_steps_that_store_class_0():
    """Steps 4 and 5 admit one example of class 0 each; only step 5 has seen the first of them."""
    expected = np.array(ORACLE_5[0])
    expected[2] = [6, 6, 7, 8, 9]
    expected[[0, 3, 4], 4] = [1.9473758512, 7.4739208690, 7.5386619569]
    np.testing.assert_allclose(five_steps(0, skip_class_zero=False), expected, atol=1e-9)


STREAM = ([0, 21, 41, 62], [80, 1, 22, 101], [2, 42, 63, 102], [81, 23, 3, 43])


def after_three(**arguments):
    """Three steps in, with a full memory; the method's next step on the fourth batch."""
    learner = drive(**arguments)
    for names in STREAM[:3]:
        learner.step(names)
    return learner


@pytest.mark.parametrize("weight", [0.0, 0.8])
def test_oracle_6_without_a_margin_it_is_mean_er_with_added_means(weight):
    """Stream and replay are equally many, so the sum of two means is twice Mean-ER's one."""
    rule = {"stable_rate": 1.0, "loss_margin": NO_MARGIN, "learning_rate": 0.05}
    learner = after_three(**rule, consistency_weight=weight)
    mine = learner.state
    other = drive(factory=mean_er, learning_rate=0.1, consistency_weight=weight / 2, ema_rate=1.0)
    theirs = other.state.replace(
        working=mine.working, stable=mine.stable, memory=mine.memory, step=mine.step
    )
    key, examples = jax.random.key(9), batch(STREAM[3])
    after, metrics = learner.fn("step", "train")(key, mine, examples)
    expected, half = other.fn("step", "train")(key, theirs, examples)
    np.testing.assert_allclose(metrics["loss"], 2 * half["loss"], rtol=1e-5)
    for tree in ("working", "stable"):
        pair = params(getattr(after, tree)), params(getattr(expected, tree))
        chex.assert_trees_all_close(*pair, rtol=1e-5, atol=1e-6)
    assert int(after.memory.seen) == 16


def test_oracle_6_without_consistency_it_is_er_with_added_means():
    learner = after_three(loss_margin=NO_MARGIN, learning_rate=0.05, consistency_weight=0.0)
    other = drive(factory=er, learning_rate=0.1)
    theirs = other.state.replace(model=learner.state.working, memory=learner.state.memory)
    key, examples = jax.random.key(9), batch(STREAM[3])
    after, _ = learner.fn("step", "train")(key, learner.state, examples)
    expected, _ = other.fn("step", "train")(key, theirs, examples)
    chex.assert_trees_all_close(params(after.working), params(expected.model), rtol=1e-5, atol=1e-6)


def test_oracle_6_a_rate_of_zero_never_moves_the_copy():
    learner = drive(stable_rate=0.0)
    start = params(learner.state.stable)
    for names in STREAM:
        learner.step(names)
    chex.assert_trees_all_equal(params(learner.state.stable), start)
    assert int(learner.state.stable.updates) == 0


@pytest.mark.parametrize(("skip", "stored"), [(True, 0), (False, 4)])
def test_oracle_6_a_batch_of_class_0_alone(skip, stored):
    learner = drive(skip_class_zero=skip, loss_margin=NO_MARGIN)
    learner.step([0, 1, 2, 3])
    assert int(learner.state.memory.seen) == stored
    learner.step([4, 21, 5, 6])
    assert int(learner.state.memory.seen) == stored + 4


# --- the rest of a step ---------------------------------------------------------------------------


def test_in_a_warm_up_nothing_is_stored_and_the_error_memory_stays():
    """Of every task, not of the first alone; its weights stay on."""
    learner = drive(warmup_epochs=1, loss_margin=NO_MARGIN)
    for epoch, seen, updates in ((0, 0, 0), (1, 4, 1), (0, 4, 1), (1, 8, 2)):
        metrics = learner.step(STREAM[0], epoch=epoch)
        assert (int(learner.state.memory.seen), int(learner.state.mu_updates)) == (seen, updates)
        assert metrics["admitted"] == epoch


def test_metrics_tell_what_the_margin_did():
    """Losses .5 to 4 at mu = 1: the card's weights."""
    learner = told()
    learner.state = learner.state.replace(mu=jnp.float32(1))
    metrics = learner.step(np.asarray(ERRORS).tolist())
    np.testing.assert_allclose(metrics["weight"], 0.7638888889, rtol=1e-5)
    np.testing.assert_allclose(metrics["admitted"], 4 / 6, rtol=1e-6)
    assert int(learner.state.memory.seen) == 4


def test_a_batch_of_padding_moves_no_network_memory_or_mean():
    learner = after_three()
    before = learner.state.replace(memory=jax.tree.map(jnp.zeros_like, learner.state.memory))
    padding = batch(STREAM[3], num_valid=0)
    after, metrics = learner.fn("step", "train")(jax.random.key(0), before, padding)
    assert metrics["loss"] == 0
    chex.assert_trees_all_equal(params(after.working), params(before.working))
    chex.assert_trees_all_equal(after.memory, before.memory)
    assert (float(after.mu), int(after.mu_updates)) == (float(before.mu), 3)


@pytest.mark.parametrize("ema_bn", ["own", "copy"])
def test_each_network_is_normalised_by_stream_and_then_by_replay(ema_bn):
    """Before the first update both are equal, so their own statistics are too, bit for bit."""
    learner = drive(net=normed_net(CLASSES), ema_bn=ema_bn, stable_rate=0.0)
    start = learner.state.stable.vars.stats
    learner.step(STREAM[0])
    working, stable = learner.state.working.vars.stats, learner.state.stable.vars.stats
    if ema_bn == "own":
        chex.assert_trees_all_close(stable, working, rtol=1e-6)
    else:
        chex.assert_trees_all_equal(stable, start)
    assert any((a != b).any() for a, b in zip(*map(jax.tree.leaves, (working, start)), strict=True))


def test_the_stable_copy_answers_and_the_working_network_is_a_view():
    learner = after_three(stable_rate=1.0)
    x, task, state = batch([4, 24, 44]).x, hidden_task(CLASSES), learner.state
    answers = [learner.method.predict, learner.method.views["working"]]
    for predict, tree in zip(answers, (state.stable, state.working), strict=True):
        expected, _ = perceptron().apply(tree.vars, flat_augment().test(x), train=False)
        np.testing.assert_allclose(predict(state, x, task), expected, rtol=1e-5)
    assert not np.allclose(*(predict(state, x, task) for predict in answers))


# --- what is told and refused ---------------------------------------------------------------------


def test_a_stream_that_would_leave_nothing_to_replay_is_told():
    assert built().advice(1_000, 1) == ""
    warned = "warmup_epochs 1 leaves nothing of 1 passes over a task: nothing will be stored"
    assert warned in built(warmup_epochs=1).advice(1_000, 1)
    assert built(warmup_epochs=1).advice(1_000, 2) == ""


def test_a_stream_too_short_for_the_copy_is_told():
    published = {"stable_rate": 0.1, "stable_decay": 0.999}
    assert built(**published).advice(78_000, 50) == ""
    assert "stable_rate 0.1 and stable_decay 0.999" in built(**published).advice(1_560, 1)
    assert built(**published, warmup="updates").advice(1_560, 1) == ""


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"replay_size": 5}, "replay_size=5 must be between 1 and the memory's 4"),
        ({"warmup_epochs": -1}, "warmup_epochs is -1; give a value at least 0"),
        ({"mean_warmup": "never"}, "mean_warmup is 'never'; use one of steps, updates"),
        ({"error_decay": 1.0}, "error_decay is 1.0; give a value at least 0 and below 1"),
        ({"loss_margin": -0.5}, "loss_margin is -0.5; give a value at least 0"),
        ({"std_margin": float("inf")}, "std_margin is inf; give a finite number"),
    ],
)
def test_bad_values_are_refused(change, sentence):
    with pytest.raises(InputError, match=sentence):
        built(**change)
