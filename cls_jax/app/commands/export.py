"""A saved run as a file for other programs: ``cls-jax export WORKDIR --out model.jax``."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

from cls_jax.app.flags import Positional, Repeated, arg, run_main
from cls_jax.core.paths import check_file

DESCRIPTION = """Writes what answers in a workdir as one file, finished run or not.

E.g. runs/first --out model.jax, which a process with JAX alone can run, or --out net.safetensors,
the weights of the network that answers. docs/howto/serve.md has the lines that load it.
"""


@dataclass(frozen=True)
class Config:
    """What to take away, and where to.

    Attributes:
      workdir: of a run that was saved.
      out: the file: a program with its weights, or, if it ends in .msgpack or .safetensors, the
        weights alone; what is there is written over.
      method: its name, where the workdir has several.
      seed: of the run; the first if not given.
      view: the method's answer, or another of its networks, as tables name them.
      imports: a Python file that brought methods or networks of your own.
    """

    workdir: Positional[Annotated[str, arg(help="of a run that was saved.")]] = "runs/first"
    out: str = "model.jax"
    method: str | None = None
    seed: int | None = None
    view: str = "answer"
    imports: Annotated[Repeated[str], arg(name="import")] = ()


def main(config: Config) -> None:
    """Reads the run back and writes the file."""
    from cls_jax.app.restore import load
    from cls_jax.app.weights import SUFFIXES

    out = check_file(config.out, "out")
    trained = load(config.workdir, method=config.method, seed=config.seed)
    write = trained.save_weights if out.suffix in SUFFIXES else trained.export
    write(out, view=config.view)
    print(f"{trained.name} seed {trained.seed} in {out}")


def start(argv: Sequence[str] | None = None, *, prog: str | None = None) -> None:
    """Parses ``argv`` (those of the process if None), and runs it; ``prog`` is for the help."""
    how = {"argv": argv, "description": DESCRIPTION, "prog": prog}
    run_main(main, Config, {"": Config()}, default_preset="", **how)
