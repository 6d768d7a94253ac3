"""What SupSup is asked for: its choices and sizes, its rates, and the check of both.

Source: the table in supsup.py says where each default comes from.
"""

from dataclasses import dataclass
from typing import Literal

from cls_jax.core.checks import check_range
from cls_jax.core.errors import InputError
from cls_jax.core.hyper import hyper

TOGETHER = 128
"""Test images of one task that come together, when the task is inferred."""

GROUPS_AT_A_TIME = 64
"""Groups whose tasks are inferred at a time; each needs as many floats as a mask has bits."""


@dataclass(frozen=True)
class SupSupConfig:
    """Choices and sizes.

    Attributes:
      told_task: training tells the task (GG, GNs, GNu); False: it is to be noticed (NNs).
      rule: a mask keeps scores of at least 0 (threshold), or a layer's largest (edge_popup).
      density: of edge_popup: weights kept for each input and output of a layer; at most half.
      inference: of a task that is not told: one backward pass, or as many as halving needs.
      objective: the uncertainty: entropy H, or G, which needs outputs that no label uses.
      probe_size: images of each 128 that decide on the task of all, from 1 to 128.
      num_outputs: of the network; those beyond the labels are never a label.
      classes_per_task: of the largest task; as many as the stream has if not given.
      num_masks: room for masks; one a task if not given.
      transfer: a task's scores begin at the mean of the earlier tasks' instead of random.
      optimizer: of the scores.
      cosine_steps: steps of a task in which the rate falls to 0 along a cosine; 0: constant.
      decide_every: steps between two looks at which mask to train, if the task is not told; those
        between the begin of a task and the next look train the mask of the task before.
      num_compared: masks compared at such a look at least, random ones among them.
    """

    told_task: bool = True
    rule: Literal["threshold", "edge_popup"] = "threshold"
    density: int = 8
    inference: Literal["one_shot", "binary"] = "one_shot"
    objective: Literal["H", "G"] = "H"
    probe_size: int = 1
    num_outputs: int = 100
    classes_per_task: int | None = None
    num_masks: int | None = None
    transfer: bool = False
    optimizer: Literal["rmsprop", "adam"] = "rmsprop"
    cosine_steps: int = 0
    decide_every: int = 100
    num_compared: int = 5


@hyper
class SupSupHyper:
    """float32[] within a run.

    Attributes:
      learning_rate: of the optimizer of the scores, >= 0.
      weight_decay: times the scores, added to the gradient, >= 0.
      new_bound: k' masks of which none has this many times its equal share mean a new task.
      known_rate: a share of this much is never a new task, in [0, 1].
    """

    learning_rate: float = 1e-4
    weight_decay: float = 0.0
    new_bound: float = 1.125
    known_rate: float = 1.0


def check(config: SupSupConfig, num_classes: int, num_tasks: int, num_masks: int) -> None:
    """Raises InputError unless every task has room for its mask and every label an output.

    Args:
      config: of SupSup.
      num_classes, num_tasks: of the stream.
      num_masks: the room there is.
    """
    if num_masks < (num_tasks if config.told_task else 1):
        raise InputError(
            f"num_masks={num_masks} leaves some of the {num_tasks} tasks without a mask; give at "
            f"least {num_tasks if config.told_task else 1}"
        )
    labels = config.classes_per_task if config.told_task else None
    labels = num_classes if labels is None else labels
    check_range("classes_per_task", labels, -(-num_classes // num_tasks), num_classes)
    if config.num_outputs < labels:
        raise InputError(
            f"num_outputs={config.num_outputs} is less than the {labels} classes of a task; give "
            "at least as many, and ten times as many for one_shot"
        )
    check_range("probe_size", config.probe_size, 1, TOGETHER)
    for name, least in (("density", 1), ("cosine_steps", 0), ("decide_every", 1)):
        check_range(name, getattr(config, name), least)
    check_range("num_compared", config.num_compared, 2)
    choices = {
        "rule": ("threshold", "edge_popup"),
        "inference": ("one_shot", "binary"),
        "objective": ("H", "G"),
        "optimizer": ("rmsprop", "adam"),
    }
    for name, allowed in choices.items():
        if (value := getattr(config, name)) not in allowed:
            raise InputError(f"{name}={value!r}; use one of {', '.join(allowed)}")
    if config.transfer and not config.told_task:
        raise InputError("transfer=True needs to know where a task ends; use told_task=True")
