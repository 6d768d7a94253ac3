"""A run read back from its workdir, ready to predict; the data set is not needed."""

import sys
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Literal, NamedTuple

import jax
import numpy as np

from cls_jax.app.answers import check_task
from cls_jax.app.build import StreamConfig
from cls_jax.app.export import export
from cls_jax.app.recipes import read_recipe
from cls_jax.app.stored_recipe import RECIPE
from cls_jax.app.weights import save_weights
from cls_jax.core.checks import as_trained_on
from cls_jax.core.errors import InputError
from cls_jax.core.paths import check_readable
from cls_jax.core.types import Array, PyTree, Task
from cls_jax.methods.base import Algorithm, Method, hidden_task
from cls_jax.training.evaluate import EVAL_BATCH, answers, batch_size, content_places
from cls_jax.training.run import Run, convolves
from cls_jax.training.runtime.saves import groups_in, read_trials
from cls_jax.training.runtime.workdir import CHECKPOINTS
from cls_jax.training.segments import Position


class SavedRun(NamedTuple):
    """One seed of one method, as it was last saved.

    Attributes:
      name: of the method, with the value of a sweep.
      seed: of the run.
      method: its pure functions.
      run: state, key, step and accuracy matrix.
      place: how far it is.
      stream: the flags of its stream; None: it was made in Python.
      shape: of one example, raw.
      num_classes: of the stream.
      dtype: of the raw examples: uint8 (pixels, 0 to 255) or float32 (vectors, as they are).
      label_names: of the data set, one a class; the numbers where none were kept.
      first_task: how many tasks were learned before, by the run that it goes on from.
      task_classes: bool[num_tasks, num_classes], of every task; None: it is not known.
    """

    name: str
    seed: int
    method: Method
    run: Run
    place: Position
    stream: StreamConfig | None
    shape: tuple[int, ...]
    num_classes: int
    dtype: Literal["uint8", "float32"]
    label_names: tuple[str, ...]
    first_task: int = 0
    task_classes: np.ndarray | None = None

    @property
    def num_tasks(self) -> int:
        """Of the stream."""
        return self.run.matrix.shape[-1]

    @property
    def state(self) -> PyTree:
        """The method's state."""
        return self.run.state

    @property
    def over(self) -> bool:
        """Whether the run had come to its end."""
        return self.place.over

    def predict(self, x: np.ndarray, task: Task | None = None) -> np.ndarray:
        """float32[n, num_classes] logits of the method's answer.

        Where a method finds out the task of a group of examples (``Needs.test_group``), give those
        of one task; they are grouped in an order of their pixels, not in that of ``x``.

        Args:
          x: raw examples as the stream has them, never scaled or normalised. Where those are images
            uint8[n, h, w, c] (or vectors of bytes): integers of any width, each from 0 to 255.
            Where they are float32[n, d]: floats of any width, finite, rounded to float32.
          task: for a method that uses the task at test; it is not told if not given.

        Raises:
          InputError: for examples of another shape, kind or range, or a task that is not there.
        """
        x = as_trained_on(x, self.shape, self.dtype, self.name)
        check_task(task, self.num_classes, self.num_tasks)
        task = hidden_task(self.num_classes) if task is None else task
        predict, group = self.method.predict, self.method.needs.test_group
        logits, place, convolutional, size = [], np.arange(len(x)), False, EVAL_BATCH
        if group is not None and len(x):
            place = content_places(x)
            x = x[np.argsort(place)]
            convolutional = convolves(predict, self.state, x[:1], self.num_classes)
            size = min(batch_size(group, convolutional), len(x))
        for start in range(0, len(x), size):
            part = x[start : start + size]
            padded = part[np.arange(size) % len(part)]
            how = self.method.at, self.run.hyper, group, convolutional
            answer = _answers(*how, self.state, padded, task)
            logits.append(np.asarray(answer)[: len(part)])
        if not logits:
            return np.zeros((0, self.num_classes), np.float32)
        return np.concatenate(logits)[place]

    def predict_proba(self, x: np.ndarray, task: Task | None = None) -> np.ndarray:
        """float32[n, num_classes] probabilities: the softmax of ``predict``, same arguments."""
        return np.asarray(jax.nn.softmax(self.predict(x, task)))

    def export(self, path: str | Path, *, view: str = "answer", task: Task | None = None) -> None:
        """Writes one file that answers in a process that has JAX and flatbuffers alone.

        Args:
          path, view, task: as of ``cls_jax.export``, which says more.
        """
        words = {"label_names": self.label_names, "dtype": self.dtype, "seed": self.seed}
        export(path, self._trained, self.state, view=view, task=task, **words)

    def save_weights(self, path: str | Path, *, view: str = "answer") -> None:
        """Writes the weights of the network that answers, .msgpack or .safetensors.

        Args:
          path, view: as of ``cls_jax.save_weights``, which says more.
        """
        save_weights(path, self._trained, self.state, view=view)

    @property
    def _trained(self) -> Method:
        """The method at the values that it was trained with, under this name."""
        hyper = {name: float(value) for name, value in self.run.hyper.items()}
        at_it = self.method.at(self.run.hyper)
        return self.method._replace(name=self.name, hyper=hyper, algorithm=at_it)


@partial(jax.jit, static_argnums=(0, 2, 3))
def _answers(
    at: Callable[[PyTree], Algorithm],
    hyper: PyTree,
    group: int | None,
    convolutional: bool,
    state: PyTree,
    x: Array,
    task: Task,
) -> Array:
    """``evaluate.answers`` of the method's answer; equal methods share the program."""
    return answers(at(hyper).predict, group, convolutional, state, x, task)


def load(workdir: str | Path, *, method: str | None = None, seed: int | None = None) -> SavedRun:
    """The run that was saved in ``workdir``.

    Args:
      workdir: of an experiment, finished or not.
      method: its name, where the workdir has several.
      seed: of the run; the first that can be read if not given.

    What fits and cannot be read back is told on stderr, a line each.

    Raises:
      InputError: nothing was saved there, or not this.
    """
    found, left = read_all(workdir)
    fitting = [one for one in found if method in (None, one.name) and seed in (None, one.seed)]
    lost = [one for one in left if one.name in (None, method) or method is None]
    lost = [one for one in lost if one.seed in (None, seed) or seed is None]
    if not fitting:
        there = ", ".join(f"{one.name} seed {one.seed}" for one in found)
        raise InputError(
            f"workdir {workdir} has no {method or 'run'} with seed {seed}; it has {there}"
            + "".join(f"; {one.message}" for one in lost[:3])
        )
    warn(lost)
    names = list(dict.fromkeys(one.name for one in fitting))
    if len(names) > 1:
        raise InputError(f"workdir {workdir} has several methods: {', '.join(names)}; name one")
    return fitting[0]


def load_all(workdir: str | Path) -> list[SavedRun]:
    """Every run that was saved in ``workdir``: methods by name, seeds in order.

    What was begun there and cannot be read back is told on stderr, a line each.

    Raises:
      InputError: there is none.
    """
    found, left = read_all(workdir)
    warn(left)
    return found


class Left(NamedTuple):
    """A run that is not read back, and why; name and seed are None where they are not known."""

    name: str | None
    seed: int | None
    why: str

    @property
    def message(self) -> str:
        """In a sentence."""
        return self.why if self.name is None else f"{self.name} seed {self.seed}: {self.why}"


def read_all(workdir: str | Path) -> tuple[list[SavedRun], list[Left]]:
    """Every run that was saved in ``workdir``, and those that were begun and cannot be read back.

    Raises:
      InputError: there is none of the first.
    """
    found, left = [], []
    for folder in _folders(check_readable(workdir) / CHECKPOINTS):
        try:
            for one in _read(folder):
                (found if isinstance(one, SavedRun) else left).append(one)
        except OSError as error:
            left.append(Left(None, None, f"{folder} cannot be read ({error.strerror or error})"))
    if not found and left:
        more = f"; nor can {len(left) - 1} more" if len(left) > 1 else ""
        raise InputError(f"workdir {workdir} has no run that can be read: {left[0].message}{more}")
    if not found:
        raise InputError(
            f"workdir {workdir} holds no saved run; give the --workdir of a run that was saved"
        )
    return found, left


def warn(left: Sequence[Left]) -> None:
    """Tells on stderr what is left out, a line each."""
    for one in left:
        print(f"warning: {one.message}; left out", file=sys.stderr)


def _folders(checkpoints: Path) -> list[Path]:
    """The folders of methods in a workdir's ``checkpoints``, which need not be there."""
    try:
        listed = checkpoints.iterdir() if checkpoints.is_dir() else ()
        return sorted(path for path in listed if path.is_dir())
    except OSError as error:
        raise InputError(
            f"{checkpoints} cannot be read ({error.strerror or error}); change its permissions"
        ) from None


def _read(folder: Path) -> Iterator[SavedRun | Left]:
    """The runs of one method, those that cannot be read included."""
    path = folder / RECIPE
    if not path.exists():
        if groups_in(folder):
            why = f"{folder} has saves, but no {RECIPE} that says of what"
            yield Left(None, None, why)
        return
    try:
        recipe = read_recipe(path)
    except InputError as error:
        yield Left(None, None, str(error))
        return
    found = read_trials(folder, recipe.like)
    for trial, (name, seed) in recipe.trials.items():
        if trial in found.kept:
            place, run = found.kept[trial]
            data = recipe.stream, recipe.shape, recipe.num_classes, recipe.dtype
            words = *data, recipe.label_names
            tasks = recipe.first_task, recipe.task_classes.get(seed)
            yield SavedRun(name, seed, recipe.method, run, place, *words, *tasks)
        elif (why := found.why_lost(trial)) is not None:
            yield Left(name, seed, f"none of its saves can be read ({why})")
        else:
            yield Left(name, seed, f"{folder} has no save of it")
