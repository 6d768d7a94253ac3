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
}
"""Method -> name -> preset."""
