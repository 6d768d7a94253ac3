#!/usr/bin/env python
"""What the schedule of 250 permuted tasks, two passes over 60,000 images, costs the host.

CPU seconds of this process, on blank images. What grows with the tasks before the first step is the
start of a run less that of a run of one task, which compiles the same programs.
"""

import time
import tracemalloc
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from cls_jax.app.flags import run_main
from cls_jax.core.files import write_json
from cls_jax.training.runtime.provenance import provenance

if TYPE_CHECKING:
    from cls_jax.streams.stream import Stream


@dataclass(frozen=True)
class Config:
    """Where the numbers go.

    Attributes:
      json: a file for them.
    """

    json: str | None = None


class Begun(Exception):
    """The first step was made."""


def seconds_to_the_first_step(stream: "Stream") -> float:
    """CPU seconds from the call of ``run`` with an mlp until its first chunk, one step, is done."""
    from cls_jax.core.augment import recipe
    from cls_jax.methods import METHODS
    from cls_jax.methods.problem import Problem
    from cls_jax.nets.registry import NetConfig, networks
    from cls_jax.training.events import Progress
    from cls_jax.training.runner import Plan, run

    augment, nets = recipe((28, 28, 1), normalisation="half"), networks(NetConfig(net="mlp"))
    method = METHODS["sgd"](Problem(nets, augment, 10, stream.num_tasks))

    def observe(event: object) -> None:
        if isinstance(event, Progress):
            raise Begun

    start = time.process_time()
    try:
        run(method, stream, plan=Plan(chunk=1, score="end"), observe=observe)
    except Begun:
        return time.process_time() - start
    raise AssertionError("the run made no step")


def measure(stream: "Stream", one: "Stream") -> dict[str, float]:
    """All numbers, by name; ``one`` is the same stream with one task."""
    import jax

    key = jax.random.key(1)
    one.schedule(key).rows()  # compiles the draws of a task
    start = time.process_time()
    schedule = stream.schedule(key)
    seconds = time.process_time() - start
    tracemalloc.start()
    rows = stream.schedule(key).rows(0)  # one task at a time is held
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    base = seconds_to_the_first_step(one)
    return {
        "schedule_seconds": seconds,
        "schedule_mib": sum(leaf.nbytes for leaf in jax.tree.leaves((schedule, rows))) / 2**20,
        "peak_mib": peak / 2**20,
        "first_step_of_one_task_seconds": base,
        "tasks_before_the_first_step_seconds": seconds_to_the_first_step(stream) - base,
    }


def main(config: Config) -> None:
    """Measures, prints, and writes the JSON."""
    import numpy as np

    from cls_jax.data.dataset import Dataset, Split
    from cls_jax.streams.domain_il import permuted

    sizes = (60_000, 10_000)
    x, y = np.zeros((sizes[0], 28, 28, 1), np.uint8), np.arange(sizes[0], dtype=np.int32) % 10
    blank = Dataset("blank", *(Split(x[:n], y[:n]) for n in sizes), tuple("0123456789"))
    streams = (permuted(blank, tasks=n, batch_size=128, epochs=2) for n in (250, 1))
    numbers = measure(*streams)
    print("\n".join(f"{name} {value:.4g}" for name, value in numbers.items()))
    if config.json is not None:
        write_json(Path(config.json), {**numbers, **provenance()})


if __name__ == "__main__":
    run_main(main, Config, {"": Config()}, default_preset="", description=__doc__)
