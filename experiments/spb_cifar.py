#!/usr/bin/env python
"""SPB, SPB-I, SPB-M, their controls and UCIR: new classes phase after phase.

--preset quick: scikit-learn's digits, 5 classes + 5 x 1, minutes on two CPU cores; paper:
CIFAR-100, 50 + 5 x 10, ResNet-32, for a GPU or TPU (--tasks 11: 50 + 10 x 5; 26: 50 + 25 x 2).
Flags hold for all of --variants; UCIR and joint pass over each phase as often as over the first.
"""

from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import Annotated

from tyro.conf import arg

from cls_jax.app.flags import flat, run_main
from cls_jax.app.method_flags import flags_of
from cls_jax.app.run_config import RunConfig
from cls_jax.app.variants import SPB_AND_UCIR, check_variants, spb_and_ucir
from cls_jax.nets.config import NetConfig
from cls_jax.streams.config import StreamConfig

Spb, Ucir = flags_of("spb"), flags_of("ucir")
TAKERS = {"method": "spb", "ucir": "ucir"}


@dataclass(frozen=True, kw_only=True)
class Config:
    """Everything about one experiment."""

    variants: Annotated[tuple[str, ...], arg(help=f"all, or of {', '.join(SPB_AND_UCIR)}.")]
    stream: flat(StreamConfig)
    net: flat(NetConfig)
    method: flat(Spb) = Spb()
    ucir: Ucir = Ucir()
    run: flat(RunConfig) = RunConfig()


DIGITS = {"image_size": 8, "base_classes": 5, "base_epochs": 40, "epochs": 30, "view_padding": 1}
CIFAR = {"base_classes": 50, "base_epochs": 160, "epochs": 50, "normalisation": "cifar100"}
CIFAR |= {"crop_padding": 4, "flip": True, "view_flip": True}
PRESETS = {
    "quick": Config(
        variants=("finetune", "spb", "spb_m"),
        stream=StreamConfig(
            tasks=6, batch_size=64, class_order="label", views="standard", **DIGITS
        ),
        net=NetConfig(net="small", width=16),
        method=Spb(base_decays=(24,), decays=(18,), learning_rate=0.01, initial_scale=10.0),
        ucir=Ucir(decays=(24,), learning_rate=0.03, initial_scale=10.0),
    ),
    "paper": Config(
        variants=("spb", "spb_i", "spb_m"),
        stream=StreamConfig(data="cifar100", tasks=6, batch_size=128, class_order="1993", **CIFAR),
        net=NetConfig(net="resnet32", width=16),
    ),
}


def check(config: Config, typed: Collection[str]) -> None:
    """Refuses flags that were typed and that no variant would take."""
    check_variants(config, typed, spb_and_ucir(config), TAKERS)


def main(config: Config) -> None:
    """Checks every variant, runs one after another, prints the table and writes the workdir."""
    from cls_jax.app.main import begin, conclude, execute, make_learner, make_stream

    begin(config.run)
    learners, short, stream = [], config.stream, make_stream(config.stream)
    long = replace(short, epochs=short.base_epochs or short.epochs, base_epochs=None)
    for name, one in spb_and_ucir(config).items():
        where = (make_stream(long), long) if one.longer else (stream, short)
        learners.append(make_learner(*one, *where, config.net, label=name))
    conclude(config, execute(learners, config.run, config))


if __name__ == "__main__":
    run_main(main, Config, PRESETS, default_preset="quick", description=__doc__, check=check)
