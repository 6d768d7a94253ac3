"""Co2L: whole steps of both phases against transcriptions in float64, rates, shares of classes."""

from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cls_jax.core.augment import Augment
from cls_jax.core.errors import InputError
from cls_jax.core.memory import reservoir
from cls_jax.core.types import Variables
from cls_jax.methods.prototypes.exemplars import mix_exemplars
from cls_jax.methods.replay.co2l import co2l
from cls_jax.methods.replay.co2l_rate import rate_of
from cls_jax.methods.replay.co2l_sampling import equal_shares, random_shares
from cls_jax.nets.base import Net
from tests.support.drive import CLASSES, Drive, label_of, made_batch, padded, task_of
from tests.support.nets import perceptron
from tests.support.problems import flat_augment, own_problem

HIDDEN, KEEP = 7, 0.9
SMALL = {
    "memory_size": 12,
    "replay_size": 6,
    "warmup_epochs": 1,
    "base_cosine_epochs": 8,
    "cosine_epochs": 4,
    "classifier_epochs": 3,
    "classifier_batch_size": 9,
    "classifier_decays": (2,),
    "learning_rate": 0.05,
    "warmup_learning_rate": 0.02,
    "classifier_learning_rate": 0.3,
    "momentum": 0.8,
    "weight_decay": 0.1,
    "distillation_weight": 0.7,
}
"""Rates and decay so large that every part of a step shows."""
FIRST, SECOND = np.arange(0, 40, 4), np.arange(40, 80, 2)  # names of classes 0, 1 and 2, 3

# --- whole steps, float64 -------------------------------------------------------------------------


@cache
def centred_net():
    """A perceptron whose features are centred, by the batch's mean or by a running one."""

    def init(key, x):
        keys = jax.random.split(key, 3)
        params = {
            "w": 0.8 * jax.random.normal(keys[0], (x.shape[1], HIDDEN), x.dtype),
            "b": 0.8 * jax.random.normal(keys[1], (HIDDEN,), x.dtype),
            "out": {
                "kernel": jax.random.normal(keys[2], (HIDDEN, CLASSES), x.dtype),
                "bias": jnp.zeros(CLASSES, x.dtype),
            },
        }
        return Variables(params=params, stats={"mean": jnp.full(HIDDEN, 0.2, x.dtype)})

    def features(vars, x, *, train, valid=None):
        h, mean = jnp.tanh(x @ vars.params["w"] + vars.params["b"]), vars.stats["mean"]
        if not train:
            return h - mean, vars.stats
        new = jnp.where(valid[:, None], h, 0).sum(0) / jnp.maximum(valid.sum(), 1)
        return h - new, {"mean": KEEP * mean + (1 - KEEP) * jax.lax.stop_gradient(new)}

    def apply(vars, x, *, train, valid=None):
        z, stats = features(vars, x, train=train, valid=valid)
        return z @ vars.params["out"]["kernel"] + vars.params["out"]["bias"], stats

    return Net(init, apply, features=features, head="out")


@cache
def wide_augment():
    """float64 pixels; views and training add noise."""

    def plain(x):
        return x.reshape(x.shape[0], -1).astype(jnp.float64) / 255

    def noisy(key, x, scale):
        return plain(x) + scale * jax.random.normal(key, plain(x).shape)

    def view(key, x, number):
        return noisy(key, x, jnp.where(number == 0, 0.2, 0.3))

    return Augment(train=partial(noisy, scale=0.1), test=plain, view=view)


class Learner(Drive):
    """Its steps are those of the first phase if nothing is said."""

    def step(self, *given, phase="contrast", **kind):
        return super().step(*given, phase=phase, **kind)


def driven(tasks=2, **changes):
    """Into the first phase of the last of some tasks; call it under x64."""
    kind = {"augment": wide_augment(), "num_classes": CLASSES, "dtype": "float64"}
    drive = Learner(co2l(own_problem(centred_net(), **kind), **{**SMALL, **changes}))
    drive.hyper = {name: jnp.float64(value) for name, value in drive.method.hyper.items()}
    for number, names in list(enumerate((FIRST, SECOND)))[:tasks]:
        drive.begin(task_of(number), padded(names))
        if number + 1 < tasks:
            drive.step(names[[0, 5, 1, 6]])
            drive.enter("classifier", task_of(number))
            drive.step(names[[0, 5, 1, 6]], phase="classifier")
            drive.end(task_of(number), padded(names))
    return drive


def projected(params, x, mean=None):
    """Unit vectors [n, 128], centred by this mean or by that of the rows."""
    encoder, head = params["encoder"], params["head"]
    h = jnp.tanh(x @ encoder["w"] + encoder["b"])
    h = h - (h.mean(0) if mean is None else mean)
    h = jnp.maximum(h @ head["hidden"]["kernel"] + head["hidden"]["bias"], 0)
    h = h @ head["out"]["kernel"] + head["out"]["bias"]
    return h / jnp.linalg.norm(h, axis=1, keepdims=True)


def official_contrast(features, labels, target_labels, temperature=0.5, base=0.07):
    """losses_negative_only.py, line by line; features [2b, d], labels [b]."""
    b = len(labels)
    mask = jnp.tile(1.0 * (labels[:, None] == labels[None]), (2, 2))
    logits = features @ features.T / temperature
    logits = logits - jax.lax.stop_gradient(logits.max(1, keepdims=True))
    logits_mask = 1 - jnp.eye(2 * b)
    mask = mask * logits_mask
    exp_logits = jnp.exp(logits) * logits_mask
    log_prob = logits - jnp.log(exp_logits.sum(1, keepdims=True))
    mean_log_prob_pos = (mask * log_prob).sum(1) / mask.sum(1)
    loss = -(temperature / base) * mean_log_prob_pos
    current = sum(1.0 * (labels == one) for one in target_labels)
    return (current * loss.reshape(2, b)).mean()


def without_diagonal(a):
    return a[~np.eye(len(a), dtype=bool)].reshape(len(a), -1)


def official_distillation(features, past_features, current_temp=0.2, past_temp=0.01):
    """main.py, IRD, line by line but for the shift, which cancels."""
    logits1 = jnp.exp(without_diagonal(features @ features.T) / current_temp)
    logits1 = logits1 / logits1.sum(1, keepdims=True)
    sim2 = without_diagonal(past_features @ past_features.T) / past_temp
    logits2 = jnp.exp(sim2 - sim2.max(1, keepdims=True))
    logits2 = logits2 / logits2.sum(1, keepdims=True)
    return (-logits2 * jnp.log(logits1)).sum(1).mean()


def shown(drive, key, given):
    """What the network sees of a step with this key: images in two views, labels."""
    keys, size = jax.random.split(key, 4), drive.state.counts.sum()
    mixed = mix_exemplars(keys[0], keys[1], drive.state.memory, given, size, 6)
    there = np.asarray(mixed.weight) > 0
    views = [wide_augment().view(keys[2 + number], mixed.x, number) for number in (0, 1)]
    return jnp.concatenate([view[there] for view in views]), np.asarray(mixed.y)[there]


def contrasted(drive, key, given, targets):
    """Loss, distillation, gradient, mean of the hidden layer and rows of a step, again."""
    x, y = shown(drive, key, given)
    taught = projected(drive.state.teacher.params, x)

    @jax.jit
    @partial(jax.value_and_grad, has_aux=True)
    def loss(params):
        z = projected(params, x)
        new, kept = official_contrast(z, y, targets), 0.0
        if min(targets) > 0:
            kept = official_distillation(z, taught)
        return new + 0.7 * kept, kept

    (value, kept), gradient = loss(drive.state.model.vars.params)
    h = jnp.tanh(x @ drive.params["encoder"]["w"] + drive.params["encoder"]["b"])
    return value, kept, gradient, h.mean(0), len(y)


def official_rate(epoch, batch_id, batches, epochs, later=4, high=0.05, first=0.02):
    """util.py; epoch from 1, one pass of warm-up."""

    def cosine(e, n):
        return high / 1000 + (high - high / 1000) * (1 + np.cos(np.pi * e / n)) / 2

    if epoch <= 1:
        return first + (batch_id + (epoch - 1) * batches) / batches * (cosine(1, later) - first)
    return cosine(epoch, epochs)


def descended(params, speed, gradient, rate):
    """After a step of torch.optim.SGD with momentum .8 and decay .1."""
    speed = jax.tree.map(lambda v, g, p: 0.8 * v + g + 0.1 * p, speed, gradient, params)
    return jax.tree.map(lambda p, v: p - rate * v, params, speed), speed


def close(found, expected):
    for one, other in zip(*map(jax.tree.leaves, (found, expected)), strict=True):
        np.testing.assert_allclose(
            one, other, rtol=1e-7, atol=1e-9
        )  # where a step stands in its warm-up is float32


@pytest.mark.more
def test_steps_of_the_first_phase_are_the_official_ones():
    """Of the first task and of the second, whose momentum is that of the first; a warm-up step and
    one on the cosine in each, of three and four rows."""
    with jax.enable_x64(True):
        drive, speed = driven(1), None
        for number, (names, epochs) in enumerate(((FIRST, 8), (SECOND, 4))):
            if number:
                drive.enter("classifier", task_of(0))
                drive.end(task_of(0), padded(FIRST))
                drive.begin(task_of(1), padded(SECOND))
            half, batches, replayed = len(names) // 2, -(-len(names) // 4), 0
            for at, (epoch, rows) in enumerate(((0, 3), (0, 4), (1, 4))):
                picks = names[[at, half + at, half + at + 1, at + 1]]
                expected, mean = drive.state.model.vars.params, drive.state.model.vars.stats["mean"]
                speed = jax.tree.map(jnp.zeros_like, expected) if speed is None else speed
                given = drive.batch(picks, rows)
                key = jax.random.key(drive.clock + 1)
                classes = [2 * number, 2 * number + 1]
                value, kept, gradient, new, seen = contrasted(drive, key, given, classes)
                replayed += seen - rows
                rate = official_rate(epoch + 1, at, batches, epochs)
                expected, speed = descended(expected, speed, gradient, rate)
                found = drive.step(picks, rows, epoch=epoch)
                close([found["loss"], found["distillation"]], [value, kept])
                assert (kept > 0.1) == (number > 0)
                close(drive.state.model.vars.params, expected)
                close(drive.state.model.vars.stats["mean"], KEEP * mean + (1 - KEEP) * new)
            assert (replayed > 0) == (number > 0)


@pytest.mark.more
@pytest.mark.parametrize("changes", [{}, {"objective": "symmetric"}])
@pytest.mark.parametrize("running", [False, True])
def test_the_choices_of_the_first_phase(changes, running):
    """Anchors of the task or all, and the teacher's statistics."""
    with jax.enable_x64(True):
        statistics = "running" if running else "batch"
        drive = driven(teacher_statistics=statistics, **changes)
        given, key = drive.batch(SECOND[[1, 11, 2, 12]]), jax.random.key(drive.clock + 1)
        anchors = [0, 1, 2, 3] if changes else [2, 3]
        x, y = shown(drive, key, given)
        assert (y < 2).any()
        teacher, params = drive.state.teacher, drive.state.model.vars.params
        taught = projected(teacher.params, x, teacher.stats["mean"] if running else None)
        z = projected(params, x)
        expected = official_contrast(z, y, anchors), official_distillation(z, taught)
        found = drive.step(SECOND[[1, 11, 2, 12]])
        close(
            [found["distillation"], found["loss"]], [expected[1], expected[0] + 0.7 * expected[1]]
        )


@pytest.mark.more
def test_the_control_is_cross_entropy_on_both_views():
    with jax.enable_x64(True):
        drive = driven(objective="cross_entropy")
        given, key = drive.batch(SECOND[[1, 11, 2, 12]]), jax.random.key(drive.clock + 1)
        (x, y), params = shown(drive, key, given), drive.state.model.vars.params
        h = jnp.tanh(x @ params["encoder"]["w"] + params["encoder"]["b"])
        z = ((h - h.mean(0)) @ params["head"]["kernel"] + params["head"]["bias"])[:, :4]
        p = np.exp(z) / np.exp(z).sum(1, keepdims=True)
        found = drive.step(SECOND[[1, 11, 2, 12]])
        close(found["loss"], -np.log(p[np.arange(2 * len(y)), np.tile(y, 2)]).mean())
        assert found["distillation"] == 0


def shares(drive, given):
    """Of each row of a batch and of the exemplars, by loops."""
    memory, counts = drive.state.memory, np.asarray(drive.state.counts)
    held = np.asarray(memory.slots["y"])[: int(memory.seen)]
    in_all = counts + np.bincount(held, minlength=CLASSES)
    of_batch = [float(v) / in_all[y] for y, v in zip(given.y, given.valid, strict=True)]
    of_task = sum(counts[c] / in_all[c] for c in range(CLASSES) if counts[c])
    scale = of_task / sum(of_batch)
    empty = [0.0] * (len(memory.slots["y"]) - len(held))
    return np.array([scale * one for one in of_batch] + [1 / in_all[y] for y in held] + empty)


@pytest.mark.more
def test_steps_of_the_second_phase_are_the_official_ones():
    """Rows by their chances, cross-entropy over the classes seen, the rate a fifth from pass 2; the
    encoder, as it answers, stays bit for bit, and the layer is a fresh one."""
    with jax.enable_x64(True):
        drive = driven()
        drive.step(SECOND[[1, 11, 2, 12]])
        before = drive.state.classifier.vars.params
        model = jax.tree.map(np.asarray, drive.state.model)
        drive.enter("classifier", task_of(1))
        expected = drive.state.classifier.vars.params
        assert (before["kernel"] != expected["kernel"]).all()
        speed = jax.tree.map(jnp.zeros_like, expected)
        params, mean = drive.params["encoder"], np.asarray(drive.state.model.vars.stats["mean"])
        drawn = []
        for epoch, rate, rows in ((0, 0.3, 4), (1, 0.3, 3), (2, 0.06, 4)):
            picks = SECOND[[epoch, 10 + epoch, 11 + epoch, epoch + 1]]
            given, keys = (
                drive.batch(picks, rows),
                jax.random.split(jax.random.key(drive.clock + 1)),
            )
            chance = shares(drive, given)
            row = np.asarray(jax.random.choice(keys[0], 16, (9,), p=jnp.float32(chance)))
            assert (chance[row] > 0).all()
            x, y = (
                np.concatenate([getattr(given, k), drive.state.memory.slots[k]])[row] for k in "xy"
            )
            drawn.extend(row)
            x = wide_augment().train(keys[1], jnp.asarray(x))
            u = np.tanh(np.asarray(x) @ params["w"] + params["b"]) - mean
            z = (u @ expected["kernel"] + expected["bias"])[:, :4]
            p = np.exp(z) / np.exp(z).sum(1, keepdims=True)
            slope = np.zeros((9, CLASSES))
            slope[:, :4] = (p - np.eye(4)[y]) / 9
            speed = {
                "kernel": 0.8 * speed["kernel"] + u.T @ slope,
                "bias": 0.8 * speed["bias"] + slope.sum(0),
            }
            expected = {name: expected[name] - rate * v for name, v in speed.items()}
            found = drive.step(picks, rows, epoch=epoch, phase="classifier")
            close(found["loss"], -np.log(p[np.arange(9), y]).mean())
            close(drive.state.classifier.vars.params, expected)
        assert min(drawn) < 4 <= max(drawn)
        jax.tree.map(np.testing.assert_array_equal, model, drive.state.model)
        x = drive.batch([3, 50, 77]).x
        u = np.tanh(np.asarray(wide_augment().test(x)) @ params["w"] + params["b"]) - mean
        logits = drive.predict(x, task_of(0))
        answer = u @ expected["kernel"] + expected["bias"]
        np.testing.assert_allclose(logits[:, :4], answer[:, :4], rtol=1e-5)
        assert (logits[:, 4:] < -1e8).all()


# --- rates and shares -----------------------------------------------------------------------------


def test_oracle_4_rates():
    """Of 500 and of 100 epochs; the warm-up of both ends on the cosine of the latter."""
    with jax.enable_x64(True):

        @jax.jit
        @partial(jax.vmap, in_axes=(0, 0, None))
        def rates(epoch, passes, epochs):
            return rate_of(epoch, passes, (0.01, 0.5), 10, (epochs, 100))

        passes = np.array([0.0, 5, 10, 10, 99, 499])
        epoch = np.array([0, 5, 9, 10, 99, 499])
        later, first = rates(epoch, passes, 100), rates(epoch, passes, 500)
        rising = [0.01, (0.01 + 0.4877763649) / 2, 0.4877763649]
        np.testing.assert_allclose(later[:5], [*rising, 0.4852349720, 0.0005], atol=1e-10)
        np.testing.assert_allclose(first[:4], [*rising, 0.4994037235], atol=1e-10)
        np.testing.assert_allclose(first[5], 0.0005, atol=1e-10)


def test_the_classifier_sees_each_class_equally_often():
    """4 and 2 images of classes 0 and 1 in the task, 3 exemplars of class 2; the padding and the
    empty slots are never drawn."""
    counts = jnp.array([4, 2, 0])
    valid, held = jnp.array([True, True, True, False]), jnp.arange(5) < 3
    y, old = jnp.array([0, 0, 1, 1]), jnp.array([2, 2, 2, 0, 0])
    found = jax.jit(equal_shares)(y, valid, counts, old, held)
    np.testing.assert_allclose(found, [0.5, 0.5, 1, 0, *[1 / 3] * 3, 0, 0], rtol=1e-6)


def test_oracle_7_exemplars_are_shared_out_among_the_classes_seen():
    """Of 200: 100, 50, 33 or 34 and 25 a class, always 200; the old ones stay a part of what they
    were, and the new ones are any of the task."""
    memory = reservoir(200).init({"x": jnp.zeros((1, 1)), "y": jnp.zeros(1, jnp.int32)})
    fill = jax.jit(partial(random_shares, num_classes=8))
    for task, (low, high) in enumerate(((100, 100), (50, 50), (33, 34), (25, 25))):
        names = 1000 * task + np.arange(240)
        y, valid = 2 * task + np.arange(240) % 2, np.arange(240) < 230
        before = set(np.asarray(memory.slots["x"])[: int(memory.seen), 0])
        memory = fill(jax.random.key(task), memory, made_batch(names[:, None], y, valid=valid))
        held, labels = np.asarray(memory.slots["x"])[:, 0], np.asarray(memory.slots["y"])
        assert int(memory.seen) == 200 == len(set(held))
        counts = np.bincount(labels)
        assert low <= counts.min() <= counts.max() <= high
        np.testing.assert_array_equal(labels, 2 * (held // 1000) + held % 1000 % 2)
        assert set(held[held < 1000 * task]) <= before
        new = held[held >= 1000 * task] - 1000 * task
        assert new.max() < 230
        assert new.max() - new.min() > 180, "not the first ones, nor the last"


def test_a_memory_that_is_not_full_holds_all_there_is():
    memory = reservoir(9).init({"x": jnp.zeros((1, 1)), "y": jnp.zeros(1, jnp.int32)})
    data = made_batch(np.arange(6)[:, None], [0, 1, 1, 1, 1, 0], valid=5)
    found = jax.jit(partial(random_shares, num_classes=2))(jax.random.key(0), memory, data)
    assert int(found.seen) == 5
    assert sorted(found.slots["x"][:5, 0].tolist()) == [0, 1, 2, 3, 4]


def test_the_upper_bound_has_all_examples_of_the_past():
    """And leaves the exemplars as they are."""
    problem = own_problem(perceptron(), augment=flat_augment(), num_classes=CLASSES)
    drive = Drive(co2l(problem, **SMALL, reference_size=40))
    for number, names in enumerate((FIRST, SECOND)):
        drive.begin(task_of(number), padded(names))
        drive.end(task_of(number), padded(names))
    reference = drive.state.reference
    held = np.asarray(reference.slots["x"])[: int(reference.seen), 0, 0, 0]
    assert sorted(held) == sorted([*FIRST, *SECOND])
    assert int(drive.state.memory.seen) == 12
    assert np.bincount(label_of(drive.held())).tolist() == [3] * 4


# --- bad input ------------------------------------------------------------------------------------


def test_what_cannot_be_is_said_before_anything_is_computed():
    def made(net=None, augment=None, **changes):
        kind = {"augment": augment or flat_augment(), "num_classes": CLASSES}
        return co2l(own_problem(net or perceptron(), **kind), **{**SMALL, **changes})

    low = "; give a value at least"
    for why, wrong in (
        ("memory_size=5 gives none of the 6 classes an exemplar", {"memory_size": 5}),
        ("replay_size=13 must be between 1 and the memory's 12", {"replay_size": 13}),
        (f"warmup_epochs is -1{low} 0", {"warmup_epochs": -1}),
        (f"base_cosine_epochs is 0{low} 1", {"base_cosine_epochs": 0}),
        (f"cosine_epochs is 0{low} 1", {"cosine_epochs": 0}),
        (f"classifier_epochs is 0{low} 1", {"classifier_epochs": 0}),
        (f"classifier_batch_size is 0{low} 1", {"classifier_batch_size": 0}),
        (f"reference_size is -1{low} 0", {"reference_size": -1}),
        ("classifier_decays is .3, 2.; give rising", {"classifier_decays": (3, 2)}),
        ("distillation_weight is -1.0", {"distillation_weight": -1.0}),
        ("objective is 'simclr'; use one of asymmetric", {"objective": "simclr"}),
        *(
            (f"{name} is {value}; give a value above 0", {name: value})
            for name in ("temperature", "base_temperature", "similarity_temperature")
            for value in (0.0, -0.5)
        ),
        ("teacher_temperature is 0.0; give a value above 0", {"teacher_temperature": 0.0}),
        ("net 'Net' names none; give its name", {"net": perceptron()._replace(head=None)}),
        ("these have none; give images", {"augment": flat_augment()._replace(view=None)}),
    ):
        with pytest.raises(InputError, match=why):
            made(**wrong)


def test_a_stream_shorter_than_the_warm_up_is_told():
    problem = own_problem(perceptron(), augment=flat_augment(), num_classes=CLASSES)
    method = co2l(problem, **{**SMALL, "warmup_epochs": 3})
    assert "warmup_epochs 3 takes all of 3 passes" in method.algorithm.advice(100, 3)
    assert method.algorithm.advice(100, 4) == ""
