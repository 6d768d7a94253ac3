"""One method learns a stream: ``cls-jax run METHOD``."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, make_dataclass
from typing import Annotated, Any

from cls_jax.app.earlier_flags import preset_of
from cls_jax.app.flags import arg, flat, hiding, import_own, refuse_unoffered, run_main
from cls_jax.app.method_flags import flags_of, no_clash, takes_optimizer
from cls_jax.app.method_presets import method_presets
from cls_jax.app.run_config import RunConfig
from cls_jax.app.unused import check_of
from cls_jax.methods import signature
from cls_jax.methods.optimizer import OptimizerConfig
from cls_jax.nets.config import NetConfig
from cls_jax.streams.config import StreamConfig

FIXED = {
    "dualnet": ("net", "hidden"),
    "dytox": ("net", "hidden"),
    "hopsupsup": ("net", "width"),
    "den": ("net", "width"),
}
"""Flags of the network that a method has no use for: it brings its own."""


@dataclass(frozen=True, kw_only=True)
class OneRun(RunConfig):
    """How one method is run, anew or from where another run ended.

    Attributes:
      continue_from: the workdir of a finished run of the same method, which learns these tasks too;
        every flag that is not given is as it was there.
    """

    continue_from: Annotated[str | None, arg(name="continue")] = None


def start(
    method: str,
    argv: Sequence[str] | None = None,
    *,
    prog: str | None = None,
    presets: Collection[str] | None = None,
    default_preset: str = "quick",
    description: str | None = None,
) -> None:
    """Parses flags, trains or goes on, prints the table and writes the workdir.

    Args:
      method: of METHODS, one's own too if ``--import`` brings it.
      argv: the flags; those of the process if None.
      prog: how the help calls the command.
      presets: names of those to offer; all that the method has if None.
      default_preset: where the flags start from without ``--preset``.
      description: the first lines of the help; the method's own if None.
    """
    import_own(argv)
    flags, net = flags_of(method), net_of(method)
    optimizer = optimizer_of(method, argv)
    config = make_dataclass(
        "Config",
        [
            ("stream", flat(StreamConfig), StreamConfig()),
            ("net", flat(net), net()),
            ("method", flat(flags), flags()),
            *optimizer,
            ("run", flat(OneRun), OneRun()),
        ],
        frozen=True,
        kw_only=True,
        namespace={"__doc__": "Everything about one experiment."},
    )
    no_clash(config, signature(method).arguments, method)
    every = {
        name: one
        for name, one in method_presets(method).items()
        if presets is None or name in presets
    }
    if (earlier := preset_of(method, argv)) is not None:  # all flags start from there
        every, default_preset = {"earlier": earlier}, "earlier"
    offered = {
        preset: config(
            stream=one.stream,
            net=net(**vars(one.net)),
            method=flags(**one.arguments),
            run=OneRun(**one.run),
            **{name: one.optimizer for name, *_ in optimizer},
        )
        for preset, one in every.items()
    }

    def main(config: Any) -> None:
        from cls_jax.app.main import run_one

        run_one(method, config)

    run_main(
        main,
        config,
        offered,
        default_preset=default_preset,
        argv=argv,
        description=_about(method) if description is None else description,
        check=check_of(method),
        prog=prog,
    )


def optimizer_of(method: str, argv: Sequence[str] | None) -> list[tuple[str, Any, Any]]:
    """The field of the optimizer's flags, where the method takes one.

    Where it does not, a flag that was typed ends the process with code 2, in one sentence.
    """
    if takes_optimizer(method):
        return [("optimizer", flat(OptimizerConfig), OptimizerConfig())]
    others = vars(OptimizerConfig()).keys() - signature(method).arguments.keys()
    refuse_unoffered(argv, others, f"{method} has its own optimizer")
    return []


def net_of(method: str) -> type[NetConfig]:
    """The flags of the network, but for those that the method has no use for."""
    return hiding(NetConfig, *FIXED[method]) if method in FIXED else NetConfig


def _about(method: str) -> str:
    """What the docstring of its factory says before its arguments."""
    return signature(method).doc.partition("\nArgs:\n")[0].strip()
