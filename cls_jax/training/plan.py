"""How a run is executed: chunks, modes, trials; decided and checked before any compute."""

from collections.abc import Sequence
from typing import Literal, NamedTuple

import jax

from cls_jax.core.checks import check_literals, check_seeds, short_repr, whole
from cls_jax.core.errors import InputError
from cls_jax.core.host_memory import ROW_BYTES, check_bytes
from cls_jax.data.checked import checked
from cls_jax.methods.base import Method
from cls_jax.streams.stream import Stream
from cls_jax.training.prefetch import CHUNK_BYTES, DEVICE_BYTES, num_bytes
from cls_jax.training.run import is_convolutional, shapes_of


class Plan(NamedTuple):
    """How to execute a run; no choice here changes what is learned, beyond rounding.

    Attributes:
      chunk: steps between two looks of Python; None is 20 in mode "loop" and 500 in mode "scan".
      mode: "loop", "scan", or "auto": loop for convolutional steps on a CPU, else scan.
      over_seeds: "sequential" (bitwise the single runs), "vmap" (one program for all seeds, equal
        to rounding), "devices" (one seed a device; bitwise the single runs for dense networks), or
        "auto": vmap where the mode is scan and one device computes, else sequential.
      devices: over "devices" how many seeds at a time, else over how many devices each batch is
        split; None: all local devices for seeds, all devices of a run of several processes, else 1.
      data: whether examples lie on the "device" or are gathered on the "host", a chunk ahead;
        "auto": on the host from prefetch.DEVICE_BYTES on.
      profile: a folder for a JAX profiler trace of the second chunk; None writes none.
      score: test before training and after "each" task, or at the "end" alone: all tests together
        take the square of the number of tasks.
      diverged: "raise" ends the run when a metric is not finite; "keep" goes on, for the sake of
        the other values of a sweep: a broken network answers by chance, and its scores say so.
    """

    chunk: int | None = None
    mode: Literal["auto", "loop", "scan"] = "auto"
    over_seeds: Literal["auto", "sequential", "vmap", "devices"] = "auto"
    devices: int | None = None
    data: Literal["auto", "device", "host"] = "auto"
    profile: str | None = None
    score: Literal["each", "end"] = "each"
    diverged: Literal["raise", "keep"] = "raise"


def resolve(plan: Plan, method: Method, stream: Stream, num_trials: int) -> Plan:
    """The plan with every choice made.

    Args:
      plan: as the user gave it.
      method: whose steps may be convolutional.
      stream: its batches must divide evenly over devices; its data may be too large for one.
      num_trials: a single one is never vmapped.

    Raises:
      InputError: for a number below 1, an unknown choice, more devices than there are, choices
        that exclude each other, or a chunk that no memory can hold.
    """
    if not isinstance(plan, Plan):
        raise InputError(f"plan is {short_repr(plan)}; give a Plan, e.g. Plan(chunk=100)")
    for name, unit in (("chunk", "step"), ("devices", "device")):
        value = getattr(plan, name)
        if value is not None:
            plan = plan._replace(**{name: whole(name, value)})
            if value < 1:
                raise InputError(f"{name} must be at least 1 {unit}, got {value}")
    check_literals(Plan, plan._asdict(), "{name} must be one of {choices}, got {value!r}")
    mode, over_seeds, devices, data = plan.mode, plan.over_seeds, plan.devices, plan.data
    if mode == "auto":
        slow_in_loops = jax.default_backend() == "cpu" and is_convolutional(
            method, shapes_of(stream)
        )
        mode = "loop" if slow_in_loops else "scan"
    devices = _num_devices(plan, num_trials)
    if over_seeds == "auto":
        over_seeds = "vmap" if mode == "scan" and devices == 1 else "sequential"
    if num_trials == 1:
        over_seeds = "sequential"
    if over_seeds == "vmap" and devices > 1:
        raise InputError(
            f"over_seeds is 'vmap' and devices {devices}; use 'devices' for one seed a device, or "
            "'sequential' to split each batch over the devices"
        )
    if over_seeds == "sequential" and stream.batch_size % devices:
        raise InputError(
            f"devices is {devices}, over which batches of {stream.batch_size} cannot be split "
            "evenly; give a batch_size that is a multiple of it"
        )
    if data == "auto":
        data = "host" if num_bytes(stream.source.train) > DEVICE_BYTES else "device"
    chunk = plan.chunk or (20 if mode == "loop" else 500)
    rows = chunk * stream.batch_size * (num_trials if over_seeds == "vmap" else 1)
    check_bytes(f"chunk {chunk}", ROW_BYTES * rows, "give a smaller --chunk")
    if data == "host":
        example = num_bytes(stream.source.train) // max(len(stream.source.train.y), 1)
        chunk = min(chunk, max(1, CHUNK_BYTES // max(1, stream.batch_size * example)))
    made = {"chunk": chunk, "mode": mode, "over_seeds": over_seeds, "devices": devices}
    return plan._replace(**made, data=data)


def _num_devices(plan: Plan, num_trials: int) -> int:
    processes, local = jax.process_count(), jax.local_device_count()
    if plan.over_seeds == "devices" and num_trials > 1:
        if processes > 1:
            raise InputError(
                "over_seeds is 'devices', which is for one process; start one process for each "
                "part of the seeds, or leave it out to split batches over all processes"
            )
        there, devices = local, min(plan.devices or local, num_trials)
    else:
        there = jax.device_count()
        devices = plan.devices or (there if processes > 1 else 1)
        if processes > 1 and devices != there:
            raise InputError(
                f"devices is {devices}, but the {processes} processes have {there}; leave it out"
            )
    if (plan.devices or devices) > there:
        raise InputError(
            f"devices is {plan.devices}, but JAX sees {there} ({jax.default_backend()}); give at "
            "most that many (to try it on a CPU: set the variable JAX_NUM_CPU_DEVICES)"
        )
    return devices


def check_run(
    method: Method,
    stream: Stream,
    seeds: Sequence[int],
    plan: Plan,
    num_trials: int | None = None,
) -> Plan:
    """The plan with every choice made, once seeds, data and plan are found good.

    Args:
      method, stream, seeds, plan: as for ``run``.
      num_trials: runs in all; as many as seeds if not given.

    Raises:
      InputError: naming the first that is not.
    """
    seeds = check_seeds(seeds)
    if checked(stream.source, every_class=False) is not stream.source:
        raise InputError(
            f"stream {stream.name!r} holds a source that no scenario has converted; make the "
            "stream by class_il or another scenario, or give it checked(source)"
        )
    return resolve(plan, method, stream, num_trials or len(seeds))
