"""The words that flags choose among; needs no JAX. Where each is used, it is imported again."""

from typing import Literal

Normalisation = Literal["imagenet", "cifar10", "cifar100", "tinyimagenet", "mnist", "half", "none"]
"""Of the supervised inputs; see augment.py."""
Kind = Literal["kornia050", "standard"]
"""Of the self-supervised views; see augment.py."""
TaskOrder = Literal["given", "shuffled"] | tuple[int, ...]
"""Which task comes first; see streams/task_order.py."""
EmaBn = Literal["own", "ema", "copy"]
Warmup = Literal["steps", "updates"]
"""Of averaged networks: where their BatchNorm statistics come from, and what warms them up."""
GroupMasks = Literal["none", "product", "neutral", "trunk"]
"""Of task groups, in DualNet; see methods/cls/dualnet_masks.py."""
Speed = Literal["none", "fast", "slow", "mid", "shuffle", "flat", "tag"]
"""Of the parameters of a task group's channels; see cls/group_speeds.py, tag_optimizer.py."""
Weighting = Literal["reciprocal", "equal", "sqrt", "none"]
"""Of SPB's two losses; see methods/cosine.py."""
Objective = Literal[
    "barlow_twins", "simclr", "simsiam", "byol", "simclr_as_in_code", "byol_as_in_code"
]
"""Of DualNet's slow learner; see methods/cls/dualnet_slow.py."""
