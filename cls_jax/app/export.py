"""A method's answer as one file that JAX alone can run: the program, its weights, words on them.

The file is a zip: ``program.bin`` is what ``jax.export.deserialize`` reads, ``about.json`` says
whose it is.
"""

import io
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import jax
from jax import export as jax_export

from cls_jax.app.answers import answer_of, check_task, known_problem, names_of, shapes_of
from cls_jax.core.errors import InputError
from cls_jax.core.files import json_text, write_file
from cls_jax.core.paths import check_file, writing
from cls_jax.core.types import PyTree, Task
from cls_jax.methods.base import WHOLE, Method, hidden_task
from cls_jax.training.runtime.provenance import commit, software

PLATFORMS = ("cpu", "cuda", "tpu")
"""Where an exported program runs."""


def export(
    path: str | Path,
    method: Method,
    state: PyTree,
    *,
    view: str = "answer",
    task: Task | None = None,
    label_names: Sequence[str] | None = None,
    dtype: Literal["uint8", "float32"] | None = None,
    seed: int | None = None,
) -> None:
    """Writes what answers as one file, for a process that has JAX and flatbuffers alone.

    The program takes raw examples, any number from 1 on, and gives float32[n, num_classes] logits;
    normalisation and all that the answer reads of the state are inside: of iCaRL, too, means of its
    exemplars. It runs on CPUs, CUDA GPUs and TPUs.

    Args:
      path: of the file, e.g. "model.jax"; what is there is written over.
      method: whose state it is, made by a factory.
      state: of one run, e.g. ``result.states[0][0]``.
      view: "answer", or another of the method's networks, as tables name them.
      task: for a method that uses the task at test: fixed in the file. Not told if not given.
      label_names: one a class; the numbers if not given.
      dtype: of raw examples; uint8 for images and float32 for vectors if not given.
      seed: of the run, for the words on it.

    Raises:
      InputError: for a path that cannot be written, a state, view, task or names that do not fit
        the method, or where flatbuffers is missing.
    """
    file, problem = check_file(path, "path"), known_problem(method)
    predict, shapes = answer_of(method, state, view), shapes_of(problem, dtype)
    check_task(task, problem.num_classes, problem.num_tasks)
    names = names_of(label_names, problem.num_classes)
    try:
        import flatbuffers  # noqa: F401  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise InputError(
            "export needs flatbuffers, which is not installed; pip install flatbuffers"
        ) from error
    group = method.needs.test_group
    most = None if group == WHOLE else group
    (size,) = jax_export.symbolic_shape("n", constraints=[f"n <= {most}"] * (most is not None))
    told = hidden_task(problem.num_classes) if task is None else task
    program = jax.jit(lambda x: predict(state, x, told))
    examples = jax.ShapeDtypeStruct((size, *shapes.batch[1:]), shapes.dtype)
    content = jax_export.export(program, platforms=PLATFORMS)(examples).serialize()
    about = {
        "method": method.name,
        "view": view,
        "seed": seed,
        "label_names": names,
        "shape": problem.shape,
        "dtype": shapes.dtype,
        "task": None if task is None else int(task.index),
        "one_task_a_call": group is not None,
        "most_examples_a_call": most,
        "platforms": PLATFORMS,
        "commit": commit(),
        "versions": software(),
    }
    with writing(file, "path"):
        write_file(file, _zipped({"about.json": json_text(about), "program.bin": bytes(content)}))


def _zipped(files: dict[str, str | bytes]) -> bytes:
    """A zip of these files; equal files are equal zips."""
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w") as archive:
        for name, content in files.items():
            archive.writestr(zipfile.ZipInfo(name), content)
    return made.getvalue()
