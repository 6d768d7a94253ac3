"""A perceptron of one hidden layer again in NumPy: {w1, b1, w2, b2}, all float64.

``shift`` is what ``problems.shifted_augment`` adds to images in training.
"""

from functools import partial

import numpy as np

from tests.support.drive import CLASSES, label_of, pictures
from tests.support.problems import SHIFT

LETTERS = {"w1": ("fc1", "kernel"), "b1": ("fc1", "bias"), "w2": ("fc2", "kernel")}
LETTERS["b2"] = ("fc2", "bias")


def by_letter(params):
    """Copies of the parameters of ``nets.perceptron``: w1, b1, w2, b2."""
    return {k: np.asarray(params[layer][kind], np.float64) for k, (layer, kind) in LETTERS.items()}


def inputs(names, shift=0.0):
    """float64[n, 12]."""
    return np.asarray(pictures(names), np.float64).reshape(len(names), -1) / 255 + shift


def forward(params, x):
    """float64[n, CLASSES]."""
    return np.maximum(x @ params["w1"] + params["b1"], 0) @ params["w2"] + params["b2"]


def logits_of(params, names):
    """float64[n, CLASSES]."""
    return forward(params, inputs(names))


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
    """Over some classes, given by their numbers or as a mask; 0 elsewhere."""
    out = np.zeros_like(logits)
    mass = np.exp(logits[:, classes])
    out[:, classes] = mass / mass.sum(1, keepdims=True)
    return out


def ce(params, names, classes=slice(None), *, shift=0.0):
    """Mean cross-entropy of some names over some classes, and its gradient."""
    x, y = inputs(names, shift), label_of(names)
    probs = softmax(forward(params, x), classes)
    value = -np.log(probs[np.arange(len(y)), y]).mean()
    return value, backward(params, x, (probs - np.eye(CLASSES)[y]) / len(y))


shifted_ce = partial(ce, shift=SHIFT)
"""On images as they are shown in training by ``problems.shifted_augment``."""


def mse(params, names, targets):
    """Mean squared distance of logits from ``targets``, over names and classes; its gradient."""
    gap = logits_of(params, names) - targets
    return np.square(gap).mean(), backward(params, inputs(names), 2 * gap / gap.size)


def descended(params, rate, *weighted):
    """The parameters after plain SGD on the sum of (weight, gradient)."""
    return {k: v - rate * sum(w * g[k] for w, g in weighted) for k, v in params.items()}
