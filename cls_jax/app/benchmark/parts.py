"""What run.py measures with: data, operation counts, ceilings, laps, twins, peak memory."""

import itertools
import math
import multiprocessing
import os
import resource
import sys
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from importlib import metadata
from typing import Any, Self

import jax
import jax.numpy as jnp
import numpy as np

from cls_jax.core.errors import InputError
from cls_jax.core.types import PyTree
from cls_jax.data.dataset import Dataset, Split
from cls_jax.methods.base import Method
from cls_jax.nets.config import NetConfig
from cls_jax.streams.class_il import class_il
from cls_jax.streams.stream import Stream
from cls_jax.training.run import abstract_run, example_batch, shapes_of

TASKS, CLASSES = 5, 10
HIDDEN = 100, 100
"""The perceptron's layers in PyTorch's twin."""


def synthetic(batch_size: int, rows: int, shape: tuple[int, ...] = (32, 32, 3)) -> Stream:
    """``rows`` full batches at least of every task, drawn again and again from two."""
    y = np.tile(np.arange(CLASSES, dtype=np.int32), batch_size)
    x = np.random.default_rng(0).integers(0, 256, (y.size, *shape), np.uint8)
    examples = Split(x, y)
    names = tuple(map(str, range(CLASSES)))
    source = Dataset("synthetic", examples, Split(x[:CLASSES], y[:CLASSES]), names)
    return class_il(source, tasks=TASKS, batch_size=batch_size, epochs=-(-rows // 2))


def flops_of(function: Callable, *arguments: PyTree) -> float:
    """Floating-point operations of one call, as XLA counts them in the program it is given.

    Counted for the CPU that every machine has: XLA's accelerators count only compiled programs,
    without what they hand to a library.

    Raises:
      InputError: where JAX was told to leave out the CPU.
    """
    abstract = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype), arguments)
    try:
        cpu = jax.local_devices(backend="cpu")[0]
    except RuntimeError:
        platforms = f"{jax.config.jax_platforms},cpu"  # pyright: ignore[reportAttributeAccessIssue]
        raise InputError(f"JAX sees no CPU, which counts; set JAX_PLATFORMS={platforms}") from None
    with jax.default_device(cpu):
        costs = jax.jit(function).lower(*abstract).cost_analysis()
    assert costs is not None
    return float(costs["flops"])


def step_flops(method: Method, stream: Stream) -> float:
    """Floating-point operations of one step of the first phase; nothing is computed."""

    def step(hyper, key, state, batch):
        return method.at(hyper).phases[0].step(key, state, batch)

    shapes = shapes_of(stream)
    hyper = {name: jnp.float32(value) for name, value in method.hyper.items()}
    state = abstract_run(method, shapes).state
    return flops_of(step, hyper, jax.random.key(0), state, example_batch(shapes))


def ceilings(net: NetConfig, rows: int, seeds: int) -> dict[str, Callable[[], float]]:
    """Name -> a function that measures once, in flop/s: what this device does at best.

    In the dtype of ``net``, float32 in the precision that JAX is set to, over random numbers: a
    chip may be faster over constant ones. ``rows`` are the examples of one forward pass; those of a
    perceptron are small, so it has a ceiling of its own: nothing but its products, for as many
    seeds side by side.
    """
    dtype, side = net.dtype, 1536 if jax.default_backend() == "cpu" else 8192

    def convolve(pairs):
        labels = ("NHWC", "HWIO", "NHWC")
        conv = jax.lax.conv_general_dilated
        return [conv(x, k, (1, 1), "SAME", dimension_numbers=labels) for x, k in pairs]

    pairs = []
    for stage in range(4):
        edge, channels = 32 >> stage, net.width << stage
        shapes = (rows, edge, edge, channels), (3, 3, channels, channels)
        pairs.append(tuple(_random(shape, dtype) for shape in shapes))
    square = _random((side, side), dtype)
    tops = {
        "matmul": _rate(jnp.matmul, square, square),
        "convolution": _rate(convolve, pairs),
    }
    if net.net == "mlp":
        tops["products"] = _perceptron_rate(rows, seeds, dtype, net.hidden)
    return tops


def _random(shape: tuple[int, ...], dtype: str) -> jax.Array:
    return jax.random.normal(jax.random.key(0), shape).astype(dtype)


def _perceptron_rate(
    rows: int, seeds: int, dtype: str, hidden: tuple[int, ...], repeats: int = 200
):
    """Forward and backward products of 784-...-10, ``repeats`` times in one compiled loop."""
    sizes = list(itertools.pairwise((784, *hidden, CLASSES)))
    trials = (seeds,) if seeds > 1 else ()
    weights = [_random((*trials, *size), dtype) / 1000 for size in sizes]
    start = _random((*trials, rows, 784), dtype)

    @jax.jit
    def loop(x, weights):
        def once(_, carry):
            x, weights = carry
            inputs = [x]
            for w in weights:
                inputs.append(inputs[-1] @ w)
            g, new = inputs[-1], []
            for i in reversed(range(len(weights))):
                new.append(weights[i] + 1e-9 * (jnp.swapaxes(inputs[i], -1, -2) @ g))
                g = g @ jnp.swapaxes(weights[i], -1, -2) if i else g
            return x, new[::-1]

        return jax.lax.fori_loop(0, repeats, once, (x, weights))

    forward = sum(a * b for a, b in sizes)
    flops = 2 * repeats * seeds * rows * (3 * forward - math.prod(sizes[0]))
    jax.block_until_ready(loop(start, weights))

    def measure() -> float:
        begun = time.perf_counter()
        jax.block_until_ready(loop(start, weights))
        return flops / (time.perf_counter() - begun)

    return measure


def _rate(function: Callable, *arguments: PyTree) -> Callable[[], float]:
    flops, compiled = flops_of(function, *arguments), jax.jit(function)

    def measure(calls: int) -> float:
        start = time.perf_counter()
        for _ in range(calls):
            out = compiled(*arguments)
        jax.block_until_ready(out)
        return (time.perf_counter() - start) / calls

    measure(1)  # compiles
    calls = min(1000, max(3, round(0.02 / measure(1))))  # many short ones hide what a call costs
    return lambda: flops / measure(calls)


class Laps:
    """Times of chunks: compute, CPU, and from the end of one chunk to the end of the next."""

    def __init__(self) -> None:
        self.chunks, self.cpu, self.laps = [], [], []
        self._cpu, self._end = 0.0, None

    def add(self, seconds: float) -> None:
        """A chunk ended now, after ``seconds`` of compute."""
        self.chunks.append(seconds)
        self.cpu.append(time.process_time() - self._cpu)  # grows with nothing that others do
        if self._end is not None:
            self.laps.append(time.perf_counter() - self._end)

    def go_on(self, *, between: bool) -> None:
        """The next chunk may start; ``between``: nothing but a chunk will be in its lap."""
        self._cpu = time.process_time()
        self._end = time.perf_counter() if between else None


class Twins:
    """A worker that times PyTorch, eager and if wanted compiled, in turns.

    A process of its own: in one, the thread pools of XLA and PyTorch spin against each other.

    Args:
      name, sizes: of the step in torch_twin.py.
      how: device, dtype, tf32.
      compiled: torch.compile as well.

    Raises:
      InputError: if PyTorch does not see the device.
    """

    def __init__(self, name: str, sizes: dict[str, int], how: dict[str, Any], *, compiled: bool):
        self.best: dict[str, float] = {}
        self.why: str | None = None
        self._work, self._kinds = (name, sizes, how), (False, True) if compiled else (False,)
        self._pool = ProcessPoolExecutor(1, multiprocessing.get_context("spawn"))
        if how["device"] == "cuda" and not self._pool.submit(_sees_gpu).result():
            self._pool.shutdown()
            raise InputError(
                "--torch compares on one device, and PyTorch sees no GPU here; install PyTorch "
                "for CUDA, or drop --torch"
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown()

    def turn(self) -> None:
        """Times every kind once; the best of all turns counts."""
        name, sizes, how = self._work
        for compiled in self._kinds:
            if compiled and self.why is not None:
                continue
            how = {**how, "compiled": compiled}
            found = self._pool.submit(_twin_seconds, name, sizes, how).result()
            if isinstance(found, str):
                self.why = found
                continue
            key = "compiled" if compiled else "eager"
            self.best[key] = min(self.best.get(key, found), found)

    def numbers(self, seconds: float) -> dict[str, float | str | None]:
        """Seconds a step of PyTorch, and ours as a multiple of it; null where it was impossible."""
        extra: dict[str, float | str | None] = {"torch_version": metadata.version("torch")}
        extra |= {
            "torch_seconds_per_step": self.best["eager"],
            "ratio": seconds / self.best["eager"],
        }
        if True in self._kinds:
            best = self.best.get("compiled")
            extra["torch_compiled_seconds_per_step"] = best
            extra["compiled_ratio"] = None if best is None else seconds / best
            extra["torch_compiled_why_not"] = self.why
        return extra


def _sees_gpu() -> bool:
    import torch  # pyright: ignore[reportMissingImports]

    return torch.cuda.is_available()


def _twin_seconds(name: str, sizes: dict[str, int], how: dict[str, Any]) -> float | str:
    """Seconds of one update in PyTorch, or why it could not be compiled; in the worker."""
    import torch  # pyright: ignore[reportMissingImports]

    from cls_jax.app.benchmark import torch_twin

    torch.set_num_threads(os.cpu_count() or 1)
    try:
        return torch_twin.seconds(name, sizes, torch_twin.How(**how))
    except Exception as error:
        if not how["compiled"]:
            raise
        return f"torch.compile failed here: {' '.join(str(error).split())[:200]}"


def peak_bytes() -> int:
    """Most memory held so far: by the device if it tells, else by this process."""
    stats = jax.local_devices()[0].memory_stats() or {}
    if "peak_bytes_in_use" in stats:
        return stats["peak_bytes_in_use"]
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
