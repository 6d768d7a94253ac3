"""The methods learn what they must on scikit-learn's digits: real images, 5 tasks x 2 classes.

Margins lie well inside what five seeds gave; the numbers stand beside each test.
"""

from functools import cache

import pytest

from cls_jax.core.augment import recipe
from cls_jax.core.metrics import average_accuracy
from cls_jax.data.load import load
from cls_jax.methods import METHODS, signature
from cls_jax.methods.problem import Problem
from cls_jax.nets.registry import NetConfig, networks
from cls_jax.streams.class_il import class_il
from cls_jax.training.runner import run

pytestmark = pytest.mark.slow

TASKS, CLASSES = 5, 10


def scores(name, net, size, views, arguments, seeds, epochs):
    """Final (class-IL, task-IL) accuracy of each seed, float64[seeds, 2]."""
    source = load("digits", size=size)
    stream = class_il(source, tasks=TASKS, batch_size=10, epochs=epochs)
    augment = recipe((size, size, 3), normalisation="half", views=views, view_flip=False)
    method = METHODS[name](Problem(networks(net), augment, CLASSES, TASKS), **arguments)
    result = run(method, stream, seeds=seeds)
    return average_accuracy(result.matrix[:, 0, :, 1:])


AVERAGES = {
    "clser": {"stable_decay": 0.95, "plastic_decay": 0.9},
    "mean_er": {"ema_decay": 0.95},
}
"""A task has 87 steps: the published decays, 0.99, would average over more than that."""


REPLAY = {"memory_size": 100, "replay_size": 10}


@cache
def mlp_scores(name, dtype="float32"):
    """Three passes over each task of 287 examples, batches of 10, 8x8 pixels."""
    own = REPLAY if "memory_size" in signature(name).arguments else {}
    net, own = NetConfig(net="mlp", dtype=dtype), {**own, **AVERAGES.get(name, {})}
    return scores(name, net, 8, None, {**own, "learning_rate": 0.05}, (0, 1, 2), 3)


def test_sgd_forgets_all_tasks_but_the_last_and_not_how_to_tell_their_classes_apart():
    """Seeds 0-4: class-IL .194 to .217 (chance among tasks: .2), task-IL .871 to .980."""
    class_il_score, task_il_score = mlp_scores("sgd").T
    assert (class_il_score < 0.27).all()
    assert (task_il_score > 0.75).all()


def test_replay_beats_forgetting():
    """Seeds 0-4: class-IL of er .866 to .914, task-IL .980 to .997; sgd as above."""
    sgd, er = mlp_scores("sgd"), mlp_scores("er")
    assert (er[:, 0] > sgd[:, 0] + 0.4).all()
    assert (er[:, 1] > 0.95).all()


both_dtypes = pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
"""Of the compute; the thresholds are the same."""


@both_dtypes
@pytest.mark.parametrize("name", ["er", "clser"])
def test_a_perceptron_remembers_in_both_dtypes(name, dtype):
    """Seeds 0-4, class-IL: er .873 to .914 and .872 to .914, clser .917 to .939 and .922 to .942.

    Task-IL is .981 to 1 in all of them; sgd in bfloat16 .194 to .217 and .863 to .980.
    """
    class_il_score, task_il_score = mlp_scores(name, dtype).T
    assert class_il_score.min() > 0.8
    assert task_il_score.min() > 0.95


@both_dtypes
def test_a_resnet_remembers_in_both_dtypes(dtype):
    """One pass, width 4, 16x16 pixels; means of five seeds, since a run of one pass is chaotic.

    20 seeds: class-IL .842, deviation .041, task-IL .974, .010, and one seed's task-IL ends at .89
    or .96 by how a processor rounds. Class-IL of sgd at a rate of .05, two seeds: .189, .197.
    """
    net, own = NetConfig(width=4, dtype=dtype), {**REPLAY, "learning_rate": 0.03}
    class_il_score, task_il_score = scores("er", net, 16, None, own, range(5), 1).T
    assert class_il_score.mean() > 0.7
    assert task_il_score.mean() > 0.93


@pytest.mark.parametrize("name", ["clser", "mean_er"])
def test_averaged_copies_remember(name):
    sgd, averaged, er = mlp_scores("sgd"), mlp_scores(name), mlp_scores("er")
    assert (averaged[:, 0] > sgd[:, 0] + 0.4).all()
    assert averaged[:, 0].mean() > er[:, 0].mean() - 0.03, (averaged, er)


def test_joint_training_bounds_replay():
    """Seeds 0-4: class-IL of joint .939 to .975; joint - er .048 to .098, mean .077."""
    er, joint = mlp_scores("er")[:, 0], mlp_scores("joint")[:, 0]
    assert joint.mean() > er.mean() + 0.03
    assert joint.min() > 0.9


def test_sgd_forgets_the_main_job():
    """The stream of DualNet's quick preset, class-IL: .191 to .197 of seeds 0 to 3.

    Task-IL is no measure there: rounding decides it. Seed 0 ends at .626 on one kind of processor
    and at .947 on another, seed 1 at .725 and .764. What DualNet keeps
    tests/integration/test_scripts.py asserts where it runs the main job. Smaller pictures make a
    bad test: their last maps are single pixels, and rounding decides what a run becomes.
    """
    net = NetConfig(net="resnet18", width=8)
    assert scores("sgd", net, 32, "kornia050", {}, (0, 1), 1)[:, 0].max() < 0.27
