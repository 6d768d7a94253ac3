"""The choices of UCIR, its rates, and what does not fit together.

Source: Hou et al. 2019 (CVPR); the defaults are told where the method is, in ucir.py.
"""

from dataclasses import dataclass

from cls_jax.core.checks import check_range
from cls_jax.core.errors import InputError
from cls_jax.core.hyper import hyper
from cls_jax.methods.config_checks import check_milestones


@dataclass(frozen=True)
class UcirConfig:
    """Sizes and choices.

    Attributes:
      exemplars_per_class: kept of each class; 0 is UCIR without exemplars.
      replay_size: exemplars drawn a step; enough is batch size * exemplars / examples of a task.
      hardest: new classes that the margin loss looks at.
      freeze_old_weights: classifier weights of past classes stay as they are.
      decays: epochs of each task after which the rate falls tenfold.
      balanced_epochs: passes over the exemplars of all classes after each task but the first.
      balanced_batch_size: exemplars a step of them.
      balanced_decays: epochs of them after which their rate falls tenfold.
    """

    exemplars_per_class: int = 20
    replay_size: int = 64
    hardest: int = 2
    freeze_old_weights: bool = True
    decays: tuple[int, ...] = (80, 120)
    balanced_epochs: int = 0
    balanced_batch_size: int = 128
    balanced_decays: tuple[int, ...] = (10,)


@hyper
class UcirHyper:
    """float32[] within a run.

    Attributes:
      learning_rate: of everything, >= 0.
      balanced_learning_rate: of the classifier's weights in the phase "balanced", >= 0.
      momentum: in [0, 1).
      weight_decay: L2, added to the gradient, >= 0.
      initial_scale: by which cosines are multiplied at first; 10 speeds up small runs.
      embedding_weight: lambda_base, >= 0.
      margin: of cosines, in [0, 2].
      margin_weight: >= 0.
    """

    learning_rate: float = 0.1
    balanced_learning_rate: float = 0.01
    momentum: float = 0.9
    weight_decay: float = 5e-4
    initial_scale: float = 1.0
    embedding_weight: float = 5.0
    margin: float = 0.5
    margin_weight: float = 1.0


def check(config: UcirConfig) -> None:
    """Raises InputError for a size that cannot be, each alone or together."""
    sizes = {"exemplars_per_class": 0, "replay_size": 1, "hardest": 1}
    sizes |= {"balanced_epochs": 0, "balanced_batch_size": 1}
    for name, least in sizes.items():
        check_range(name, getattr(config, name), least)
    if config.balanced_epochs and not config.exemplars_per_class:
        raise InputError(
            f"balanced_epochs is {config.balanced_epochs} and exemplars_per_class 0: nothing to "
            "learn from; keep exemplars, or use balanced_epochs 0"
        )
    for name in ("decays", "balanced_decays"):
        check_milestones(name, getattr(config, name))
