#!/usr/bin/env python
"""APD and its rivals on the same tasks in several orders: how much does the order decide?

--preset quick: five symmetries of scikit-learn's digits; minutes on two CPU cores.
paper: CIFAR-100, 10 tasks x 10 classes, LeNet, orders A to E; days there.
"""

from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import Literal

from cls_jax.app.flags import flat, run_main
from cls_jax.app.method_flags import flags_of
from cls_jax.app.method_presets import method_presets
from cls_jax.app.run_config import RunConfig
from cls_jax.app.unused import refuse
from cls_jax.app.variants import check_variants, fitted
from cls_jax.nets.config import NetConfig
from cls_jax.report.task_orders import read_orders, report_orders
from cls_jax.streams.config import StreamConfig

Apd = flags_of("apd")
VARIANTS = {  # label -> a method and its own values in place of the flags
    "APD(1)": ("apd", {"consolidate_every": 0}),
    "APD(2)": ("apd", {}),
    "APD-Fixed": ("apd", {"consolidate_every": 0, "retroactive": False}),
    "APD(1) lambda2=0": ("apd", {"consolidate_every": 0, "drift_weight": 0.0}),
    **{f"L2-transfer {w:g}": ("l2_transfer", {"penalty_weight": w}) for w in (0.0, 0.1, 1, 10)},
    "online EWC": ("ewc_online", {"learning_rate": 0.03, "penalty_weight": 10.0}),
}


@dataclass(frozen=True, kw_only=True)
class Config:
    """Everything about one experiment; an order is written as 2-0-1: task 2 comes first."""

    variants: tuple[Literal[tuple(VARIANTS)], ...]
    orders: tuple[str, ...]
    stream: flat(StreamConfig)
    net: flat(NetConfig)
    method: flat(Apd)
    run: flat(RunConfig) = RunConfig()


FIVE = "0-1-2-3-4", "4-3-2-1-0", "2-0-4-1-3", "1-4-0-3-2", "3-2-1-4-0"
A_TO_E = ["0123456789", "1745208693", "7051843629", "5829043761", "2954806137"]
WHAT = {
    "quick": {"variants": ("APD(1)", "APD(2)", "L2-transfer 1"), "orders": FIVE},
    "paper": {"variants": (*VARIANTS,), "orders": (*map("-".join, A_TO_E),)},
}
PRESETS = {
    name: Config(stream=one.stream, net=one.net, method=Apd(**one.arguments), **WHAT[name])
    for name, one in method_presets("apd").items()
}


def check(config: Config, typed: Collection[str]) -> None:
    """Refuses flags that no variant would take."""
    if "task_order" in typed:
        refuse("task_order", config.stream.task_order, "--orders has them")
    check_variants(config, typed, fitted(VARIANTS, config), {"method": ""})


def main(config: Config) -> None:
    """Checks all, runs one method after another in every order, prints and writes the table."""
    from cls_jax.app.main import begin, execute, is_primary, make_learner, make_stream

    begin(config.run)
    plans = [replace(config.stream, task_order=o) for o in read_orders(config.orders)]
    learners, places = [], [(plan, make_stream(plan), config.net) for plan in plans]
    for label, kinds in fitted(VARIANTS, config).items():
        for order, (plan, stream, net) in zip(config.orders, places, strict=True):
            learners.append(make_learner(*kinds, stream, plan, net, label=f"{label} {order}"))
    results, run = execute(learners, config.run, config), config.run
    if is_primary():
        report_orders(config.variants, config.orders, results, run.workdir, run.figure_format)


if __name__ == "__main__":
    run_main(main, Config, PRESETS, default_preset="quick", description=__doc__, check=check)
