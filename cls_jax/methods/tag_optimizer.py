"""The TAG optimizer: old tasks whose gradients point elsewhere make a parameter's steps small.

Each task t has moments of its own of each tensor's gradients, which stay as they are when it is
over: ``M_t <- b1 M_t + (1 - b1) g`` and ``V_t <- b2 V_t + (1 - b2) g^2``. With

    alpha(t, tau) = exp(-b cos(M_t, M_tau))   tau < t, the cosine of whole tensors
    alpha(t, t)   = exp(-b)                   and 1 in the first task

a step is ``-eta g / (sqrt(sum_tau alpha(t, tau) V_tau) + 1e-8)``: an old task that is aligned
shortens it little, an opposed one much.

Source: Malviya, Ravindran, Chandar 2022 (CoLLAs; arXiv 2105.05155), TAG-RMSProp;
pranshu28/TAG, tag_update.py. No relation to the task affinity grouping of the same name.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from cls_jax.core.types import Array, PyTree, Scalar


class TagState(NamedTuple):
    """first, second: M and V, like the parameters with a leading axis of tasks."""

    first: PyTree
    second: PyTree


def tag(
    learning_rate: Scalar,
    task: Array | int,
    num_tasks: int,
    *,
    sharpness: Scalar = 5.0,
    first_decay: float = 0.9,
    second_decay: float = 0.99,
) -> optax.GradientTransformation:
    """TAG-RMSProp as an optax transformation, made anew for the present task.

    Args:
      learning_rate: eta.
      task: int32[], may be traced; those below it are over.
      num_tasks: room for tasks.
      sharpness: b >= 0; the code's default is 5.
      first_decay, second_decay: b1 and b2 of the moments.
    """

    def init(params: PyTree) -> TagState:
        first, second = (
            jax.tree.map(lambda p: jnp.zeros((num_tasks, *p.shape), p.dtype), params)
            for _ in range(2)
        )
        return TagState(first, second)

    def moved(moments: PyTree, new: PyTree, decay: float) -> PyTree:
        """The present task's moment a step on."""
        return jax.tree.map(
            lambda m, n: m.at[task].set(decay * m[task] + (1 - decay) * n), moments, new
        )

    def update(updates: PyTree, state: PyTree, params: PyTree | None = None):
        del params
        gradient = updates
        first = moved(state.first, gradient, first_decay)
        second = moved(state.second, jax.tree.map(jnp.square, gradient), second_decay)

        def step(g: Array, first: Array, second: Array) -> Array:
            alpha = attention(first.reshape(num_tasks, -1), task, sharpness)
            spread = jnp.tensordot(alpha, second, axes=1, precision="highest")
            return -learning_rate * g / (jnp.sqrt(spread) + 1e-8)

        return jax.tree.map(step, gradient, first, second), TagState(first, second)

    return optax.GradientTransformation(init, update)


def attention(first: Array, task: Array | int, sharpness: Scalar) -> Array:
    """alpha(t, tau), float32[T]; 0 of tasks to come.

    Args:
      first: float32[T, p], M of one tensor.
      task: int32[], t.
      sharpness: b.
    """
    length = jnp.linalg.norm(first, axis=1, keepdims=True)
    unit = first / jnp.where(length > 0, length, 1)
    number = jnp.arange(len(first))
    cosine = jnp.where(number == task, 1, jnp.matmul(unit, unit[task], precision="highest"))
    alpha = jnp.exp(-sharpness * cosine * (task > 0))
    return jnp.where(number <= task, alpha, 0)
