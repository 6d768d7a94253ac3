#!/usr/bin/env python
"""DEN, a network that grows with its tasks, on permuted pixels; with --controls beside others.

--preset quick: scikit-learn's digits, 5 permutations; less than a minute on two CPU cores.
--preset paper: permuted MNIST, 10 tasks, as the released code runs it; needs --data-dir, or a
network. The controls: DEN's answers without stamps, two of its variants, and networks that do not
grow, of the first task's widths and of those that DEN ended with. These make as many passes as the
three long phases of DEN together.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Annotated

from tyro.conf import arg

from cls_jax.cli import flat, run_main
from cls_jax.execution import RunConfig, begin, conclude, execute
from cls_jax.experiment import Learner, StreamConfig, make_learner, make_stream
from cls_jax.methods import METHODS
from cls_jax.methods.den_config import DenConfig, DenHyper
from cls_jax.nets.choose import NetConfig
from cls_jax.types import InputError

PERMUTED = StreamConfig(scenario="permuted", normalisation="none")
HELP = arg(help="also DEN's variants, and networks that do not grow.")


@dataclass(frozen=True)
class Config:
    """Everything about one experiment."""

    stream: flat(StreamConfig) = replace(PERMUTED, image_size=8, batch_size=128, epochs=87)
    net: flat(NetConfig) = NetConfig("mlp", hidden=(64, 32))
    method: flat(DenConfig) = DenConfig(head_epochs=9)
    hyper: flat(DenHyper) = DenHyper(2e-3, 1.0, l1_weight=5e-5, head_l1_weight=5e-4)
    run: flat(RunConfig) = RunConfig()
    controls: Annotated[bool, HELP] = False


PAPER = replace(PERMUTED, data="mnist", tasks=10, batch_size=256, epochs=20)
PAPER_NET = NetConfig("mlp", hidden=(312, 128))
PRESETS = {"quick": Config(), "paper": Config(PAPER, PAPER_NET, DenConfig(), DenHyper())}
VARIANTS = {
    "den": {},
    "den, group 5e-3": {"group_weight": 5e-3},
    "den, drift 0.01": {"drift_weight": 0.01},
}


def variants(config: Config, labels: Iterable[str]) -> Iterator[Learner]:
    """DEN, with other numbers."""
    stream = make_stream(config.stream)
    for label in labels:
        kind = config.method, replace(config.hyper, **VARIANTS[label]), stream, config.stream
        yield make_learner("den", *kind, config.net, label=label)


def fixed(config: Config, grown: Sequence[int]) -> Iterator[Learner]:
    """Networks that do not grow."""
    asked = replace(config.stream, epochs=3 * config.stream.epochs)
    stream, rows = make_stream(asked), [("sgd", "sgd", {}), ("ewc_online", "ewc_online", {})]
    for weight in (0.0, 0.01, 0.5):
        hyper = {"learning_rate": config.hyper.learning_rate, "penalty_weight": weight}
        rows.append(("l2_transfer", f"L2 pull {weight}", hyper))
    for net in (config.net, replace(config.net, hidden=tuple(grown))):
        for row, label, hyper in rows:
            kind, width = METHODS[row], "-".join(map(str, net.hidden))
            kinds = kind.config(), kind.hyper(**hyper), stream, asked, net
            yield make_learner(row, *kinds, label=f"{label}, {width}")


def main(config: Config) -> None:
    """Checks, trains or goes on, prints the table and writes the workdir."""
    if config.controls and config.run.sweep:
        raise InputError("sweep varies den alone and controls are others; give one of the two")
    begin(config.run)
    labels = list(VARIANTS) if config.controls else ["den"]
    results = execute(list(variants(config, labels)), config.run, config)
    if config.controls:
        den = results[0]
        units = [den.capacity[f"units of layer {n + 1}"] for n in range(len(config.net.hidden))]
        grown = [int(layer[:, -1].max()) for layer in units]
        bare = den._replace(method="den, no stamps", views=den.views[1:], matrix=den.matrix[:, 1:])
        run = replace(config.run, restart=False)
        results = [den, bare, *results[1:], *execute(list(fixed(config, grown)), run, config)]
    conclude(config, results)


if __name__ == "__main__":
    run_main(main, Config, PRESETS, default_preset="quick", description=__doc__)
