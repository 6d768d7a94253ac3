"""DualNet's memory, and what of its settings must fit together.

Source: phquang/DualNet; the table stands in dualnet.py.
"""

from typing import get_args, get_type_hints

from cls_jax.core.augment import Augment
from cls_jax.core.checks import check_range
from cls_jax.core.errors import InputError
from cls_jax.core.memory import MemoryPolicy, reservoir, ring_per_task
from cls_jax.methods.cls.dualnet_config import DualNetConfig
from cls_jax.methods.config_checks import check_replay


def memory_policy(config: DualNetConfig, augment: Augment, num_tasks: int) -> MemoryPolicy:
    """The memory that the config asks for: a ring for each task, or one reservoir.

    Args:
      config: of DualNet.
      augment: has self-supervised views.
      num_tasks: of the stream.

    Raises:
      InputError: if a size does not fit, or ``augment`` has no self-supervised views.
    """
    for field in ("objective", "ssl_optimizer", "kl_reduction", "snapshot"):
        value, choices = getattr(config, field), get_args(get_type_hints(DualNetConfig)[field])
        if value not in choices:
            raise InputError(f"{field} is {value!r}; use one of {', '.join(choices)}")
    for name in ("n_outer", "inner_steps", "ssl_size"):
        check_range(name, getattr(config, name), 1)
    check_replay(config.memory_size, config.replay_size)
    check_range("ssl_size", config.ssl_size, 1, config.memory_size)
    if augment.view_a is None or augment.view_b is None:
        raise InputError("augment has no self-supervised views; give views='kornia050' to recipe")
    if not config.task_aware:
        return reservoir(config.memory_size)
    if config.memory_size % num_tasks:
        raise InputError(
            f"memory_size={config.memory_size} cannot be divided evenly among {num_tasks} tasks; "
            f"use a multiple of {num_tasks}"
        )
    return ring_per_task(num_tasks, config.memory_size // num_tasks)
