"""What a user of DualNet chooses, and what must fit together; the table stands in dualnet.py."""

from dataclasses import dataclass
from typing import Literal, get_args, get_type_hints

from flax import struct

from cls_jax.augment import Augment
from cls_jax.checks import check_range
from cls_jax.memory import MemoryPolicy, reservoir, ring_per_task
from cls_jax.methods.base import check_replay
from cls_jax.methods.slow_learner import Objective
from cls_jax.types import InputError

NEEDS_PREDICTOR = ("simsiam", "byol", "byol_as_in_code")
"""Objectives whose networks have a predictor."""


@dataclass(frozen=True)
class DualNetConfig:
    """Choices that make another program.

    Attributes:
      task_aware: softmax over the task's own classes, a ring for each task; False is task-free:
        one head, one reservoir, the task is never told.
      memory_size: slots in all; task-aware: divided evenly among the tasks.
      replay_size: examples replayed in a supervised step.
      ssl_size: remembered examples in a self-supervised step (the first task uses the batch).
      n_outer: look-ahead rounds a batch.
      inner_steps: SGD steps in a look-ahead round, and supervised steps after it.
      objective: self-supervised loss; the names ending in "as_in_code" repeat the code's variants.
      semi_supervised: learn without labels from unlabelled batches, and from the stream's images
        beside remembered ones.
      ssl_optimizer: plain SGD, or with momentum and weight decay (code: semi-supervised).
      kl_reduction: soft-target loss averaged over all elements (code) or over the batch.
      snapshot: BatchNorm statistics behind soft targets: "eval" running ones, "train" those of the
        batch, which also moves the running ones (code).
      stale_soft_targets: examples without soft targets of their own use what their slot holds,
        at first zero logits (code, task-free).
      lookahead_stats: look-ahead moves the BatchNorm statistics too (code).
    """

    task_aware: bool = True
    memory_size: int = 850
    replay_size: int = 10
    ssl_size: int = 32
    n_outer: int = 2
    inner_steps: int = 2
    objective: Objective = "barlow_twins"
    semi_supervised: bool = False
    ssl_optimizer: Literal["sgd", "momentum"] = "sgd"
    kl_reduction: Literal["elements", "batchmean"] = "elements"
    snapshot: Literal["eval", "train"] = "eval"
    stale_soft_targets: bool = False
    lookahead_stats: bool = True


@struct.dataclass
class DualNetHyper:
    """Rates and weights: floats from the user, float32[] within a run.

    Attributes:
      learning_rate: of the supervised steps, slow and fast networks.
      ssl_learning_rate: of the self-supervised steps; at 0 they leave the weights alone, to the
        rounding of the look-ahead.
      lookahead_step_size: how far the slow weights follow a self-supervised round, in [0, 1].
      temperature: softens logits and soft targets.
      soft_target_weight: of the soft-target loss on replay.
      ssl_momentum: only with the ssl_optimizer "momentum".
      ssl_weight_decay: only with the ssl_optimizer "momentum".
      target_decay: of BYOL's averaged network; only with the objective "byol".
    """

    learning_rate: float = 0.03
    ssl_learning_rate: float = 3e-4
    lookahead_step_size: float = 0.05
    temperature: float = 2.0
    soft_target_weight: float = 10.0
    ssl_momentum: float = 0.9
    ssl_weight_decay: float = 5e-4
    target_decay: float = 0.99


def memory_policy(config: DualNetConfig, augment: Augment, num_tasks: int) -> MemoryPolicy:
    """The memory that the config asks for: a ring for each task, or one reservoir.

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
