"""What a continual-learning method is: a NamedTuple of pure functions, and nothing else."""

from collections.abc import Mapping
from typing import Literal, NamedTuple

from cls_jax.types import Array, Batch, BoundaryFn, InitFn, PredictFn, PyTree, StepFn, Task


def unchanged(key: Array, state: PyTree, task: Task, data: Batch | None) -> PyTree:
    """The boundary function of a method that does nothing there."""
    del key, task, data
    return state


class Needs(NamedTuple):
    """What a method must be given; the runner withholds everything else.

    Attributes:
      told_task: training batches and boundary calls carry the task's number and classes;
        otherwise they arrive as -1 and all True, so a task-free method cannot peek.
      told_task_at_test: ``predict`` uses ``task``. The task-IL score is then taken with the task
        told and the class-IL score with it hidden. Otherwise one forward serves both scores.
      boundaries: ``begin_task`` and ``end_task`` are called.
      begin_data, end_data: examples handed over at that boundary (0: none).
      unlabelled: the method learns from examples without labels; otherwise they become padding.
      pooled: the upper bound: all tasks at once, shuffled, in place of the stream.
    """

    told_task: bool = False
    told_task_at_test: bool = False
    boundaries: bool = False
    begin_data: int = 0
    end_data: int = 0
    unlabelled: bool = False
    pooled: bool = False


class Phase(NamedTuple):
    """A part of each task with an update rule of its own; most methods have one.

    Attributes:
      name: "train", "finetune", …
      step: the update.
      enter: called once as the phase of a task begins.
      epochs: passes over the task; None is what the stream says.
      source: "task": batches of the task. "memory": the step draws all it needs itself, and the
        batches arrive with every row invalid.
    """

    name: str
    step: StepFn
    enter: BoundaryFn = unchanged
    epochs: int | None = None
    source: Literal["task", "memory"] = "task"


class Method(NamedTuple):
    """A continual learner.

    Attributes:
      name: as the tables print it.
      init: (key, example, hyper) -> state.
      phases: run one after another in every task.
      predict: the method's answer.
      begin_task, end_task: called at the boundaries if ``needs.boundaries``.
      views: further networks worth evaluating, by name.
      needs: what the runner must provide.
      convolutional: its steps contain convolutions (the runner's ``auto`` mode asks).
    """

    name: str
    init: InitFn
    phases: tuple[Phase, ...]
    predict: PredictFn
    begin_task: BoundaryFn = unchanged
    end_task: BoundaryFn = unchanged
    views: Mapping[str, PredictFn] = {}
    needs: Needs = Needs()
    convolutional: bool = False
