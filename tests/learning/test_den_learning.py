"""DEN on permuted digits: the card's small experiment, and what each part is good for.

Numbers of our runs stand beside each test; five permutations, 64-32 units, real scans.
"""

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from cls_jax.core.augment import recipe
from cls_jax.core.metrics import average_accuracy, forgetting
from cls_jax.core.types import Task
from cls_jax.data.load import load
from cls_jax.methods.architecture.den import den
from cls_jax.methods.problem import Problem
from cls_jax.nets.config import NetConfig
from cls_jax.nets.registry import networks
from cls_jax.streams.domain_il import permuted
from cls_jax.training.group import schedule_key
from cls_jax.training.runner import sweep

pytestmark = pytest.mark.slow

TASKS, CLASSES, START, ADDED = 5, 10, (64, 32), 10
ARGUMENTS = {
    "added_units": ADDED,
    "head_epochs": 9,
    "learning_rate": 2e-3,
    "annealing_rate": 1.0,
    "l1_weight": 5e-5,
    "head_l1_weight": 5e-4,
}


@cache
def parts():
    """The stream and the method; hyper-parameters are data of one program."""
    source = load("digits", size=8)
    stream = permuted(source, tasks=TASKS, batch_size=128, epochs=87)
    augment = recipe(source.train.x.shape[1:], normalisation="none")
    problem = Problem(networks(NetConfig(net="mlp", hidden=START)), augment, CLASSES, TASKS)
    return stream, den(problem, **ARGUMENTS)


@cache
def learned(**hyper):
    stream, method = parts()
    return sweep(method, stream, [hyper], seeds=(0,))[0]


def test_it_learns_five_permutations_and_forgets_none():
    """Seeds 0-2, task-IL: accuracy .979 to .981, forgetting .001 to .003."""
    stream, method = parts()
    result = learned()
    matrix = result.matrix[:, 0, 1, 1:]
    assert average_accuracy(matrix).min() >= 0.95
    assert forgetting(matrix).max() <= 0.02

    test, state = stream.source.test, result.states[0]
    context = stream.schedule(schedule_key(0), epochs=1).contexts
    every, predict = jnp.ones(CLASSES, bool), jax.jit(method.predict)
    for number in range(TASKS):
        x = stream.transform(jnp.asarray(test.x), context[number])
        outputs = predict(state, x, Task(jnp.int32(number), every, every))
        areas = [roc_auc_score(test.y == c, outputs[:, c]) for c in range(CLASSES)]
        assert np.mean(areas) > 0.99


def test_widths_grow_in_every_task_and_stay_below_the_cap():
    """Seed 0: 64, 75, 85, 95, 104 and 32, 40, 48, 58, 68; at most 20 units a task."""
    for n, start in enumerate(START):
        widths = learned().capacity[f"units of layer {n + 1}"][0]
        assert widths[0] == start
        assert (np.diff(widths) > 0).all()
        assert widths[-1] < start + 2 * ADDED * (TASKS - 1)
    assert (np.diff(learned().capacity["bits"][0]) > 0).all()
    assert not learned().capacity["refused units"].any()


def test_stamps_are_what_keeps_earlier_tasks():
    """The same networks asked without stamps, seeds 0-2: .873 to .905 against .979 to .981."""
    with_stamps, without = average_accuracy(learned().matrix[0, :, 1, 1:])
    assert without <= with_stamps - 0.05


def test_group_lasso_decides_how_many_units_stay():
    """Units of layer 2 at the end, seeds 0-2: 33 to 36 with 5e-3, 63 to 68 with 1e-3."""
    few, many = (
        r.capacity["units of layer 2"][0, -1] for r in (learned(group_weight=5e-3), learned())
    )
    assert few <= START[1] + 10
    assert many >= START[1] + 20
