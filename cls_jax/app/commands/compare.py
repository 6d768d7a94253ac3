"""Several methods on one stream at equal memory: ``cls-jax compare``."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, make_dataclass, replace
from typing import Any

from cls_jax.app.flags import explained, flat, import_own, run_main
from cls_jax.app.method_flags import flags_of, with_memory
from cls_jax.app.method_presets import method_presets
from cls_jax.app.run_config import RunConfig
from cls_jax.app.variants import check_compared, of_all
from cls_jax.methods import METHODS
from cls_jax.methods.optimizer import OptimizerConfig
from cls_jax.nets.config import NetConfig
from cls_jax.streams.config import StreamConfig

DESCRIPTION = """Several methods on one stream at equal memory, in one table and one figure.

--preset quick: sgd, er and dualnet on the bundled digits, as in dualnet_cifar.py.
--preset cifar10: the same on Split CIFAR-10, one pass, with DualNet's CORe50 rates.
Each method has its own flags behind its name, e.g. --er.learning-rate 0.05; a method, network or
data set of your own joins by --import FILE.
"""


def start(argv: Sequence[str] | None = None, *, prog: str | None = None) -> None:
    """Parses ``argv`` (those of the process if None), and runs it; ``prog`` is for the help."""
    import_own(argv)  # methods of one's own have flags too
    config = config_class()
    how = {"argv": argv, "description": DESCRIPTION, "prog": prog, "check": check_compared}
    run_main(main, config, presets(config), default_preset="quick", **how)


def config_class() -> type:
    """The flags of all methods that there are now, each behind its name."""
    own = [flags_of(name) for name in METHODS]
    rows = f"rows of the table: {', '.join(METHODS)}."
    slots = "slots of every method that has a memory, instead of --er.memory-size."
    return make_dataclass(
        "Config",
        [
            ("methods", explained(tuple[str, ...], rows), ("sgd", "er", "dualnet")),
            ("memory_size", explained(int | None, slots), None),
            ("stream", flat(StreamConfig), StreamConfig()),
            ("net", flat(NetConfig), NetConfig()),
            ("optimizer", flat(OptimizerConfig), OptimizerConfig()),
            ("run", flat(RunConfig), RunConfig()),
            *[
                (name, explained(kind, kind.__doc__ or ""), kind())
                for name, kind in zip(METHODS, own, strict=True)
            ],
        ],
        frozen=True,
        kw_only=True,
    )


def presets(config: type) -> Mapping[str, Any]:
    """Where the flags start from.

    Args:
      config: of ``config_class``.
    """
    # As in DualNet's code, as many are replayed as arrive: 10 and 10, CORe50: 32 and 32.
    cifar10 = of_all(500, er=32, dualnet=32)
    core50 = {"ssl_learning_rate": 1e-4, "lookahead_step_size": 0.1}
    cifar10["dualnet"] = replace(cifar10["dualnet"], **core50)
    # CLS-ER's own quick values for pictures: the published ones are too slow for so short a stream.
    own = method_presets("clser")["quick_pictures"].arguments
    quick = of_all(250, er=10)
    quick["clser"] = flags_of("clser")(**{**own, "memory_size": 250})
    pictures = StreamConfig(data="cifar10", batch_size=32, normalisation="cifar10", view_flip=True)
    return {
        "quick": config(net=NetConfig(width=8), **quick),
        "cifar10": config(net=NetConfig(width=16), stream=pictures, **cifar10),
    }


def main(config: Any) -> None:
    """Checks everything, runs one method after another, prints the table, writes the workdir."""
    from cls_jax.app.main import begin, execute, make_learner, make_stream, report

    begin(config.run)
    stream = make_stream(config.stream)
    learners = []
    for name in config.methods:
        own = asdict(getattr(config, name))
        if config.memory_size is not None and name in with_memory():
            own["memory_size"] = config.memory_size
        given = stream, config.stream, config.net, config.optimizer
        learners.append(make_learner(name, own, *given))
    report(config, execute(learners, config.run, config))
