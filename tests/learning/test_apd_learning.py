"""APD learns: five symmetries of the digits in orders of their own, beside the shared baselines.

The small experiment of the card, with an order and weights drawn for each of five seeds, which run
side by side in one program.
"""

from functools import cache

import numpy as np
import pytest

from cls_jax.core.augment import recipe
from cls_jax.core.metrics import average_accuracy, by_given_task, forgetting, order_disparity
from cls_jax.data.load import load
from cls_jax.methods import METHODS
from cls_jax.methods.problem import Problem
from cls_jax.nets.registry import NetConfig, networks
from cls_jax.streams.domain_il import dihedral
from cls_jax.streams.task_order import in_order, order_of
from cls_jax.training.group import schedule_key
from cls_jax.training.runner import sweep

pytestmark = pytest.mark.slow

SEEDS = (0, 1, 2, 3, 4)


def learned(name, arguments, hypers, seeds):
    """One Result for each mapping of hyper-parameters."""
    source = load("digits", size=8)
    stream = in_order(dihedral(source, batch_size=100, epochs=27), "shuffled")
    augment = recipe(source.train.x.shape[1:], normalisation="none")
    net = networks(NetConfig(net="mlp", hidden=(64, 32)))
    problem = Problem(net, augment, stream.num_classes, stream.num_tasks)
    method = METHODS[name](problem, annealing_steps=20, annealing_rate=0.85, **arguments)
    return sweep(method, stream, hypers, seeds=seeds)


def numbers(result):
    """Accuracy, AOPD, and forgetting with the task told, over the seeds as orders."""
    matrix = result.matrix[:, 0, 1, 1:]
    orders = np.stack([order_of(schedule_key(seed), "shuffled", 5) for seed in result.seeds])
    disparity = order_disparity(by_given_task(matrix[:, -1], orders))
    return average_accuracy(matrix).mean(), disparity.average, forgetting(matrix).mean()


@cache
def apd_and_without_drift():
    """With the drift term, and without it."""
    hypers = [{"sparsity_weight": 1e-3, "drift_weight": weight} for weight in (100.0, 0.0)]
    return [numbers(r) for r in learned("apd", {"consolidate_every": 0}, hypers, SEEDS)]


def test_apd_forgets_nothing_and_depends_little_on_the_order():
    """Card, section 10: accuracy at least .91, AOPD at most 6 points, forgetting at most .01."""
    accuracy, disparity, forgotten = apd_and_without_drift()[0]
    assert accuracy >= 0.91
    assert disparity <= 0.06
    assert forgotten <= 0.01


def test_without_the_drift_term_it_forgets():
    """Card: .511 and 62.6 points."""
    accuracy, disparity, forgotten = apd_and_without_drift()[1]
    assert accuracy < 0.7
    assert disparity > 0.3
    assert forgotten > 0.3


def test_no_pull_on_shared_weights_does_as_well():
    """Card: the best of fine-tuning and L2-transfer has an AOPD of at least 20 points."""
    weights = [{"penalty_weight": weight} for weight in (0.0, 0.1, 1.0, 10.0)]
    found = [numbers(result) for result in learned("l2_transfer", {}, weights, SEEDS)]
    assert min(disparity for _, disparity, _ in found) >= 0.2
    assert max(accuracy for accuracy, _, _ in found) < apd_and_without_drift()[0][0] - 0.1


def test_capacity_falls_with_sparsity_and_with_what_counts_as_agreement():
    """KiB after five tasks and a consolidation; capacity grows with every task until then."""
    sparsity, gaps = (5e-4, 1e-3, 2e-3, 4e-3), (0.01, 0.03, 0.1)
    hypers = [{"sparsity_weight": weight} for weight in sparsity]
    hypers += [{"sparsity_weight": 1e-3, "agreement_gap": gap} for gap in gaps]
    every = learned("apd", {"consolidate_every": 5, "clusters": 2}, hypers, (0,))
    kept = [result.capacity["bits"][0] / 8192 for result in every]
    last = [bits[-1] for bits in kept]
    assert (np.diff(last[:4]) < 0).all(), last
    assert (np.diff(last[4:]) < 0).all(), last
    for bits in kept:
        assert (np.diff(bits[:4]) > 0).all()
