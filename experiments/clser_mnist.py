#!/usr/bin/env python
"""CLS-ER learns MNIST's streams with a perceptron; seeds and sweeps run side by side.

--preset quick: scikit-learn's digits, 5 tasks x 2 classes, three passes; seconds on two CPU cores.
The others are cells of the published tables, e.g. s_mnist_500: Split MNIST, buffer 500. They need
--data-dir, or a network. --sweep consistency_weight 0.5 1 2 runs several values at once.
"""

from dataclasses import dataclass

from cls_jax.app.flags import flat, run_main
from cls_jax.app.method_flags import flags_of
from cls_jax.app.run_config import RunConfig
from cls_jax.app.unused import check_of
from cls_jax.nets.config import NetConfig
from cls_jax.published.presets import cells
from cls_jax.streams.config import StreamConfig

ClsEr = flags_of("clser")


@dataclass(frozen=True, kw_only=True)
class Config:
    """Everything about one experiment."""

    stream: flat(StreamConfig) = StreamConfig(epochs=3, normalisation="none", image_size=8)
    net: flat(NetConfig) = NetConfig(net="mlp")
    method: flat(ClsEr) = ClsEr(memory_size=200, stable_decay=0.95, plastic_decay=0.9)
    run: flat(RunConfig) = RunConfig()


CHECK = check_of("clser")
PRESETS = {"quick": Config()} | {
    f"{cell.table}_{cell.memory_size}": Config(
        stream=cell.stream, net=cell.net, method=ClsEr(**cell.arguments)
    )
    for table in ("s_mnist", "p_mnist", "r_mnist", "mnist_360")
    for cell in cells(table, ["clser"])
}


def main(config: Config) -> None:
    """Checks, trains or goes on, prints the table and writes the workdir."""
    from cls_jax.app.main import run_one

    run_one("clser", config)


if __name__ == "__main__":
    run_main(main, Config, PRESETS, default_preset="quick", description=__doc__, check=CHECK)
