"""What a user of HopSupSup chooses; needs no JAX.

Source: hopsupsup.py says where the defaults come from.
"""

from dataclasses import dataclass

from cls_jax.core.hyper import hyper


@dataclass(frozen=True)
class HopSupSupConfig:
    """The length of the recovery.

    Attributes:
      recovery_steps: of a mask, in every call of ``predict``.
      recovery_batch_size: test images a step, one chunk after another and from the front again.
    """

    recovery_steps: int = 30
    recovery_batch_size: int = 64


@hyper
class HopSupSupHyper:
    """float32[] within a run.

    Attributes:
      learning_rate: of the scores in training, >= 0.
      momentum: of SGD, in training and in recovery, in [0, 1).
      weight_decay: times the scores, added to the gradient, in both, >= 0.
      recovery_learning_rate: of the scores in recovery, >= 0.
      energy_weight: of the Hopfield energy at the recovery's end, >= 0.
    """

    learning_rate: float = 0.1
    momentum: float = 0.9
    weight_decay: float = 1e-4
    recovery_learning_rate: float = 500.0
    energy_weight: float = 1.5e-3
