"""Hyper-parameters chosen on validation examples: ``cls-jax tune METHOD``."""

from collections.abc import Collection, Sequence
from dataclasses import make_dataclass, replace
from typing import Any

from cls_jax.app.commands.run import net_of, optimizer_of
from cls_jax.app.flags import flat, hiding, import_own, run_main
from cls_jax.app.method_flags import flags_of, no_clash
from cls_jax.app.method_presets import method_presets
from cls_jax.app.run_config import RunConfig
from cls_jax.app.tuning.config import TuneConfig, check_tuning
from cls_jax.app.unused import check_of
from cls_jax.methods import signature
from cls_jax.streams.config import StreamConfig

DESCRIPTION = """Chooses values of {0}'s arguments on validation examples, and tests the winner.

A share of each class of the training set is held out (--validation-fraction). Every value is
trained on the rest and scored on it; the test set is not looked at. The values with the highest
mean over the seeds then train {0} on the full training set, and are tested.

cls-jax tune {0} --sweep learning_rate 0.03 0.1 --seeds 0 1 2 --workdir runs/tuned
cls-jax tune {0} --space learning_rate log 0.01 0.3 --trials 30 --workdir runs/tuned

--space needs Optuna. The same command again, at the same time or after a kill, works on the study.
"""

Run = hiding(RunConfig, "score", "profile", "coordinator", "num_processes", "process_id")
FRACTION = 0.1
"""Held out if nothing else is asked for."""


def start(method: str, argv: Sequence[str] | None = None, *, prog: str | None = None) -> None:
    """Parses flags, chooses, tests, prints the table and writes the workdir.

    Args:
      method: of METHODS, one's own too if ``--import`` brings it.
      argv: the flags; those of the process if None.
      prog: how the help calls the command.
    """
    import_own(argv)
    flags, net = flags_of(method), net_of(method)
    config = make_dataclass(
        "Config",
        [
            ("stream", flat(StreamConfig), StreamConfig()),
            ("net", flat(net), net()),
            ("method", flat(flags), flags()),
            *optimizer_of(method, argv),
            ("tune", flat(TuneConfig), TuneConfig()),
            ("run", flat(Run), Run()),
        ],
        frozen=True,
        kw_only=True,
        namespace={"__doc__": "How hyper-parameters are chosen, and of what."},
    )
    no_clash(config, signature(method).arguments, method)
    offered = {
        name: config(
            stream=replace(one.stream, validation_fraction=FRACTION),
            net=net(**vars(one.net)),
            method=flags(**one.arguments),
        )
        for name, one in method_presets(method).items()
    }

    def check(config: Any, typed: Collection[str]) -> None:
        check_of(method)(config, typed)
        check_tuning(config, typed)

    def main(config: Any) -> None:
        from cls_jax.app.tuning.tune import tune

        tune(method, config)

    how = {"argv": argv, "description": DESCRIPTION.format(method), "prog": prog, "check": check}
    run_main(main, config, offered, default_preset="quick", **how)
