"""The words from which a saved method is built again: recipe.json, beside its saves."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
import numpy as np

from cls_jax.app import stored_recipe
from cls_jax.app.build import fit_problem
from cls_jax.core.errors import InputError
from cls_jax.core.types import PyTree
from cls_jax.methods import METHODS, signature
from cls_jax.methods.base import Method
from cls_jax.methods.optimizer import OptimizerConfig, make_optimizer
from cls_jax.nets.config import NetConfig
from cls_jax.nets.registry import networks
from cls_jax.streams.config import InputConfig, StreamConfig
from cls_jax.training.run import Shapes, abstract_run
from cls_jax.training.segments import trial_name

_LARGEST_STATE = 2**38  # bytes: no device holds more


class Recipe(NamedTuple):
    """What a recipe.json says: what is read back, and how.

    Attributes:
      trials: name of a trial -> (method with the value of a sweep, seed).
      method: its pure functions.
      like: one trial's Run, as shapes, dtypes and shardings.
      stream: the flags of its stream; None: it was made in Python.
      shape: of one example, raw.
      num_classes: of the stream.
      dtype: of the raw examples.
      label_names: one a class.
      first_task: how many tasks were learned before, by the run that it goes on from.
      task_classes: of each seed bool[num_tasks, num_classes]; empty where it is not known.
    """

    trials: Mapping[str, tuple[str, int]]
    method: Method
    like: PyTree
    stream: StreamConfig | None
    shape: tuple[int, ...]
    num_classes: int
    dtype: Literal["uint8", "float32"]
    label_names: tuple[str, ...]
    first_task: int
    task_classes: Mapping[int, np.ndarray]


def _argument_kinds(name: str) -> dict[str, Any] | None:
    """Of a method's arguments, by name; None: there is no such method."""
    if name not in METHODS:
        return None
    return {argument: one.kind for argument, one in signature(name).arguments.items()}


def read_recipe(path: Path) -> Recipe:
    """Everything that recipe.json says; nothing is computed.

    Raises:
      InputError: it is not one that this version can follow.
    """
    configs = NetConfig, OptimizerConfig, InputConfig, StreamConfig
    kinds = stored_recipe.Kinds(_argument_kinds, *configs)
    words = stored_recipe.read_recipe(path, kinds)
    where = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])

    def placed(leaf: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=where)

    try:
        sizes, batch = (words.num_classes, words.max_tasks), (words.batch_size, *words.shape)
        stream = None if words.stream is None else StreamConfig(**words.stream)
        inputs, net = InputConfig(**words.inputs), NetConfig(**words.net)
        optimizer = make_optimizer(OptimizerConfig(**words.optimizer))
        given = inputs, networks(net), batch, sizes, optimizer
        problem = fit_problem(*given, unlabelled=words.unlabelled)._replace(words=(inputs, net))
        method = METHODS[words.method](problem, **words.arguments)
        shapes = Shapes(batch, words.dtype, words.num_classes, words.num_tasks)
        like = jax.tree.map(placed, abstract_run(method, shapes))
    except (ValueError, TypeError, ArithmeticError, LookupError, MemoryError) as error:
        why = " ".join(str(error).split())[:300]
        raise InputError(f"{path} fits no method that can be built: {why}") from error
    size = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(like))
    if size > _LARGEST_STATE:
        raise InputError(f"{path} asks for a state of {size / 2**30:,.0f} GiB; is it damaged?")
    trials = {
        trial_name(seed, value, len(words.sweep)): (f"{words.name} {label}".strip(), seed)
        for value, label in enumerate(words.sweep)
        for seed in words.seeds
    }
    data = words.shape, words.num_classes, words.dtype, words.label_names
    tasks = words.first_task, _task_classes(words)
    return Recipe(trials, method, like, stream, *data, *tasks)


def _task_classes(words: stored_recipe.Recipe) -> dict[int, np.ndarray]:
    """Of each seed, bool[num_tasks, num_classes]."""
    found = {}
    for seed, tasks in zip(words.seeds, words.task_classes or (), strict=False):
        found[seed] = np.zeros((words.num_tasks, words.num_classes), bool)
        for row, classes in zip(found[seed], tasks, strict=True):
            row[[*classes]] = True
    return found
