"""What each task has of its own beside a shared network, and an optimizer that starts anew.

Row t of a stacked leaf is task t's, a last layer for example: the leaves of the network's own, with
an axis of tasks in front. The number of the task is data, so no task is another program.

Source: Yoon et al. 2020 (ICLR; arXiv 1902.09432), experiments: every method there has a classifier
for each task; jaehong31/APD: Adam starts anew with each task, its rate falls by 0.95 an epoch.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike

from cls_jax.core.types import Array, PyTree, Scalar, Task, Variables
from cls_jax.nets.base import Net, no_head


def check_head(name: str, net: Net) -> str:
    """The name of ``net``'s last layer; raises InputError, for the method ``name``, without one."""
    if net.head is None:
        raise no_head(f"{name} gives each task a last layer of its own", net)
    return net.head


def with_heads(key: Array, net: Net, x: Array, num_tasks: int) -> Variables:
    """Fresh variables of ``net`` whose last layer is there once a task, drawn independently.

    Args:
      key: for the draw; the same key gives the same rest of the network as ``net.init``.
      net: names its head.
      x: float32[b, ...] of which only the shape matters.
      num_tasks: T.

    Returns:
      Variables; ``params[net.head]`` has "kernel" float32[T, d, C] and "bias" float32[T, C].
    """
    heads = drawn_per_task(key, net, x, num_tasks, lambda vars: vars.params[net.head])
    vars = net.init(key, x)
    return vars.replace(params={**vars.params, net.head: heads})


def drawn_per_task(
    key: Array, net: Net, x: Array, num_tasks: int, part: Callable[[Variables], PyTree]
) -> PyTree:
    """A part of fresh variables once a task, leaves [T, ...], drawn independently.

    Args:
      key: for the draw; no task gets what ``net.init`` draws from the same key.
      net: whose variables.
      x: float32[b, ...] of which only the shape matters.
      num_tasks: T.
      part: picks what each task gets.
    """
    keys = jax.random.split(jax.random.fold_in(key, 1), num_tasks)
    return jax.vmap(jax.jit(lambda key: part(net.init(key, x))))(keys)


def for_task(vars: Variables, head: str, task: Array) -> Variables:
    """The variables of one task: ``params[head]`` is row ``task`` of all heads.

    Args:
      vars: of the network with heads.
      head: name of the last layer.
      task: int32[].
    """
    return vars.replace(params={**vars.params, head: index_tree(vars.params[head], task)})


def index_tree(stacked: PyTree, task: Array) -> PyTree:
    """What one task has of leaves [T, ...]."""
    return jax.tree.map(lambda leaf: leaf[task], stacked)


def without_head(params: PyTree, head: str) -> PyTree:
    """What the tasks share: every layer but the last."""
    return {name: leaves for name, leaves in params.items() if name != head}


def head_numbers(heads: PyTree, classes: Array) -> Array:
    """How many numbers of a last layer serve the classes that a task has, int32[...].

    Args:
      heads: leaves [T, ..., C].
      classes: bool[..., C].
    """
    num_classes = classes.shape[-1]
    return sum(leaf[0].size // num_classes for leaf in jax.tree.leaves(heads)) * classes.sum(-1)


def told_or_last_task(task: Task, last: Array) -> Array:
    """int32[]: the task that is told, or ``last``, the one learned last, if none is.

    Args:
      task: as ``predict`` gets it.
      last: int32[].
    """
    return jnp.where(task.index < 0, last, task.index)


def annealed_adam(
    learning_rate: Scalar, annealing_rate: Scalar, annealing_steps: int
) -> optax.GradientTransformation:
    """Adam whose rate at step s since its ``init`` is ``rate * annealing^(s // steps)``.

    A parameter without a gradient since then stays as it is, bit for bit.

    Args:
      learning_rate: float32[], of the first step.
      annealing_rate: float32[] in [0, 1]; 1 keeps the rate.
      annealing_steps: steps between two falls, at least 1.

    Source: apd card, oracle 7: 1e-3 with 0.95 is 3.773536e-4 in the 20th interval.
    """

    def rate(step: ArrayLike) -> Array:
        return learning_rate * annealing_rate ** (jnp.asarray(step) // annealing_steps)

    return optax.adam(rate)
