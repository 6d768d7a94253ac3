"""Problems for tests that drive a method by hand: one network of the test's own, in every form."""

from cls_jax.core.augment import Augment
from cls_jax.methods.problem import Problem
from cls_jax.nets.base import Net
from cls_jax.nets.registry import Networks


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
