#!/usr/bin/env python
"""DEN, a network that grows with its tasks, on permuted pixels; with --controls beside others.

--preset quick: scikit-learn's digits, 5 permutations; less than a minute on two CPU cores.
--preset paper: permuted MNIST, 10 tasks, as in the released code; needs --data-dir, or a network.
Controls: DEN asked without stamps, two variants, and networks that do not grow, as wide as DEN
began and as it ended, with the passes of DEN's three long phases.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated

from tyro.conf import arg

from cls_jax.cli import flat, run_main
from cls_jax.execution import RunConfig, begin, conclude, execute
from cls_jax.experiment import Learner, StreamConfig, make_learner, make_stream
from cls_jax.methods import METHODS
from cls_jax.methods.den_config import DenConfig, DenHyper
from cls_jax.nets.choose import NetConfig

PERMUTED = StreamConfig(scenario="permuted", normalisation="none")
MNIST = replace(PERMUTED, data="mnist", tasks=10, batch_size=256, epochs=20)
VARIANTS = {"den group 5e-3": {"group_weight": 5e-3}, "den drift 0.01": {"drift_weight": 0.01}}


@dataclass(frozen=True)
class Config:
    """Everything about one experiment."""

    stream: flat(StreamConfig) = replace(PERMUTED, image_size=8, batch_size=128, epochs=87)
    net: flat(NetConfig) = NetConfig("mlp", hidden=(64, 32))
    method: flat(DenConfig) = DenConfig(head_epochs=9)
    hyper: flat(DenHyper) = DenHyper(2e-3, 1.0, l1_weight=5e-5, head_l1_weight=5e-4)
    run: flat(RunConfig) = RunConfig()
    controls: Annotated[bool, arg(help="also DEN's variants, and what does not grow.")] = False


BASE = NetConfig("mlp", hidden=(312, 128))
PRESETS = {"quick": Config(), "paper": Config(MNIST, BASE, DenConfig(), DenHyper())}


def growing(config: Config, variants: Mapping[str, Mapping]) -> Iterator[Learner]:
    """DEN with other numbers."""
    stream = make_stream(config.stream)
    for label, numbers in variants.items():
        kinds = config.method, replace(config.hyper, **numbers), stream, config.stream, config.net
        yield make_learner("den", *kinds, label=label)


def fixed(config: Config, grown: Sequence[int]) -> Iterator[Learner]:
    """Networks that keep their size; a pull of 0 is fine-tuning."""
    longer = replace(config.stream, epochs=3 * config.stream.epochs)
    stream, rate = make_stream(longer), {"learning_rate": config.hyper.learning_rate}
    rows = [("l2_transfer", f"L2 {w}", {**rate, "penalty_weight": w}) for w in (0, 0.01, 0.5)]
    rows += [("sgd", "sgd", {}), ("ewc_online", "EWC 90", {"learning_rate": 0.01})]
    rows += [("ewc_online", "EWC 10", {"learning_rate": 0.03, "penalty_weight": 10.0})]
    for net in (config.net, replace(config.net, hidden=tuple(grown))):
        for row, label, numbers in rows:
            kinds = METHODS[row].config(), METHODS[row].hyper(**numbers), stream, longer, net
            yield make_learner(row, *kinds, label=f"{label} {'-'.join(map(str, net.hidden))}")


def main(config: Config) -> None:
    """Checks, trains or goes on, prints the table and writes the workdir."""
    begin(config.run)
    variants = {"den": {}, **VARIANTS} if config.controls else {"den": {}}
    results = den, *_ = execute(list(growing(config, variants)), config.run, config)
    if config.controls:
        units = (den.capacity[f"units of layer {n + 1}"] for n in range(len(config.net.hidden)))
        grown = [int(after[:, -1].max()) for after in units]
        bare = den._replace(method="den no stamps", views=den.views[1:], matrix=den.matrix[:, 1:])
        run = replace(config.run, restart=False, sweep=())
        results = [den, bare, *results[1:], *execute(list(fixed(config, grown)), run, config)]
    conclude(config, results)


if __name__ == "__main__":
    run_main(main, Config, PRESETS, default_preset="quick", description=__doc__)
