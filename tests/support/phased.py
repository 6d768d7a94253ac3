"""A method's phases and boundaries on a small perceptron, and the perceptron in NumPy beside it.

Training images are shifted by a constant, so it shows which of the two augmentations was used.
"""

import jax
import jax.numpy as jnp
import numpy as np

from cls_jax.core.types import Task
from cls_jax.nets.mlp import mlp
from tests.support.by_hand import CLASSES, HIDDEN, batch, inputs, label_of
from tests.support.flat_nets import flat_augment
from tests.support.problems import own_problem

SHIFT = 0.25
PLACES = {"w1": ("fc1", "kernel"), "b1": ("fc1", "bias"), "w2": ("fc2", "kernel")}
PLACES["b2"] = ("fc2", "bias")


def shifted_augment():
    """``train`` adds SHIFT to every pixel, ``test`` does not."""
    plain = flat_augment()
    return plain._replace(train=lambda key, x: plain.test(x) + SHIFT)


def task_of(number, classes=None):
    """Two classes a task, or those given; what was seen before is theirs and all below."""
    every = np.arange(CLASSES)
    mine = every // 2 == number if classes is None else np.isin(every, classes)
    seen = every // 2 <= number if classes is None else mine
    return Task(jnp.int32(number), jnp.asarray(mine), jnp.asarray(seen))


def by_letter(params):
    """float64 copies of the perceptron's parameters: w1, b1, w2, b2."""
    return {k: np.asarray(params[layer][kind], np.float64) for k, (layer, kind) in PLACES.items()}


class Course:
    """A method's state on the perceptron, and its functions, compiled once each."""

    def __init__(self, factory, net=None, *, num_tasks=3, **arguments):
        net = mlp(CLASSES, (HIDDEN,)) if net is None else net
        sizes = {"num_classes": CLASSES, "num_tasks": num_tasks, "hidden": (HIDDEN,)}
        self.method = factory(own_problem(net, augment=shifted_augment(), **sizes), **arguments)
        self.steps = {phase.name: jax.jit(phase.step) for phase in self.method.phases}
        self.enters = {phase.name: jax.jit(phase.enter) for phase in self.method.phases}
        self.begin_fn, self.end_fn = jax.jit(self.method.begin_task), jax.jit(self.method.end_task)
        self.state = self.method.init(jax.random.key(0), batch([0, 1, 2, 3]))

    def begin(self, task):
        """A task starts."""
        self.state = self.begin_fn(jax.random.key(1), self.state, task, None)

    def enter(self, phase, task):
        """A phase of it starts."""
        self.state = self.enters[phase](jax.random.key(2), self.state, task, None)

    def step(self, phase, names, num_valid=None):
        """An update; gives its loss."""
        examples = batch(names, num_valid)
        self.state, metrics = self.steps[phase](jax.random.key(3), self.state, examples)
        return metrics["loss"]

    def end(self, task):
        """A task ends."""
        self.state = self.end_fn(jax.random.key(4), self.state, task, None)

    @property
    def params(self):
        """float64 copies."""
        return by_letter(self.state.model.vars.params)


# --- the same in NumPy ----------------------------------------------------------------------------


def seen_in_training(names):
    """float64[n, 12]."""
    return inputs(names) + SHIFT


def forward(params, x):
    """float64[n, CLASSES]."""
    return np.maximum(x @ params["w1"] + params["b1"], 0) @ params["w2"] + params["b2"]


def backward(params, x, slope):
    """The gradient of a loss whose derivative by the logits is ``slope``."""
    before = x @ params["w1"] + params["b1"]
    hidden_slope = (slope @ params["w2"].T) * (before > 0)
    return {
        "w1": x.T @ hidden_slope,
        "b1": hidden_slope.sum(0),
        "w2": np.maximum(before, 0).T @ slope,
        "b2": slope.sum(0),
    }


def softmax(logits, classes=slice(None)):
    """Over some classes; 0 elsewhere."""
    out = np.zeros_like(logits)
    mass = np.exp(logits[:, classes])
    out[:, classes] = mass / mass.sum(1, keepdims=True)
    return out


def ce(params, names, classes=slice(None)):
    """Mean cross-entropy over some classes on training images, and its gradient."""
    x, rows = seen_in_training(names), np.arange(len(names))
    probs, target = softmax(forward(params, x), classes), np.eye(CLASSES)[label_of(names)]
    value = -np.log(probs[rows, label_of(names)]).mean()
    return value, backward(params, x, (probs - target) / len(names))
