"""How alike two tasks are, as arrays of a fixed size.

Measured once a task, as it begins, with the network as it is: labelled examples of the new task
against the exemplars of each old one. The default is the cosine of class prototypes: one forward
pass, no step size, and no loss of exemplars, which is near zero where they are replayed. The other
three estimators judge it: gradients say whether a step helps, the affinity whether it did, and
representations need a network that was trained on each task.

Source: TAG, Fifty et al. 2021 (NeurIPS; arXiv 2109.04617): the affinity; Dwivedi and Roig 2019
(CVPR; arXiv 1904.11740): similarity of representations. The prototype cosine, its calibration and
the grouping are this library's own.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from cls_jax.core.herding import class_means, unit
from cls_jax.core.losses import mean_over
from cls_jax.core.types import Array, PyTree, Scalar

LEAST_OLD_CLASSES = 4
"""With fewer, tasks of other classes have no null to be compared with."""

NULL_DRAWS = 16
"""Pairs of sets of old classes whose mean similarity is the null."""


class Prototypes(NamedTuple):
    """means: float32[..., C, d], zeros where there is none; counts: int32[..., C] examples."""

    means: Array
    counts: Array

    @property
    def there(self) -> Array:
        """bool[..., C]: the classes that have an example."""
        return self.counts > 0


class Labelled(NamedTuple):
    """features: float32[n, d]; y: int32[n] classes; valid: bool[n] rows that count."""

    features: Array
    y: Array
    valid: Array


def class_prototypes(rows: Labelled, num_classes: int) -> Prototypes:
    """The mean feature of each class, float32[num_classes, d], and how many rows it has."""
    y = jnp.where(rows.valid, rows.y, num_classes)
    counts = jax.ops.segment_sum(rows.valid.astype(jnp.int32), y, num_classes)
    return Prototypes(class_means(rows.features, rows.y, rows.valid, num_classes), counts)


def task_prototypes(rows: Labelled, task: Array, num_tasks: int, num_classes: int) -> Prototypes:
    """The mean feature of each class of each task, float32[num_tasks, num_classes, d].

    Args:
      rows: of all tasks.
      task: int32[n] the task of each row, below ``num_tasks``.
      num_tasks, num_classes: sizes.
    """
    flat = rows._replace(y=task * num_classes + rows.y)
    found = class_prototypes(flat, num_tasks * num_classes)
    return jax.tree.map(lambda a: a.reshape(num_tasks, num_classes, *a.shape[1:]), found)


def domain_cosine(one: Prototypes, other: Prototypes) -> Array:
    """How alike two tasks of the same classes are: the cosine of their centred prototypes.

    ``<P, Q> / (|P| |Q|)``, P the rows of the classes that both have, less the mean of these rows.
    Without the centring all tasks are alike, since features behind a ReLU are not negative.

    Args:
      one, other: float32[C, d] prototypes of each task.

    Returns:
      float32[] in [-1, 1]; 0 where fewer than two classes are in both.
    """
    both = one.there & other.there

    def centred(means: Array) -> Array:
        mean = jnp.where(both[:, None], means, 0).sum(0) / jnp.maximum(both.sum(), 1)
        return jnp.where(both[:, None], means - mean, 0)

    return _cosine(centred(one.means), centred(other.means))


def class_cosine(one: Prototypes, other: Prototypes, centre: Array) -> Array:
    """How alike two tasks of different classes are: of each class its nearest in the other task.

    ``mean_c max_c' cos(mu_c - m, mu_c' - m)``; it is not symmetric.

    Args:
      one, other: float32[C, d] prototypes of each task.
      centre: float32[d], m: usually the mean of all prototypes there are.

    Returns:
      float32[] in [-1, 1]; 0 where either task has no class.
    """
    mine, theirs = unit(one.means - centre), unit(other.means - centre)
    cosines = jnp.matmul(mine, theirs.T, precision="highest")
    best = jnp.where(other.there, cosines, -jnp.inf).max(axis=1)
    return mean_over(best, one.there & other.there.any())


def task_similarity(
    key: Array, new: Labelled, old: Labelled, task: Array, num_tasks: int, num_classes: int
) -> tuple[Array, Array]:
    """How alike the new task is to each old one, as it is and calibrated.

    Two tasks that share at least two classes are compared by ``domain_cosine``, others by
    ``class_cosine``. Calibrated is ``clip((s - low) / (high - low), 0, 1)``, so that thresholds
    mean the same on every stream: ``high`` is the similarity of two random halves of the new task,
    each with as many examples of a class as an old task has exemplars; ``low`` is what chance
    gives. For shared classes that is 0: over all shufflings of the labels the mean of the centred
    cosine is exactly 0. For other classes it is the similarity of random sets of *different* old
    classes; with fewer than LEAST_OLD_CLASSES of them there is no such null, and the calibrated
    value is a draw from [0, 1]: what it decides is decided by chance.

    Args:
      key: of the halves and of the null.
      new: examples of the task that begins.
      old: exemplars of all tasks before.
      task: int32 task of each row of ``old``.
      num_tasks, num_classes: sizes.

    Returns:
      (s, calibrated), float32[num_tasks] each; 0 of a task without exemplars.
    """
    key_halves, key_null, key_chance = jax.random.split(key, 3)
    mine = class_prototypes(new, num_classes)
    theirs = task_prototypes(old, task, num_tasks, num_classes)
    whole = class_prototypes(old, num_classes)
    total = theirs.there.sum() + mine.there.sum()
    centre = (theirs.means.sum((0, 1)) + mine.means.sum(0)) / jnp.maximum(total, 1)

    size = jnp.round(theirs.counts.sum() / jnp.maximum(theirs.there.sum(), 1))
    first, second = (
        class_prototypes(new._replace(valid=half), num_classes)
        for half in halves(key_halves, new.y, new.valid, size, num_classes)
    )

    def both_forms(other: Prototypes) -> tuple[Array, Array, Array]:
        shared = (mine.there & other.there).sum() >= 2
        return shared, domain_cosine(mine, other), class_cosine(mine, other, centre)

    shared, by_domain, by_class = jax.vmap(both_forms)(theirs)
    null = class_null(key_null, whole, centre, mine.there.sum())
    domain = calibrate(by_domain, 0.0, domain_cosine(first, second))
    classes = calibrate(by_class, null, class_cosine(first, second, centre))
    chance = jax.random.uniform(key_chance, classes.shape, classes.dtype)
    classes = jnp.where(whole.there.sum() < LEAST_OLD_CLASSES, chance, classes)

    known = theirs.there.any(axis=1)
    raw = jnp.where(shared, by_domain, by_class)
    calibrated = jnp.where(shared, domain, classes)
    return jnp.where(known, raw, 0), jnp.where(known, calibrated, 0)


def calibrate(similarity: Array, low: Scalar, high: Scalar) -> Array:
    """``clip((s - low) / (high - low), 0, 1)``; where ``high`` is not above ``low``, 0 or 1.

    Args:
      similarity: float32[...], s.
      low, high: what chance gives, and what the same task gives.
    """
    return jnp.clip((similarity - low) / jnp.maximum(high - low, 1e-6), 0, 1)


def halves(
    key: Array, y: Array, valid: Array, size: Array, num_classes: int
) -> tuple[Array, Array]:
    """Two disjoint random sets of rows, each with at most ``size`` of each class.

    Of a class with fewer than ``2 size`` rows each set has half of them.

    Args:
      key: of the draw.
      y: int32[n] classes.
      valid: bool[n] rows to draw from.
      size: int32[] or float32[], at least 1 is taken.
      num_classes: labels are 0 to num_classes - 1.

    Returns:
      bool[n], bool[n].
    """
    y = jnp.where(valid, y, num_classes)
    order = jnp.lexsort((jax.random.uniform(key, y.shape), y))
    counts = jnp.bincount(y, length=num_classes + 1)
    start = jnp.cumsum(counts) - counts
    place = jnp.arange(len(y), dtype=y.dtype) - start[y[order]].astype(y.dtype)
    rank = jnp.zeros_like(y).at[order].set(place)
    share = jnp.minimum(jnp.maximum(size, 1), counts[y] // 2)
    return valid & (rank < share), valid & (rank >= share) & (rank < 2 * share)


def class_null(key: Array, classes: Prototypes, centre: Array, size: Array) -> Array:
    """What ``class_cosine`` gives for different classes: its mean over random pairs of sets.

    Args:
      key: of the sets.
      classes: float32[C, d] prototypes of the old classes.
      centre: as for ``class_cosine``.
      size: int32[] classes of a set, or half of all if these are too few.

    Returns:
      float32[].
    """
    number = jnp.minimum(size, classes.there.sum() // 2)

    def one(key: Array) -> Array:
        noise = jax.random.uniform(key, classes.there.shape)
        rank = jnp.argsort(jnp.argsort(jnp.where(classes.there, noise, 2)))
        sets = rank < number, (rank >= number) & (rank < 2 * number)
        a, b = (Prototypes(classes.means, jnp.where(s, classes.counts, 0)) for s in sets)
        return class_cosine(a, b, centre)

    return jax.vmap(one)(jax.random.split(key, NULL_DRAWS)).mean()


# --- the other estimators -------------------------------------------------------------------------


def gradient_cosine(one: PyTree, other: PyTree, head: str | None = None) -> Array:
    """The cosine of two gradients over all parameters but those of the last layer, float32[].

    Args:
      one, other: gradients of the mean loss on each task.
      head: the entry at the top of the trees that is left out; None: nothing is.
    """
    flat = (
        jnp.concatenate([jnp.ravel(leaf) for leaf in jax.tree.leaves(_without(tree, head))])
        for tree in (one, other)
    )
    return _cosine(*flat)


def affinity(
    loss: Callable[[PyTree], Array], params: PyTree, gradient: PyTree, learning_rate: Scalar
) -> Array:
    """What a task gains by a step on another one: ``L(theta) - L(theta - lr g)``, float32[].

    In absolute form: TAG divides by ``L(theta)``, which explodes where the loss of replayed
    exemplars is near zero. Measure it on exemplars that are not replayed.

    Args:
      loss: of the one task, at parameters.
      params: theta.
      gradient: g, of the other task's loss there.
      learning_rate: lr.
    """
    after = jax.tree.map(lambda p, g: p - learning_rate * g, params, gradient)
    return loss(params) - loss(after)


def representation_similarity(one: Array, other: Array) -> Array:
    """Whether two networks find the same images alike: Spearman's correlation, float32[].

    Of the upper triangles of ``1 - Pearson`` between the features of each pair of images.

    Args:
      one, other: float32[n, d] and float32[n, d'] features of the same images, n >= 3.
    """
    pair = jnp.triu_indices(len(one), k=1)
    ranks = (_ranks(1 - jnp.corrcoef(features)[pair]) for features in (one, other))
    return _cosine(*(rank - rank.mean() for rank in ranks))


def _cosine(one: Array, other: Array) -> Array:
    """Of two arrays of one shape; 0 where either is zero."""
    length = jnp.sqrt(jnp.square(one).sum() * jnp.square(other).sum())
    return (one * other).sum() / jnp.where(length > 0, length, 1)


def _without(tree: PyTree, head: str | None) -> PyTree:
    return tree if head is None else {name: leaf for name, leaf in tree.items() if name != head}


def _ranks(values: Array) -> Array:
    """Places in the order of size, float32[n]; equal values share their mean place."""
    ordered = jnp.sort(values)
    low, high = (jnp.searchsorted(ordered, values, side=side) for side in ("left", "right"))
    return (low + high - 1) / 2.0
