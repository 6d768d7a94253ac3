"""DEN beside its controls: DEN with other numbers, and networks that do not grow."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from typing import Any

from cls_jax.app.build import Learner, make_learner, make_stream

OTHERS = {"den group 5e-3": {"group_weight": 5e-3}, "den drift 0.01": {"drift_weight": 0.01}}


def growing(config: Any) -> Iterator[Learner]:
    """DEN, and with controls DEN with other numbers."""
    at = make_stream(config.stream), config.stream, config.net
    for label, numbers in ({"den": {}} | (OTHERS if config.controls else {})).items():
        yield make_learner("den", {**asdict(config.method), **numbers}, *at, label=label)


def fixed(config: Any, grown: Sequence[int]) -> Iterator[Learner]:
    """Networks that keep their size; a pull of 0 is fine-tuning."""
    longer = replace(config.stream, epochs=3 * config.stream.epochs)
    stream, rate = make_stream(longer), {"learning_rate": config.method.learning_rate}
    rows = [("l2_transfer", f"L2 {w}", {**rate, "penalty_weight": w}) for w in (0, 0.01, 0.5)]
    rows += [("sgd", "sgd", {}), ("ewc_online", "EWC 90", {"learning_rate": 0.01})]
    rows.append(("ewc_online", "EWC 10", {"learning_rate": 0.03, "penalty_weight": 10.0}))
    for net in dict.fromkeys((config.net, replace(config.net, hidden=tuple(grown)))):
        for row, label, numbers in rows:
            units = "-".join(map(str, net.hidden))
            yield make_learner(row, numbers, stream, longer, net, label=f"{label} {units}")
