"""Where a task ends, found by what the task's function says of a new batch.

At inputs like those it has learned from, the function is far from its prior; at inputs of another
task it knows no more than the prior did. So each example has a divergence between the two, and
Welch's t-test asks whether those of the last batch and of the new one have the same mean.

Source: Titsias et al. 2020 (ICLR; arXiv 1901.11356), section 2.6. AndreevP/FRCL's detect_boundary
cannot run.
"""

from functools import partial

import jax
import jax.numpy as jnp

from cls_jax.core.errors import InputError
from cls_jax.core.types import Array, Task
from cls_jax.methods.base import Method, hidden_task, problem_of
from cls_jax.methods.problem import Problem
from cls_jax.methods.regularization.frcl import FrclState, FunctionValues, function_values


def prior_divergence(method: Method, state: FrclState, x: Array, task: Task | None = None) -> Array:
    """How far a task's function is from its prior at each example: see ``symmetric_kl``.

    Args:
      method: of ``frcl``.
      state: of it.
      x: raw examples [b, ...].
      task: whose function; that of the task learned last if not given.

    Returns:
      float32[b], in nats, >= 0.

    Raises:
      InputError: for another method, or a state that is none of its own.
    """
    problem = problem_of(method)
    if problem is None or method.factory != "frcl" or not isinstance(state, FrclState):
        raise InputError(
            f"method is {method.name} and state is {type(state).__name__}; frcl alone has a prior: "
            "give a method of cls_jax.frcl and its state"
        )
    task = hidden_task(problem.num_classes) if task is None else task
    return _divergence(problem, state, jnp.asarray(x), task)


@partial(jax.jit, static_argnums=0)
def _divergence(problem: Problem, state: FrclState, x: Array, task: Task) -> Array:
    return symmetric_kl(function_values(problem, state, x, task))


def symmetric_kl(values: FunctionValues) -> Array:
    """``(KL(q || p) + KL(p || q)) / 2`` of each example, summed over outputs, float32[b].

    q is the function's Gaussian there, p the prior's. A variance of 0 has no divergence, so both
    are taken to be at least 1e-6.

    Args:
      values: of a task's function.

    Source: frcl card, oracle 7.
    """
    of, prior = (jnp.maximum(v, 1e-6) for v in (values.variance, values.prior[:, None]))
    square = jnp.square(values.mean)
    return ((of + square) / prior + (prior + square) / of - 2).sum(axis=1) / 4


def boundary_p_value(last: Array, new: Array) -> Array:
    """Welch's t-test: how probable values so different are if both batches are of one task.

    Args:
      last: float32[n] divergences of the last batch, n >= 2.
      new: float32[m] of the new batch, m >= 2, from the same state as ``last``.

    Returns:
      float32[], two-sided, in [0, 1]; small where a task has ended.

    Raises:
      InputError: for fewer than two values.

    Example:
      >>> import jax.numpy as jnp
      >>> float(boundary_p_value(jnp.array([3.0, 4, 5]), jnp.array([3.0, 4, 5])))
      1.0
    """
    last, new = jnp.asarray(last), jnp.asarray(new)
    for name, values in (("last", last), ("new", new)):
        if values.ndim != 1 or values.size < 2:
            raise InputError(
                f"{name} has the shape {values.shape}; give float32[n], one divergence an example, "
                "of at least 2"
            )
    shares = last.var(ddof=1) / last.size, new.var(ddof=1) / new.size
    squares = (shares[0] + shares[1]) ** 2, (last.mean() - new.mean()) ** 2
    apart = shares[0] ** 2 / (last.size - 1) + shares[1] ** 2 / (new.size - 1)
    spread = apart > 0
    freedom = squares[0] / jnp.where(spread, apart, 1)
    t_square = squares[1] / jnp.where(spread, shares[0] + shares[1], 1)
    p_value = jax.scipy.special.betainc(freedom / 2, 0.5, freedom / (freedom + t_square))
    return jnp.where(spread, p_value, jnp.where(squares[1] > 0, 0.0, 1.0))
