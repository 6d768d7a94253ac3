"""What every experiment script shares: flags that fix data, network and execution, and one call.

A script adds its method's Config and Hyper and its presets; see experiments/dualnet_cifar.py.
"""

import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields, replace
from functools import lru_cache
from typing import Any, Literal

import jax

from cls_jax.augment import Kind, Normalisation, recipe
from cls_jax.console import console, fan_out, tensorboard
from cls_jax.events import Result
from cls_jax.methods import METHODS, Setting
from cls_jax.methods.base import Method, no_advice
from cls_jax.nets.choose import NetConfig
from cls_jax.plan import Plan, check_run
from cls_jax.runner import sweep
from cls_jax.streams.blurry import blurry
from cls_jax.streams.class_il import class_il
from cls_jax.streams.domain_il import permuted, rotated
from cls_jax.streams.gcil import gcil
from cls_jax.streams.mnist360 import mnist360
from cls_jax.streams.sources import load
from cls_jax.streams.stream import Stream
from cls_jax.types import InputError, PyTree
from cls_jax.workdir import prepare_workdir


@dataclass(frozen=True)
class StreamConfig:
    """What is seen when, and how images become inputs.

    Attributes:
      data: digits (bundled), npz:FILE, folder:DIR, or a tfds data set: cifar10, cifar100, mnist,
        fashion_mnist, svhn_cropped, ...
      data_dir: where tfds data sets lie; TFDS_DATA_DIR or ~/tensorflow_datasets if not given.
      image_size: resize images once to this many pixels square; as stored if not given.
      scenario: class_il (also scored as task-IL); permuted or rotated (domain-IL: all classes in
        every task, other pixels); mnist360 (one stream of turning pairs of digits); gcil (random
        classes come back in random proportions); blurry (class_il with mixed boundaries).
      tasks: number of tasks, the classes divided evenly; or the number of classes of each task.
      batch_size: stream examples a step.
      epochs: passes over each task; 1 is the online protocol.
      class_order: shuffled by the seed, or by label.
      drop_last: drop a task's incomplete last batch instead of padding it.
      label_fraction: probability that a batch keeps its labels, in (0, 1]; below 1 methods that
        can learn from unlabelled batches do so. Of class_il only.
      blur: share of each class that is spread over the other tasks, in [0, 1). Of blurry only.
      distribution: of the classes of a task. Of gcil only.
      samples_per_phase: examples of a task. Of gcil only.
      replacement: whether an image may come twice, as in the official code. Of mnist360 only.
      normalisation: of the supervised inputs.
      crop_padding: random crops of training images padded by so many pixels; none if not given.
      flip: mirror training images at random.
      views: self-supervised views as in the official code (kornia050), or the usual ones.
      view_padding: random crops of views padded by so many pixels.
      view_flip: mirror views at random; not for digits.
    """

    data: str = "digits"
    data_dir: str | None = None
    image_size: int | None = None
    scenario: Literal["class_il", "permuted", "rotated", "mnist360", "gcil", "blurry"] = "class_il"
    tasks: int | tuple[int, ...] = 5
    batch_size: int = 10
    epochs: int = 1
    class_order: Literal["shuffled", "label"] = "shuffled"
    drop_last: bool = False
    label_fraction: float = 1.0
    blur: float = 0.1
    distribution: Literal["uniform", "longtail"] = "uniform"
    samples_per_phase: int = 1000
    replacement: bool = True
    normalisation: Normalisation = "half"
    crop_padding: int | None = None
    flip: bool = False
    views: Kind = "kornia050"
    view_padding: int = 4
    view_flip: bool = False


@dataclass(frozen=True)
class RunConfig:
    """How it is run and where the results go.

    Attributes:
      seeds: one run each; a seed fixes class order, initial weights and every draw.
      workdir: folder of the results; nothing is written if not given.
      chunk: steps between two looks of the progress bar; chosen by the mode if not given.
      mode: compiled loop over steps (scan), Python loop over compiled steps (loop), or what is
        fast on this device.
      over_seeds: seeds one after another, in one program (vmap), or what is fast.
      tensorboard: write TensorBoard files into the workdir.
      sweep: a field of the method's Hyper and its values, e.g. hyper.learning_rate 0.03 0.1; each
        value gets all seeds, dense networks all of them in one program.
    """

    seeds: tuple[int, ...] = (0,)
    workdir: str | None = None
    chunk: int | None = None
    mode: Literal["auto", "loop", "scan"] = "auto"
    over_seeds: Literal["auto", "sequential", "vmap"] = "auto"
    tensorboard: bool = False
    sweep: tuple[str, ...] = ()


def make_stream(config: StreamConfig) -> Stream:
    """Loads the data and makes the scenario; every InputError comes before any compute.

    Raises:
      InputError: for an unknown scenario, a setting that the scenario does not have, or one that
        does not fit the data.
    """
    if config.scenario not in _SCENARIOS:
        raise InputError(f"scenario is {config.scenario!r}; use one of {', '.join(_SCENARIOS)}")
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
    source = _loaded(config.data, config.data_dir, size=config.image_size)
    return make(source, batch_size=config.batch_size, epochs=config.epochs, **settings)


_loaded = lru_cache(maxsize=1)(load)
"""The cells of a table share one data set."""

_SCENARIOS: dict[str, tuple[Callable[..., Stream], tuple[str, ...]]] = {
    "class_il": (class_il, ("tasks", "class_order", "drop_last", "label_fraction")),
    "permuted": (permuted, ("tasks", "drop_last")),
    "rotated": (rotated, ("tasks", "drop_last")),
    "mnist360": (mnist360, ("replacement",)),
    "gcil": (gcil, ("tasks", "drop_last", "distribution", "samples_per_phase")),
    "blurry": (blurry, ("tasks", "drop_last", "class_order", "blur")),
}
"""Scenario -> what makes it, and its fields of the config besides data, batch size and epochs."""


def make_method(
    name: str, method_config: Any, stream: Stream, config: StreamConfig, net: NetConfig
) -> Method:
    """The method of the table's row ``name``, fitted to the stream."""
    images = stream.source.train.x.ndim == 4
    augment = recipe(
        stream.source.train.x.shape[1:],
        normalisation=config.normalisation,
        crop_padding=config.crop_padding,
        flip=config.flip,
        views=config.views if images else None,
        view_padding=config.view_padding,
        view_flip=config.view_flip,
    )
    if not images and net.net != "mlp":
        raise InputError(f"{stream.source.name} holds vectors, not images; use --net mlp")
    if hasattr(method_config, "semi_supervised") and config.label_fraction < 1.0:
        method_config = replace(method_config, semi_supervised=True)
    setting = Setting(net, augment, stream.num_classes, stream.num_tasks)
    return METHODS[name].build(method_config, setting)


def swept(hyper: PyTree, asked: Sequence[str]) -> dict[str, PyTree]:
    """Label -> Hyper for every value of a sweep; without one, the Hyper as it is, labelled "".

    Args:
      hyper: where everything else comes from.
      asked: a field, with or without "hyper." before it, and its values.

    Raises:
      InputError: for an unknown field, a value that is no number, or no value.
    """
    if not asked:
        return {"": hyper}
    name, *values = asked
    name = name.removeprefix("hyper.")
    known = [field.name for field in fields(hyper)]
    if name not in known:
        raise InputError(f"sweep names {asked[0]!r}; the method has {', '.join(known)}")
    if not values or len(set(values)) < len(values):
        raise InputError(f"sweep over {name} has the values {values}; give each once, at least one")
    try:
        return {f"{name}={value}": replace(hyper, **{name: float(value)}) for value in values}
    except ValueError:
        raise InputError(f"sweep over {name} has the values {values}; give numbers") from None


def check_execution(
    methods: list[tuple[Method, PyTree]], config: RunConfig
) -> tuple[Plan, list[dict[str, PyTree]]]:
    """The plan, and the Hypers of each method by label, once all of them are found good.

    Raises:
      InputError: for bad seeds, hyper-parameters, plan or sweep.
    """
    plan = Plan(chunk=config.chunk, mode=config.mode, over_seeds=config.over_seeds)
    values = [swept(hyper, config.sweep) for _, hyper in methods]
    for (method, _), hypers in zip(methods, values, strict=True):
        for hyper in hypers.values():
            check_run(method, hyper, config.seeds, plan)
    if config.tensorboard and config.workdir is None:
        raise InputError("tensorboard needs a folder; give --workdir")
    return plan, values


def _advise(methods: list[tuple[Method, PyTree]], stream: Stream, seeds: Sequence[int]) -> None:
    """Prints on stderr what the methods say of so short a stream."""
    for method, hyper in methods:
        if method.advice is not no_advice:
            num_steps = len(stream.schedule(jax.random.key(seeds[0])).index)
            if told := method.advice(hyper, num_steps):
                print(f"warning: {told}", file=sys.stderr)


def execute(
    methods: list[tuple[Method, PyTree]], stream: Stream, config: RunConfig, record: Any
) -> list[Result]:
    """Runs methods one after another on one stream, with the console and the logs asked for.

    Args:
      methods: each with its Hyper, which a sweep varies.
      stream: what all of them see.
      config: seeds, plan and where to write.
      record: the whole config of the experiment, a dataclass; kept in the workdir, if there is one,
        which is made only once everything has been checked.

    Raises:
      InputError: for bad seeds, hyper-parameters, plan or workdir, before any compute.
      Diverged: when a metric is not finite.
    """
    plan, values = check_execution(methods, config)
    if config.workdir is not None:
        prepare_workdir(config.workdir, asdict(record))
    _advise(methods, stream, config.seeds)
    results = []
    logs = config.workdir if config.tensorboard else None
    for number, ((method, _), hypers) in enumerate(zip(methods, values, strict=True)):
        with console(stream_line=number == 0) as see, tensorboard(logs) as log:
            how = {"seeds": config.seeds, "plan": plan, "observe": fan_out(see, log)}
            found = sweep(method, stream, list(hypers.values()), **how)
        for label, result in zip(hypers, found, strict=True):
            results.append(result._replace(method=f"{method.name} {label}".strip()))
    return results
