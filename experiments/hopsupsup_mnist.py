#!/usr/bin/env python
"""HopSupSup on Split MNIST: unit masks over frozen weights, recovered without being told the task.

--preset quick: scikit-learn's digits, 5 tasks x 2 classes, five passes, 512-512; about a minute.
--preset paper: MNIST as published, one pass in batches of 128, 2048-2048; 97.43 % there (mean). It
needs --data-dir, or a network.

The mask of a task is recovered from all its test images: the method adapts to the images that it is
scored on. The rates of the recovery belong to a width: those
of the quick preset were chosen on images held out from the training split.
"""

from dataclasses import dataclass

from cls_jax.app.flags import flat, hiding, run_main
from cls_jax.app.method_flags import flags_of
from cls_jax.app.run_config import RunConfig
from cls_jax.app.unused import check_of
from cls_jax.nets.config import NetConfig
from cls_jax.streams.config import StreamConfig

HopSupSup = flags_of("hopsupsup")
Net = hiding(NetConfig, "net", "width")  # HopSupSup always has its own perceptron


@dataclass(frozen=True, kw_only=True)
class Config:
    """Everything about one experiment."""

    stream: flat(StreamConfig) = StreamConfig(
        epochs=5, batch_size=32, class_order="label", image_size=8
    )
    net: flat(Net) = Net(net="mlp", hidden=(512, 512))
    method: flat(HopSupSup) = HopSupSup(
        recovery_steps=120, recovery_learning_rate=200.0, energy_weight=7.5e-3
    )
    run: flat(RunConfig) = RunConfig()


CHECK = check_of("hopsupsup")
PRESETS = {
    "quick": Config(),
    "paper": Config(
        stream=StreamConfig(
            data="mnist", batch_size=128, class_order="label", normalisation="mnist"
        ),
        net=Net(net="mlp", hidden=(2048, 2048)),
        method=HopSupSup(),
    ),
}


def main(config: Config) -> None:
    """Checks, trains or goes on, prints the table and writes the workdir."""
    from cls_jax.app.main import run_one

    run_one("hopsupsup", config)


if __name__ == "__main__":
    run_main(main, Config, PRESETS, default_preset="quick", description=__doc__, check=CHECK)
