"""What users of the methods without a memory choose; needs no JAX.

Source: each method's own module, lwf.py and so on, says where its defaults come from.
"""

from dataclasses import dataclass

from cls_jax.core.hyper import hyper


@hyper
class SgdHyper:
    """learning_rate: step length of plain SGD, >= 0; float32[] within a run."""

    learning_rate: float = 0.03


@hyper
class LwfHyper:
    """float32[] within a run.

    Attributes:
      learning_rate: step length of plain SGD, >= 0.
      distill_weight: of the distillation beside the cross-entropy, >= 0.
      temperature: by which the logits are divided in the distillation, > 0.
      weight_decay: added to the gradient, times the parameters, after the head's phase, >= 0.
    """

    learning_rate: float = 0.03
    distill_weight: float = 1.0
    temperature: float = 2.0
    weight_decay: float = 5e-4


@hyper
class EwcOnlineHyper:
    """float32[] within a run.

    Attributes:
      learning_rate: step length of plain SGD, >= 0.
      penalty_weight: of the penalty beside the cross-entropy, >= 0.
      fisher_keep_rate: share of the earlier importance kept as a task ends, in [0, 1].
    """

    learning_rate: float = 0.03
    penalty_weight: float = 90.0
    fisher_keep_rate: float = 1.0


@hyper
class SiHyper:
    """float32[] within a run.

    Attributes:
      learning_rate: step length of plain SGD, >= 0.
      penalty_weight: of the penalty beside the cross-entropy, >= 0.
      damping: xi, bounds the importance of a parameter that hardly moved, > 0.
    """

    learning_rate: float = 0.1
    penalty_weight: float = 1.0
    damping: float = 0.9


@dataclass(frozen=True)
class L2TransferConfig:
    """When the rate falls.

    Attributes:
      annealing_steps: steps of a task between two falls of the learning rate.
    """

    annealing_steps: int = 40


@hyper
class L2TransferHyper:
    """float32[] within a run.

    Attributes:
      learning_rate: of Adam as a task begins, >= 0.
      annealing_rate: factor on it after every ``annealing_steps`` steps, in [0, 1]; 1: it stays.
      penalty_weight: of half the squared way of the shared weights, >= 0.
    """

    learning_rate: float = 1e-3
    annealing_rate: float = 1.0
    penalty_weight: float = 1.0
