"""What is compiled once for all groups of trials, and kept for later calls."""

import itertools
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache, partial
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp

from cls_jax.core.sharding import data_mesh
from cls_jax.core.types import Array
from cls_jax.methods.base import Method
from cls_jax.streams.stream import Stream, pooled
from cls_jax.training.evaluate import EvaluateFn, make_evaluate
from cls_jax.training.parallel import Parallelism
from cls_jax.training.plan import Plan
from cls_jax.training.prefetch import Loader, make_loader
from cls_jax.training.run import Run, abstract_run, init_run, is_convolutional, shapes_of
from cls_jax.training.steps import AdvanceFn, make_advance, make_boundary


class Programs(NamedTuple):
    """Everything compiled for (method, stream, plan).

    Attributes:
      method, stream, plan: what learns what, and how; every choice of the plan is made.
      parallelism: of the trials.
      start: (hyper, seed) -> a Run.
      advance: the compiled chunk of each phase.
      boundary: see steps.make_boundary.
      evaluate: see evaluate.make_evaluate.
      write: (matrix, accuracy, row) -> the matrix with that row, where it was measured.
      loaders: number of trials -> those of the training and of the test split.
      counter: of all chunks so far; the first one compiles, so its time does not count.
    """

    method: Method
    stream: Stream
    plan: Plan
    parallelism: Parallelism
    start: Callable[..., Run]
    advance: Sequence[AdvanceFn]
    boundary: Callable[..., Run]
    evaluate: EvaluateFn
    write: Callable[..., Array]
    loaders: Callable[[int], list[Loader]]
    counter: Iterator[int]

    def abstract(self) -> Run:
        """One trial's Run, as shapes, dtypes and shardings."""
        where = self.parallelism.sharding()

        def placed(leaf: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
            return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=where)

        return jax.tree.map(placed, abstract_run(self.method, shapes_of(self.stream)))


_MADE: dict[tuple, Programs] = {}
_MOST_MADE = 4
"""Programs of so many (method, stream, plan) are kept for the next call."""


def make_programs(method: Method, stream: Stream, plan: Plan) -> Programs:
    """The programs of equal arguments, if there were any, or new ones.

    Methods that differ in hyper-parameters alone share them, since these are data. They hold the
    stream, so its identity stays its own as long as it is a key.

    Args:
      method, stream: what learns what; pooled where the method needs it so.
      plan: with every choice made.
    """
    key = (method.at, id(stream.schedule), id(stream.source), stream.batch_size, plan)
    if key not in _MADE or plan.profile is not None:
        _MADE[key] = _compiled(method, stream, plan)
    programs = _MADE[key] = _MADE.pop(key)  # the newest last
    while len(_MADE) > _MOST_MADE:
        del _MADE[next(iter(_MADE))]
    return programs


def _compiled(method: Method, stream: Stream, plan: Plan) -> Programs:
    stream = pooled(stream) if method.needs.pooled else stream
    assert plan.devices is not None  # resolve, as all choices
    assert plan.mode != "auto"
    split = plan.over_seeds == "sequential" and plan.devices > 1
    kinds: dict[str, Literal["one", "vmap", "devices"]]
    kinds = {"sequential": "one", "vmap": "vmap", "devices": "devices"}
    parallelism = Parallelism(
        kinds[plan.over_seeds],
        data_mesh(plan.devices) if split else None,
        is_convolutional(method, shapes_of(stream)),
    )

    @lru_cache(maxsize=1)
    def loaders(num_trials: int) -> list[Loader]:
        splits, on_host = (stream.source.train, stream.source.test), plan.data == "host"
        return [make_loader(split, parallelism, num_trials, on_host=on_host) for split in splits]

    def write(matrix: Array, accuracy: Array, row: Array) -> Array:
        known = jnp.where(jnp.isnan(accuracy), matrix[:, :, row], accuracy)
        return matrix.at[:, :, row].set(known)

    return Programs(
        method=method,
        stream=stream,
        plan=plan,
        parallelism=parallelism,
        start=parallelism.compile(partial(init_run, method, shapes_of(stream)), (0, 0), once=True),
        advance=[
            make_advance(method, stream, number, parallelism, mode=plan.mode)
            for number in range(len(method.phases))
        ],
        boundary=make_boundary(method, stream, parallelism),
        evaluate=make_evaluate(method, stream, parallelism),
        write=parallelism.compile(write, (0, 0, None)),
        loaders=loaders,
        counter=itertools.count(),
    )
