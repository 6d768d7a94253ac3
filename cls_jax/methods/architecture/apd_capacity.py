"""What APD has to keep for its answers, in numbers, counted twice.

``numbers_kept`` is all that the answers need, ``one_network`` a plain network for one task, over
which it is "percent of one network". ``official_percent`` is what the official code prints: last
layer and biases of the newest task alone, over the shared kernels and the last layers of earlier
tasks.

Source: Yoon et al. 2020 (ICLR; arXiv 1902.09432); jaehong31/APD, cifar100_apd_run.py.
"""

import jax
import jax.numpy as jnp

from cls_jax.core.types import Array, PyTree, Scalar
from cls_jax.methods.architecture.apd_consolidation import Groups
from cls_jax.methods.architecture.apd_weights import ApdParams, Layers, sum_of_tasks
from cls_jax.methods.heads import head_numbers


def numbers_kept(
    params: ApdParams,
    stats: PyTree,
    groups: dict[str, Groups],
    size: Scalar,
    classes: Array,
    learned: Array,
    head: str,
) -> Array:
    """How many numbers are kept to answer the tasks learned, float32[].

    The shared kernels; of the residues, and once a group of what is held in common, the entries
    that pruning leaves; masks, biases and the like of each task, and of its last layer the columns
    of its classes. Where the entries lie is not counted.

    Args:
      params, stats: of the state.
      groups: kernel -> Groups.
      size: up to which entries are pruned.
      classes: bool[T, C] of each task.
      learned: bool[T].
      head: name of the last layer.

    Source: apd card, section 6: everything needed at test, what is in common once a group.
    """
    layer, rest = of_the_head(params.own, head)
    total = _of_weights(params, groups, size, learned)
    total += jnp.where(learned, head_numbers(layer, classes), 0).sum()
    of_one_task = jax.tree.leaves((rest, stats))
    total += sum(leaf[0].size for leaf in of_one_task) * learned.sum()
    return jnp.asarray(total, jnp.float32)


def official_percent(
    params: ApdParams,
    stats: PyTree,
    groups: dict[str, Groups],
    size: Scalar,
    classes: Array,
    learned: Array,
    head: str,
    task: Array,
) -> Array:
    """The capacity that the official code prints after a task, in percent; float32[].

    Above: the shared kernels, residues and what groups hold as pruning leaves them, and the masks
    of all tasks; last layer, biases and the like of this task alone. Below: the shared kernels and
    the last layers of the earlier tasks, without biases. So what each task has of its own beside
    residues and masks is above once, however many there are, and below for all but one.

    Args:
      params, stats, groups, size, classes, learned, head: as for ``numbers_kept``.
      task: int32[], the task learned last.

    Source: jaehong31/APD, cifar100_apd_run.py, "Updated Memory Requirements".
    Departs: where groups are found anew, it counts those before beside them.
    """
    layer, rest = of_the_head(params.own, head)
    total = _of_weights(params, groups, size, learned)
    total += head_numbers(layer, classes)[task]
    total += sum(leaf[0].size for leaf in jax.tree.leaves((rest, stats)))
    kernels = {n: leaf for n, leaf in layer.items() if leaf.ndim > 2}
    earlier = jnp.where(learned.at[task].set(False), head_numbers(kernels, classes), 0).sum()
    base = sum(leaf.size for leaf in params.shared.values()) + earlier
    return jnp.asarray(100 * total / base, jnp.float32)


def _of_weights(
    params: ApdParams, groups: dict[str, Groups], size: Scalar, learned: Array
) -> Array:
    """Numbers of the shared kernels, of residues and groups as pruning leaves them, of masks."""

    def left(leaf: Array) -> Array:
        return (jnp.abs(leaf) > size).astype(jnp.float32)

    total = sum(leaf.size for leaf in params.shared.values())
    total += sum_of_tasks({n: left(leaf) for n, leaf in params.residues.items()}, learned)
    for of_layer in groups.values():
        slots = jnp.arange(len(of_layer.common))[:, None]
        used = ((of_layer.member == slots) & learned).any(-1)
        total += sum_of_tasks({"": left(of_layer.common)}, used)
    return total + sum(leaf[0].size for leaf in params.masks.values()) * learned.sum()


def one_network(params: ApdParams, stats: PyTree, classes: Array, head: str) -> Array:
    """How many numbers a plain network for one task has, the largest of them; float32[].

    Args:
      params, stats, classes, head: as for ``numbers_kept``.
    """
    layer, rest = of_the_head(params.own, head)
    of_one_task = jax.tree.leaves((rest, stats))
    numbers = sum(leaf[0].size for leaf in of_one_task)
    numbers += sum(leaf.size for leaf in params.shared.values())
    return jnp.asarray(numbers + head_numbers(layer, classes).max(), jnp.float32)


def of_the_head(own: Layers, head: str) -> tuple[Layers, Layers]:
    """The leaves of the last layer, and the others."""
    mine = {n: leaf for n, leaf in own.items() if n.split("/")[0] == head}
    return mine, {n: leaf for n, leaf in own.items() if n not in mine}
