"""The library from Python: a problem, a run or a sweep of runs, and what came of it."""

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from cls_jax.app.build import Learner, fit_problem, recipe_words
from cls_jax.app.continuing import start_from
from cls_jax.app.grid import hyper_grid
from cls_jax.app.label_space import in_label_space, with_earlier
from cls_jax.app.main import advice_of, saving
from cls_jax.app.optimizers import factory_of, fit_optimizer
from cls_jax.app.restore import SavedRun
from cls_jax.app.run_config import RunConfig
from cls_jax.core.checks import check_seeds, short_repr
from cls_jax.core.errors import InputError
from cls_jax.core.files import write_all
from cls_jax.core.types import PyTree
from cls_jax.methods import METHODS
from cls_jax.methods.base import Method, problem_of
from cls_jax.methods.optimizer import Optimizer, OptimizerConfig
from cls_jax.methods.problem import Problem
from cls_jax.nets.config import NetConfig, check_known, check_sizes
from cls_jax.nets.registry import networks, networks_of
from cls_jax.report.logs import several
from cls_jax.report.summary import render, tables_of
from cls_jax.report.tables import as_text
from cls_jax.streams.config import InputConfig
from cls_jax.streams.open_stream import check_not_open
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
      net: a name ("mlp", "resnet18", ... or one that ``cls_jax.net`` registered); a module of
        flax.linen or flax.nnx whose outputs are one logit a class; what ``net_from_linen`` or
        ``net_from_nnx`` makes of one; or a function from the number of outputs to one of these.
      width: channels of the first stage of a network of the library.
      hidden: units of each hidden layer of an mlp.
      dtype: compute dtype of a network of the library.
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
    of_input, of_optimizer = (set(vars(one())) for one in (InputConfig, OptimizerConfig))
    if unknown := [each for each in settings if each not in of_input | of_optimizer]:
        known = ", ".join((*vars(InputConfig()), *vars(OptimizerConfig())))
        raise InputError(f"problem() has no {unknown[0]!r}; its inputs are {known}")
    called, factory = factory_of(optimizer)
    numbers = {each: settings.pop(each) for each in of_optimizer & settings.keys()}
    learns = fit_optimizer(OptimizerConfig(optimizer=called, **numbers), stream, factory)
    config, batch = InputConfig(**settings), (stream.batch_size, *stream.source.train.x.shape[1:])
    sizes = stream.num_classes, stream.task_room
    if isinstance(net, str):
        check_known(net)
        made = networks(NetConfig(net=net, width=width, hidden=hidden, dtype=dtype))
    else:
        made = networks_of(net, stream.num_classes)
    chosen = NetConfig(net=made.kind, width=width, hidden=hidden, dtype=dtype)
    check_sizes(chosen)
    told = {"data": stream.source.name, "unlabelled": stream.unlabelled}
    fitted = fit_problem(config, made, batch, sizes, learns, **told)
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
        """The scores of one run, or several values side by side and paired, as text."""
        return "\n\n".join(map(as_text, tables_of(self.runs)))

    @property
    def states(self) -> tuple[tuple[PyTree, ...], ...]:
        """The final states, [values][seeds]."""
        return tuple(one.states for one in self.runs)


def train(
    method: Method,
    stream: Stream,
    *,
    seeds: Sequence[int] | None = None,
    sweep: Mapping[str, Sequence[float]] = {},
    plan: Plan = Plan(),  # noqa: B008
    observe: events.Logger | Sequence[events.Logger] = (),
    workdir: str | Path | None = None,
    save_every: str = "60s",
    start: Result | SavedRun | Sequence[SavedRun] | str | Path | None = None,
    earlier: Stream | Sequence[Stream] | None = None,
) -> Result:
    """Trains a method on a stream for several seeds and values, and evaluates after every task.

    Called again with a method and a stream that differ in hyper-parameters alone, it compiles
    nothing: they are data. What a method has to say of so short a stream is a Python warning.

    With ``start`` a finished run learns the tasks of ``stream`` too: memory, optimizer states,
    averaged copies and counters go on, tasks are numbered on, and the matrix has the old tasks too.
    Its bits are those of one run on all tasks, if that shows the same batches. Classes of
    ``stream`` get the next free labels of the label space; ``reserve`` makes room for them when the
    first run begins, and says so where they are classes that were learned before.

    Args:
      method: what learns; with ``start`` the method that learned before, whose hyper-parameters
        may have other values from here on.
      stream: what is seen when; with ``start`` the further tasks alone.
      seeds: one run each; a seed fixes class order, initial weights and every draw. Seed 0, or with
        ``start`` all seeds there, if not given.
      sweep: hyper-parameters and their values; every combination gets all seeds, in one program.
      plan: how to execute.
      observe: a logger, or several: ``cls_jax.logs.csv("runs/mine")``, or a function of your own,
        called between chunks with Started, Progress, Evaluated and, last, Ended.
      workdir: where runs are saved and results written; the same call goes on where a killed one
        was, bit for bit, and ``load`` reads it back. Nothing is written if not given.
      save_every: how often: "60s", "5m", "200steps" or "never".
      start: what it goes on from: the Result of a finished ``train`` (of one value), its workdir,
        or what ``load`` gives, one of each seed. None: from the beginning.
      earlier: the streams that ``start`` learned, in order, whose tasks are then tested too; found
        by itself where ``start`` is of this process or its stream was made of flags.

    Raises:
      InputError: for bad seeds, values, plan or workdir, or a ``start`` that does not fit, before
        any compute.
      Diverged: when a metric is not finite.
      Stopped: after SIGTERM or Ctrl-C, once the run is saved in ``workdir``.

    Example:
      >>> import cls_jax as cls
      >>> stream = cls.class_il(cls.load_data("digits", size=8), tasks=5, batch_size=50)
      >>> method = cls.sgd(cls.problem(stream, net="mlp", hidden=(16,)))
      >>> cls.train(method, stream, seeds=range(2)).accuracy().shape
      (1, 2)
    """
    begun, loggers = None, _loggers(observe)
    if start is not None:
        given = _one_run(start) if isinstance(start, Result) else start
        begun = start_from(given, method.factory, workdir)
        seeds = tuple(begun.trained) if seeds is None else seeds
    seeds = check_seeds((0,) if seeds is None else seeds)
    if begun is not None:
        stream = in_label_space(stream, begun)
        begun = with_earlier(begun, method, stream, seeds, earlier)
    elif earlier is not None:
        raise InputError("earlier is what start has learned; give start, or leave it out")
    values = hyper_grid(method, sweep)
    check_kept(method, workdir)
    check_not_open(stream)
    learner = learner_of(method, stream)
    for advice in advice_of([learner], [values], seeds):
        warnings.warn(advice, stacklevel=2)
    config = RunConfig(
        seeds=seeds, workdir=None if workdir is None else str(workdir), save_every=save_every
    )
    record = Record(config, {**method.fixed, **method.hyper}, {**sweep}, learner.recipe)
    with saving([learner], [values], config, record, begun) as (keep,):
        found = run_sweep(
            method,
            stream,
            list(values.values()),
            labels=list(values),
            seeds=seeds,
            plan=plan,
            observe=several(*loggers),
            keep=keep,
            start=begun,
        )
        labelled = tuple(
            one._replace(method=f"{method.name} {label}".strip())
            for label, one in zip(values, found, strict=True)
        )
        if workdir is not None:
            write_all(Path(workdir), render(labelled))
    return Result(labelled, tuple(values.values()))


def _loggers(observe: events.Logger | Sequence[events.Logger]) -> Sequence[events.Logger]:
    """What was given, as several."""
    loggers = (observe,) if callable(observe) else observe
    if not isinstance(loggers, Sequence) or not all(map(callable, loggers)):
        raise InputError(
            f"observe is {short_repr(observe)}; give a logger, or several, e.g. "
            'cls_jax.logs.csv("runs/mine")'
        )
    return loggers


def check_kept(method: Method, workdir: str | Path | None) -> None:
    """Raises InputError if there is a workdir, and nothing from which to make the method again."""
    if workdir is None:
        return
    if method.factory not in METHODS:
        raise InputError(
            f"workdir is {workdir}, but {method.name} is of no factory from which it could be made "
            "again; make it with one (see cls.method), or leave workdir out"
        )
    words = getattr(problem_of(method), "words", None)
    if words is None:
        raise InputError(
            f"workdir is {workdir}, but the problem of {method.name} was made by hand; make it "
            "with cls.problem, or leave workdir out"
        )
    if not words[1].net.isidentifier():
        raise InputError(
            f"workdir is {workdir}, but the network of {method.name} is called {words[1].net}, by "
            "which nobody finds it again; give a def decorated by @cls.net, or leave workdir out"
        )


@dataclass(frozen=True)
class Record:
    """What config.json says of a call of ``train`` or ``online``."""

    run: RunConfig
    arguments: Mapping[str, Any]
    sweep: Mapping[str, Sequence[float]]
    recipe: Mapping[str, Any]


def _one_run(result: Result) -> events.Result:
    """What ``train`` can go on from.

    Raises:
      InputError: it has several values.
    """
    if len(result.runs) != 1:
        raise InputError(
            f"start is a sweep of {len(result.runs)} values; train the one that goes on alone, or "
            "give it from its workdir: start=cls.load(workdir, method=NAME)"
        )
    return result.runs[0]


def learner_of(method: Method, stream: Stream) -> Learner:
    """The method with the words from which it can be built again, as far as there are any."""
    problem = problem_of(method)
    inputs, net = getattr(problem, "words", None) or (InputConfig(), NetConfig(net="unknown"))
    optimizer = getattr(problem, "optimizer", Optimizer()).config
    return Learner(method, stream, recipe_words(method, stream, inputs, net, optimizer, None))
