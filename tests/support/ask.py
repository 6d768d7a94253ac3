"""A script run as from the command line, in this process, in a folder that is watched."""

import contextlib
import hashlib
import io
import os
import runpy
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

from cls_jax.app.cli import main

ROOT = Path(__file__).resolve().parents[2]


class Case(NamedTuple):
    """One thing that cannot work.

    Attributes:
      name: of the test.
      script: of experiments/, or a command such as "cls-jax report".
      arguments: after the script's name.
      expected: what the sentence must hold: the flag, the value, the remedy.
      made: what lies in the folder before; it must be as it was afterwards.
    """

    name: str
    script: str
    arguments: tuple[str, ...]
    expected: tuple[str, ...]
    made: Callable[[Path], object] = lambda folder: None


class Answer(NamedTuple):
    """What a script said: its exit code and both streams."""

    code: object
    out: str
    err: str


def ask(script: str, *arguments: str) -> Answer:
    """Runs ``script`` in the current folder as the command line would."""
    out, err, code = io.StringIO(), io.StringIO(), 0
    path = ROOT / "experiments" / script
    command, *words = *script.split(), *arguments
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", [str(path) if path.exists() else command, *words])
        patch.syspath_prepend(str(path.parent))
        patch.setenv("COLUMNS", "200")
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            try:
                if path.exists():
                    runpy.run_path(str(path), run_name="__main__")
                else:
                    main(words)
            except SystemExit as stop:
                code = stop.code
    return Answer(code, out.getvalue(), err.getvalue())


def contents(folder: Path) -> dict[str, str]:
    """Everything in a folder: name -> what it is, links not followed."""
    found = {}
    for parent, folders, files in os.walk(folder):
        for name in (*folders, *files):
            path = Path(parent, name)
            if path.is_symlink():
                kind = f"link to {os.readlink(path)}"
            elif path.is_file() and os.access(path, os.R_OK):
                kind = hashlib.blake2b(path.read_bytes(), digest_size=8).hexdigest()
            else:
                kind = "folder" if path.is_dir() else "special"
            found[str(path.relative_to(folder))] = kind
    return found
