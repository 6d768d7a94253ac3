"""A small DualNet over named pictures, driven by hand: boundaries, steps, and who was shown."""

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np

from cls_jax.core.types import Batch, Task
from cls_jax.methods.cls.dualnet import dualnet
from tests.support.flat_nets import flat_augment, flat_dualnets
from tests.support.problems import own_problem

TASKS, CLASSES, BATCH = 3, 6, 4
SMALL = {"memory_size": 24, "replay_size": 6, "ssl_size": 5, "n_outer": 1, "inner_steps": 1}
FREE = {"task_aware": False}
LEARN = {"lookahead_step_size": 1.0, "ssl_learning_rate": 0.01}


@cache
def built(**changes):
    """(method, {"init", "step", "begin", "predict"} compiled) with these arguments."""
    sizes = {"num_classes": CLASSES, "num_tasks": TASKS}
    problem = own_problem(augment=flat_augment(), dualnets=flat_dualnets, **sizes)
    method = dualnet(problem, **{**SMALL, **LEARN, **changes})
    parts = {"init": method.init, "step": method.phases[0].step}
    parts |= {"begin": method.begin_task, "predict": method.predict}
    return method, {name: jax.jit(fn) for name, fn in parts.items()}


def pictures(names):
    """uint8[n, 2, 2, 3]: the first number of each is its name, the others follow from it."""
    names = np.asarray(names)
    x = np.stack([np.random.default_rng(n).integers(0, 256, 12, np.uint8) for n in names])
    x[:, 0] = names
    return jnp.asarray(x.reshape(-1, 2, 2, 3))


def batch(task, names, *, told=True, labelled=None):
    """Examples with these names; classes alternate between the task's two."""
    names = np.asarray(names)
    yes = jnp.ones(names.size, bool)
    return Batch(
        x=pictures(names),
        y=jnp.asarray(2 * task + names % 2, jnp.int32),
        task=jnp.full(names.size, task if told else -1, jnp.int32),
        valid=yes,
        labelled=yes if labelled is None else jnp.asarray(labelled),
    )


def task_of(number, *, told=True):
    """The Task that the runner passes at a boundary."""
    classes = np.arange(CLASSES) // 2
    every = jnp.ones(CLASSES, bool)
    return Task(
        index=jnp.int32(number if told else -1),
        classes=jnp.asarray(classes == number) if told else every,
        seen=jnp.asarray(classes <= number) if told else every,
    )


class Learner:
    """A state and the compiled functions that move it on."""

    def __init__(self, **changes):
        self.method, self.parts = built(**changes)
        self.told = self.method.needs.told_task
        example = batch(0, range(BATCH), told=self.told)
        self.state = self.parts["init"](jax.random.key(0), example)
        self.clock = 0

    def begin(self, task):
        """A boundary; gives the state before it."""
        before, self.clock = self.state, self.clock + 1
        key, told = jax.random.key(self.clock), task_of(task, told=self.told)
        self.state = self.parts["begin"](key, before, told, None)
        return before

    def step(self, task, names, **kind):
        """A training step; gives its metrics."""
        self.clock += 1
        examples = batch(task, names, told=self.told, **kind)
        key = jax.random.key(self.clock)
        self.state, metrics = self.parts["step"](key, self.state, examples)
        return metrics

    def task(self, number, *batches):
        """A boundary and a step a batch; gives the last metrics."""
        self.begin(number)
        return [self.step(number, names) for names in batches][-1]

    def slots(self, leaf):
        """A leaf of the memory."""
        return np.asarray(self.state.memory.slots[leaf])

    def held(self):
        """The names in memory, one a slot."""
        return self.slots("x")[:, 0, 0, 0]

    def logits(self):
        """What ``predict`` says now of everything in memory."""
        x, task = self.state.memory.slots["x"], task_of(0, told=False)
        return np.asarray(self.parts["predict"](self.state, x, task))


def shown(before, after, kind="shown"):
    """{name: times} of the examples in training forwards between two states (step size 1)."""
    change = np.asarray(after.slow.vars.stats[kind] - before.slow.vars.stats[kind])
    return {int(name): round(float(change[name])) for name in np.flatnonzero(change)}


@cache
def in_second_task(**changes):
    """A learner with eight examples of task 0 and four of task 1, and task 1's last metrics."""
    learner = Learner(**changes)
    learner.task(0, [0, 1, 2, 3], [4, 5, 6, 7])
    learner.begin(1)
    before = learner.state
    metrics = learner.step(1, [100, 101, 102, 103])
    return learner, before, metrics
