"""A small DualNet over named pictures, driven by hand, and who was shown."""

from functools import cache

import numpy as np

from cls_jax.methods.base import hidden_task
from cls_jax.methods.cls.dualnet import dualnet
from tests.support.drive import CLASSES, Drive, batch, task_of
from tests.support.nets import flat_dualnets
from tests.support.problems import flat_augment, own_problem

TASKS, BATCH = 3, 4
SMALL = {"memory_size": 24, "replay_size": 6, "ssl_size": 5, "n_outer": 1, "inner_steps": 1}
FREE = {"task_aware": False}
LEARN = {"lookahead_step_size": 1.0, "ssl_learning_rate": 0.01}


def small_dualnet(*, unlabelled=False, **changes):
    """The method with these arguments; ``unlabelled`` is the problem's."""
    problem = own_problem(augment=flat_augment(), num_classes=CLASSES, dualnets=flat_dualnets)
    return dualnet(problem._replace(unlabelled=unlabelled), **{**SMALL, **LEARN, **changes})


def batch_of(task, names, **kind):
    """Examples with these names; classes alternate between the task's two."""
    names = np.asarray(names)
    return batch(names, y=2 * task + names % 2, task=task, **kind)


def drive(**changes):
    """It at the start; a step is given the task's number and names."""
    return Drive(small_dualnet(**changes), batch_of, (0, range(BATCH)))


def learn(learner, number, *batches):
    """A boundary and a step a batch; gives the last metrics."""
    learner.begin(task_of(number))
    return [learner.step(number, names) for names in batches][-1]


def answers(learner):
    """What ``predict`` says now of everything in memory."""
    return learner.predict(learner.state.memory.slots["x"], hidden_task(CLASSES))


def shown(before, after, kind="shown"):
    """{name: times} of the examples in training forwards between two states (step size 1)."""
    change = np.asarray(after.slow.vars.stats[kind] - before.slow.vars.stats[kind])
    return {int(name): round(float(change[name])) for name in np.flatnonzero(change)}


@cache
def in_second_task(**changes):
    """It with eight examples of task 0 and four of task 1, the state before, the last metrics."""
    learner = drive(**changes)
    learn(learner, 0, [0, 1, 2, 3], [4, 5, 6, 7])
    learner.begin(task_of(1))
    before = learner.state
    metrics = learner.step(1, [100, 101, 102, 103])
    return learner, before, metrics
