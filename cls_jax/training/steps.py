"""A chunk of steps as one compiled program: gather, step, count, repeat.

In mode "scan" a chunk is one compiled loop; in mode "loop" Python calls one compiled step after
another, which is the fast way for convolutions on a CPU (XLA:CPU runs them many times slower inside
a compiled loop). The key of a step is folded from its number, and the number of steps in a chunk is
data, so chunks of any length give the same bits from one compilation.
"""

from collections.abc import Callable
from functools import partial
from typing import Literal, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from cls_jax.core.keys import RunKey
from cls_jax.core.sharding import gathered, spread
from cls_jax.core.sync import select
from cls_jax.core.types import Array, Batch, BoundaryFn, Metrics, PyTree, Task
from cls_jax.methods.base import Algorithm, Method, hidden_task
from cls_jax.streams.stream import Stream, look_up
from cls_jax.training.batches import BatchTable
from cls_jax.training.parallel import DATA, Examples, Parallelism
from cls_jax.training.run import Run


class ChunkMetrics(struct.PyTreeNode):
    """What leaves a chunk beside the run.

    Attributes:
      sums: the metrics, summed over steps.
      last_good: the newest metrics that were all finite, before the first that were not; NaN if
        the chunk had none.
      bad_step: int32[] number of the first step with a metric that is not finite, or -1.
    """

    sums: Metrics
    last_good: Metrics
    bad_step: Array


class AdvanceFn(Protocol):
    """Runs ``num_steps`` rows from the front of ``rows``; the Run that went in is donated.

    ``data`` are the examples that ``rows`` number, as ``prefetch.py`` hands them over.
    """

    def __call__(
        self, run: Run, data: Examples, rows: BatchTable, task: Task, num_steps: int
    ) -> tuple[Run, ChunkMetrics]: ...


def gather(stream: Stream, method: Method, data: Examples, row: BatchTable, task: Task) -> Batch:
    """The batch of one row: examples from the device, what must not be seen blanked out."""
    valid = jnp.asarray(row.index) >= 0
    x, y = spread(data.x[row.index]), data.y[row.index] if row.y is None else row.y
    if stream.transform is not None:
        x = stream.transform(x, look_up(data.contexts, row.context))
    labelled = valid & row.labelled
    number = task.index if method.needs.told_task else jnp.int32(-1)
    return Batch(
        x=x,
        y=jnp.where(labelled, y, -1).astype(jnp.int32),
        task=jnp.broadcast_to(number, valid.shape),
        valid=valid,
        labelled=labelled,
        epoch=jnp.asarray(row.epoch),
    )


def make_advance(
    method: Method,
    stream: Stream,
    phase: int,
    parallelism: Parallelism,
    *,
    mode: Literal["loop", "scan"],
) -> AdvanceFn:
    """Builds and caches the compiled chunk of one phase.

    Args:
      method, stream: what learns what.
      phase: its number.
      parallelism: of the trials. Where they are stacked, a trial whose row is not active keeps its
        run as it was. Chunks that have such rows are a program of their own, because keeping costs
        a copy of the state, memory included, at every step.
      mode: see the module's docstring.
    """

    @jax.jit  # traced once; both uses below take it from the cache
    def one(run: Run, data: Examples, row: BatchTable, task: Task) -> tuple[PyTree, Metrics]:
        key = jax.random.fold_in(jax.random.fold_in(run.key, RunKey.STEPS), run.step)
        step = method.at(run.hyper).phases[phase].step
        state, metrics = step(key, run.state, gather(stream, method, data, row, task))
        return state, {name: jnp.asarray(v, jnp.float32) for name, v in metrics.items()}

    def counted(
        ragged: bool, run: Run, so_far: ChunkMetrics, data: Examples, row: BatchTable, task: Task
    ) -> tuple[Run, ChunkMetrics]:
        state, metrics = gathered(one(run, data, row, task))
        finite = jnp.all(jnp.stack([jnp.isfinite(v) for v in metrics.values()]))
        good = so_far.bad_step < 0
        new = (
            state,
            run.step + 1,
            ChunkMetrics(
                sums=jax.tree.map(jnp.add, so_far.sums, metrics),
                last_good=select(good & finite, metrics, so_far.last_good),
                bad_step=jnp.where(good & ~finite, run.step, so_far.bad_step),
            ),
        )
        if ragged:
            new = select(jnp.asarray(row.active), new, (run.state, run.step, so_far))
        return run.replace(state=new[0], step=new[1]), new[2]

    def no_sums(run: Run, data: Examples, rows: BatchTable, task: Task) -> ChunkMetrics:
        row = jax.tree.map(lambda leaf: leaf[0], rows)
        _, metrics = jax.eval_shape(one, run, data, row, task)
        return ChunkMetrics(
            sums={name: jnp.float32(0) for name in metrics},
            last_good={name: jnp.float32(jnp.nan) for name in metrics},
            bad_step=jnp.int32(-1),
        )

    def whole(
        ragged: bool, run: Run, data: Examples, rows: BatchTable, task: Task, num_steps: Array
    ):
        def body(i, carry):
            run, so_far = carry
            row = jax.tree.map(lambda leaf: leaf[i], rows)
            return counted(ragged, run, so_far, data, row, task)

        return jax.lax.fori_loop(0, num_steps, body, (run, no_sums(run, data, rows, task)))

    def compiled(fn: Callable, in_axes: tuple, donate: tuple[int, ...]) -> dict[bool, Callable]:
        both = (False, True) if parallelism.stacked else (False,)
        return {
            ragged: parallelism.compile(partial(fn, ragged), in_axes, donate) for ragged in both
        }

    wholes = compiled(whole, (0, DATA, 0, 0, None), (0,))
    singles = compiled(counted, (0, 0, DATA, 0, 0), (0, 1))
    empty_sums = parallelism.compile(no_sums, (0, DATA, 0, 0))

    def advance(
        run: Run, data: Examples, rows: BatchTable, task: Task, num_steps: int
    ) -> tuple[Run, ChunkMetrics]:
        ragged = not rows.active[..., :num_steps].all()
        if mode == "scan":
            return wholes[ragged](run, data, rows, task, np.int32(num_steps))
        so_far = empty_sums(run, data, rows, task)
        for i in range(num_steps):
            row = jax.tree.map(lambda leaf: leaf[:, i] if parallelism.stacked else leaf[i], rows)  # noqa: B023
            run, so_far = singles[ragged](run, so_far, data, row, task)
        return run, so_far

    return advance


Which = tuple[str, int]
"""A boundary: "begin" or "end" of a task, or "enter" with the number of a phase."""


def function_at(algorithm: Algorithm, which: Which) -> BoundaryFn:
    """The boundary function that an algorithm has there."""
    kind, phase = which
    if kind == "enter":
        return algorithm.phases[phase].enter
    return algorithm.begin_task if kind == "begin" else algorithm.end_task


def make_boundary(method: Method, stream: Stream, parallelism: Parallelism) -> Callable[..., Run]:
    """Builds ``boundary(which, run, data, number, task, rows) -> Run`` for boundary functions.

    ``number`` tells the boundaries of a run apart, for the key; the Run is donated. ``rows``, which
    number ``data``, are those whose examples are handed over, always equally many, or None.
    """
    hidden = hidden_task(stream.num_classes)
    compiled: dict[Which, Callable] = {}

    def apply(
        which: Which, run: Run, data: Examples, number: Array, task: Task, rows: BatchTable | None
    ) -> Run:
        key = jax.random.fold_in(jax.random.fold_in(run.key, RunKey.BOUNDARIES), number)
        visible = task if method.needs.told_task else hidden
        batch = None
        if rows is not None:
            batch = jax.vmap(lambda row: gather(stream, method, data, row, task))(rows)
            batch = jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), batch)
        change = function_at(method.at(run.hyper), which)
        return run.replace(state=gathered(change(key, run.state, visible, batch)))

    def boundary(
        which: Which,
        run: Run,
        data: Examples | None,
        number: int,
        task: Task,
        rows: BatchTable | None = None,
    ) -> Run:
        if which not in compiled:
            axes = 0, None if data is None else DATA, None, 0, 0
            compiled[which] = parallelism.compile(partial(apply, which), axes, (0,))
        return compiled[which](run, data, np.int32(number), task, rows)

    return boundary
