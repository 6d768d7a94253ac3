#!/usr/bin/env python
"""Does task similarity help CLS-ER? A copy for each group of similar tasks, and its controls.

--preset quick: scikit-learn's digits, 9 tasks of permuted pixels in 3 groups; minutes on two CPU
cores. unstructured: without groups, where nothing may hurt. mnist, mnist_rotated: with groups, and
--data-dir or a network. They learn at the pilot's rate, 0.05, and who is ahead depends on it: in
our records CLS-ER and the copies learn at 0.3, ER and DER++ at 0.2.
Controls: as many random groups, a copy a task (snapshots), the groups told, ER and DER++ with the
memory that the copies cost. More --variants: conf, soft, literal and rates choose reference and
update otherwise; masks of groups in CLS-ER; fast to shuffle: speeds of channels.
"""

from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import Literal

from cls_jax.app.flags import flat, run_main
from cls_jax.app.method_flags import flags_of
from cls_jax.app.method_presets import method_presets
from cls_jax.app.run_config import RunConfig
from cls_jax.app.variants import SIMILARITY, check_variants, fitted
from cls_jax.nets.config import NetConfig
from cls_jax.streams.config import StreamConfig

Group = flags_of("group_ema")
USUAL = ("similarity", "random", "snapshots", "told", "clser", "er", "er matched", "derpp matched")


@dataclass(frozen=True, kw_only=True)
class Config:
    """Everything about one experiment."""

    variants: tuple[Literal[tuple(SIMILARITY)], ...] = USUAL
    stream: flat(StreamConfig)
    net: flat(NetConfig)
    method: flat(Group)
    run: flat(RunConfig) = RunConfig()


QUICK, MNIST = (
    Config(stream=one.stream, net=one.net, method=Group(**one.arguments))
    for one in map(method_presets("group_ema").get, ("quick", "mnist"))
)
PRESETS = {
    "quick": QUICK,
    "unstructured": replace(
        QUICK, stream=replace(QUICK.stream, groups=None), variants=(*USUAL[:3], *USUAL[4:])
    ),
    "mnist": MNIST,
    "mnist_rotated": replace(MNIST, stream=replace(MNIST.stream, scenario="rotated")),
}


def check(config: Config, typed: Collection[str]) -> None:
    """Refuses flags that no variant would take."""
    check_variants(config, typed, fitted(SIMILARITY, config), {"method": ""})


def main(config: Config) -> None:
    """Checks every variant, runs groups by similarity, then the others, and prints the tables."""
    from cls_jax.app.main import begin, execute, make_stream, report
    from cls_jax.app.similarity_controls import found_by, learners, report_similarity
    from cls_jax.app.similarity_estimators import report_estimators

    begin(config.run)
    given = config, make_stream(config.stream)
    chosen = fitted(SIMILARITY, config)
    every = learners(*given, chosen)
    sizing = config.variants[0] == "similarity"  # what it finds says how large others are
    results = execute(every[:1] if sizing else every, config.run, config)
    if sizing and chosen.keys() > {"similarity"}:
        every = learners(*given, chosen, found_by(results[0]))
        results += execute(every[1:], replace(config.run, restart=False), config)
    report(config, results)
    for table in (report_similarity, report_estimators):
        table(list(zip(every, results, strict=True)), config.run.workdir)


if __name__ == "__main__":
    run_main(main, Config, PRESETS, default_preset="quick", description=__doc__, check=check)
