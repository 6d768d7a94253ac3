"""The optimizer that a user asks for: what a record calls it, and how long its schedule is."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import optax

from cls_jax.core.checks import short_repr
from cls_jax.core.errors import InputError
from cls_jax.core.own import OPTIMIZERS
from cls_jax.methods.optimizer import Optimizer, OptimizerConfig, OptimizerFactory, make_optimizer
from cls_jax.streams.open_stream import is_open
from cls_jax.streams.stream import Stream
from cls_jax.training.group import schedule_key


def fit_optimizer(
    config: OptimizerConfig, stream: Stream, factory: OptimizerFactory | None = None
) -> Optimizer:
    """The optimizer that is asked for, its schedule as long as the stream if no length is given.

    Args:
      config: what is asked for.
      stream: what is learned.
      factory: see ``make_optimizer``.

    Raises:
      InputError: as ``make_optimizer``; a schedule without a length on an open stream.
    """
    if config.schedule != "constant" and config.schedule_steps is None:
        if is_open(stream):
            raise InputError(
                f"schedule is {config.schedule!r}, and nobody knows how long an open stream is; "
                "give schedule_steps"
            )
        num_updates = int(stream.schedule(schedule_key(0)).num_labelled.sum())
        config = replace(config, schedule_steps=num_updates)
    return make_optimizer(config, factory)


def factory_of(optimizer: str | Callable[..., Any]) -> tuple[str, OptimizerFactory | None]:
    """The name that a record gives an optimizer, and its factory where no name leads to it.

    Args:
      optimizer: a name, or a function from the learning rate to an optax optimizer.

    Raises:
      InputError: it is neither.
    """
    if isinstance(optimizer, str):
        return optimizer, None
    if not callable(optimizer):
        raise InputError(
            f"optimizer is {short_repr(optimizer)}; give a name, or a function from the learning "
            "rate to an optax optimizer, e.g. optax.lion"
        )
    name = getattr(optimizer, "__name__", type(optimizer).__name__)
    known: tuple[Any, ...] = OPTIMIZERS.get(name), getattr(optax, name, None)
    if optimizer in known:
        return name, None
    module = getattr(optimizer, "__module__", type(optimizer).__module__)
    return f"{module}.{getattr(optimizer, '__qualname__', name)}", optimizer
