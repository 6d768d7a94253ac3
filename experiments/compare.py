#!/usr/bin/env python
"""Several methods on one stream at equal memory, in one table and one figure.

--preset quick: sgd, er and dualnet on the bundled digits, as in dualnet_cifar.py.
--preset cifar10: the same on Split CIFAR-10, one pass; give --data-dir.
Each method has its own flags behind its name, e.g. --er.learning-rate 0.05.
"""

from dataclasses import asdict, make_dataclass, replace
from typing import Annotated

from tyro.conf import arg

from cls_jax.cli import run_main
from cls_jax.experiment import RunConfig, StreamConfig, execute, make_method, make_stream
from cls_jax.methods import METHODS
from cls_jax.nets.choose import NetConfig
from cls_jax.report import comparison_table, show, write_comparison
from cls_jax.types import InputError

Flat = lambda kind: Annotated[kind, arg(name="")]  # noqa: E731
FLAGS = {
    name: make_dataclass(
        f"{name}_flags",
        [("config", Flat(row.config), row.config()), ("hyper", Flat(row.hyper), row.hyper())],
        frozen=True,
    )
    for name, row in METHODS.items()
}
Config = make_dataclass(
    "Config",
    [
        (
            "methods",
            Annotated[tuple[str, ...], arg(help=f"rows of the table: {', '.join(METHODS)}.")],
            ("sgd", "er", "dualnet"),
        ),
        (
            "memory_size",
            Annotated[
                int,
                arg(help="slots of every method that has a memory, in place of its own number."),
            ],
            250,
        ),
        ("stream", Flat(StreamConfig), StreamConfig()),
        ("net", Flat(NetConfig), NetConfig()),
        ("run", Flat(RunConfig), RunConfig()),
        *[(name, kind, kind()) for name, kind in FLAGS.items()],
    ],
    frozen=True,
)
QUICK = Config(net=NetConfig(width=8))
PRESETS = {
    "quick": QUICK,
    "cifar10": replace(
        QUICK,
        memory_size=500,
        net=NetConfig(width=16),
        stream=StreamConfig(data="cifar10", view_flip=True),
    ),
}


def main(config) -> None:
    """Checks everything, runs one method after another, prints the table, writes the workdir."""
    unknown = [name for name in config.methods if name not in METHODS]
    if unknown or len(set(config.methods)) < max(len(config.methods), 1):
        raise InputError(
            f"methods is {' '.join(config.methods) or 'empty'}; "
            f"name each once, from {', '.join(METHODS)}"
        )
    stream = make_stream(config.stream)
    learners = []
    for name in config.methods:
        flags = getattr(config, name)
        own = flags.config
        if hasattr(own, "memory_size"):
            own = replace(own, memory_size=config.memory_size)
        learners.append((make_method(name, own, stream, config.stream, config.net), flags.hyper))
    results = execute(learners, stream, config.run, config)
    show(comparison_table(results))
    if config.run.workdir is not None:
        print(f"results in {write_comparison(config.run.workdir, asdict(config), results)}")


if __name__ == "__main__":
    run_main(main, Config, PRESETS, default_preset="quick", description=__doc__)
