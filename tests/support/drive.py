"""A method driven by hand, on pictures that have names: its state, its functions, its tasks.

A picture's first number is its name, and the name tells its class. So a network can say which
examples it was shown (``nets``), and a whole step can be done again in NumPy (``numpy_mlp``).
"""

from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np

from cls_jax.core.types import Batch, Task
from cls_jax.methods.base import hidden_task

CLASSES, NAMES = 6, 120


def label_of(names):
    """Twenty names a class."""
    return np.asarray(names) // (NAMES // CLASSES)


def pictures(names):
    """uint8[n, 2, 2, 3]: the first number of each is its name, the others follow from it."""
    names = np.asarray(names)
    x = np.stack([np.random.default_rng(n).integers(0, 256, 12, np.uint8) for n in names])
    x[:, 0] = names
    return jnp.asarray(x.reshape(-1, 2, 2, 3))


def made_batch(x, y, *, valid=None, labelled=None, task=-1, epoch=0):
    """A Batch of these examples.

    Args:
      x, y: examples and labels.
      valid: a mask, or how many rows are valid before those of padding; None: all.
      labelled: a mask; None: what is valid.
      task: its number.
      epoch: the pass over it.
    """
    rows = len(y)
    if valid is None or np.ndim(valid) == 0:
        valid = np.arange(rows) < (rows if valid is None else valid)
    labelled = valid if labelled is None else labelled
    return Batch(
        x=jnp.asarray(x),
        y=jnp.asarray(y, jnp.int32),
        task=jnp.full(rows, task, jnp.int32),
        valid=jnp.asarray(valid),
        labelled=jnp.asarray(labelled),
        epoch=np.int32(epoch),
    )


def batch(names, num_valid=None, y=None, **kind):
    """Pictures of these names, those behind the first ``num_valid`` as padding."""
    y = label_of(names) if y is None else y
    return made_batch(pictures(names), y, valid=num_valid, **kind)


def padded(names, rows=24):
    """All examples of a task as a boundary gets them, with padding behind them."""
    return batch([*names, *[NAMES - 1] * (rows - len(names))], len(names))


def task_of(number, classes=None, seen=None):
    """Two classes a task, and all up to them seen; or these classes, after those seen."""
    every = np.arange(CLASSES)
    if seen is None:
        seen = every[every // 2 <= number] if classes is None else classes
    if classes is None:
        classes = every[every // 2 == number]
    masks = (jnp.asarray(np.isin(every, list(some))) for some in (classes, seen))
    return Task(jnp.int32(number), *masks)


def float64(tree):
    """NumPy copies in double precision."""
    return jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), tree)


@cache
def program(at, part, phase=None):
    """A part of the algorithm, or of its phase of that name, compiled: (hyper, ...) -> its answer.

    Methods with equal ``at`` share it, as in a run.
    """

    def call(hyper, *given):
        whole = at(hyper)
        if phase is not None:
            (whole,) = (one for one in whole.phases if one.name == phase)
        return getattr(whole, part)(*given)

    return jax.jit(call)


class Drive:
    """A state, and the compiled functions that move it on; every call has a key of its own.

    What a method does not need to be told is hidden from it, as in a run.

    Attributes:
      method, state: what is driven, and where it is.
      hyper: float32[] each, as in a run; another value compiles nothing.
      clock: how many keys were used.
      batch: makes a Batch of a step's arguments.
    """

    def __init__(self, method, batch=batch, example=([0, 1, 2, 3],)):
        self.method, self.batch, self.clock = method, batch, 0
        self.hyper = {name: jnp.float32(value) for name, value in method.hyper.items()}
        self.state = method.init(jax.random.key(0), batch(*example))

    def program(self, part, phase=None):
        """The compiled function, whose first argument is ``hyper``."""
        return program(self.method.at, part, phase)

    def fn(self, part, phase=None):
        """The compiled function at the hyper-parameters: "begin_task", or "step" of a phase."""
        return partial(self.program(part, phase), self.hyper)

    def key(self):
        """The next one."""
        self.clock += 1
        return jax.random.key(self.clock)

    def begin(self, task, data=None, key=None):
        """A task starts; gives the state before it."""
        return self._move(self.fn("begin_task"), task, data, key)

    def enter(self, phase, task, data=None, key=None):
        """A phase of it starts; gives the state before it."""
        return self._move(self.fn("enter", phase), task, data, key)

    def end(self, task, data=None, key=None):
        """A task ends; gives the state before it."""
        return self._move(self.fn("end_task"), task, data, key)

    def _move(self, fn, task, data, key):
        before, key = self.state, self.key() if key is None else key
        if not self.method.needs.told_task:
            task = hidden_task(task.classes.size)
        self.state = fn(key, before, task, self._given(data))
        return before

    def step(self, *given, phase="train", **kind):
        """An update on ``batch(*given, **kind)``; gives its metrics."""
        examples = self._given(self.batch(*given, **kind))
        self.state, metrics = self.fn("step", phase)(self.key(), self.state, examples)
        return metrics

    def _given(self, examples):
        """As a run hands them over: their task is hidden from a method that is not told."""
        if examples is None or self.method.needs.told_task:
            return examples
        return examples.replace(task=jnp.full_like(examples.task, -1))

    def predict(self, x, task):
        """The logits of raw examples."""
        return np.asarray(self.fn("predict")(self.state, x, task))

    @property
    def params(self):
        """Of the one network, in float64."""
        return float64(self.state.model.vars.params)

    def slots(self, leaf):
        """A leaf of the memory."""
        return np.asarray(self.state.memory.slots[leaf])

    def held(self):
        """The name in each slot of the memory; an empty slot looks like name 0."""
        return self.slots("x")[:, 0, 0, 0]

    def exemplars(self):
        """{class: names, best first}, after a check of how they lie in the slots."""
        held = int(self.state.memory.seen)
        names, y, rank = self.held()[:held], self.slots("y")[:held], self.slots("rank")[:held]
        np.testing.assert_array_equal(y, label_of(names))
        for c in set(y):
            np.testing.assert_array_equal(rank[y == c], np.arange((y == c).sum()))
        return {int(c): names[y == c].tolist() for c in sorted(set(y))}
