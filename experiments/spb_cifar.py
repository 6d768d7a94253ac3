#!/usr/bin/env python
"""SPB, SPB-I, SPB-M and their controls: new classes without a stored image, phase after phase.

--preset quick: scikit-learn's digits, 5 classes + 5 x 1, minutes on two CPU cores; paper:
CIFAR-100, 50 + 5 x 10, ResNet-32, for a GPU or TPU (--tasks 11: 50 + 10 x 5; 26: 50 + 25 x 2).
Flags of the method hold for all variants; --variants all compares everything in one table.
"""

from dataclasses import dataclass, replace
from typing import Annotated

from tyro.conf import arg

from cls_jax.cli import flat, run_main
from cls_jax.execution import RunConfig, begin, conclude, execute
from cls_jax.experiment import StreamConfig, make_learner, make_stream
from cls_jax.methods.spb_config import VARIANTS, SpbConfig, SpbHyper, variants
from cls_jax.nets.choose import NetConfig


@dataclass(frozen=True)
class Config:
    """Everything about one experiment."""

    variants: Annotated[tuple[str, ...], arg(help=f"all, or of {', '.join(VARIANTS)}.")]
    stream: flat(StreamConfig)
    net: flat(NetConfig)
    method: flat(SpbConfig)
    hyper: flat(SpbHyper) = SpbHyper()
    run: flat(RunConfig) = RunConfig()


DIGITS = {"image_size": 8, "base_classes": 5, "base_epochs": 40, "epochs": 30, "view_padding": 1}
CIFAR = {"base_classes": 50, "base_epochs": 160, "epochs": 50, "normalisation": "cifar100"}
CIFAR |= {"crop_padding": 4, "flip": True, "view_flip": True}
PRESETS = {
    "quick": Config(
        ("finetune", "spb", "spb_m"),
        StreamConfig(tasks=6, batch_size=64, class_order="label", views="standard", **DIGITS),
        NetConfig("small", width=16),
        SpbConfig(base_decays=(24,), decays=(18,)),
        SpbHyper(learning_rate=0.01, initial_scale=10.0),
    ),
    "paper": Config(
        ("spb", "spb_i", "spb_m"),
        StreamConfig("cifar100", tasks=6, batch_size=128, class_order="1993", **CIFAR),
        NetConfig("resnet32", width=16),
        SpbConfig(),
    ),
}


def main(config: Config) -> None:
    """Checks every variant, runs one after another, prints the table and writes the workdir."""
    names = tuple(VARIANTS) if config.variants == ("all",) else config.variants
    methods = variants(config.method, names)
    begin(config.run)
    stream, learners = make_stream(config.stream), []
    for name, method in methods.items():
        flags, mine = config.stream, stream
        if method.joint:  # all classes are learned at once, for as long as the first are
            flags = replace(flags, epochs=flags.base_epochs or flags.epochs, base_epochs=None)
            mine = make_stream(flags)
        fitted = method, config.hyper, mine, flags, config.net
        learners.append(make_learner("spb", *fitted, label=name))
    conclude(config, execute(learners, config.run, config))


if __name__ == "__main__":
    run_main(main, Config, PRESETS, default_preset="quick", description=__doc__)
