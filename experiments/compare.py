#!/usr/bin/env python
"""Several methods on one stream at equal memory, in one table and one figure.

--preset quick: sgd, er and dualnet on the bundled digits, as in dualnet_cifar.py.
--preset cifar10: the same on Split CIFAR-10, one pass, with DualNet's CORe50 rates.
Each method has its own flags behind its name, e.g. --er.learning-rate 0.05.
"""

from dataclasses import asdict, make_dataclass, replace
from typing import Annotated

from tyro.conf import arg

from cls_jax.app.flags import flat, run_main
from cls_jax.app.method_flags import flags_of, with_memory
from cls_jax.app.run_config import RunConfig
from cls_jax.app.variants import check_compared, of_all
from cls_jax.methods import METHODS
from cls_jax.nets.config import NetConfig
from cls_jax.streams.config import StreamConfig

HELP = {
    "methods": arg(help=f"rows of the table: {', '.join(METHODS)}."),
    "memory_size": arg(
        help="slots of every method that has a memory, instead of --er.memory-size."
    ),
}
Config = make_dataclass(
    "Config",
    [
        ("methods", Annotated[tuple[str, ...], HELP["methods"]], ("sgd", "er", "dualnet")),
        ("memory_size", Annotated[int | None, HELP["memory_size"]], None),
        ("stream", flat(StreamConfig), StreamConfig()),
        ("net", flat(NetConfig), NetConfig()),
        ("run", flat(RunConfig), RunConfig()),
        *[(name, flags_of(name), flags_of(name)()) for name in METHODS],
    ],
    frozen=True,
    kw_only=True,
)
# As in DualNet's code, as many examples are replayed as arrive: 10 and 10, CORe50: 32 and 32.
CIFAR10 = of_all(500, er=32, dualnet=32)
CORE50 = {"ssl_learning_rate": 1e-4, "lookahead_step_size": 0.1}
CIFAR10["dualnet"] = replace(CIFAR10["dualnet"], **CORE50)
PRESETS = {
    "quick": Config(net=NetConfig(width=8), **of_all(250, er=10)),
    "cifar10": Config(
        net=NetConfig(width=16),
        stream=StreamConfig(data="cifar10", batch_size=32, normalisation="cifar10", view_flip=True),
        **CIFAR10,
    ),
}


def main(config) -> None:
    """Checks everything, runs one method after another, prints the table, writes the workdir."""
    from cls_jax.app.main import begin, conclude, execute, make_learner, make_stream

    begin(config.run)
    stream = make_stream(config.stream)
    learners = []
    for name in config.methods:
        own = asdict(getattr(config, name))
        if config.memory_size is not None and name in with_memory():
            own["memory_size"] = config.memory_size
        learners.append(make_learner(name, own, stream, config.stream, config.net))
    conclude(config, execute(learners, config.run, config))


if __name__ == "__main__":
    run_main(
        main, Config, PRESETS, default_preset="quick", description=__doc__, check=check_compared
    )
