"""``cls-jax COMMAND``, and ``python -m cls_jax COMMAND``, which is the same."""

import os
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import NoReturn

from cls_jax.app.flags import import_own
from cls_jax.app.unused import unknown
from cls_jax.core.version import __version__
from cls_jax.methods import METHODS, signature

COMMANDS = {
    "run": "one method learns a stream: cls-jax run dualnet --workdir runs/first",
    "tune": "hyper-parameters chosen on validation examples: cls-jax tune er --sweep ...",
    "compare": "several methods on one stream, in one table: cls-jax compare --methods er clser",
    "reproduce": "a published table beside ours: cls-jax reproduce s_mnist --methods clser",
    "evaluate": "what a workdir holds, scored again: cls-jax evaluate runs/first",
    "export": "what answers, as a file for other programs: cls-jax export runs/first --out m.jax",
    "report": "finished runs side by side: cls-jax report runs/a runs/b --out runs/both",
    "benchmark": "how fast a method's steps are here: cls-jax benchmark --method clser",
}

OF_ONE_METHOD = {"run", "tune"}
"""Commands whose first word is a method."""


def main(argv: Sequence[str] | None = None) -> None:
    """Runs a command; exit codes as ``flags.run_main``.

    Args:
      argv: the command and its arguments; those of the process if None.
    """
    try:
        _main(list(sys.argv[1:] if argv is None else argv))
    except BrokenPipeError:  # of `cls-jax ... | head`: nobody reads on
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(1) from None


def _main(words: list[str]) -> None:
    if words[:1] in (["-h"], ["--help"]):
        _end(_help())
    if words == ["--version"]:
        _end(f"cls-jax {__version__}")
    if not words:
        _end(_help(), 2)
    name, *rest = words
    if name not in COMMANDS:
        _end(f"error: cls-jax has no command {unknown(name, COMMANDS)}", 2)
    module = import_module(f"cls_jax.app.commands.{name}")
    if name not in OF_ONE_METHOD:
        module.start(rest, prog=f"cls-jax {name}")
        return
    if rest[:1] in ([], ["-h"], ["--help"]):
        _end(_methods(name))
    method, *flags = rest
    if method.startswith("-"):
        _end(f"error: the method comes first: cls-jax {name} METHOD {' '.join(rest)}", 2)
    import_own(flags)
    if method not in METHODS:
        _end(f"error: {name} has no method {unknown(method, METHODS)}", 2)
    module.start(method, flags, prog=f"cls-jax {name} {method}")


def _help() -> str:
    width = max(map(len, COMMANDS))
    lines = [f"  {name:{width}}  {what}" for name, what in COMMANDS.items()]
    usage = "usage: cls-jax COMMAND [flags]; cls-jax COMMAND --help tells the flags"
    return "\n".join([usage, "", *lines])


def _methods(command: str) -> str:
    width = max(map(len, METHODS))
    lines = [f"  {name:{width}}  {signature(name).doc.partition(chr(10))[0]}" for name in METHODS]
    call = f"cls-jax {command} METHOD"
    usage = f"usage: {call} [flags]; {call} --help tells the flags"
    return "\n".join([usage, "", *lines])


def _end(text: str, code: int = 0) -> NoReturn:
    print(text, file=sys.stderr if code else sys.stdout)
    raise SystemExit(code)
