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
from cls_jax.app.method_presets import method_presets
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


PRESETS = {
    name: Config(
        variants=("finetune", "spb", "spb_m") if name == "quick" else ("spb", "spb_i", "spb_m"),
        stream=one.stream,
        net=one.net,
        method=Spb(**one.arguments),
        ucir=Ucir(**method_presets("ucir")[name].arguments),
    )
    for name, one in method_presets("spb").items()
}


def check(config: Config, typed: Collection[str]) -> None:
    """Refuses flags that were typed and that no variant would take."""
    check_variants(config, typed, spb_and_ucir(config), TAKERS)


def main(config: Config) -> None:
    """Checks every variant, runs one after another, prints the table and writes the workdir."""
    from cls_jax.app.main import begin, execute, make_learner, make_stream, report

    begin(config.run)
    learners, short, stream = [], config.stream, make_stream(config.stream)
    long = replace(short, epochs=short.base_epochs or short.epochs, base_epochs=None)
    for name, one in spb_and_ucir(config).items():
        where = (make_stream(long), long) if one.longer else (stream, short)
        learners.append(make_learner(*one, *where, config.net, label=name))
    report(config, execute(learners, config.run, config))


if __name__ == "__main__":
    run_main(main, Config, PRESETS, default_preset="quick", description=__doc__, check=check)
