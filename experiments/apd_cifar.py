#!/usr/bin/env python
"""APD and its rivals on the same tasks in several orders: how much does the order decide?

--preset quick: five symmetries of scikit-learn's digits as tasks; minutes on two CPU cores.
--preset paper: CIFAR-100, 10 tasks x 10 classes, the paper's LeNet, its orders A to E; give it an
accelerator: on two CPU cores it takes days.
The flags are APD's; rivals take what they share with it, the learning rate for example.
"""

from dataclasses import dataclass, fields, replace
from typing import Literal

from cls_jax.cli import flat, run_main
from cls_jax.execution import RunConfig, begin, execute
from cls_jax.experiment import StreamConfig, make_learner, make_stream
from cls_jax.methods import METHODS
from cls_jax.methods.apd_config import ApdConfig, ApdHyper
from cls_jax.nets.choose import NetConfig
from cls_jax.orders import finish_orders, read_orders
from cls_jax.processes import is_first

VARIANTS = {  # label -> row of the table of methods; its Config and Hyper in place of the flags
    "APD(1)": ("apd", {"consolidate_every": 0}, {}),
    "APD(2)": ("apd", {}, {}),
    "APD-Fixed": ("apd", {"consolidate_every": 0, "retroactive": False}, {}),
    "APD(1) lambda2=0": ("apd", {"consolidate_every": 0}, {"drift_weight": 0.0}),
    **{f"L2-transfer {w:g}": ("l2_transfer", {}, {"penalty_weight": w}) for w in (0.0, 0.1, 1, 10)},
    "online EWC": ("ewc_online", {}, {"learning_rate": 0.03, "penalty_weight": 10.0}),
}
PLAIN = StreamConfig(normalisation="none", batch_size=100)
DIGITS = replace(PLAIN, scenario="dihedral", image_size=8, epochs=54)
SPLIT = replace(PLAIN, data="cifar100", tasks=10, class_order="label", epochs=20)
FIVE = "0-1-2-3-4", "4-3-2-1-0", "2-0-4-1-3", "1-4-0-3-2", "3-2-1-4-0"
A_TO_E = "0123456789", "1745208693", "7051843629", "5829043761", "2954806137"


@dataclass(frozen=True)
class Config:
    """Everything about one experiment; an order is written as 2-0-1: task 2 comes first."""

    variants: tuple[Literal[tuple(VARIANTS)], ...] = ("APD(1)",)
    orders: tuple[str, ...] = FIVE
    stream: flat(StreamConfig) = DIGITS
    net: flat(NetConfig) = NetConfig("mlp", hidden=(256, 128))
    method: flat(ApdConfig) = ApdConfig()
    hyper: flat(ApdHyper) = ApdHyper(sparsity_weight=2e-3, residue_scale=0.0)
    run: flat(RunConfig) = RunConfig()


PAPER = ApdConfig(annealing_steps=50), ApdHyper(residue_scale=1.0)
PRESETS = {
    "quick": Config(("APD(1)", "APD(2)", "L2-transfer 1")),
    "paper": Config((*VARIANTS,), (*map("-".join, A_TO_E),), SPLIT, NetConfig("lenet"), *PAPER),
}


def fitted(kind: type, flags: object, change: dict) -> object:
    """A Config or Hyper, with the flags that it shares with APD's."""
    shared = {f.name: getattr(flags, f.name) for f in fields(kind) if hasattr(flags, f.name)}
    return kind(**{**shared, **change})


def main(config: Config) -> None:
    """Checks all, runs one method after another in every order, prints and writes the table."""
    begin(config.run)
    plans = [replace(config.stream, task_order=o) for o in read_orders(config.orders)]
    learners, places = [], [(plan, make_stream(plan), config.net) for plan in plans]
    for label in config.variants:
        name, *changes = VARIANTS[label]
        own = [*map(fitted, METHODS[name][:2], (config.method, config.hyper), changes)]
        for order, (plan, stream, net) in zip(config.orders, places, strict=True):
            kinds = name, *own, stream, plan, net
            learners.append(make_learner(*kinds, label=f"{label} {order}"))
    results = execute(learners, config.run, config)
    if is_first():
        finish_orders(config.run.workdir, config.variants, config.orders, results)


if __name__ == "__main__":
    run_main(main, Config, PRESETS, default_preset="quick", description=__doc__)
