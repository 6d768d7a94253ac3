"""Whole test sets, exact counts: class-IL and task-IL accuracy of every network of a method."""

import hashlib
from functools import partial
from typing import Protocol

import jax
import jax.numpy as jnp
import numpy as np

from cls_jax.core.sharding import spread
from cls_jax.core.types import Array, PredictFn, PyTree, Task
from cls_jax.methods.base import Method, hidden_task
from cls_jax.streams.stream import Schedule, Stream, look_up
from cls_jax.training.parallel import DATA, Parallelism
from cls_jax.training.prefetch import Loader
from cls_jax.training.run import is_convolutional, shapes_of

EVAL_BATCH = 256
"""Test examples that one program answers."""

GROUPS = 40
"""Groups of test examples (``Needs.test_group``) that one program answers side by side: what does
not depend on the examples, such as the mixture of all masks, is computed once for all of them."""


class EvaluateFn(Protocol):
    """Accuracy on tasks ``0 .. upto`` of one state: float32[views, 2, T], NaN beyond ``upto`` and
    for a task that has no test examples.

    ``loader`` is that of the test split, with the schedule's contexts.

    Axis 1 is (class-IL, task-IL). With trials, states and schedules carry a leading axis, and so
    does what comes out.
    """

    def __call__(
        self, state: PyTree, hyper: PyTree, schedule: Schedule, loader: Loader, upto: int
    ) -> np.ndarray: ...


def view_names(method: Method) -> tuple[str, ...]:
    """The networks that are evaluated: the method's answer first."""
    return ("answer", *method.views)


def make_evaluate(method: Method, stream: Stream, parallelism: Parallelism) -> EvaluateFn:
    """Builds the evaluation of ``method`` on the test sets of ``stream``; compiled once.

    class-IL: the largest logit of all classes is the answer. task-IL: the largest among the classes
    of the example's own task. Both come from the same logits, unless the method uses the task at
    test; then the task is told for the task-IL score only.

    Args:
      method: whose ``predict`` and ``views`` are scored.
      stream: its test sets.
      parallelism: of the trials; where they are stacked, so are states and schedules.

    Returns:
      An EvaluateFn.
    """
    told_at_test, group = method.needs.told_task_at_test, method.needs.test_group
    place = None if group is None else content_places(stream.source.test.x)
    convolutional = group is not None and is_convolutional(method, shapes_of(stream))

    def count(state, hyper, data, index, valid, classes, number, context):
        """int32[views, 2]: right answers among the valid rows of ``index``."""
        x, y = spread(data.x[index]), data.y[index]
        if stream.transform is not None:
            x = stream.transform(x, look_up(data.contexts, context))
        hidden = hidden_task(stream.num_classes)
        task = Task(index=number, classes=classes, seen=hidden.seen) if told_at_test else hidden
        scores, algorithm = [], method.at(hyper)
        for predict in (algorithm.predict, *algorithm.views.values()):
            answer = partial(answers, predict, group, convolutional, state, x)
            logits = answer(task)
            free = answer(hidden) if told_at_test else logits
            masked = jnp.where(classes, logits, -jnp.inf)
            right = [jnp.argmax(z, axis=-1) == y for z in (free, masked)]
            scores.append(jnp.stack([jnp.sum(r & valid) for r in right]))
        return jnp.stack(scores)

    count = parallelism.compile(count, (0, 0, DATA, 0, 0, 0, None, 0))

    def evaluate(
        state: PyTree, hyper: PyTree, schedule: Schedule, loader: Loader, upto: int
    ) -> np.ndarray:
        index = schedule.test_index if place is None else in_order(schedule.test_index, place)
        width = index.shape[-1]
        batch = min(batch_size(group, convolutional), width)
        starts = range(0, width, batch)
        index, valid = refilled(index, len(starts) * batch)
        rows: list[np.ndarray] = []
        for j in range(stream.num_tasks):
            pick = lambda leaf, j=j: leaf[:, j] if parallelism.stacked else leaf[j]  # noqa: E731
            if j > upto:
                continue
            context = jax.tree.map(pick, schedule.test_context)
            right = 0
            for start in starts:
                part, counted = (pick(a)[..., start : start + batch] for a in (index, valid))
                if not counted.any():
                    continue
                classes = pick(schedule.task_classes)
                data, part = loader.fetch(part)
                right += count(state, hyper, data, part, counted, classes, np.int32(j), context)
            total = (pick(schedule.test_index) >= 0).sum(axis=-1)[..., None, None]
            share = np.asarray(right, np.float64) / np.where(total, total, np.nan)
            rows.append(np.broadcast_to(share, (*total.shape[:-2], 1 + len(method.views), 2)))
        missing = np.full_like(rows[0], np.nan)
        rows += [missing] * (stream.num_tasks - len(rows))
        return np.stack(rows, axis=-1).astype(np.float32)

    return evaluate


def batch_size(group: int | None, convolutional: bool) -> int:
    """How many test examples at most one program answers; arguments as of ``answers``."""
    if group is None:
        return EVAL_BATCH
    return max(EVAL_BATCH, group) if convolutional else GROUPS * group


def answers(
    predict: PredictFn,
    group: int | None,
    convolutional: bool,
    state: PyTree,
    x: Array,
    task: Task,
) -> Array:
    """The logits of all of ``x``, by ``predict`` of one group at a time.

    Args:
      predict: of a method.
      group: its ``Needs.test_group``: every so many examples are a group, and the rest are one.
      convolutional: one group after another, since each may have kernels of its own, and
        convolutions side by side with different kernels are slow; else side by side.
      state, task: as for ``predict``.
      x: raw examples of one task.

    Returns:
      float32[n, num_classes].
    """
    if group is None or len(x) <= group:
        return predict(state, x, task)
    if convolutional:
        parts = [x[start : start + group] for start in range(0, len(x), group)]
        return jnp.concatenate([predict(state, part, task) for part in parts])
    whole = len(x) // group * group
    groups = x[:whole].reshape(-1, group, *x.shape[1:])
    logits = jnp.concatenate(jax.vmap(predict, (None, 0, None))(state, groups, task))
    if whole == len(x):
        return logits
    return jnp.concatenate([logits, predict(state, x[whole:], task)])


def content_places(x: np.ndarray) -> np.ndarray:
    """int64[n]: the place of each example in an order that looks random and is that of its pixels.

    Whatever stands together in a file, labels of one class for example, is torn apart, and the same
    examples in another file order come out in the same order. Equal ones keep the file's order.

    Args:
      x: [n, ...] raw examples, on the host.

    Returns:
      A permutation of 0 .. n - 1.
    """
    sums = [hashlib.blake2b(np.ascontiguousarray(one).data, digest_size=8).digest() for one in x]
    order = np.argsort(np.frombuffer(b"".join(sums), ">u8"), kind="stable")
    return np.argsort(order, kind="stable")


def in_order(index: np.ndarray, place: np.ndarray) -> np.ndarray:
    """``index`` with each row sorted by the places of its examples, padding last.

    Args:
      index: int32[..., n], padded with -1.
      place: int64[examples], of ``content_places``.
    """
    last = np.where(index < 0, place.size, place[index])
    return np.take_along_axis(index, np.argsort(last, axis=-1, kind="stable"), axis=-1)


def refilled(index: np.ndarray, width: int) -> tuple[np.ndarray, np.ndarray]:
    """``index`` with each row's own examples, from the first again, where its padding was.

    A padded row is not counted, but a method that answers from what it finds in the whole batch
    should find there the images of one task alone, and different ones as long as there are any.

    Args:
      index: int32[..., n], padded with -1 at the end.
      width: of what comes out, at least n.

    Returns:
      int32[..., width], and bool[..., width] where an example stands for the first time.
    """
    total = (index >= 0).sum(axis=-1, keepdims=True)
    place = np.broadcast_to(np.arange(width), (*index.shape[:-1], width))
    return np.take_along_axis(index, place % np.maximum(total, 1), axis=-1), place < total
