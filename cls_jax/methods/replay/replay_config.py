"""What users of the methods that replay examples choose; needs no JAX.

Source: each method's own module, er.py and so on, says where its defaults come from.
"""

from dataclasses import dataclass
from typing import Literal

from cls_jax.core.hyper import hyper


@dataclass(frozen=True)
class ErConfig:
    """memory_size: slots of the reservoir; replay_size: examples replayed a step."""

    memory_size: int = 500
    replay_size: int = 32


@hyper
class ErHyper:
    """learning_rate: step length of plain SGD, >= 0; float32[] within a run."""

    learning_rate: float = 0.1


@dataclass(frozen=True)
class ErAceConfig:
    """Sizes, and one choice.

    Attributes:
      memory_size: slots of the reservoir.
      replay_size: examples replayed a step.
      head: the last layer compares angles, as in both codes, or is the network's own.
    """

    memory_size: int = 500
    replay_size: int = 32
    head: Literal["cosine", "linear"] = "cosine"


@hyper
class ErAceHyper:
    """learning_rate: step length of plain SGD, >= 0; float32[] within a run."""

    learning_rate: float = 0.03


@dataclass(frozen=True)
class AgemConfig:
    """memory_size: slots, shared equally by the tasks; replay_size: examples replayed a step."""

    memory_size: int = 500
    replay_size: int = 128


@hyper
class AgemHyper:
    """learning_rate: step length of plain SGD, >= 0; float32[] within a run."""

    learning_rate: float = 0.1


@dataclass(frozen=True)
class DerConfig:
    """memory_size: slots of the reservoir; replay_size: examples of each replay draw."""

    memory_size: int = 500
    replay_size: int = 32


@hyper
class DerHyper:
    """learning_rate of plain SGD and logit_weight (alpha): >= 0; float32[] within a run."""

    learning_rate: float = 0.03
    logit_weight: float = 0.3


@hyper
class DerppHyper:
    """DerHyper's, and label_weight (beta) >= 0; float32[] within a run."""

    learning_rate: float = 0.03
    logit_weight: float = 0.2
    label_weight: float = 0.5


@dataclass(frozen=True)
class GdumbConfig:
    """Sizes, and one choice.

    Attributes:
      memory_size: slots.
      fit_epochs: passes over the memory after each task.
      fit_batch_size: examples a step of them.
      cutmix: half of those steps paste a box of other images into each image; images only.
    """

    memory_size: int = 500
    fit_epochs: int = 256
    fit_batch_size: int = 16
    cutmix: bool = True


@hyper
class GdumbHyper:
    """float32[] within a run.

    Attributes:
      learning_rate, min_learning_rate: where a cosine cycle starts and what it falls to, >= 0.
      momentum: of SGD, in [0, 1).
      weight_decay: times the parameters, added to the gradient, >= 0.
    """

    learning_rate: float = 0.05
    min_learning_rate: float = 0.0005
    momentum: float = 0.9
    weight_decay: float = 1e-6


@dataclass(frozen=True)
class IcarlConfig:
    """Sizes, and one choice.

    Attributes:
      memory_size: exemplars in all.
      replay_size: exemplars drawn a step.
      mirror: average the class means with those of the mirrored exemplars, as the official code
        does; for digits, whose mirror images are something else, better not. Vectors have none.
    """

    memory_size: int = 500
    replay_size: int = 10
    mirror: bool = True


@hyper
class IcarlHyper:
    """float32[] within a run.

    Attributes:
      learning_rate: step length of plain SGD, >= 0.
      l2_weight: of the sum of all squared parameters in the loss, >= 0.
    """

    learning_rate: float = 0.1
    l2_weight: float = 1e-5
