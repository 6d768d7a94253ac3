"""A perceptron that tells what it was shown, its gradients by hand in NumPy, and who drives it.

An image's first number is its name, and the name tells its class. The statistics of the network are
the names of the valid rows of its last training forwards, so a whole step can be asked which
examples it drew, with nothing mocked, and be done again in float64.
"""

import jax
import jax.numpy as jnp
import numpy as np

from cls_jax.core.types import Batch, Task, Variables
from cls_jax.nets.base import Net
from tests.support.flat_nets import flat_augment
from tests.support.learner import pictures
from tests.support.problems import own_problem

CLASSES, NAMES, HIDDEN, FORWARDS = 6, 120, 7, 4


def label_of(names):
    """Twenty names a class."""
    return np.asarray(names) // (NAMES // CLASSES)


def telling_net(*, tells=True):
    """params w1, b1, w2, b2; stats {"shown": the last forwards, newest last}, or {}."""

    def init(key, x):
        keys = jax.random.split(key, 4)
        shapes = {"w1": (x.shape[1], HIDDEN), "b1": (HIDDEN,), "w2": (HIDDEN, CLASSES)}
        shapes["b2"] = (CLASSES,)
        params = {
            name: 0.7 * jax.random.normal(k, shape)
            for k, (name, shape) in zip(keys, shapes.items(), strict=True)
        }
        stats = {"shown": jnp.zeros((FORWARDS, NAMES))} if tells else {}
        return Variables(params=params, stats=stats)

    def apply(vars, x, *, train, valid=None):
        p = vars.params
        logits = jnp.maximum(x @ p["w1"] + p["b1"], 0) @ p["w2"] + p["b2"]
        if not (train and tells):
            return logits, vars.stats
        names = jnp.round(x[:, 0] * 255).astype(int)
        histogram = jnp.zeros(NAMES).at[names].add(1.0 * valid)
        return logits, {"shown": jnp.roll(vars.stats["shown"], -1, 0).at[-1].set(histogram)}

    return Net(init, apply)


def batch(names, num_valid=None, task=-1):
    """Examples with these names, those behind the first ``num_valid`` as padding."""
    valid = jnp.arange(len(names)) < (len(names) if num_valid is None else num_valid)
    return Batch(
        x=pictures(names),
        y=jnp.asarray(label_of(names), jnp.int32),
        task=jnp.full(len(names), task, jnp.int32),
        valid=valid,
        labelled=valid,
    )


class Pupil:
    """A method's state on the telling network, and its compiled functions."""

    def __init__(self, factory, *, tells=True, num_tasks=3, **arguments):
        sizes = {"num_classes": CLASSES, "num_tasks": num_tasks}
        problem = own_problem(telling_net(tells=tells), augment=flat_augment(), **sizes)
        self.method = factory(problem, **arguments)
        self.step_fn, self.end_fn = (
            jax.jit(self.method.phases[0].step),
            jax.jit(self.method.end_task),
        )
        self.state = self.method.init(jax.random.key(0), batch([0, 1, 2, 3]))
        self.clock = 0

    def step(self, names, num_valid=None, task=-1):
        """A training step; gives its metrics."""
        self.clock += 1
        key, examples = jax.random.key(self.clock), batch(names, num_valid, task)
        self.state, metrics = self.step_fn(key, self.state, examples)
        return metrics

    def end(self, task, names, num_valid=None):
        """The end of a task whose examples these are."""
        self.clock += 1
        classes = jnp.ones(CLASSES, bool)
        told = Task(index=jnp.int32(task), classes=classes, seen=classes)
        key, data = jax.random.key(self.clock), batch(names, num_valid, task)
        self.state = self.end_fn(key, self.state, told, data)

    @property
    def params(self):
        """float64 copies."""
        return {k: np.asarray(v, np.float64) for k, v in self.state.model.vars.params.items()}

    def shown(self, forwards):
        """The names of each of the last training forwards, in their order."""
        rows = np.asarray(self.state.model.vars.stats["shown"])[-forwards:]
        return [np.repeat(np.arange(NAMES), row.astype(int)) for row in rows]

    def held(self):
        """The name in each slot of the memory; an empty slot looks like name 0."""
        return np.asarray(self.state.memory.slots["x"])[:, 0, 0, 0]


# --- the same in NumPy ----------------------------------------------------------------------------


def inputs(names):
    """float64[n, 12]."""
    return np.asarray(pictures(names), np.float64).reshape(len(names), -1) / 255


def logits_of(params, names):
    """float64[n, CLASSES]."""
    hidden = np.maximum(inputs(names) @ params["w1"] + params["b1"], 0)
    return hidden @ params["w2"] + params["b2"]


def backward(params, names, slope):
    """The gradient of a loss whose derivative by the logits is ``slope``."""
    x = inputs(names)
    before = x @ params["w1"] + params["b1"]
    hidden_slope = (slope @ params["w2"].T) * (before > 0)
    return {
        "w1": x.T @ hidden_slope,
        "b1": hidden_slope.sum(0),
        "w2": np.maximum(before, 0).T @ slope,
        "b2": slope.sum(0),
    }


def ce(params, names, classes=None):
    """Mean cross-entropy of some names over some classes (all), and its gradient."""
    out = logits_of(params, names)
    allowed = np.ones(CLASSES, bool) if classes is None else classes
    mass = np.where(allowed, np.exp(out), 0)
    probs = mass / mass.sum(1, keepdims=True)
    y = np.eye(CLASSES)[label_of(names)]
    value = -np.log((probs * y).sum(1)).mean()
    return value, backward(params, names, (probs - y) / len(names))


def mse(params, names, targets):
    """Mean squared distance of logits from ``targets``, over names and classes; its gradient."""
    gap = logits_of(params, names) - targets
    return np.square(gap).mean(), backward(params, names, 2 * gap / gap.size)


def descended(params, rate, *weighted):
    """The parameters after plain SGD on the sum of (weight, gradient)."""
    return {k: v - rate * sum(w * g[k] for w, g in weighted) for k, v in params.items()}
