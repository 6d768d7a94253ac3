"""What a continual-learning method is: a factory of pure functions, whose floats are data."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import jax.numpy as jnp
import numpy as np

from cls_jax.core.checks import check_hyper, check_literal, plain_value, whole
from cls_jax.core.errors import InputError
from cls_jax.core.types import (
    Array,
    Batch,
    BoundaryFn,
    CapacityFn,
    InitFn,
    PredictFn,
    PyTree,
    StepFn,
    Task,
)
from cls_jax.methods import register
from cls_jax.methods.optimizer import check_asked
from cls_jax.methods.problem import Problem
from cls_jax.methods.signatures import Signature, signature_of


def unchanged(key: Array, state: PyTree, task: Task, data: Batch | None) -> PyTree:
    """The boundary function of a method that does nothing there."""
    del key, task, data
    return state


def no_advice(num_steps: int, num_epochs: int) -> str:
    """The advice of a method that has none."""
    del num_steps, num_epochs
    return ""


WHOLE = 2**31 - 1
"""As ``Needs.test_group``: all test examples of a task."""


class Needs(NamedTuple):
    """What a method must be given; the runner withholds everything else.

    Attributes:
      told_task: training batches and boundary calls carry the task's number and classes;
        otherwise they arrive as -1 and all True, so a task-free method cannot peek.
      told_task_at_test: ``predict`` uses ``task``. The task-IL score is then taken with the task
        told and the class-IL score with it hidden. Otherwise one forward serves both scores.
      boundaries: ``begin_task`` and ``end_task`` are called.
      unlabelled: the method learns from examples without labels; otherwise they become padding.
      pooled: the upper bound: all tasks at once, shuffled, in place of the stream.
      begin_data, end_data: ``begin_task``, ``end_task`` get every example of the task once, as one
        Batch of n_max rows; the rest of them are padding. Needs ``boundaries``. With
        ``end_data="test"`` they are the test examples of all tasks so far, in place of it: only to
        measure what a published choice on them is worth, since no result of it is a test result.
      test_group: examples that ``predict`` must be given together: they are of one task, and the
        method finds out which; at most so many, e.g. WHOLE. They are grouped in an order that their
        pixels alone decide, so the order of a file decides nothing. None: each answer depends on
        its own example alone.
    """

    told_task: bool = False
    told_task_at_test: bool = False
    boundaries: bool = False
    unlabelled: bool = False
    pooled: bool = False
    begin_data: bool = False
    end_data: bool | Literal["test"] = False
    test_group: int | None = None


def hidden_task(num_classes: int) -> Task:
    """The Task that a method sees when it is not told: -1, and every class possible."""
    every = jnp.ones((num_classes,), bool)
    return Task(index=jnp.int32(-1), classes=every, seen=every)


class Phase(NamedTuple):
    """A part of each task with an update rule of its own; most methods have one.

    Attributes:
      name: "train", "finetune", …
      step: the update.
      enter: called once as the phase of a task begins.
      epochs: passes over the task; None is what the stream says.
      num_steps: a phase on memory alone: so many updates a task, whose batches arrive with every
        row invalid, since the step draws all it needs itself; None: batches of the task.
      enter_data: ``enter`` gets every example of the task, as with ``Needs.begin_data``.
    """

    name: str
    step: StepFn
    enter: BoundaryFn = unchanged
    epochs: int | None = None
    num_steps: int | None = None
    enter_data: bool = False


@dataclass(frozen=True, kw_only=True)
class Algorithm:
    """What a factory returns: the method at one setting, as pure functions.

    Attributes:
      init: (key, example) -> state.
      step: the update of a method that has one phase, "train".
      phases: run one after another in every task; instead of ``step``.
      predict: the method's answer.
      begin_task, end_task: called at the boundaries if ``needs.boundaries``.
      views: further networks worth evaluating, by name.
      needs: what the runner must provide.
      capacity: what the answers need to keep; None: every leaf that ``predict`` reads.
      advice: (steps of the stream, passes over its last task) -> a warning worth printing before a
        run, or "".
      class_il: told the task in training, yet made to tell all classes apart, so that its tables
        lead with class-IL; those of any other method that is told it lead with task-IL.
      name: as the tables print it, where a choice makes another method of it; None: the factory's.

    Raises:
      InputError: unless there is either ``step`` or at least one phase.
    """

    init: InitFn
    predict: PredictFn
    step: StepFn | None = None
    phases: tuple[Phase, ...] = ()
    begin_task: BoundaryFn = unchanged
    end_task: BoundaryFn = unchanged
    views: Mapping[str, PredictFn] = field(default_factory=dict)
    needs: Needs = Needs()
    capacity: CapacityFn | None = None
    advice: Callable[[int, int], str] = no_advice
    class_il: bool = False
    name: str | None = None

    def __post_init__(self) -> None:
        """One phase may be given as its step alone."""
        if (self.step is None) == (not self.phases):
            raise InputError("an algorithm has either step or phases; give one of them")
        if self.step is None:
            object.__setattr__(self, "step", self.phases[0].step)
        else:
            object.__setattr__(self, "phases", (Phase("train", self.step),))


class Method(NamedTuple):
    """A continual learner: an algorithm at the given values, and how it is made at others.

    Attributes:
      name: as the tables print it.
      at: hyper-parameters -> the Algorithm; cheap, and pure, so it may be called under a trace.
        Two methods that differ in nothing else have equal ``at``, and share compiled programs.
      hyper: the values that are data, by name: float32[] each within a run.
      algorithm: at these values; its functions are also the method's own, e.g. ``method.step``.
      factory: name of the factory, and ``fixed`` its arguments that fix the program.
    """

    name: str
    at: Callable[[Mapping[str, Any]], Algorithm]
    hyper: Mapping[str, float]
    algorithm: Algorithm
    factory: str = ""
    fixed: Mapping[str, Any] = {}

    init = property(lambda self: self.algorithm.init)
    step = property(lambda self: self.algorithm.step)
    phases = property(lambda self: self.algorithm.phases)
    predict = property(lambda self: self.algorithm.predict)
    begin_task = property(lambda self: self.algorithm.begin_task)
    end_task = property(lambda self: self.algorithm.end_task)
    views = property(lambda self: self.algorithm.views)
    needs = property(lambda self: self.algorithm.needs)
    advice = property(lambda self: self.algorithm.advice)

    @property
    def task_info(self) -> dict[str, bool]:
        """What a Result's details say of the task being told, in training and at test."""
        return {
            "told_task": self.needs.told_task,
            "told_at_test": self.needs.told_task_at_test,
            "class_il": self.algorithm.class_il,
        }


def make_method(
    name: str,
    at: Callable[[Mapping[str, Any]], Algorithm],
    hyper: Mapping[str, float] = {},
    factory: str = "",
    fixed: Mapping[str, Any] = {},
) -> Method:
    """A Method of a function from hyper-parameters to an Algorithm.

    Args:
      name: as the tables print it.
      at: see Method.
      hyper: its values.
      factory, fixed: see Method.
    """
    algorithm = at({key: np.float32(value) for key, value in hyper.items()})
    return Method(algorithm.name or name, at, dict(hyper), algorithm, factory, fixed)


class _At(NamedTuple):
    """Hyper-parameters -> the Algorithm; equal for equal problems and fixed arguments."""

    build: Callable[..., Algorithm]
    problem: Problem
    fixed: tuple[tuple[str, Any], ...]

    def __call__(self, hyper: Mapping[str, Any]) -> Algorithm:
        return self.build(self.problem, **dict(self.fixed), **hyper)


def problem_of(method: Method) -> Problem | None:
    """What a method was made for; None if no factory made it."""
    return method.at.problem if isinstance(method.at, _At) else None


def for_tasks(method: Method, num_tasks: int) -> Method:
    """The same method made for so many tasks, where a factory made it; it may raise InputError."""
    if not isinstance(method.at, _At):
        return method
    at = method.at._replace(problem=method.at.problem._replace(num_tasks=num_tasks))
    return make_method(method.name, at, method.hyper, method.factory, method.fixed)


@dataclass(frozen=True)
class Factory:
    """``factory(problem, **arguments) -> Method``; what ``@method`` makes of a function.

    Attributes:
      build: (problem, **arguments) -> Algorithm.
      signature: its name, docstring and arguments.
    """

    build: Callable[..., Algorithm]
    signature: Signature

    @property
    def name(self) -> str:
        """Of the method."""
        return self.signature.name

    def __call__(self, problem: Problem, **given: Any) -> Method:
        """The method at these arguments; those not given keep their defaults.

        Raises:
          InputError: for an argument that there is not, a value that is none of its kind or out of
            its range, or choices that do not fit together or the problem; for an optimizer that the
            problem asks for and the method does not take.
        """
        known = self.signature.arguments
        for name in given.keys() - known.keys():
            raise InputError(f"{self.name} has no argument {name!r}; it has {', '.join(known)}")
        values = {name: given.get(name, one.default) for name, one in known.items()}
        values = {name: plain_value(name, known[name].kind, v) for name, v in values.items()}
        hyper = {name: values.pop(name) for name in self.signature.hyper}
        for name, value in values.items():
            check_literal(name, value, known[name].kind)
        check_hyper(hyper)
        sizes = {n: whole(n, getattr(problem, n), 1) for n in ("num_classes", "num_tasks")}
        problem, fixed = problem._replace(**sizes), tuple(values.items())
        check_asked(self.name, self.build, problem, {**dict(fixed), **hyper})
        return make_method(
            self.name, _At(self.build, problem, fixed), hyper, self.name, dict(fixed)
        )


def method(build: Callable[..., Algorithm]) -> Factory:
    """Makes a method of ``build(problem, *, name: kind = default, ...) -> Algorithm``.

    Arguments annotated ``float`` are hyper-parameters: data, so a sweep over them is one program,
    and within a run ``build`` gets them as traced float32[]; it must not branch on them in Python.
    All others fix the program. A user's own method joins the table under its name.

    Raises:
      InputError: for an argument without annotation, default or explanation.
    """
    factory = Factory(build, signature_of(build))
    if not build.__module__.startswith("cls_jax."):
        register(factory)
    return factory


def variant(name: str, base: Factory, **defaults: Any) -> Factory:
    """``base`` under another name and with other defaults.

    Args:
      name: of the variant.
      base: what ``@method`` made.
      defaults: by name of the argument.
    """
    return Factory(base.build, base.signature.variant(name, **defaults))
