"""What an online learner is told of tasks: where each begins, and its classes, kept in a file.

A save says in which task it was made, so the file may be ahead of it: what was announced after the
save is announced again.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from cls_jax.core.checks import short_repr, whole, wholes
from cls_jax.core.errors import InputError
from cls_jax.core.files import NoJson, read_json, write_json
from cls_jax.core.paths import check_no_links, writing
from cls_jax.training.open_run import OpenRun

TASKS = "tasks.json"


def begins_with(task: Any, run: OpenRun) -> bool:
    """Whether a task begins with a batch.

    Args:
      task: what is said of the batch: number of its task, one an example, or None.
      run: before the batch.

    Raises:
      InputError: a task must be announced, and is not; or it is not the next.
    """
    method, last = run.programs.method, run.place.task
    if task is not None:
        number = task if type(task) is int else _only(task)
        if number == last + 1 or (run.learning and number == last):
            return number > last
        raise InputError(f"task is {number}, {run.where()}; tasks come one after another, from 0")
    if run.learning:
        return False
    if last >= 0:
        raise InputError(f"a batch was given, {run.where()}")
    if method.needs.boundaries or len(method.phases) > 1:
        call = f"begin_task({'classes=[...]' if method.needs.told_task else ''})"
        raise InputError(
            f"{method.name} must know where tasks begin and end; call {call} before the first batch"
            " of each" + ("" if method.needs.told_task else ", or give observe their numbers")
        )
    return True


def _only(task: Any) -> int:
    """The one number among those of the examples."""
    numbers = np.unique(np.asarray(task))
    if len(numbers) != 1:
        raise InputError(
            f"task holds {short_repr(numbers.tolist())}; a batch is of one task: split it where "
            "the next begins"
        )
    return whole("task", numbers[0].item())


def class_flags(classes: Iterable[int], num_classes: int) -> np.ndarray:
    """bool[num_classes]: which of them a task has.

    Args:
      classes: their numbers.
      num_classes: of the stream.

    Raises:
      InputError: there is none, one twice, or one that the stream has no room for.
    """
    numbers = wholes("classes", classes)
    if not numbers or len(set(numbers)) < len(numbers):
        raise InputError(f"classes is {numbers}; give each class of the task once, at least one")
    if not 0 <= min(numbers) <= max(numbers) < num_classes:
        raise InputError(
            f"classes is {numbers}; the open stream has room for the classes 0 to {num_classes - 1}"
        )
    return np.isin(np.arange(num_classes), numbers)


def write_tasks(workdir: Path, task_classes: np.ndarray) -> None:
    """Writes the classes of the tasks so far, bool[n, num_classes], into a claimed workdir."""
    check_no_links(workdir, TASKS)
    with writing(workdir):
        write_json(workdir / TASKS, {"classes": [np.flatnonzero(flags) for flags in task_classes]})


def read_tasks(workdir: Path, num_tasks: int, num_classes: int) -> np.ndarray:
    """bool[num_tasks, num_classes]: the classes of so many tasks, from the first on.

    Raises:
      InputError: the file is not there, or does not say so.
    """
    path = workdir / TASKS
    try:
        listed: Any = read_json(path)["classes"][:num_tasks]
        flags = [class_flags(classes, num_classes) for classes in listed]
        if len(flags) < num_tasks:
            raise ValueError
    except (OSError, NoJson, ValueError, KeyError, TypeError) as error:
        why = error if isinstance(error, InputError) else "it is gone, or damaged"
        raise InputError(
            f"{path} does not say the classes of the {num_tasks} tasks that were announced ({why});"
            " bring it back from a copy, or give another workdir"
        ) from None
    return np.stack(flags)
