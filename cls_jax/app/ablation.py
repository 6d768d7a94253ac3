"""One method beside itself with parts changed or left out: what scripts of such tables share."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import make_dataclass, replace
from typing import Any, Literal

from cls_jax.app.commands.run import net_of
from cls_jax.app.flags import explained, flat, run_main
from cls_jax.app.method_flags import flags_of
from cls_jax.app.method_presets import method_presets
from cls_jax.app.run_config import RunConfig
from cls_jax.app.variants import check_variants, fitted
from cls_jax.nets.config import NetConfig
from cls_jax.streams.config import StreamConfig


def start(
    method: str,
    changes: Mapping[str, Mapping[str, Any]],
    *,
    usual: Sequence[str],
    description: str | None,
    wide: Collection[str] = (),
) -> None:
    """Parses the process' flags, runs the variants, prints their table and writes the workdir.

    Args:
      method: of METHODS; its presets are those of the script.
      changes: label of a variant -> what takes the place of flags among the method's arguments.
      usual: labels of those that are run if ``--variants`` names none.
      description: the first lines of the help.
      wide: labels whose network is as many times as wide as there are tasks.
    """
    table = {label: (method, own) for label, own in changes.items()}
    flags, net = flags_of(method), net_of(method)
    kind: Any = tuple[Literal[tuple(changes)], ...]
    config = make_dataclass(
        "Config",
        [
            ("variants", explained(kind, "what stands in the table."), tuple(usual)),
            ("stream", flat(StreamConfig), StreamConfig()),
            ("net", flat(net), net()),
            ("method", flat(flags), flags()),
            ("run", flat(RunConfig), RunConfig()),
        ],
        frozen=True,
        kw_only=True,
        namespace={"__doc__": "Everything about one experiment."},
    )
    presets = {
        name: config(stream=one.stream, net=net(**vars(one.net)), method=flags(**one.arguments))
        for name, one in method_presets(method).items()
    }

    def check(config: Any, typed: Collection[str]) -> None:
        check_variants(config, typed, fitted(table, config), {"method": ""})

    def main(config: Any) -> None:
        from cls_jax.app.main import begin, execute, make_learner, make_stream, report

        begin(config.run)
        stream, learners = make_stream(config.stream), []
        for label, one in fitted(table, config).items():
            size = _wider(config.net, config.stream.tasks) if label in wide else config.net
            learners.append(make_learner(*one, stream, config.stream, size, label=label))
        report(config, execute(learners, config.run, config))

    run_main(
        main, config, presets, default_preset="quick", description=description or "", check=check
    )


def _wider(net: NetConfig, times: int) -> NetConfig:
    """The network with so many times as many units or channels in each layer."""
    return replace(net, width=times * net.width, hidden=tuple(times * n for n in net.hidden))
