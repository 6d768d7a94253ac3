"""What users of CLS-ER and of Mean-ER, its ablation, choose; needs no JAX.

Source: clser.py and mean_er.py say where the defaults come from.
"""

from dataclasses import dataclass

from cls_jax.core.choices import EmaBn, Warmup
from cls_jax.core.hyper import hyper


@dataclass(frozen=True)
class ClsErConfig:
    """Sizes, and two choices that the paper leaves open.

    Attributes:
      memory_size: slots of the reservoir.
      replay_size: examples replayed a step.
      ema_bn: the copies' BatchNorm statistics: from their own forwards on replay (as in the
        official code), averaged, or copied from the working network.
      warmup: the averages warm up over training steps (as in the official code) or over their own
        updates, which suits short streams and small rates.
    """

    memory_size: int = 500
    replay_size: int = 32
    ema_bn: EmaBn = "own"
    warmup: Warmup = "steps"


@hyper
class ClsErHyper:
    """float32[] within a run.

    Attributes:
      learning_rate: step length of plain SGD, >= 0.
      consistency_weight: of the logit consistency, >= 0.
      stable_rate, plastic_rate: probability of an update a step, in [0, 1].
      stable_decay, plastic_decay: caps of the averages' decay, in [0, 1).
    """

    learning_rate: float = 0.1
    consistency_weight: float = 2.0
    stable_rate: float = 0.9
    stable_decay: float = 0.99
    plastic_rate: float = 1.0
    plastic_decay: float = 0.99


@hyper
class MeanErHyper:
    """learning_rate, consistency_weight >= 0; ema_rate in [0, 1]; ema_decay in [0, 1)."""

    learning_rate: float = 0.1
    consistency_weight: float = 2.0
    ema_rate: float = 0.9
    ema_decay: float = 0.99
