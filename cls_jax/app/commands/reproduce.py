"""The cells of a published table, run beside what was published: ``cls-jax reproduce TABLE``."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Annotated

from cls_jax.app.flags import FLAT, Positional, arg, hiding, run_main
from cls_jax.app.published.ablations import ablations
from cls_jax.app.published.compare import (
    Cell,
    read_published,
    render_reproduction,
    reproduction_table,
)
from cls_jax.app.published.presets import TABLES, Change, cells, changed, settings
from cls_jax.app.run_config import RunConfig
from cls_jax.app.unused import refuse
from cls_jax.report.summary import write
from cls_jax.report.tables import rich_table, show

DESCRIPTION = """Runs the cells of a published table, prints published, ours and the difference.

E.g. s_mnist --methods clser er --memory-sizes 500 --data-dir ~/tensorflow_datasets --workdir runs/s
"""
Run = hiding(RunConfig, "sweep")  # a sweep would vary a published number
_KNOWN = f"{', '.join(TABLES)}, s_mnist_ablations."


@dataclass(frozen=True, kw_only=True)
class Config:
    """What to reproduce; all rows and buffers of the table if not given.

    Attributes:
      table: of published numbers.
      methods: rows of the table.
      memory_sizes: buffers of those that have one.
      data_dir: where tfds data sets lie.
      change: departures from the published settings.
      run: how it is run.
    """

    table: Positional[Annotated[str, arg(help=_KNOWN)]] = "s_mnist"
    methods: tuple[str, ...] = ()
    memory_sizes: tuple[int, ...] = ()
    data_dir: str | None = None
    change: Annotated[Change, FLAT] = Change()
    run: Annotated[Run, FLAT] = Run(seeds=tuple(range(10)))  # pyright: ignore[reportInvalidTypeForm]


def main(config: Config) -> None:
    """Checks every cell, runs one after another, prints the table, writes the record."""
    from cls_jax.app.main import begin, execute, is_primary, make_learner, make_stream

    if config.table == "s_mnist_ablations":
        wanted = ablations(config.methods, config.memory_sizes)
    else:
        wanted = cells(config.table, config.methods, config.memory_sizes)
    changes = {name: value for name, value in asdict(config.change).items() if value is not None}
    begin(config.run)
    learners, presets = [], []
    for preset in wanted:
        if "width" in changes and preset.net.net == "mlp":
            refuse("width", config.change.width, f"{config.table} is of a perceptron")
        preset = changed(preset, {**changes, "data_dir": config.data_dir})
        stream = make_stream(preset.stream)
        given = preset.method, preset.arguments, stream, preset.stream, preset.net
        name = f"{preset.label} {preset.memory_size or ''}".strip()
        learners.append(make_learner(*given, label=name))
        presets.append(preset)
    results = execute(learners, config.run, config)
    if not is_primary():
        return
    done = [
        Cell(preset.label, preset.memory_size, settings(preset), result)
        for preset, result in zip(presets, results, strict=True)
    ]
    published = read_published()
    note = "changed: " + ", ".join(f"{k} {v}" for k, v in changes.items()) if changes else ""
    beside = reproduction_table(
        config.table, done, [p for p in published if p.table == config.table], note
    )
    show(rich_table(beside))
    if config.run.workdir is not None:
        files = render_reproduction(beside, done, config.run.figure_format)
        write(config.run.workdir, files)


def start(argv: Sequence[str] | None = None, *, prog: str | None = None) -> None:
    """Parses ``argv`` (those of the process if None), and runs it; ``prog`` is for the help."""
    how = {"argv": argv, "description": DESCRIPTION, "prog": prog}
    run_main(main, Config, {"published": Config()}, default_preset="published", **how)
