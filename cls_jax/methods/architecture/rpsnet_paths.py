"""What RPS-Net carries from step to step, and the bookkeeping of its paths.

A path is one module of each layer, int32[L]. The union of earlier paths rests; a candidate learns
its own path where that is new, and answers by both.

Source: Rajasegaran et al. 2019 (NeurIPS; arXiv 1906.01120), algorithm 1; brjathu/RPSnet, cifar.py.
"""

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from cls_jax.core.errors import InputError
from cls_jax.core.memory import Memory
from cls_jax.core.types import Array, PyTree, Trainable, Variables
from cls_jax.methods.architecture.der_expandable_state import NEVER
from cls_jax.methods.heads import index_tree
from cls_jax.nets.path_modules import LEARNS, OFF, RESTS


class PathState(struct.PyTreeNode):
    """What RPS-Net carries; N candidates, L layers, M modules a layer.

    Attributes:
      candidates: what each learns, leaves [N, ...]: the modules of its path, and what all modules
        share. Between two tasks all are the one that was chosen.
      paths: int32[N, L], of each candidate.
      whole: every module, as the network was before this task: the teacher.
      came: int32[L, M] the task whose path brought a module into the union of the paths before this
        one; NEVER: it is in none.
      drawn: int32[] the task with which this path was drawn.
      memory: the exemplars of earlier tasks, slots {x, y}.
      next_memory: those that the next task will have.
      past, seen: bool[C] classes of earlier tasks, and with this task's.
      task: int32[] the task being learned, or the last one.
      task_size: int32[] examples of this task that are learned from.
    """

    candidates: Trainable
    paths: Array
    whole: Variables
    came: Array
    drawn: Array
    memory: Memory
    next_memory: Memory
    past: Array
    seen: Array
    task: Array
    task_size: Array


def check_modules(num_modules: int, path_tasks: int, num_tasks: int) -> None:
    """Raises InputError if later tasks find no module that learns, whatever path is drawn.

    Args:
      num_modules: M.
      path_tasks: J.
      num_tasks: of the stream.
    """
    if num_modules == 1 and num_tasks > path_tasks:
        raise InputError(
            f"num_modules is 1, and it rests after the first {path_tasks} of {num_tasks} tasks; "
            f"use more modules, or path_tasks {num_tasks} for one path that always learns"
        )


def few_modules(num_modules: int, num_layers: int, num_candidates: int, num_draws: int) -> str:
    """A warning if a drawn path or more may be expected to have no module that still learns.

    Args:
      num_modules, num_layers, num_candidates: M, L, N.
      num_draws: how often paths are drawn.
    """
    count, found = np.arange(num_modules + 1), 0.0  # of a layer's modules at rest
    at_rest, chance = count / num_modules, (count == 1).astype(float)  # one of each is at first
    for _ in range(num_draws):
        found += (chance @ at_rest**num_candidates) ** num_layers
        chance = chance * at_rest + np.roll(chance * (1 - at_rest), 1)
    if found < 1:
        return ""
    return (
        f"num_modules is {num_modules}: {found:.1f} of {num_draws} new paths, on average, have no "
        "module that still learns, and their tasks learn by what all paths share alone; use more "
        "modules, or larger path_tasks"
    )


def on_path(whole: Variables, path: Array) -> Variables:
    """What a candidate learns: the modules of its path, without the axis [M], and what is shared.

    Args:
      whole: of every module.
      path: int32[L].
    """
    return Variables(part_on(whole.params, path), part_on(whole.stats, path))


def part_on(tree: PyTree, path: Array) -> PyTree:
    """The same of one tree, of parameters or of statistics."""
    modules = enumerate(tree["modules"])
    return {**tree, "modules": tuple(index_tree(layer, path[n]) for n, layer in modules)}


def with_path(whole: Variables, own: Variables, path: Array) -> Variables:
    """Every module, those of the path as a candidate has them, and what is shared as it has it.

    Args:
      whole: of every module.
      own: as from ``on_path``.
      path: int32[L].
    """

    def joined(tree: PyTree, mine: PyTree) -> PyTree:
        modules = tuple(
            jax.tree.map(lambda all, one, at=path[n]: all.at[at].set(one), *pair)
            for n, pair in enumerate(zip(tree["modules"], mine["modules"], strict=True))
        )
        return {**mine, "modules": modules}

    return Variables(joined(whole.params, own.params), joined(whole.stats, own.stats))


def members(path: Array, num_modules: int) -> Array:
    """bool[L, M]: the modules of a path, int32[L]."""
    return jnp.arange(num_modules) == path[:, None]


def roles_of(came: Array, path: Array) -> Array:
    """int32[L, M]: what each module does while a candidate learns.

    Args:
      came: int32[L, M], as in the state.
      path: int32[L].

    Source: rpsnet card O4.
    """
    rests = came < NEVER
    learns = members(path, came.shape[1]) & ~rests
    return jnp.where(learns, LEARNS, jnp.where(rests, RESTS, OFF))


def teacher_roles(state: PathState) -> Array:
    """int32[L, M]: the union of all paths before this task; of it each module RESTS."""
    shared = members(state.paths[0], state.came.shape[1]) & (state.drawn < state.task)
    return jnp.where((state.came < NEVER) | shared, RESTS, OFF)


def with_chosen(state: PathState) -> Array:
    """``came``, as it is once the chosen path is part of the union."""
    mine = members(state.paths[0], state.came.shape[1])
    return jnp.minimum(state.came, jnp.where(mine, state.drawn, NEVER))


def answering(state: PathState) -> tuple[Variables, Array]:
    """The variables and roles of the network that answers: the first candidate's, all at rest."""
    own, path = index_tree(state.candidates.vars, jnp.int32(0)), state.paths[0]
    return with_path(state.whole, own, path), jnp.minimum(roles_of(state.came, path), RESTS)


def kept_bits(state: PathState, num_tasks: int) -> Array:
    """Bits of what answers after each task, float32[num_tasks]: the union, and what is shared.

    Args:
      state: in the last of them.
      num_tasks: so many.
    """

    def numbers(tree: PyTree) -> int:
        return sum(leaf.size for leaf in jax.tree.leaves(tree))

    trees = state.whole.params, state.whole.stats
    num_layers, num_modules = state.came.shape
    of_layer = [
        sum(numbers(tree["modules"][n]) for tree in trees) // num_modules for n in range(num_layers)
    ]
    shared = sum(numbers(tree["shared"]) for tree in trees)
    there = with_chosen(state) <= jnp.arange(num_tasks)[:, None, None]
    return 32.0 * (shared + there.sum(axis=2) @ jnp.asarray(of_layer, jnp.float32))
