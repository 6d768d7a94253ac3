"""A run read back from its workdir, ready to predict; the data set is not needed."""

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from cls_jax.checkpoint import read_lanes
from cls_jax.evaluate import EVAL_BATCH, hidden_task, make_evaluate, view_names
from cls_jax.events import Result
from cls_jax.experiment import StreamConfig, fit_method
from cls_jax.feed import make_road
from cls_jax.itinerary import Place, lane_name
from cls_jax.journey import schedules_of
from cls_jax.methods import METHODS
from cls_jax.methods.base import Method
from cls_jax.nets.choose import NetConfig
from cls_jax.paths import check_readable
from cls_jax.placement import Placement
from cls_jax.program import Run, birth
from cls_jax.stored_recipe import RECIPE, Kinds, Recipe, read_recipe
from cls_jax.streams.stream import Stream
from cls_jax.types import InputError, PyTree, Task
from cls_jax.workdir import CHECKPOINTS


class Trained(NamedTuple):
    """One seed of one method, as it was last saved.

    Attributes:
      name: of the method, with the value of a sweep.
      seed: of the run.
      method: its pure functions.
      run: state, key, step and accuracy matrix.
      place: how far it is.
      stream: the flags of its stream.
      shape: of one example, raw.
      num_classes: of the stream.
    """

    name: str
    seed: int
    method: Method
    run: Run
    place: Place
    stream: StreamConfig
    shape: tuple[int, ...]
    num_classes: int

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

        Args:
          x: raw examples as the stream has them: uint8[n, h, w, c] or float32[n, d].
          task: for a method that uses the task at test; it is not told if not given.

        Raises:
          InputError: for examples of another shape.
        """
        x = np.asarray(x)
        if x.shape[1:] != self.shape:
            raise InputError(f"x has shape {x.shape}; give [n, {', '.join(map(str, self.shape))}]")
        task = hidden_task(self.num_classes) if task is None else task
        logits = []
        for start in range(0, len(x), EVAL_BATCH):
            part = x[start : start + EVAL_BATCH]
            padded = part[np.arange(EVAL_BATCH) % len(part)]
            answer = _answer(self.method.predict, self.state, padded, task)
            logits.append(np.asarray(answer)[: len(part)])
        return np.concatenate(logits) if logits else np.zeros((0, self.num_classes), np.float32)


_KINDS = Kinds(
    {name: (row.config, row.hyper) for name, row in METHODS.items()}, NetConfig, StreamConfig
)
_LARGEST_STATE = 2**38  # bytes: no device holds more
_answer = jax.jit(lambda predict, *given: predict(*given), static_argnums=0)


def load(workdir: str | Path, *, method: str | None = None, seed: int | None = None) -> Trained:
    """The run that was saved in ``workdir``.

    Args:
      workdir: of an experiment, finished or not.
      method: its name, where the workdir has several.
      seed: of the run; the first if not given.

    Raises:
      InputError: nothing was saved there, or not this.
    """
    found = load_all(workdir)
    fitting = [one for one in found if method in (None, one.name) and seed in (None, one.seed)]
    if not fitting:
        there = ", ".join(f"{one.name} seed {one.seed}" for one in found)
        raise InputError(
            f"workdir {workdir} has no {method or 'run'} with seed {seed}; it has {there}"
        )
    names = list(dict.fromkeys(one.name for one in fitting))
    if len(names) > 1:
        raise InputError(f"workdir {workdir} has several methods: {', '.join(names)}; name one")
    return fitting[0]


def load_all(workdir: str | Path) -> list[Trained]:
    """Every run that was saved in ``workdir``: methods by name, seeds in order.

    Raises:
      InputError: there is none.
    """
    recipes = sorted(check_readable(workdir).glob(f"{CHECKPOINTS}/*/{RECIPE}"))
    found = [one for path in recipes for one in _read(path)]
    if not found:
        raise InputError(
            f"workdir {workdir} holds no saved run; give the --workdir of a run that was saved"
        )
    return found


def score(trained: Trained, stream: Stream) -> np.ndarray:
    """float32[views, 2, T] accuracy on every task of ``stream``, as ``Result.matrix`` has a row.

    Args:
      trained: any saved run; its seed fixes the class order.
      stream: on its own data or on others of the same shape and classes.

    Raises:
      InputError: for data that do not fit.
    """
    shape, classes = stream.source.train.x.shape[1:], stream.num_classes
    if (shape, classes) != (trained.shape, trained.num_classes):
        raise InputError(
            f"data {stream.source.name} has examples {[*shape]} and {classes} classes, but "
            f"{trained.name} was trained on {[*trained.shape]} and {trained.num_classes}; give "
            "data like these"
        )
    placement = Placement()
    evaluate = make_evaluate(trained.method, stream, placement)
    road = make_road(stream.source.test, placement, 1, on_host=False)
    schedule = schedules_of(trained.method, stream, trained.seed)[0]
    return evaluate(trained.state, schedule, road, stream.num_tasks - 1)


def results(found: Sequence[Trained], stream: Stream) -> list[Result]:
    """One Result a method, from the matrices that were saved; costs are not known (NaN).

    Args:
      found: of ``load_all``.
      stream: that they were trained on, for its name.
    """
    by_name: dict[str, list[Trained]] = {}
    for one in found:
        by_name.setdefault(one.name, []).append(one)
    return [
        Result(
            method=name,
            seeds=tuple(one.seed for one in mine),
            views=view_names(mine[0].method),
            matrix=np.stack([np.asarray(one.run.matrix, np.float64) for one in mine]),
            states=tuple(one.state for one in mine),
            seconds=float("nan"),
            steps_per_second=float("nan"),
            details={"stream": {"name": stream.name, **stream.describe}},
        )
        for name, mine in by_name.items()
    ]


def _read(path: Path) -> Iterator[Trained]:
    recipe = read_recipe(path, _KINDS)
    method, stream, like = _rebuilt(path, recipe)
    labels, seeds = recipe.sweep, recipe.seeds
    names = {
        lane_name(seed, value, len(labels)): (f"{recipe.name} {label}".strip(), seed)
        for value, label in enumerate(labels)
        for seed in seeds
    }
    kept, _ = read_lanes(path.parent, like)
    for lane, (name, seed) in names.items():
        if lane in kept:
            place, run = kept[lane]
            yield Trained(name, seed, method, run, place, stream, recipe.shape, recipe.num_classes)


def _rebuilt(path: Path, recipe: Recipe) -> tuple[Method, StreamConfig, PyTree]:
    """The method, the flags of its stream, and one lane's Run as shapes; nothing is computed."""
    row, shape = METHODS[recipe.row], recipe.shape
    sizes = recipe.num_classes, recipe.num_tasks
    where = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    try:
        stream, net = StreamConfig(**recipe.stream), NetConfig(**recipe.net)
        method = fit_method(recipe.row, row.config(**recipe.method), stream, net, shape, sizes)
        hyper = jax.tree.map(jnp.float32, row.hyper(**recipe.hyper))
        newborn = partial(birth, method, shape, recipe.dtype, (stream.batch_size, sizes[1]))
        like = jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=where),
            jax.eval_shape(newborn, hyper, np.uint32(0)),
        )
    except (ValueError, TypeError, ArithmeticError, LookupError, MemoryError) as error:
        why = " ".join(str(error).split())[:300]
        raise InputError(f"{path} fits no method that can be built: {why}") from error
    size = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(like))
    if size > _LARGEST_STATE:
        raise InputError(f"{path} asks for a state of {size / 2**30:,.0f} GiB; is it damaged?")
    return method, stream, like
