"""What benchmark.py measures with: synthetic data, operation counts, ceilings, peak memory."""

import os
import resource
import sys
import time
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from cls_jax.methods.base import Method
from cls_jax.nets.choose import NetConfig
from cls_jax.streams.class_il import class_il
from cls_jax.streams.stream import Examples, Source, Stream
from cls_jax.types import Batch, PyTree

TASKS, CLASSES = 5, 10


def synthetic(batch_size: int, rows: int, shape: tuple[int, ...] = (32, 32, 3)) -> Stream:
    """``rows`` full batches at least of every task, drawn again and again from two."""
    y = np.tile(np.arange(CLASSES, dtype=np.int32), batch_size)
    x = np.random.default_rng(0).integers(0, 256, (y.size, *shape), np.uint8)
    examples = Examples(x, y)
    names = tuple(map(str, range(CLASSES)))
    source = Source("synthetic", examples, Examples(x[:CLASSES], y[:CLASSES]), names)
    return class_il(source, tasks=TASKS, batch_size=batch_size, epochs=-(-rows // 2))


def flops_of(function: Callable, *arguments: PyTree) -> float:
    """Floating-point operations of one call, as XLA counts them in the program it is given."""
    return float(jax.jit(function).lower(*arguments).cost_analysis()["flops"])


def step_flops(method: Method, hyper: PyTree, stream: Stream) -> float:
    """Floating-point operations of one step of the first phase; nothing is computed."""
    b = stream.batch_size
    number, yes = jnp.zeros(b, jnp.int32), jnp.ones(b, bool)
    batch = Batch(jnp.asarray(stream.source.train.x[:b]), number, number, yes, yes)
    hyper = jax.tree.map(jnp.float32, hyper)
    key = jax.random.key(0)
    state = jax.eval_shape(method.init, key, batch, hyper)
    return flops_of(method.phases[0].step, key, state, batch)


def ceilings(net: NetConfig, rows: int, seeds: int) -> dict[str, Callable[[], float]]:
    """Name -> a function that measures once, in flop/s: what this device does at best.

    ``rows`` are the examples of one forward pass; those of a perceptron are small, so it has a
    ceiling of its own: nothing but its products, for as many seeds side by side.
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
        pairs.append(tuple(jnp.ones(shape, dtype) for shape in shapes))
    square = jnp.ones((side, side), dtype)
    tops = {
        "matmul": _rate(jnp.matmul, square, square),
        "convolution": _rate(convolve, pairs),
    }
    if net.net == "mlp":
        tops["products"] = _perceptron_rate(rows, seeds)
    return tops


def _perceptron_rate(rows: int, seeds: int, repeats: int = 200) -> Callable[[], float]:
    """Forward and backward products of 784-100-100-10, ``repeats`` times in one compiled loop."""
    sizes = [(784, 100), (100, 100), (100, 10)]
    lanes = (seeds,) if seeds > 1 else ()
    weights = [jnp.ones((*lanes, *size)) / 1000 for size in sizes]
    start = jnp.ones((*lanes, rows, 784))

    @jax.jit
    def loop(x, weights):
        def once(_, carry):
            x, weights = carry
            inputs = [x]
            for w in weights:
                inputs.append(inputs[-1] @ w)
            g, new = inputs[-1], []
            for i in (2, 1, 0):
                new.append(weights[i] + 1e-9 * (jnp.swapaxes(inputs[i], -1, -2) @ g))
                g = g @ jnp.swapaxes(weights[i], -1, -2) if i else g
            return x, new[::-1]

        return jax.lax.fori_loop(0, repeats, once, (x, weights))

    forward = sum(a * b for a, b in sizes)
    flops = 2 * repeats * seeds * rows * (3 * forward - 784 * 100)
    jax.block_until_ready(loop(start, weights))

    def measure() -> float:
        begun = time.perf_counter()
        jax.block_until_ready(loop(start, weights))
        return flops / (time.perf_counter() - begun)

    return measure


def _rate(function: Callable, *arguments: PyTree) -> Callable[[], float]:
    flops, compiled = flops_of(function, *arguments), jax.jit(function)
    jax.block_until_ready(compiled(*arguments))

    def measure() -> float:
        start, calls = time.perf_counter(), 3
        for _ in range(calls):
            out = compiled(*arguments)
        jax.block_until_ready(out)
        return calls * flops / (time.perf_counter() - start)

    return measure


def twin_seconds(name: str, sizes: dict[str, int]) -> float:
    """Seconds of one update in PyTorch; runs in a process of its own."""
    import benchmark_torch
    import torch

    torch.set_num_threads(os.cpu_count() or 1)
    return getattr(benchmark_torch, name)(**sizes)


def peak_bytes() -> int:
    """Most memory held so far: by the device if it tells, else by this process."""
    stats = jax.local_devices()[0].memory_stats() or {}
    if "peak_bytes_in_use" in stats:
        return stats["peak_bytes_in_use"]
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
