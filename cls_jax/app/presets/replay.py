"""Presets of the methods in methods/replay."""

from dataclasses import replace

from cls_jax.app.presets.base import PLAIN, MethodPreset
from cls_jax.nets.config import NetConfig
from cls_jax.streams.config import StreamConfig

_OCS = {
    "quick": replace(
        PLAIN,
        stream=replace(PLAIN.stream, batch_size=50, epochs=10),
        arguments={"learning_rate": 0.05, "learning_rate_factor": 1.0},
    ),
    # jaehong31/OCS, Rotated MNIST: its angles are 0, 9, 18, ... degrees, its network has dropout.
    "paper": MethodPreset(
        stream=StreamConfig(
            data="mnist",
            scenario="rotated",
            tasks=20,
            batch_size=100,
            epochs=10,
            normalisation="none",
        ),
        net=NetConfig(net="mlp", hidden=(256, 256)),
    ),
    # The same, Split CIFAR-100: its BatchNorm has no running statistics and stands after each ReLU.
    "cifar100": MethodPreset(
        stream=StreamConfig(
            data="cifar100", tasks=20, batch_size=20, epochs=2, normalisation="none"
        ),
        net=NetConfig(net="resnet18", width=20),
        arguments={
            "memory_size": 100,
            "candidates": 250,
            "own_classes": True,
            "learning_rate": 0.1275,
            "learning_rate_factor": 0.9,
            "replay_weight": 0.05,
        },
    ),
}

PRESETS: dict[str, dict[str, MethodPreset]] = {
    "ocs": _OCS,
}
"""Method -> name -> preset."""
