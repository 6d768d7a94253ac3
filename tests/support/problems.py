"""Problems for tests that drive a method by hand: one network of the test's own, in every form.

Equal arguments give the same object, so methods on it share compiled programs (``drive.program``).
"""

from functools import cache

import jax
import jax.numpy as jnp

from cls_jax.core.augment import Augment
from cls_jax.methods.problem import Problem
from cls_jax.nets.base import Net
from cls_jax.nets.registry import Networks
from tests.support.drive import CLASSES
from tests.support.nets import HIDDEN, perceptron, telling_net

SHIFT = 0.25
"""What ``shifted_augment`` adds in training."""


@cache
def own_problem(
    net: Net | None = None,
    *,
    augment: Augment,
    num_classes: int,
    num_tasks: int = 3,
    extractor=None,
    dualnets=None,
    hidden: tuple[int, ...] = (),
    dtype: str = "float32",
) -> Problem:
    """A problem whose networks are these objects, whatever is asked of them.

    Args:
      net: of one-network methods; or a function of the number of outputs.
      augment, num_classes, num_tasks: of the problem.
      extractor: what ``problem.extractor()`` gives.
      dualnets: (num_classes, predictor=...) -> what ``problem.dualnets(...)`` gives.
      hidden, dtype: of methods that bring their own perceptron.
    """
    make = net if callable(net) and not isinstance(net, Net) else lambda num_outputs: net
    networks = Networks(make, lambda: extractor, dualnets, "mlp", hidden, dtype)
    return Problem(networks, augment, num_classes, num_tasks)


@cache
def flat_augment() -> Augment:
    """Flattened float pixels; the views add noise to all of them but the name."""

    def plain(x):
        return x.reshape(x.shape[0], -1).astype(jnp.float32) / 255

    def noisy(key, x, number):
        x = plain(x)
        return x.at[:, 1:].add(0.2 * jax.random.uniform(key, x[:, 1:].shape))

    return Augment(train=lambda key, x: plain(x), test=plain, view=noisy)


@cache
def shifted_augment() -> Augment:
    """``train`` adds SHIFT to every pixel, ``test`` does not: it shows which of them was used."""
    plain = flat_augment()
    return plain._replace(train=lambda key, x: plain.test(x) + SHIFT)


def telling_problem(*, tells: bool = True) -> Problem:
    """Three tasks of two classes on the network that tells what it was shown."""
    return own_problem(telling_net(tells=tells), augment=flat_augment(), num_classes=CLASSES)


def shifted_problem(net: Net | None = None, hidden: tuple[int, ...] = (HIDDEN,)) -> Problem:
    """Three tasks of two classes on a perceptron or ``net``, training images shifted."""
    net = perceptron() if net is None else net
    return own_problem(net, augment=shifted_augment(), num_classes=CLASSES, hidden=hidden)
