"""Where the flags of a run start that goes on: as they were where it goes on from; no JAX."""

import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from cls_jax.app.flags import stop
from cls_jax.app.presets.base import MethodPreset
from cls_jax.app.stored_recipe import RECIPE, Kinds, Recipe, read_recipe
from cls_jax.core.errors import InputError
from cls_jax.core.own import values_of
from cls_jax.core.paths import check_readable
from cls_jax.methods import METHODS, signature
from cls_jax.methods.optimizer import OptimizerConfig
from cls_jax.nets.config import NetConfig
from cls_jax.streams.config import InputConfig, StreamConfig
from cls_jax.training.runtime.workdir import CHECKPOINTS

OF_ITS_OWN = (
    *("task_order", "base_classes", "base_epochs"),
    *("only_tasks", "max_classes", "max_tasks", "first_class"),
)
"""Flags of a stream that are said of each anew: which of its tasks are learned, in which labels."""


def preset_of(method: str, argv: Sequence[str] | None = None) -> MethodPreset | None:
    """What every flag that is not given was in the workdir of ``--continue``; None without it.

    Once the run that goes on has begun, its own workdir says the same, should the other be gone.
    What cannot work ends the process with code 2, in one sentence.

    Args:
      method: of METHODS.
      argv: the arguments; those of the process if None.
    """
    arguments = sys.argv[1:] if argv is None else argv
    where, own = (list(values_of(flag, arguments)) for flag in ("--continue", "--workdir"))
    if not where:
        return None
    folders = [Path(one).expanduser() for one in (where[-1], *own[-1:])]
    recipe = next((one for folder in folders for one in _recipes(folder, method)), None)
    try:
        if recipe is None:
            check_readable(folders[0])
            raise InputError(f"workdir {folders[0]} holds no run of {method} to go on from")
        return _preset(recipe)
    except InputError as error:
        stop(f"error: continue: {error}", 2)


def _recipes(workdir: Path, method: str) -> Iterator[Recipe]:
    """Those of ``method`` in a workdir; what cannot be read is told when its runs are read."""

    def kinds(name: str) -> dict | None:
        if name not in METHODS:
            return None
        return {argument: one.kind for argument, one in signature(name).arguments.items()}

    for path in sorted(workdir.glob(f"{CHECKPOINTS}/*/{RECIPE}")):
        try:
            recipe = read_recipe(
                path, Kinds(kinds, NetConfig, OptimizerConfig, InputConfig, StreamConfig)
            )
        except InputError:
            continue
        if recipe.method == method:
            yield recipe


def _preset(recipe: Recipe) -> MethodPreset:
    if recipe.stream is None:
        stream = StreamConfig(batch_size=recipe.batch_size)
    else:
        stream = StreamConfig(**recipe.stream)
    own = {name: StreamConfig.__dataclass_fields__[name].default for name in OF_ITS_OWN}
    return MethodPreset(
        stream=replace(stream, **recipe.inputs, **own),
        net=NetConfig(**recipe.net),
        arguments=recipe.arguments,
        optimizer=OptimizerConfig(**recipe.optimizer),
        run={"seeds": recipe.seeds},
    )
