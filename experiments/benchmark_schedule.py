#!/usr/bin/env python
"""What the schedule of a long stream costs the host: 250 permuted tasks unless told otherwise.

Blank images of MNIST's size and number, so no data set is needed. CPU seconds of this process; what
grows with the tasks before the first step is a run's start less that of a run of one task, which
compiles the same programs.
"""

import time
import tracemalloc
from dataclasses import dataclass
from pathlib import Path

import jax
import numpy as np

from cls_jax.app.flags import run_main
from cls_jax.core.augment import recipe
from cls_jax.data.dataset import Dataset, Split
from cls_jax.methods import METHODS, Setting
from cls_jax.nets.registry import NetConfig
from cls_jax.runtime.workdir import provenance, write_json
from cls_jax.streams.domain_il import permuted
from cls_jax.streams.stream import Stream
from cls_jax.train.events import Progress
from cls_jax.train.runner import Plan, run


@dataclass(frozen=True)
class Config:
    """The stream that is measured.

    Attributes:
      tasks: number of permutations.
      epochs: passes over each task.
      examples: training images of a task.
      json: a file for the numbers.
    """

    tasks: int = 250
    epochs: int = 2
    examples: int = 60_000
    json: str | None = None


class _Begun(Exception):
    """The first step was made."""


def stream_of(config: Config, tasks: int) -> Stream:
    """So many permutations of blank images, in batches of 128."""
    train, test = (
        Split(np.zeros((n, 28, 28, 1), np.uint8), np.arange(n, dtype=np.int32) % 10)
        for n in (config.examples, config.examples // 6)
    )
    source = Dataset("blank", train, test, tuple("0123456789"))
    return permuted(source, tasks=tasks, batch_size=128, epochs=config.epochs)


def seconds_to_the_first_step(stream: Stream) -> float:
    """CPU seconds from the call of ``run`` with an mlp until its first chunk is done."""

    def observe(event: object) -> None:
        if isinstance(event, Progress):
            raise _Begun

    look = recipe((28, 28, 1), normalisation="half")
    row, plan = METHODS["sgd"], Plan(chunk=1, score="end")
    method = row.build(row.config(), Setting(NetConfig("mlp"), look, 10, stream.num_tasks))
    start = time.process_time()
    try:
        run(method, stream, row.hyper(), plan=plan, observe=observe)
    except _Begun:
        return time.process_time() - start
    raise AssertionError("the run made no step")


def measure(config: Config) -> dict[str, float]:
    """All numbers, by name."""
    stream, one = stream_of(config, config.tasks), stream_of(config, 1)
    key = jax.random.key(1)
    rows = one.schedule(key).rows()  # compiles the draws of one task
    start = time.process_time()
    schedule = stream.schedule(key)
    made = time.process_time()
    schedule.rows(0)
    first = time.process_time()
    tracemalloc.start()
    schedule = stream.schedule(key)
    held = sum(leaf.nbytes for leaf in jax.tree.leaves((schedule, rows)))
    for task in range(min(config.tasks, 10)):
        schedule.rows(task)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    base = seconds_to_the_first_step(one)
    return {
        "schedule_seconds": made - start,
        "rows_of_a_task_seconds": first - made,
        "schedule_mib": held / 2**20,
        "peak_mib": peak / 2**20,
        "first_step_of_one_task_seconds": base,
        "tasks_before_the_first_step_seconds": seconds_to_the_first_step(stream) - base,
    }


def main(config: Config) -> None:
    """Measures, prints, and writes the JSON."""
    numbers = measure(config)
    print("\n".join(f"{name} {value:.4g}" for name, value in numbers.items()))
    if config.json is not None:
        sizes = {"tasks": config.tasks, "epochs": config.epochs, "examples": config.examples}
        write_json(Path(config.json), {**sizes, **numbers, **provenance()})


if __name__ == "__main__":
    run_main(main, Config, {"": Config()}, default_preset="", description=__doc__)
