"""Presets of the methods in methods/cls."""

from dataclasses import replace

from cls_jax.app.presets.base import PLAIN, MethodPreset
from cls_jax.nets.config import NetConfig
from cls_jax.streams.config import StreamConfig

_DUALNET = {
    "quick": MethodPreset(
        net=NetConfig(width=8), arguments={"memory_size": 250, "replay_size": 10}
    ),
    # The official code has no CIFAR setting: its miniImageNet rates, and its 50 examples a task.
    "paper": MethodPreset(
        stream=StreamConfig(
            data="cifar100", tasks=20, normalisation="imagenet", flip=False, view_flip=True
        ),
        net=NetConfig(width=64),
        arguments={"memory_size": 1000},
    ),
}
_ESMER = {"quick": replace(PLAIN, arguments={"memory_size": 200, "stable_decay": 0.95})}
_GROUPS = StreamConfig(
    scenario="permuted", tasks=9, groups=3, batch_size=32, epochs=3, normalisation="none"
)
_COPIES = {"learning_rate": 0.05, "consistency_weight": 0.15}
_GROUP_EMA = {
    # As in the pilot of the proposal, with five exemplars of a class and task in place of one.
    "quick": MethodPreset(
        stream=replace(_GROUPS, image_size=8),
        net=NetConfig(net="mlp", hidden=(64, 64)),
        arguments={**_COPIES, "memory_size": 450, "ema_decay": 0.98},
    ),
    "mnist": MethodPreset(
        stream=replace(_GROUPS, data="mnist", epochs=1),
        net=NetConfig(net="mlp"),
        arguments={**_COPIES, "memory_size": 900, "ema_decay": 0.99},
    ),
}
_MASKED = {
    # The same stream, with the copies of the pilot's CLS-ER.
    "quick": replace(
        _GROUP_EMA["quick"],
        arguments={
            **_COPIES,
            "memory_size": 450,
            "warmup": "updates",
            "stable_rate": 0.3,
            "plastic_rate": 0.9,
            "stable_decay": 0.98,
            "plastic_decay": 0.98,
            "max_groups": 3,
        },
    ),
}
_CLSER = {
    "quick": replace(
        PLAIN, arguments={"memory_size": 200, "stable_decay": 0.95, "plastic_decay": 0.9}
    ),
    "quick_pictures": MethodPreset(
        stream=StreamConfig(image_size=16),
        net=NetConfig(width=8),
        arguments={
            "memory_size": 200,
            "replay_size": 10,
            "warmup": "updates",
            "consistency_weight": 0.15,
        },
    ),
}

PRESETS: dict[str, dict[str, MethodPreset]] = {
    "dualnet": _DUALNET,
    "clser": _CLSER,
    "esmer": _ESMER,
    "group_ema": _GROUP_EMA,
    "clser_masked": _MASKED,
}
"""Method -> name -> preset."""
