"""A finished workdir, without a run."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cls_jax.core.files import write_all
from cls_jax.report.summary import render
from cls_jax.training.events import Result
from cls_jax.training.runtime.workdir import claim


def finished(folder: str | Path, config: Mapping[str, Any], *results: Result) -> Path:
    """The folder as an experiment leaves it: one run, or several beside each other."""
    with claim(folder, config) as made:
        write_all(made, render(results))
    return made
