#!/usr/bin/env python
"""DualNet learns a stream of images, a few classes at a time.

--preset quick: scikit-learn's digits, 5 tasks x 2 classes, a narrow net; minutes on two CPU cores.
--preset paper: Split CIFAR-100, 20 tasks x 5 classes, one pass, ResNet width 64; for a GPU or TPU.
The official code has no CIFAR setting: "paper" takes its miniImageNet rates and its 50 examples a
task. Both take --data, e.g. --data cifar10 --data-dir ~/tensorflow_datasets.
"""

from dataclasses import dataclass

from cls_jax.app.flags import flat, hiding, run_main
from cls_jax.app.method_flags import flags_of
from cls_jax.app.run_config import RunConfig
from cls_jax.app.unused import check_of
from cls_jax.nets.config import NetConfig
from cls_jax.streams.config import StreamConfig

DualNet = flags_of("dualnet")
Net = hiding(NetConfig, "net", "hidden")  # DualNet always has its own two networks


@dataclass(frozen=True, kw_only=True)
class Config:
    """Everything about one experiment."""

    stream: flat(StreamConfig) = StreamConfig()
    net: flat(Net) = Net()
    method: flat(DualNet) = DualNet()
    run: flat(RunConfig) = RunConfig()


CHECK = check_of("dualnet")
PRESETS = {
    "quick": Config(
        net=Net(width=8),
        method=DualNet(memory_size=250, replay_size=10),
    ),
    "paper": Config(
        stream=StreamConfig(
            data="cifar100", tasks=20, normalisation="imagenet", flip=False, view_flip=True
        ),
        net=Net(width=64),
        method=DualNet(memory_size=1000),
    ),
}


def main(config: Config) -> None:
    """Checks, trains or goes on, prints the table and writes the workdir."""
    from cls_jax.app.main import run_one

    run_one("dualnet", config)


if __name__ == "__main__":
    run_main(main, Config, PRESETS, default_preset="quick", description=__doc__, check=CHECK)
