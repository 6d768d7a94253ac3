"""Domains in groups that are known: task t is of group t mod G, and looks like the others of it.

So it can be asked whether a method finds the groups, and what it is worth to know them.
"""

import jax
import numpy as np

from cls_jax.core.checks import check_range, whole
from cls_jax.core.types import Array
from cls_jax.streams.indexing import argsort, random_bits


def planted_groups(num_tasks: int, num_groups: int) -> tuple[int, ...]:
    """The group of each task, as the tasks are given: 0 1 2 0 1 2."""
    return tuple(task % num_groups for task in range(num_tasks))


def check_planted(groups: int | None, spread: float, tasks: int) -> int | None:
    """``groups`` as a Python int or None; InputError unless it and ``spread`` fit.

    Args:
      groups: number of groups, 1 to ``tasks``; None: the tasks have nothing in common.
      spread: how far the tasks of a group lie apart, in [0, 1].
      tasks: number of tasks.
    """
    check_range("group_spread", spread, 0, 1)
    return None if groups is None else whole("groups", groups, 1, tasks)


def near_permutations(
    key: Array, num_tasks: int, num_groups: int, positions: int, spread: float
) -> np.ndarray:
    """int[num_tasks, positions]: a permutation of each group, and others near it.

    The first task of a group has the group's own; in each later one ``spread * positions`` random
    places have changed theirs among themselves.

    Args:
      key: of all draws; further tasks change nothing of the first ones.
      num_tasks, num_groups: sizes; task t is of group t mod num_groups.
      positions: places of a permutation.
      spread: in [0, 1].
    """
    bases = argsort(jax.random.fold_in(key, 0), (num_groups, positions))
    mixed = argsort(jax.random.fold_in(key, 1), (num_tasks, positions))
    found = [bases[group].copy() for group in planted_groups(num_tasks, num_groups)]
    for permutation, order in zip(found[num_groups:], mixed[num_groups:], strict=True):
        moved = order[: round(spread * positions)]
        permutation[np.sort(moved)] = permutation[moved]
    return np.stack(found)


def near_angles(key: Array, num_tasks: int, num_groups: int, spread: float) -> np.ndarray:
    """float64[num_tasks] degrees: angles about the centre of each group.

    The centres are equally far apart in half a turn, from a random one on; ``spread`` is the
    largest distance from a centre, as a share of half the gap between two of them.

    Args:
      key: of all draws; further tasks change nothing of the first ones.
      num_tasks, num_groups: sizes; task t is of group t mod num_groups.
      spread: in [0, 1].
    """
    start = random_bits(jax.random.fold_in(key, 0), ()) / 2.0**32
    away = random_bits(jax.random.fold_in(key, 1), (num_tasks,)) / 2.0**32
    group = np.array(planted_groups(num_tasks, num_groups))
    return 180 / num_groups * (group + start + spread * (away - 0.5))
