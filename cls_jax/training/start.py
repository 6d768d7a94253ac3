"""Where a run starts that goes on from another, which is finished; whether the two fit."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from cls_jax.core.errors import InputError
from cls_jax.core.types import Array
from cls_jax.methods.base import Method, for_tasks, problem_of
from cls_jax.streams.continued import continued
from cls_jax.streams.stream import Schedule, Stream
from cls_jax.training.group import task_classes
from cls_jax.training.run import Run, Shapes, abstract_run, copied, shapes_of


class Trained(NamedTuple):
    """One seed's finished run, and all that a further one needs to know of it.

    Attributes:
      method: what learned.
      shapes: of what it was shown.
      task_classes: bool[num_tasks, num_classes], of every task that was learned.
      run: at its end, without a trial axis; None where the further run has saved a copy of it.
      stream: what it learned, if its examples are at hand.
    """

    method: Method
    shapes: Shapes
    task_classes: np.ndarray
    run: Run | None
    stream: Stream | None = None


class Start(NamedTuple):
    """Where every seed of a run starts that goes on.

    Attributes:
      trained: of each seed; all have learned as many tasks, with one method.
      earlier: the stream that was learned, if its test examples are at hand.
      words: what config.json says of where it goes on from.
    """

    trained: Mapping[int, Trained]
    earlier: Stream | None = None
    words: Mapping[str, Any] = {}

    @property
    def first(self) -> Trained:
        """One of them, for what all have in common."""
        return next(iter(self.trained.values()))

    @property
    def num_past(self) -> int:
        """How many tasks were learned."""
        return len(self.first.task_classes)


def check_start(start: Start, method: Method, stream: Stream, seeds: Sequence[int]) -> None:
    """Whether ``method`` can go on from ``start`` with the further tasks of ``stream``.

    Args:
      start: what was learned.
      method, stream, seeds: of the run that goes on.

    Raises:
      InputError: naming what does not fit.
    """
    for seed in seeds:
        if seed not in start.trained:
            there = ", ".join(map(str, start.trained))
            raise InputError(f"seeds has {seed}, but what it goes on from has the seeds {there}")
    old, new = start.first.shapes, shapes_of(stream)
    if (old.batch[1:], old.dtype) != (new.batch[1:], new.dtype):
        raise InputError(
            f"data {stream.source.name} has examples {new.dtype}{[*new.batch[1:]]}, but those that "
            f"were learned before are {old.dtype}{[*old.batch[1:]]}; give data like these"
        )
    _check_method(start.first.method, method)
    _check_schedule(start.first, method)
    if old.num_classes != new.num_classes:
        raise InputError(
            f"the label space has {new.num_classes} classes, but {old.num_classes} where it goes "
            "on from; leave max_classes as it was"
        )
    _check_room(method, new, start.num_past + stream.num_tasks)
    if start.earlier is not None:
        check_earlier(start, start.earlier, stream, seeds)


def check_earlier(start: Start, earlier: Stream, stream: Stream, seeds: Sequence[int]) -> None:
    """Whether ``earlier`` is what was learned, and can be tested beside ``stream``.

    Args:
      start, stream, seeds: as for ``check_start``.
      earlier: the stream that is said to have been learned.

    Raises:
      InputError: it is not.
    """
    continued(stream, start.num_past, earlier)
    for seed in seeds:
        found = task_classes(earlier, seed)
        known = found.any(axis=1)  # of a run that went on itself the first ones may not be
        if (found != start.trained[seed].task_classes)[known].any():
            raise InputError(
                f"earlier is {earlier.name!r}, whose tasks have other classes with seed {seed} "
                "than those that were learned; give the stream that was, or leave it out"
            )


def _check_method(old: Method, new: Method) -> None:
    """Raises InputError unless their programs are one; hyper-parameters, data, may differ."""
    if new.needs.pooled:
        raise InputError(f"{new.name} learns all tasks at once, so it cannot go on; leave it out")
    if old.factory != new.factory:
        raise InputError(
            f"method is {new.name}, but {old.name} is what learned before; go on with that"
        )
    for name, value in new.fixed.items():
        if old.fixed[name] != value:
            raise InputError(
                f"{name} is {value}, but {old.fixed[name]} where it goes on from; leave it as it "
                "was, for it fixes the program"
            )
    mine, other = problem_of(new), problem_of(old)
    if mine is None or other is None:
        same = new.at == old.at
    else:
        for name, what in (("num_classes", "classes"), ("num_tasks", "tasks")):
            if (given := getattr(mine, name)) != (kept := getattr(other, name)):
                raise InputError(
                    f"the method is made for {given} {what}, but for {kept} where it goes on from; "
                    "give the method that learned before"
                )
        same = other == mine._replace(words=other.words, unlabelled=other.unlabelled)
    if not same:
        raise InputError(
            f"{new.name} has another network, optimizer or other inputs than where it goes on "
            "from; leave them as they were, or give the method that learned before"
        )


def _check_schedule(trained: Trained, method: Method) -> None:
    """Raises InputError if the learning rate has come to its end before."""
    problem = problem_of(method)
    if problem is None or trained.run is None:
        return
    optimizer, made = problem.optimizer.config, int(trained.run.step)
    if optimizer.schedule != "constant" and (optimizer.schedule_steps or 0) <= made:
        raise InputError(
            f"schedule is {optimizer.schedule}, which ended after {optimizer.schedule_steps} of the"
            f" {made} steps that were made before; begin the first run with schedule_steps for all"
        )


def _check_room(method: Method, shapes: Shapes, num_tasks: int) -> None:
    """Raises InputError if the method's state has no room for so many tasks."""
    problem = problem_of(method)
    if problem is None or num_tasks <= problem.num_tasks:
        return
    try:
        wider = abstract_run(for_tasks(method, num_tasks), shapes).state
        fits = _forms(wider) == _forms(abstract_run(method, shapes).state)
    except InputError:
        fits = False
    if not fits:
        raise InputError(
            f"{method.name} keeps room for {problem.num_tasks} tasks, and these make {num_tasks}; "
            "begin the first run with a larger max_tasks"
        )


def _forms(tree: Any) -> Any:
    return jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), tree)


def with_classes(schedule: Schedule, past: np.ndarray) -> Schedule:
    """The schedule of a continued stream, once the classes of its past tasks are known.

    Args:
      schedule: of ``streams.continued``.
      past: bool[num_past, num_classes].
    """
    classes = np.concatenate([past, schedule.task_classes[len(past) :]])
    return schedule.replace(task_classes=classes)


def first_run(finished: Run, hyper: Mapping[str, Array], num_tasks: int) -> Run:
    """The Run of a trial that goes on: its state, key and step, and room in its matrix.

    Args:
      finished: what was learned before.
      hyper: of the trial, which may have others from here on.
      num_tasks: in all.
    """
    views, scenarios, _, past = finished.matrix.shape
    matrix = np.full((views, scenarios, num_tasks + 1, num_tasks), np.nan, np.float32)
    matrix[:, :, : past + 1, :past] = np.asarray(finished.matrix)
    return copied(finished.replace(hyper=dict(hyper), matrix=jnp.asarray(matrix)))
