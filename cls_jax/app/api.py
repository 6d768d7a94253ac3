"""The library from Python: a problem, a run or a sweep of runs, and what came of it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from cls_jax.app.build import Learner, fit_problem, recipe_words
from cls_jax.app.grid import hyper_grid
from cls_jax.app.main import saving
from cls_jax.app.optimizers import factory_of, fit_optimizer
from cls_jax.app.run_config import RunConfig
from cls_jax.core.checks import check_seeds
from cls_jax.core.errors import InputError
from cls_jax.core.files import write_all
from cls_jax.core.types import PyTree
from cls_jax.methods import METHODS
from cls_jax.methods.base import Method
from cls_jax.methods.optimizer import Optimizer, OptimizerConfig
from cls_jax.methods.problem import Problem
from cls_jax.nets.config import NetConfig, check_known
from cls_jax.nets.registry import networks, networks_of, own_name
from cls_jax.report.summary import render, table_of
from cls_jax.report.tables import as_text
from cls_jax.streams.config import InputConfig
from cls_jax.streams.stream import Stream
from cls_jax.training import events
from cls_jax.training.plan import Plan
from cls_jax.training.runner import sweep as run_sweep

SCORES = {"class_il": 0, "task_il": 1}
"""Name of a score -> its place in ``events.Result.matrix``."""


def problem(
    stream: Stream,
    net: Any = "mlp",
    *,
    width: int = 64,
    hidden: tuple[int, ...] = (100, 100),
    dtype: Literal["float32", "bfloat16"] = "float32",
    optimizer: str | Callable[..., Any] = "sgd",
    **settings: Any,
) -> Problem:
    """What a method has to learn, with which network and which optimizer.

    Args:
      stream: fixes shapes and sizes.
      net: a name ("mlp", "resnet18", ... or one that ``cls_jax.net`` registered), a flax.linen
        module whose outputs are one logit a class, or a function from the number of outputs to one.
      width: channels of the first stage of a named network.
      hidden: units of each hidden layer of an mlp.
      dtype: compute dtype of a named network.
      optimizer: of methods whose paper leaves it open; all others refuse it. A name ("sgd", "adam",
        "adamw", another of optax, one that ``cls.optimizer`` registered), or a function from the
        learning rate to an optax optimizer.
      settings: see ``InputConfig``: normalisation="half", crop_padding, flip, views, ... and
        ``OptimizerConfig``: momentum, weight_decay, schedule="cosine", warmup_steps,
        schedule_steps, clip_norm.

    Raises:
      InputError: for a network, an augmentation or an optimizer that does not fit, or a setting
        that there is not.
    """
    name = net if isinstance(net, str) else own_name(net)
    of_input, of_optimizer = (set(vars(one())) for one in (InputConfig, OptimizerConfig))
    if unknown := [each for each in settings if each not in of_input | of_optimizer]:
        known = ", ".join((*vars(InputConfig()), *vars(OptimizerConfig())))
        raise InputError(f"problem() has no {unknown[0]!r}; its inputs are {known}")
    called, factory = factory_of(optimizer)
    numbers = {each: settings.pop(each) for each in of_optimizer & settings.keys()}
    learns = fit_optimizer(OptimizerConfig(optimizer=called, **numbers), stream, factory)
    config, batch = InputConfig(**settings), (stream.batch_size, *stream.source.train.x.shape[1:])
    chosen = NetConfig(net=name, width=width, hidden=hidden, dtype=dtype)
    if isinstance(net, str):
        check_known(net)
    made = networks(chosen) if isinstance(net, str) else networks_of(net)
    sizes = stream.num_classes, stream.num_tasks
    fitted = fit_problem(config, made, batch, sizes, learns, data=stream.source.name)
    return fitted._replace(words=(config, chosen))


class Result(NamedTuple):
    """What came of ``train``.

    Attributes:
      runs: one ``events.Result`` for each value of the sweep: matrices, states, costs.
      values: the hyper-parameters that the sweep gave each.
    """

    runs: tuple[events.Result, ...]
    values: tuple[Mapping[str, float], ...]

    def accuracy(self, score: str = "class_il") -> np.ndarray:
        """float64[values, seeds]: mean accuracy on all tasks after the last, a fraction.

        Args:
          score: "class_il" (among all classes) or "task_il" (among those of the example's task).
        """
        if score not in SCORES:
            raise InputError(f"score is {score!r}; use one of {', '.join(SCORES)}")
        last = [one.matrix[:, 0, SCORES[score], -1] for one in self.runs]
        return np.stack([np.nanmean(each, axis=-1) for each in last])

    def table(self) -> str:
        """The scores of one run, or several values side by side, as text."""
        return as_text(table_of(self.runs))

    @property
    def states(self) -> tuple[tuple[PyTree, ...], ...]:
        """The final states, [values][seeds]."""
        return tuple(one.states for one in self.runs)


def train(
    method: Method,
    stream: Stream,
    *,
    seeds: Sequence[int] = (0,),
    sweep: Mapping[str, Sequence[float]] = {},
    plan: Plan = Plan(),  # noqa: B008
    observe: events.Observer = lambda event: None,
    workdir: str | Path | None = None,
    save_every: str = "60s",
) -> Result:
    """Trains a method on a stream for several seeds and values, and evaluates after every task.

    Called again with a method and a stream that differ in hyper-parameters alone, it compiles
    nothing: they are data.

    Args:
      method: what learns.
      stream: what is seen when.
      seeds: one run each; a seed fixes class order, initial weights and every draw.
      sweep: hyper-parameters and their values; every combination gets all seeds, in one program.
      plan: how to execute.
      observe: called between chunks with Started, Progress and Evaluated.
      workdir: where runs are saved and results written; the same call goes on where a killed one
        was, bit for bit, and ``load`` reads it back. Nothing is written if not given.
      save_every: how often: "60s", "5m", "200steps" or "never".

    Raises:
      InputError: for bad seeds, values, plan or workdir, before any compute.
      Diverged: when a metric is not finite.
      Stopped: after SIGTERM or Ctrl-C, once the run is saved in ``workdir``.

    Example:
      >>> import cls_jax as cls
      >>> stream = cls.class_il(cls.load_data("digits", size=8), tasks=5, batch_size=50)
      >>> method = cls.sgd(cls.problem(stream, net="mlp", hidden=(16,)))
      >>> cls.train(method, stream, seeds=range(2)).accuracy().shape
      (1, 2)
    """
    seeds = check_seeds(seeds)
    values = hyper_grid(method, sweep)
    if workdir is not None and method.factory not in METHODS:
        raise InputError(
            f"workdir is {workdir}, but {method.name} is of no factory from which it could be made "
            "again; make it with one (see cls.method), or leave workdir out"
        )
    learner = _learner(method, stream)
    config = RunConfig(
        seeds=seeds, workdir=None if workdir is None else str(workdir), save_every=save_every
    )
    record = _Record(config, {**method.fixed, **method.hyper}, {**sweep}, learner.recipe)
    with saving([learner], [values], config, record) as (keep,):
        found = run_sweep(
            method,
            stream,
            list(values.values()),
            seeds=seeds,
            plan=plan,
            observe=observe,
            keep=keep,
        )
        labelled = tuple(
            one._replace(method=f"{method.name} {label}".strip())
            for label, one in zip(values, found, strict=True)
        )
        if workdir is not None:
            write_all(Path(workdir), render(labelled))
    return Result(labelled, tuple(values.values()))


@dataclass(frozen=True)
class _Record:
    """What config.json says of a call of ``train``."""

    run: RunConfig
    arguments: Mapping[str, Any]
    sweep: Mapping[str, Sequence[float]]
    recipe: Mapping[str, Any]


def _learner(method: Method, stream: Stream) -> Learner:
    """The method with the words from which it can be built again, as far as there are any."""
    problem = getattr(method.at, "problem", None)
    inputs, net = getattr(problem, "words", None) or (InputConfig(), NetConfig(net="unknown"))
    optimizer = getattr(problem, "optimizer", Optimizer()).config
    return Learner(method, stream, recipe_words(method, stream, inputs, net, optimizer, None))
