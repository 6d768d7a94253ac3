"""How a run is executed: chunks, modes, lanes; decided and checked before any compute."""

from collections.abc import Sequence
from typing import Literal, NamedTuple

import jax

from cls_jax.checks import check_hyper, check_seeds
from cls_jax.methods.base import Method
from cls_jax.types import InputError, PyTree


class Plan(NamedTuple):
    """How to execute a run; no choice here changes what is learned, beyond rounding.

    Attributes:
      chunk: steps between two looks of Python; None is 20 in mode "loop" and 500 in mode "scan".
      mode: "loop", "scan", or "auto": loop for convolutional steps on a CPU, else scan.
      over_seeds: "sequential" (bitwise the single runs), "vmap" (one program for all seeds, equal
        to rounding), or "auto": vmap where the mode is scan.
    """

    chunk: int | None = None
    mode: Literal["auto", "loop", "scan"] = "auto"
    over_seeds: Literal["auto", "sequential", "vmap"] = "auto"


def resolve(plan: Plan, method: Method, num_seeds: int) -> Plan:
    """The plan with every "auto" decided.

    Args:
      plan: as the user gave it.
      method: whose steps may be convolutional.
      num_seeds: a single seed is never vmapped.

    Raises:
      InputError: for a chunk below 1 or an unknown choice.
    """
    if plan.chunk is not None and plan.chunk < 1:
        raise InputError(f"chunk must be at least 1 step, got {plan.chunk}")
    for name, choices in (
        ("mode", ("auto", "loop", "scan")),
        ("over_seeds", ("auto", "sequential", "vmap")),
    ):
        if getattr(plan, name) not in choices:
            raise InputError(f"{name} must be one of {choices}, got {getattr(plan, name)!r}")
    mode, over_seeds = plan.mode, plan.over_seeds
    if mode == "auto":
        slow_in_loops = method.convolutional and jax.default_backend() == "cpu"
        mode = "loop" if slow_in_loops else "scan"
    if num_seeds == 1:
        over_seeds = "sequential"
    elif over_seeds == "auto":
        over_seeds = "vmap" if mode == "scan" else "sequential"
    chunk = plan.chunk or (20 if mode == "loop" else 500)
    return Plan(chunk=chunk, mode=mode, over_seeds=over_seeds)


def check_run(
    method: Method, hyper: PyTree, seeds: Sequence[int], plan: Plan, num_lanes: int | None = None
) -> Plan:
    """The plan with every "auto" decided, once seeds, hyper-parameters and plan are found good.

    Args:
      method, hyper, seeds, plan: as for ``run``.
      num_lanes: runs in all; as many as seeds if not given.

    Raises:
      InputError: naming the first that is not.
    """
    check_seeds(seeds)
    check_hyper(hyper)
    return resolve(plan, method, num_lanes or len(seeds))
