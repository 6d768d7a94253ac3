"""What DyTox carries from step to step, and what of it a task, a class or an answer owns.

Source: Douillard et al. 2022 (CVPR; arXiv 2111.11326), sections 3.2 and 3.3.
"""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
from flax import struct

from cls_jax.core.memory import Memory
from cls_jax.core.types import Array, PyTree, Trainable
from cls_jax.methods.architecture.dytox_updates import moved_by
from cls_jax.nets.dytox import new_head


class DytoxState(struct.PyTreeNode):
    """C classes, T tokens: one a task, or a single one.

    Attributes:
      model: "encoder", "decoder", "tokens", "heads", and this task's "divergence" head.
      old: the network as it was when the task began, without that head.
      memory: the exemplars.
      owner: int32[C], the token and head that answer for a class.
      newest: int32[] token of this task.
      past, seen: bool[C] classes of earlier tasks, and those with this one's.
      task_size: int32[] examples of this task that are learned from.
      order: int32[slots], of the second phase's pass over the memory.
      step: int32[] made in the second phase of this task.
    """

    model: Trainable
    old: PyTree
    memory: Memory
    owner: Array
    newest: Array
    past: Array
    seen: Array
    task_size: Array
    order: Array
    step: Array


def with_divergence(key: Array, params: PyTree) -> PyTree:
    """The network's parameters with a new divergence head: any old class, and each of C classes.

    Args:
      key: of the draw.
      params: of the network; a head of an earlier task is replaced.
    """
    num_classes, width = params["heads"]["kernel"].shape
    head = new_head(key, 1 + num_classes, (width,), params["tokens"].dtype)
    return {**params, "divergence": head}


def tokens_of(state: DytoxState, classes: Array) -> Array:
    """bool[T]: the tokens that own one of these classes, bool[C]."""
    num_tokens = len(state.model.vars.params["tokens"])
    return jnp.zeros(num_tokens, bool).at[state.owner].max(classes)


def moved_for(state: DytoxState, classes: Array, *, encoder: bool) -> PyTree:
    """``moved_by`` where some tokens are trained, each with all of its classes so far.

    Args:
      state: whose parameters.
      classes: bool[C]; the tokens that own one of these.
      encoder: see ``moved_by``.
    """
    tokens = tokens_of(state, classes)
    rows = tokens[state.owner] & state.seen
    return moved_by(state.model.vars.params, tokens, rows, encoder=encoder)


def grown(state: DytoxState, num_tasks: int) -> Mapping[str, Array]:
    """What answers need after each task, float32[num_tasks]: "bits", and "task tokens".

    A token has three times its width (itself and its norm), a class one row of the heads.

    Args:
      state: when all is learned.
      num_tasks: of the stream.
    """
    params, number = state.model.vars.params, jnp.arange(num_tasks)
    shared = jax.tree.leaves((params["encoder"], params["decoder"]))
    num_tokens, width = params["tokens"].shape
    tokens = jnp.minimum(number + 1, num_tokens)
    classes = (state.seen & (state.owner <= number[:, None])).sum(1)
    numbers = sum(leaf.size for leaf in shared) + 3 * width * tokens + (width + 1) * classes
    return {"bits": 32.0 * numbers, "task tokens": tokens.astype(jnp.float32)}
