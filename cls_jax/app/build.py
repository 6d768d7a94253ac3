"""What is learned by what: the stream that the flags fix, and a method fitted to it.

A script adds its method's arguments and its presets; see experiments/dualnet_cifar.py.
"""

import os
from collections.abc import Callable, Mapping
from dataclasses import asdict, fields
from functools import lru_cache
from typing import Any, NamedTuple

import jax
import numpy as np

from cls_jax.app.optimizers import fit_optimizer
from cls_jax.core.augment import recipe
from cls_jax.core.checks import plain
from cls_jax.core.errors import InputError
from cls_jax.core.host_memory import check_bytes, check_schedule
from cls_jax.core.paths import user_path
from cls_jax.data.dataset import Dataset
from cls_jax.data.hold_out import hold_out
from cls_jax.data.load import load
from cls_jax.data.scramble import scrambled
from cls_jax.methods import METHODS
from cls_jax.methods.base import Method, problem_of
from cls_jax.methods.optimizer import Optimizer, OptimizerConfig
from cls_jax.methods.problem import Problem
from cls_jax.nets.config import KNOWN, NetConfig
from cls_jax.nets.own import check_own
from cls_jax.nets.registry import Networks, networks
from cls_jax.streams.blurry import blurry
from cls_jax.streams.class_il import class_il
from cls_jax.streams.config import InputConfig
from cls_jax.streams.config import StreamConfig as StreamConfig
from cls_jax.streams.domain_il import dihedral, permuted, rotated
from cls_jax.streams.gcil import gcil
from cls_jax.streams.mnist360 import mnist360
from cls_jax.streams.reserve import reserve
from cls_jax.streams.stream import Stream
from cls_jax.streams.task_order import in_order, only_tasks


def make_stream(config: StreamConfig, *, read_only: bool = False) -> Stream:
    """Loads the data and makes the scenario; every InputError comes before any compute.

    Args:
      config: what is seen when.
      read_only: nothing is written into the folders that it names; see ``load.load``.

    Raises:
      InputError: for an unknown scenario, a setting that the scenario does not have, or one that
        does not fit the data.
    """
    if config.scenario not in _SCENARIOS:
        raise InputError(f"scenario is {config.scenario!r}; use one of {', '.join(_SCENARIOS)}")
    config = plain(config)
    make, honoured = _SCENARIOS[config.scenario]
    everyones = {name for _, names in _SCENARIOS.values() for name in names}
    for field in fields(config):
        value = getattr(config, field.name)
        if field.name in everyones - set(honoured) and value != field.default:
            raise InputError(
                f"{field.name} is {value}, but the scenario {config.scenario} has no such setting; "
                "leave it out or choose another scenario"
            )
    settings = {name: getattr(config, name) for name in honoured}
    if isinstance(config.tasks, tuple) and "tasks" in honoured:
        if len(config.tasks) == 1:
            settings["tasks"] = config.tasks[0]
        elif config.scenario not in ("class_il", "blurry"):
            raise InputError(
                f"tasks is {config.tasks}, but the scenario {config.scenario} does not split the "
                "classes; give one number"
            )
    order = settings.pop("task_order", "given")
    if config.data_dir is not None and without_dir(config.data):
        raise InputError(
            f"data_dir is {config.data_dir}, but data {config.data} does not lie there; leave "
            "--data-dir out"
        )
    kind, _, path = config.data.partition(":")
    for flag, given in (("data", path), ("data_dir", config.data_dir)):
        if given is not None and (flag == "data_dir" or (kind in ("npz", "folder") and path)):
            user_path(given, flag)
    flags = config.data, config.data_dir, config.image_size, config.scrambled, read_only
    again = config.data.startswith("folder:")  # its cache on disk knows whether it has changed
    source = _loaded.__wrapped__(*flags, None) if again else _loaded(*flags, _state(config.data))
    if config.validation_fraction != 0:
        source = hold_out(source, config.validation_fraction, config.validation_seed)
    _check_length(config, len(source.train.y))
    stream = make(source, batch_size=config.batch_size, epochs=config.epochs, **settings)
    stream = in_order(stream, order)
    if config.only_tasks:
        stream = only_tasks(stream, config.only_tasks)
    room = config.max_classes, config.max_tasks, config.first_class
    if all(one is None for one in room):
        return stream
    return reserve(stream, max_classes=room[0], max_tasks=room[1], first_class=room[2] or 0)


def without_dir(data: str) -> bool:
    """Whether a data set has no use for ``data_dir``."""
    return data == "digits" or data.startswith("npz:")


def _check_length(config: StreamConfig, examples: int) -> None:
    """Raises InputError if the schedule of so many training examples would fit no memory."""
    if config.scenario == "gcil":
        examples = config.samples_per_phase * int(np.prod(config.tasks))
        check_schedule("samples_per_phase", config.samples_per_phase, examples)
    elif isinstance(config.tasks, int) and config.scenario in ("permuted", "rotated"):
        check_schedule("tasks", config.tasks, examples)  # rows are held of one task at a time
    for name in ("epochs", "base_epochs"):
        if getattr(config, name) is not None:
            check_schedule(name, getattr(config, name), examples)


@lru_cache(maxsize=1)  # the cells of a table share one data set
def _loaded(
    data: str,
    data_dir: str | None,
    size: int | None,
    planes: bool,
    read_only: bool,
    state: tuple[int, ...] | None,
) -> Dataset:
    """The data set; ``state`` is that of its file, so that what has changed is read again."""
    source = load(data, data_dir, size=size, read_only=read_only)
    return scrambled(source) if planes else source


def _state(data: str) -> tuple[int, ...] | None:
    """What tells that an npz file is no longer the one that was read; None for all other data."""
    try:
        about = os.stat(data.removeprefix("npz:")) if data.startswith("npz:") else None
    except (OSError, ValueError):  # told by the reader
        return None
    return about and (about.st_size, about.st_mtime_ns, about.st_ctime_ns, about.st_ino)


_DOMAINS = ("tasks", "task_order", "drop_last", "label_noise", "imbalance")

_SCENARIOS: dict[str, tuple[Callable[..., Stream], tuple[str, ...]]] = {
    "class_il": (
        class_il,
        (
            *("tasks", "base_classes", "base_epochs", "class_order", "task_order", "drop_last"),
            *("label_fraction", "label_noise", "imbalance"),
        ),
    ),
    "permuted": (permuted, (*_DOMAINS, "groups", "group_spread")),
    "rotated": (rotated, (*_DOMAINS, "groups", "group_spread")),
    "dihedral": (dihedral, _DOMAINS),
    "mnist360": (mnist360, ("replacement",)),
    "gcil": (gcil, ("tasks", "drop_last", "distribution", "samples_per_phase")),
    "blurry": (blurry, ("tasks", "drop_last", "class_order", "blur")),
}
"""Scenario -> what makes it, and its fields of the config besides data, batch size and epochs."""


def _check_padding(flag: str, padding: int, batch_size: int, shape: tuple[int, ...]) -> None:
    """Raises InputError if a batch of so widely padded float32 images fits no memory."""
    high, wide, channels = shape
    needed = 4 * batch_size * (high + 2 * padding) * (wide + 2 * padding) * channels
    check_bytes(f"{flag} {padding} around {high}x{wide} pixels", needed, f"give a smaller {flag}")


def fit_problem(
    inputs: InputConfig,
    networks: Networks,
    batch: tuple[int, ...],
    sizes: tuple[int, int],
    optimizer: Optimizer,
    *,
    data: str = "",
    unlabelled: bool = False,
) -> Problem:
    """The networks and the augmentation that are asked for, once they are found to fit.

    Args:
      inputs: the augmentation.
      networks: what the user chose.
      batch: (b, ...) of raw examples.
      sizes: numbers of classes and of tasks.
      optimizer: of methods whose paper leaves it open.
      data: what the examples are called.
      unlabelled: whether some have no label.

    Raises:
      InputError: for a network or an augmentation that does not fit the data.
    """
    shape = batch[1:]
    images = len(shape) == 3
    for flag in ("crop_padding", "view_padding") if images else ():
        _check_padding(flag, getattr(inputs, flag) or 0, batch[0], shape)
    augment = recipe(
        shape,
        normalisation=inputs.normalisation,
        crop_padding=inputs.crop_padding,
        flip=inputs.flip,
        views=inputs.views if images else None,
        view_padding=inputs.view_padding,
        view_flip=inputs.view_flip,
    )
    if not images and networks.kind in IMAGE_NETS:
        raise InputError(
            f"data {data} holds vectors, not images; use --net mlp, and a method that takes it"
        )
    if networks.kind not in KNOWN:
        raw = jax.ShapeDtypeStruct(batch, np.uint8 if images else np.float32)
        check_own(networks.net(sizes[0]), jax.eval_shape(augment.test, raw), sizes[0])
    return Problem(networks, augment, *sizes, shape, optimizer, unlabelled)


IMAGE_NETS = {*KNOWN} - {"mlp"}
"""Networks that vectors are no input of."""


class Learner(NamedTuple):
    """A method with all it needs to run, and the words from which it can be built again.

    Attributes:
      method, stream: what learns what.
      recipe: name of the factory, its arguments, configs, shapes; JSON-ready.
    """

    method: Method
    stream: Stream
    recipe: Mapping[str, Any]


def make_learner(
    name: str,
    arguments: Mapping[str, Any],
    stream: Stream,
    config: StreamConfig,
    net: NetConfig,
    optimizer: OptimizerConfig = OptimizerConfig(),  # noqa: B008
    *,
    label: str | None = None,
) -> Learner:
    """The method called ``name`` on ``stream``, which tables call ``label`` if given.

    Args:
      name: of METHODS.
      arguments: of its factory; those left out keep their defaults.
      stream, config: what it learns, and the flags that made it.
      net: which network.
      optimizer: with what it learns, if its paper leaves that open.
      label: in tables.

    Raises:
      InputError: as ``fit_problem`` and ``fit_optimizer``, and for what the method refuses.
    """
    config, net = plain(config), plain(net)
    x = stream.source.train.x
    sizes, batch = (stream.num_classes, stream.task_room), (config.batch_size, *x.shape[1:])
    learns = fit_optimizer(optimizer, stream)
    told = {"data": config.data, "unlabelled": stream.unlabelled}
    problem = fit_problem(config, networks(net), batch, sizes, learns, **told)
    method = METHODS[name](problem, **arguments)
    words = recipe_words(method, stream, config, net, learns.config, asdict(config))
    return Learner(method._replace(name=label or method.name), stream, words)


def recipe_words(
    method: Method,
    stream: Stream,
    inputs: InputConfig,
    net: NetConfig,
    optimizer: OptimizerConfig,
    config: Mapping[str, Any] | None,
) -> dict[str, Any]:
    """The words from which a method is built again; see stored_recipe.py.

    Args:
      method, stream: what learns what.
      inputs, net, optimizer: of the method's problem.
      config: the flags of the stream, if it was made of flags.
    """
    x = stream.source.train.x
    return {
        "method": method.factory,
        "arguments": {**method.fixed, **method.hyper},
        "net": asdict(net),
        "optimizer": asdict(optimizer),
        "inputs": {field.name: getattr(inputs, field.name) for field in fields(InputConfig)},
        "stream": config,
        "batch_size": stream.batch_size,
        "shape": x.shape[1:],
        "dtype": x.dtype.name,
        "num_classes": stream.num_classes,
        "num_tasks": stream.num_tasks,
        "label_names": stream.source.label_names,
        "unlabelled": stream.unlabelled,
        "max_tasks": problem.num_tasks if (problem := problem_of(method)) else stream.task_room,
    }
