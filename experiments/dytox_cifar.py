#!/usr/bin/env python
"""DyTox, DyTox+ and DyTox++, and DyTox without each of its parts, on the same stream.

--preset quick: scikit-learn's digits, a tiny transformer; minutes on two CPU cores.
paper: CIFAR-100, 10 tasks x 10 classes, 500 passes, for a GPU (--tasks 20 or 50 as there). tiny100:
100 classes of 32x32 pictures, a quarter of the width, a tenth of the passes. Both need --data-dir.
"""

from collections.abc import Collection
from dataclasses import dataclass
from typing import Literal

from cls_jax.app.flags import flat, hiding, run_main
from cls_jax.app.method_flags import flags_of
from cls_jax.app.method_presets import method_presets
from cls_jax.app.run_config import RunConfig
from cls_jax.app.variants import check_variants, fitted
from cls_jax.nets.config import NetConfig
from cls_jax.streams.config import StreamConfig

Dytox = flags_of("dytox")
Net = hiding(NetConfig, "net", "hidden")  # DyTox brings its own transformer
ONE_TOKEN = {"task_tokens": False, "divergence_weight": 0.0}
REPLAY = {**ONE_TOKEN, "distillation": False, "finetune_epochs": 0}
CHANGES = {
    "dytox": {},
    "dytox+": {"mixup": True},
    "dytox++": {"mixup": True, "sam": True},
    "as in code": {"finetune_order": "as_in_code"},
    "no tokens": {"task_tokens": False},
    "no divergence": {"divergence_weight": 0.0},
    "no distillation": {"distillation": False},
    "no fine-tuning": {"finetune_epochs": 0},
    "one token": ONE_TOKEN,
    "replay": REPLAY,
    "fine-tune": {**REPLAY, "memory_size": 0},
    "joint": {**REPLAY, "memory_size": 0, "joint": True},
}
VARIANTS = {label: ("dytox", changes) for label, changes in CHANGES.items()}


@dataclass(frozen=True, kw_only=True)
class Config:
    """Everything about one experiment."""

    variants: tuple[Literal[tuple(VARIANTS)], ...] = ("fine-tune", "dytox", "dytox+")
    stream: flat(StreamConfig)
    net: flat(Net)
    method: flat(Dytox)
    run: flat(RunConfig) = RunConfig()


PRESETS = {
    name: Config(
        stream=one.stream,
        net=Net(**vars(one.net)),
        method=Dytox(**one.arguments),
    )
    for name, one in method_presets("dytox").items()
}


def check(config: Config, typed: Collection[str]) -> None:
    """Refuses flags that no variant would take."""
    check_variants(config, typed, fitted(VARIANTS, config), {"method": ""})


def main(config: Config) -> None:
    """Checks every variant, runs one after another, prints the table and writes the workdir."""
    from cls_jax.app.main import begin, execute, make_learner, make_stream, report

    begin(config.run)
    given = make_stream(config.stream), config.stream, config.net
    every = fitted(VARIANTS, config).items()
    learners = [make_learner(*one, *given, label=label) for label, one in every]
    report(config, execute(learners, config.run, config))


if __name__ == "__main__":
    run_main(main, Config, PRESETS, default_preset="quick", description=__doc__, check=check)
