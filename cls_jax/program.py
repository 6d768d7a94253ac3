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

from cls_jax.evaluate import hidden_task
from cls_jax.methods.base import Method, Phase
from cls_jax.rows import Rows
from cls_jax.streams.stream import Examples, Stream
from cls_jax.sync import select
from cls_jax.types import Array, Batch, Metrics, PyTree, Task

STEPS, BOUNDARIES = 2, 3  # purposes of a run's key; runner.py has the others


@struct.dataclass
class Run:
    """All that a killed process needs, for one seed, or for several stacked.

    Attributes:
      state: the method's.
      key: the seed's key; every other key is folded from it.
      step: int32[] updates made; the key of the next step is folded from this number.
      matrix: float32[views, 2, T + 1, T], see runner.Result.
    """

    state: PyTree
    key: Array
    step: Array
    matrix: Array


@struct.dataclass
class Tally:
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
    """Runs ``num_steps`` rows from the front of ``rows``; the Run that went in is donated."""

    def __call__(self, run: Run, rows: Rows, task: Task, num_steps: int) -> tuple[Run, Tally]: ...


def gather(stream: Stream, method: Method, data: Examples, row: Rows, task: Task) -> Batch:
    """The batch of one row: examples from the device, what must not be seen blanked out."""
    valid = row.index >= 0
    x, y = data.x[row.index], data.y[row.index]
    if stream.transform is not None:
        x = stream.transform(x, row.context)
    labelled = valid & row.labelled
    number = task.index if method.needs.told_task else jnp.int32(-1)
    return Batch(
        x=x,
        y=jnp.where(labelled, y, -1).astype(jnp.int32),
        task=jnp.broadcast_to(number, valid.shape),
        valid=valid,
        labelled=labelled,
    )


def make_advance(
    method: Method,
    stream: Stream,
    phase: Phase,
    data: Examples,
    *,
    mode: Literal["loop", "scan"],
    lanes: bool,
) -> AdvanceFn:
    """Builds and caches the compiled chunk of one phase.

    Args:
      method, stream, phase: what runs.
      data: the training split on the device.
      mode: see the module's docstring.
      lanes: runs, rows and tasks are stacked over seeds; a lane whose row is not live keeps its
        run as it was. Chunks that have such rows are a program of their own, because keeping costs
        a copy of the state, memory included, at every step.
    """

    @jax.jit  # traced once; both uses below take it from the cache
    def one(run: Run, data: Examples, row: Rows, task: Task) -> tuple[PyTree, Metrics]:
        key = jax.random.fold_in(jax.random.fold_in(run.key, STEPS), run.step)
        state, metrics = phase.step(key, run.state, gather(stream, method, data, row, task))
        return state, {name: jnp.asarray(v, jnp.float32) for name, v in metrics.items()}

    def counted(
        ragged: bool, run: Run, tally: Tally, data: Examples, row: Rows, task: Task
    ) -> tuple[Run, Tally]:
        state, metrics = one(run, data, row, task)
        finite = jnp.all(jnp.stack([jnp.isfinite(v) for v in metrics.values()]))
        good = tally.bad_step < 0
        new = (
            state,
            run.step + 1,
            Tally(
                sums=jax.tree.map(jnp.add, tally.sums, metrics),
                last_good=select(good & finite, metrics, tally.last_good),
                bad_step=jnp.where(good & ~finite, run.step, tally.bad_step),
            ),
        )
        if ragged:
            new = select(row.live, new, (run.state, run.step, tally))
        return run.replace(state=new[0], step=new[1]), new[2]

    def step_of(ragged: bool) -> Callable:
        one_lane = partial(counted, ragged)
        return jax.vmap(one_lane, in_axes=(0, 0, None, 0, 0)) if lanes else one_lane

    def at(rows: Rows, i: Array | int) -> Rows:
        return jax.tree.map(lambda leaf: leaf[:, i] if lanes else leaf[i], rows)

    def fresh_tally(run: Run, row: Rows, task: Task) -> Tally:
        per_lane = jax.vmap(one, in_axes=(0, None, 0, 0)) if lanes else one
        _, metrics = jax.eval_shape(per_lane, run, data, row, task)
        none = jnp.full(run.step.shape, -1, jnp.int32)
        nan = jax.tree.map(lambda leaf: jnp.full(leaf.shape, jnp.nan), metrics)
        zero = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape), metrics)
        return Tally(sums=zero, last_good=nan, bad_step=none)

    def whole(
        run: Run, tally: Tally, data: Examples, rows: Rows, task: Task, num_steps: Array, ragged
    ):
        def body(i, carry):
            return step_of(ragged)(*carry, data, at(rows, i), task)

        return jax.lax.fori_loop(0, num_steps, body, (run, tally))

    whole = jax.jit(whole, donate_argnums=(0, 1), static_argnums=6)
    single = {ragged: jax.jit(step_of(ragged), donate_argnums=(0, 1)) for ragged in (False, True)}

    def advance(run: Run, rows: Rows, task: Task, num_steps: int) -> tuple[Run, Tally]:
        tally = fresh_tally(run, at(rows, 0), task)
        ragged = not rows.live[..., :num_steps].all()
        if mode == "scan":
            return whole(run, tally, data, rows, task, np.int32(num_steps), ragged)
        for i in range(num_steps):
            run, tally = single[ragged](run, tally, data, at(rows, i), task)
        return run, tally

    return advance


def make_boundary(method: Method, stream: Stream, data: Examples, *, lanes: bool) -> Callable:
    """Builds ``boundary(fn, run, number, task, rows) -> Run`` for the method's boundary functions.

    ``number`` tells the boundaries of a run apart, for the key; the Run is donated. ``rows`` are
    those whose examples are handed over, always equally many, or None.
    """
    hidden = hidden_task(stream.num_classes)
    compiled: dict[Callable, Callable] = {}

    def apply(fn: Callable, run: Run, number: Array, task: Task, rows: Rows | None, data) -> Run:
        key = jax.random.fold_in(jax.random.fold_in(run.key, BOUNDARIES), number)
        told = task if method.needs.told_task else hidden
        batch = None
        if rows is not None:
            batch = jax.vmap(lambda row: gather(stream, method, data, row, task))(rows)
            batch = jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), batch)
        return run.replace(state=fn(key, run.state, told, batch))

    def boundary(fn: Callable, run: Run, number: int, task: Task, rows: Rows | None = None) -> Run:
        if fn not in compiled:
            one = partial(apply, fn)
            one = jax.vmap(one, in_axes=(0, None, 0, 0, None)) if lanes else one
            compiled[fn] = jax.jit(one, donate_argnums=0)
        return compiled[fn](run, np.int32(number), task, rows, data)

    return boundary
