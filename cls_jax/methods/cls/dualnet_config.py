"""What a user of DualNet chooses; the table stands in dualnet.py."""

from dataclasses import dataclass
from typing import Literal

from cls_jax.core.choices import Objective
from cls_jax.core.hyper import hyper

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


@hyper
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
