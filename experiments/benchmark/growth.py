#!/usr/bin/env python
"""What a run costs as its sizes grow: tasks, classes, memory, seeds, images.

ER with a perceptron of 784-100-100, batch 32, replay 32, on made-up grey pictures of 28x28. One
size grows at a time, from 5 tasks, 10 classes, 500 slots, one seed, 12,800 images, of which 1,000
are the test set too. Growing tasks are permutations of 3,200 images, elsewhere tasks split the
classes; growing images are gathered on the host. Every size is run to its end twice, the second
time with all programs compiled, and that is timed. The exponent is that of the last two sizes: 0
is flat, 1 is linear.
"""

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from cls_jax.app.flags import run_main
from cls_jax.core.errors import InputError
from cls_jax.core.files import write_json
from cls_jax.core.paths import check_file
from cls_jax.training.runtime.provenance import provenance

if TYPE_CHECKING:
    from cls_jax.methods.base import Method
    from cls_jax.streams.stream import Stream
    from cls_jax.training.plan import Plan


class Sizes(NamedTuple):
    """Of one run."""

    tasks: int = 5
    classes: int = 10
    memory: int = 500
    seeds: int = 1
    images: int = 12_800


class Cost(NamedTuple):
    """Seconds of a run of all seeds.

    Attributes:
      start: from the call until the first step.
      step: of the fastest chunk.
      boundary: of what lies between chunks, a task.
      test: of a task's test.
    """

    start: float
    step: float
    boundary: float
    test: float


AXES = {
    "tasks": (5, 25, 50, 125, 250),
    "classes": (10, 100, 1_000),
    "memory": (200, 2_000, 10_000, 50_000),
    "seeds": (1, 2, 4, 8, 16, 32),
    "images": (1_000, 10_000, 100_000, 1_000_000),
}
BATCH = 32


@dataclass(frozen=True)
class Config:
    """What grows.

    Attributes:
      axes: these sizes alone; all if empty.
      json: a file for the numbers.
    """

    axes: tuple[str, ...] = ()
    json: str | None = None


def cost(axis: str, size: int) -> Cost:
    """Of a run with that size, all else as it is.

    Args:
      axis: of AXES.
      size: of the axis.
    """
    import numpy as np

    from cls_jax.core.augment import recipe
    from cls_jax.data.dataset import Dataset, Split
    from cls_jax.methods import METHODS
    from cls_jax.methods.problem import Problem
    from cls_jax.nets.registry import NetConfig, networks
    from cls_jax.streams.class_il import class_il
    from cls_jax.streams.domain_il import permuted
    from cls_jax.training.runner import Plan

    sizes = Sizes(**{"images": 3_200 if axis == "tasks" else Sizes().images, axis: size})
    y = np.arange(sizes.images, dtype=np.int32) % sizes.classes
    x = np.random.default_rng(0).integers(0, 256, (sizes.images, 28, 28, 1), np.uint8)
    names = tuple(map(str, range(sizes.classes)))
    data = Dataset("synthetic", Split(x, y), Split(x[:1_000], y[:1_000]), names)
    build = permuted if axis == "tasks" else class_il
    stream = build(data, tasks=sizes.tasks, batch_size=BATCH)
    augment, nets = recipe((28, 28, 1), normalisation="half"), networks(NetConfig(net="mlp"))
    problem = Problem(nets, augment, sizes.classes, sizes.tasks)
    method = METHODS["er"](problem, memory_size=sizes.memory, replay_size=BATCH)
    road = "host" if axis == "images" else "device"
    plan = Plan(chunk=50, mode="scan", data=road, score="end")
    timed(method, stream, sizes, plan)
    return timed(method, stream, sizes, plan)


def timed(method: "Method", stream: "Stream", sizes: Sizes, plan: "Plan") -> Cost:
    """One run."""
    from cls_jax.training.events import Evaluated, Progress
    from cls_jax.training.runner import run

    first, test = 0.0, 0.0
    chunks, steps = [], []

    def observe(event: object) -> None:
        nonlocal first, test
        if isinstance(event, Progress):
            first = first or time.perf_counter() - began
            chunks.append(event.seconds)
            steps.append(event.seconds * BATCH * sizes.seeds / event.examples)
        if isinstance(event, Evaluated):
            test += event.seconds

    began = time.perf_counter()
    run(method, stream, seeds=range(sizes.seeds), plan=plan, observe=observe)
    whole = time.perf_counter() - began
    between = whole - first - sum(chunks[1:]) - test
    return Cost(first - chunks[0], min(steps), between / sizes.tasks, test / sizes.tasks)


def exponents(sizes: tuple[int, ...], costs: list[Cost]) -> Cost:
    """Of each cost, between the last two sizes."""
    grown = math.log(sizes[-1] / sizes[-2])
    pairs = zip(costs[-2], costs[-1], strict=True)
    return Cost(*(math.log(last / before) / grown for before, last in pairs))


def measure(axes: Sequence[str]) -> dict[str, dict[str, object]]:
    """Axis -> its sizes, costs and exponents; tells each as soon as it is there."""
    found: dict[str, dict[str, object]] = {}
    for axis in axes:
        costs = []
        for size in AXES[axis]:
            costs.append(cost(axis, size))
            told = "  ".join(f"{k} {1e3 * v:9.3f} ms" for k, v in costs[-1]._asdict().items())
            print(f"{axis:8} {size:9,}  {told}", flush=True)
        slopes = exponents(AXES[axis], costs)._asdict()
        print(f"{axis:8}  exponent  " + "  ".join(f"{k} {v:9.2f}   " for k, v in slopes.items()))
        each = [one._asdict() for one in costs]
        found[axis] = {"sizes": AXES[axis], "costs": each, "exponents": slopes}
    return found


def main(config: Config) -> None:
    """Checks, measures, prints, and writes the JSON."""
    if unknown := [axis for axis in config.axes if axis not in AXES]:
        raise InputError(f"axes holds {unknown[0]!r}; use some of {', '.join(AXES)}")
    if config.json is not None:
        check_file(config.json, "json")
    numbers = measure(config.axes or tuple(AXES))
    if config.json is not None:
        write_json(Path(config.json), {"axes": numbers, **provenance()})


if __name__ == "__main__":
    run_main(main, Config, {"": Config()}, default_preset="", description=__doc__)
