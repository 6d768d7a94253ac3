"""The sizes and the numbers of DEN, and where they come from.

| symbol | name | default | where from |
|---|---|---|---|
| eta | learning_rate | 1e-3 | released code: Adam, started anew in each phase |
| | annealing_rate | 0.95 | the same: the rate falls every epoch of a phase |
| | annealing_steps | 215 | the same: 55,000 examples in batches of 256 |
| mu | l1_weight | 1e-5 | the same: a step's shrinking, not times the rate |
| | head_l1_weight | 1e-5 | the same; that of the phase "head" |
| | l2_weight | 1e-4 | the same |
| gamma | group_weight | 1e-3 | the same: a step's shrinking, not times the rate |
| lambda | drift_weight | 0.5 | the same |
| tau | expand_threshold | 0.01 | the same |
| sigma | split_threshold | 0.05 | the same |
| k | added_units | 10 | the same; also the most splits a layer and task |
| | head_epochs | 2 | a tenth of its 20 epochs, as it means; by a slip it makes one step |

Source: jaehong31/DEN, its run on permuted MNIST; Yoon et al. 2018 (ICLR; arXiv 1708.01547).
"""

from collections.abc import Sequence
from dataclasses import dataclass

from cls_jax.core.errors import InputError
from cls_jax.core.hyper import hyper
from cls_jax.methods.config_checks import check_annealing


@dataclass(frozen=True)
class DenConfig:
    """Sizes, and one choice.

    Attributes:
      added_units: k, new units a layer when the loss stays high, and most splits a layer and task.
      room: places for new units a layer; those that could ever be needed, 2 k (tasks - 1), if not
        given. What does not fit is not added; "refused units" counts it.
      head_epochs: passes of the phase "head"; the others make those of the stream.
      annealing_steps: steps of a phase between two falls of the learning rate.
      split: split units that moved far.
    """

    added_units: int = 10
    room: int | None = None
    head_epochs: int = 2
    annealing_steps: int = 215
    split: bool = True


@hyper
class DenHyper:
    """float32[] within a run.

    Attributes:
      learning_rate: of Adam as a phase begins, >= 0.
      annealing_rate: factor on it after every ``annealing_steps`` steps, in [0, 1]; 1: it stays.
      l1_weight, head_l1_weight: by which every trained weight shrinks a step, >= 0.
      l2_weight: of half the squared weights, >= 0.
      group_weight: by which the length of a new unit's incoming weights shrinks a step, >= 0.
      drift_weight: of half the squared way of old weights, >= 0.
      expand_threshold: loss above which the network grows, in nats a class, >= 0.
      split_threshold: way of a unit's incoming weights above which it is split, >= 0.
    """

    learning_rate: float = 1e-3
    annealing_rate: float = 0.95
    l1_weight: float = 1e-5
    head_l1_weight: float = 1e-5
    l2_weight: float = 1e-4
    group_weight: float = 1e-3
    drift_weight: float = 0.5
    expand_threshold: float = 0.01
    split_threshold: float = 0.05


def check_sizes(config: DenConfig, hidden: Sequence[int]) -> None:
    """Raises InputError for a network that is none, or growth by less than nothing."""
    if not hidden or min(hidden) < 1:
        raise InputError(f"hidden={tuple(hidden)}: den needs a hidden layer, and units in each")
    if config.added_units < 1:
        raise InputError(
            f"added_units={config.added_units} lets nothing grow; give at least 1, or use "
            "l2_transfer"
        )
    if config.room is not None and config.room < 0:
        raise InputError(
            f"room={config.room} would cut the first task's units; give at least 0, or leave it "
            "out for all that could be needed"
        )
    if config.head_epochs < 1:
        raise InputError(f"head_epochs={config.head_epochs} selects nothing; give at least 1")
    check_annealing(config.annealing_steps)
