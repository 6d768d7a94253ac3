"""What of a method answers for a state, once state, network and task are found to fit it."""

from collections.abc import Sequence

import jax
import numpy as np

from cls_jax.core.checks import short_repr
from cls_jax.core.errors import InputError
from cls_jax.core.types import PredictFn, PyTree, Task
from cls_jax.methods.base import Method, problem_of
from cls_jax.methods.problem import Problem
from cls_jax.training.evaluate import view_names
from cls_jax.training.run import Shapes, abstract_run


def known_problem(method: Method) -> Problem:
    """What the method learned, its examples' shape included.

    Raises:
      InputError: it was made by hand, so nobody knows the shape of its examples.
    """
    problem = problem_of(method)
    if problem is None or problem.shape is None:
        raise InputError(
            f"method {method.name} does not say the shape of its examples; make it with a factory, "
            "of cls_jax.problem(stream, ...)"
        )
    return problem


def shapes_of(problem: Problem, dtype: str | None = None) -> Shapes:
    """Of one raw example, as a batch; uint8 for images and float32 for vectors if not given."""
    assert problem.shape is not None  # known_problem
    kind = dtype or ("uint8" if len(problem.shape) == 3 else "float32")
    return Shapes((1, *problem.shape), kind, problem.num_classes, problem.num_tasks)


def answer_of(method: Method, state: PyTree, view: str = "answer") -> PredictFn:
    """The method's own answer, or that of another of its networks.

    Args:
      method: whose it is.
      state: that it will be asked with.
      view: as tables name the network.

    Raises:
      InputError: there is no such network, or it is not a state of the method's.
    """
    names = view_names(method)
    if view not in names:
        raise InputError(
            f"view is {short_repr(view)}; {method.name} has {', '.join(map(repr, names))}"
        )
    wanted = abstract_run(method, shapes_of(known_problem(method))).state
    if jax.tree.structure(state) != jax.tree.structure(wanted):
        raise InputError(
            f"state is {type(state).__name__}, not a state of {method.name}; give one of its "
            "states, e.g. result.states[0][0]"
        )
    return method.predict if view == "answer" else method.views[view]


def check_task(task: Task | None, num_classes: int, num_tasks: int) -> None:
    """Raises InputError unless ``task`` is None, or one that a stream of these sizes has."""
    if task is None:
        return
    index, flags = np.asarray(task.index), (task.classes, task.seen)
    if index.shape or not -1 <= index < num_tasks:
        raise InputError(
            f"task has the index {index.tolist()}; give one from 0 to {num_tasks - 1}, "
            "or -1: not told"
        )
    for name, flag in zip(("classes", "seen"), map(np.asarray, flags), strict=True):
        if flag.shape != (num_classes,) or flag.dtype != bool:
            raise InputError(
                f"task has {name} {flag.dtype}{[*flag.shape]}; give bool[{num_classes}]"
            )


def names_of(label_names: Sequence[str] | None, num_classes: int) -> tuple[str, ...]:
    """One text a class; the numbers as texts where there are no names.

    Raises:
      InputError: for another number of names, or what is no text.
    """
    if label_names is None:
        return tuple(map(str, range(num_classes)))
    texts = not isinstance(label_names, str) and all(isinstance(one, str) for one in label_names)
    if not texts or len(label_names) != num_classes:
        raise InputError(
            f"label_names is {short_repr(label_names)}; give {num_classes} texts, one a class"
        )
    return tuple(label_names)
