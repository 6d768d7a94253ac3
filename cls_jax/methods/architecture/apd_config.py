"""What a user of APD chooses, and what must fit together; the table stands in apd.py.

Source: Yoon et al. 2020 (ICLR; arXiv 1902.09432); jaehong31/APD.
"""

from dataclasses import dataclass

from cls_jax.core.errors import InputError
from cls_jax.core.hyper import hyper


@dataclass(frozen=True)
class ApdConfig:
    """Which of the variants, and when tasks are grouped.

    Attributes:
      retroactive: old tasks are re-solved as the shared weights move; False is APD-Fixed.
      train_old_masks: their masks too, as in the official code; else their residues alone.
      consolidate_every: tasks between two consolidations, APD(2); 0: none, APD(1).
      clusters: groups for so many tasks, at most that many.
      annealing_steps: steps of a task between two falls of the learning rate.
    """

    retroactive: bool = True
    train_old_masks: bool = True
    consolidate_every: int = 5
    clusters: int = 2
    annealing_steps: int = 40


@hyper
class ApdHyper:
    """float32[] within a run.

    Attributes:
      learning_rate: of Adam as a task begins, >= 0.
      annealing_rate: factor on it after every ``annealing_steps`` steps, in [0, 1].
      sparsity_weight: of the residues' absolute values, and the size up to which they are dropped.
      drift_weight: of half the squared way of old tasks' weights, >= 0.
      weight_decay: of half the squares of the task's own weights, >= 0.
      mask_weight: of the absolute values of v, >= 0.
      residue_scale: share of the shared weights with which a residue begins.
      agreement_gap: distance up to which residues of a group are one number, >= 0.
    """

    learning_rate: float = 1e-3
    annealing_rate: float = 0.95
    sparsity_weight: float = 4e-4
    drift_weight: float = 100.0
    weight_decay: float = 1e-4
    mask_weight: float = 0.0
    residue_scale: float = 1 / 3
    agreement_gap: float = 1e-2


def check_clusters(config: ApdConfig, num_tasks: int) -> int:
    """The most groups that there can be at a time; 0 where none is ever looked for.

    Args:
      config: how many groups and when.
      num_tasks: of the stream.

    Raises:
      InputError: if a number cannot be.
    """
    every, clusters = config.consolidate_every, config.clusters
    if every < 0:
        raise InputError(f"consolidate_every={every}; give a number of tasks, or 0 for never")
    if every and not 1 <= clusters <= every:
        raise InputError(
            f"clusters={clusters} of {every} tasks cannot be; give 1 to {every}, or "
            "consolidate_every 0 for none"
        )
    return clusters * (num_tasks // every) if every else 0
