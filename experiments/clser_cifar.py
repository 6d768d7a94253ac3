#!/usr/bin/env python
"""CLS-ER learns streams of colour pictures with a ResNet-18.

--preset quick: scikit-learn's digits as 16x16 pictures, 5 tasks x 2 classes, a narrow net; minutes
on two CPU cores. The others are cells of the published tables, e.g. s_cifar10_500: Split CIFAR-10,
buffer 500, 50 epochs, ResNet width 64; for a GPU or TPU. --epochs 1 --width 16 shortens them.
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

    stream: flat(StreamConfig) = StreamConfig(image_size=16)
    net: flat(NetConfig) = NetConfig(width=8)
    method: flat(ClsEr) = ClsEr(
        memory_size=200, replay_size=10, warmup="updates", consistency_weight=0.15
    )
    run: flat(RunConfig) = RunConfig()


TABLES = "s_cifar10", "s_tinyimagenet", "gcil_cifar100_uniform", "gcil_cifar100_longtail"
CHECK = check_of("clser")
PRESETS = {"quick": Config()} | {
    f"{cell.table}_{cell.memory_size}": Config(
        stream=cell.stream, net=cell.net, method=ClsEr(**cell.arguments)
    )
    for table in TABLES
    for cell in cells(table, ["clser"])
}


def main(config: Config) -> None:
    """Checks, trains or goes on, prints the table and writes the workdir."""
    from cls_jax.app.main import run_one

    run_one("clser", config)


if __name__ == "__main__":
    run_main(main, Config, PRESETS, default_preset="quick", description=__doc__, check=CHECK)
