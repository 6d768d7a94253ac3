"""What one call of run.py measures: its settings, checked, and the run that they ask for."""

import importlib.util
import math
from collections.abc import Collection
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal

from cls_jax.app.flags import FLAT
from cls_jax.app.unused import check_used, refuse
from cls_jax.core.checks import check_range
from cls_jax.core.errors import InputError
from cls_jax.core.host_memory import check_bytes, check_schedule
from cls_jax.core.paths import check_file
from cls_jax.methods import METHODS, signature
from cls_jax.nets.config import NetConfig

if TYPE_CHECKING:
    from cls_jax.methods.base import Method
    from cls_jax.streams.stream import Stream
    from cls_jax.training.runner import Plan

_REPLAY = "batch_size", "replay_size", "memory_size"
TWINS = {
    ("sgd", "resnet18"): ("resnet_step", ("width", "batch_size")),
    ("dualnet", "resnet18"): ("dualnet_update", ("width", "batch_size")),
    ("clser", "mlp"): ("clser_step", _REPLAY),
    ("clser", "resnet18"): ("clser_resnet_step", ("width", *_REPLAY)),
    ("er", "mlp"): ("er_step", _REPLAY),
    ("er_mir", "mlp"): ("er_mir_step", _REPLAY),
    ("ocs", "mlp"): ("ocs_step", _REPLAY),
}
"""What torch_twin.py can do, by method and net: a step and its sizes."""
WIDTH = 16
"""Of the ResNet-18, if not given."""


@dataclass(frozen=True)
class Config:
    """What is measured.

    Attributes:
      method: a row of the table of methods.
      batch_size: stream examples a step.
      replay_size: of methods that have a memory; as many as the stream brings if not given.
      memory_size: of methods that have a memory; 100 or more a task if not given.
      seeds: so many runs.
      over_seeds: in one program, or one after another.
      mode: compiled loop over steps (scan), Python loop over compiled steps (loop), or what is
        fast on this device.
      steps: in one timed chunk; 2 in mode "loop" and 500 in mode "scan" if not given.
      turns: timed chunks, at least; the best one counts.
      torch: also time eager PyTorch, on the same device; on a CPU on as many threads as there are
        cores. On a machine that is busy otherwise set OMP_WAIT_POLICY=PASSIVE, or its threads spin
        in one another's way.
      torch_compile: also time torch.compile, and eager PyTorch too. Compiling takes minutes and is
        not counted; where it is not possible the reason is told and the number is null.
      tf32: float32 products on a GPU may be TF32, in JAX and in PyTorch.
      json: file for the numbers.
    """

    method: str = "sgd"
    net: Annotated[NetConfig, FLAT] = NetConfig(width=WIDTH)
    batch_size: int = 32
    replay_size: int | None = None
    memory_size: int | None = None
    seeds: int = 1
    over_seeds: Literal["vmap", "sequential"] = "vmap"
    mode: Literal["auto", "loop", "scan"] = "auto"
    steps: int | None = None
    turns: int = 9
    torch: bool = False
    torch_compile: bool = False
    tf32: bool = True
    json: str | None = None


def build(config: Config) -> "tuple[Method, Stream, Plan]":
    """All that a run needs, checked.

    Raises:
      InputError: for anything that cannot be measured, before any compute.
    """
    from cls_jax.app.benchmark.parts import CLASSES, TASKS, synthetic
    from cls_jax.app.build import make_learner
    from cls_jax.streams.config import StreamConfig
    from cls_jax.training.runner import Plan, check_run
    from cls_jax.training.sizes import check_held

    for name in ("batch_size", "seeds", "turns", "steps", "replay_size", "memory_size"):
        if getattr(config, name) is not None:
            check_range(name, getattr(config, name), 1)
    if config.method not in METHODS:
        raise InputError(f"method is {config.method!r}; use one of {', '.join(METHODS)}")
    if config.json is not None:
        check_file(config.json, "json")
    if wants_torch(config):
        _check_twin(config)
    known = signature(config.method).arguments
    for name in ("replay_size", "memory_size"):
        if getattr(config, name) is not None and name not in known:
            refuse(name, getattr(config, name), f"{config.method} has no such size")
    own = {name: size for name, size in sizes_of(config).items() if name in known}
    shape = (28, 28, 1) if config.net.net == "mlp" else (32, 32, 3)
    pixels = config.batch_size * CLASSES * math.prod(shape)
    check_bytes(f"batch_size {config.batch_size}", pixels, "give a smaller --batch-size")
    stream = synthetic(config.batch_size, 1, shape)
    learner = make_learner(config.method, own, stream, StreamConfig(), config.net)
    method = learner.method
    plan = Plan(None, config.mode, config.over_seeds if config.seeds > 1 else "auto")
    plan = check_run(method, stream, range(config.seeds), plan)
    chunk = config.steps or (2 if plan.mode == "loop" else 500)
    plan = plan._replace(chunk=chunk)
    # One chunk compiles; tasks have equally many chunks, so that every chunk is whole. Of two in a
    # task the second follows a chunk at once; the runs of one seed after another stay short.
    one_by_one = plan.over_seeds == "sequential" and config.seeds > 1
    per_task = -(-(config.turns + 1) // (TASKS * config.seeds if one_by_one else TASKS))
    rows = chunk * max(1 if one_by_one else 2, per_task)
    name = "turns" if per_task > chunk else "steps"
    check_schedule(name, rows, TASKS * config.batch_size)
    check_held(method, stream, learner.recipe, config.seeds)
    return method, synthetic(config.batch_size, rows + rows % 2, shape), plan


def wants_torch(config: Config) -> bool:
    """Whether PyTorch is timed too."""
    return config.torch or config.torch_compile


def sizes_of(config: Config) -> dict[str, int]:
    """Every size that a method or a twin may ask for, by the name that it has there."""
    from cls_jax.app.benchmark.parts import TASKS

    b = config.batch_size
    memory_size = config.memory_size or TASKS * max(100, b)
    replay_size = config.replay_size or b
    sizes = {"batch_size": b, "replay_size": replay_size, "memory_size": memory_size}
    return {**sizes, "ssl_size": b, "width": config.net.width}


def _check_twin(config: Config) -> None:
    import jax

    from cls_jax.app.benchmark.parts import HIDDEN

    if (config.method, config.net.net) not in TWINS:
        twins = " or ".join(f"{method} with {net}" for method, net in TWINS)
        raise InputError(
            f"PyTorch has no twin of {config.method} with {config.net.net}; with --torch use "
            f"{twins}"
        )
    if config.net.net == "mlp" and config.net.hidden != HIDDEN:
        raise InputError(
            f"hidden is {config.net.hidden}, and PyTorch's twin has {HIDDEN}; leave --hidden or "
            "--torch out"
        )
    if importlib.util.find_spec("torch") is None:
        raise InputError(
            "--torch needs PyTorch, which is not installed; run pip install torch "
            "--index-url https://download.pytorch.org/whl/cpu"
        )
    if jax.default_backend() not in ("cpu", "gpu"):
        raise InputError(
            f"--torch compares on a CPU or a GPU, this is a {jax.default_backend()}; drop it"
        )


def check(config: Config, typed: Collection[str]) -> None:
    """Refuses flags that were typed and would do nothing."""
    if "over_seeds" in typed and config.seeds == 1:
        refuse("over_seeds", config.over_seeds, "seeds is 1")
    check_used(config, typed, [(config.method, {})])
