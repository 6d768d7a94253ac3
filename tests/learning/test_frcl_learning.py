"""FRCL on digits, the setting of the card's section 10, which says what may be asserted.

Five binary tasks, MLP 64-32-32, Adam 2e-3, 30 epochs, seeds 0-4. Task-IL accuracy in the mean: two
points a task .77 at random and .96 by the trace, ten points .99 by the trace; replay of as many
labelled images .97.
"""

from functools import cache

import numpy as np
import pytest

import cls_jax as cls
from cls_jax.core.metrics import average_accuracy

pytestmark = pytest.mark.slow


@cache
def digits():
    """8x8 scans of one channel."""
    whole = cls.load_data("digits", size=8)
    parts = [(part.x[..., :1], part.y) for part in (whole.train, whole.test)]
    return cls.Dataset("digits", *(cls.Split(*part) for part in parts), whole.label_names)


@cache
def stream():
    return cls.class_il(digits(), tasks=5, batch_size=64, epochs=30, class_order="label")


def problem(**words):
    return cls.problem(stream(), net="mlp", hidden=(32, 32), normalisation="none", **words)


def accuracy(method):
    """Task-IL accuracy after the last task, of each of five seeds."""
    return average_accuracy(cls.train(method, stream(), seeds=range(5)).runs[0].matrix[:, 0, 1, 1:])


@cache
def by(points, criterion):
    method = cls.frcl(
        problem(),
        points_per_task=points,
        criterion=criterion,
        classes_per_task=2,
        learning_rate=2e-3,
    )
    return accuracy(method)


def test_few_points_must_be_chosen():
    assert (by(2, "trace") - by(2, "random")).mean() > 0.1


def test_ten_points_are_worth_their_labels_in_replay():
    replay = cls.er(
        problem(optimizer="adam"),
        memory_size=50,
        replay_size=50,
        own_classes=True,
        learning_rate=2e-3,
    )
    assert (by(10, "trace") - accuracy(replay)).mean() >= 0


def test_an_online_learner_finds_where_a_task_ends():
    """Permuted digits: at the true ends alone two batches differ beyond chance."""
    train, draw = digits().train, np.random.default_rng(0)
    open_stream = cls.open_stream((8, 8, 1), num_classes=10, num_tasks=3, batch_size=50)
    made = cls.problem(open_stream, net="mlp", hidden=(32, 32), normalisation="none")
    method = cls.frcl(made, points_per_task=20, task_size=len(train.y), learning_rate=2e-3)
    learner, last, found = cls.online(method, open_stream), None, {True: [], False: []}
    flat, orders = train.x.reshape(-1, 64), [draw.permutation(64) for _ in range(3)]
    domains = [flat[:, order].reshape(train.x.shape) for order in orders]
    for task, x in enumerate(domains):
        for number in range(120):
            new = draw.choice(len(x), 50, replace=False)
            if last is not None and number % 20 == 0:
                model = learner.snapshot()
                of = [cls.prior_divergence(model.method, model.state, a) for a in (last, x[new])]
                found[number == 0].append(float(cls.boundary_p_value(*of)))
            if number == 0:
                if task:
                    learner.end_task(data=(domains[task - 1], train.y))
                learner.begin_task(range(10))
            learner.observe(x[new], train.y[new])
            last = x[new]
    assert len(found[True]) == 2
    assert max(found[True]) < 1e-6
    assert min(found[False]) > 1e-3
