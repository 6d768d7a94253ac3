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

_CO2L = {
    # The sizes of the card of the method. Its factor T / T_b = 7 would drown the distillation here.
    "quick": MethodPreset(
        stream=StreamConfig(
            image_size=8,
            batch_size=64,
            base_epochs=40,
            epochs=20,
            views="standard",
            view_padding=1,
        ),
        net=NetConfig(net="mlp", hidden=(128, 64)),
        arguments={
            "memory_size": 50,
            "replay_size": 16,
            "warmup_epochs": 0,
            "base_cosine_epochs": 40,
            "cosine_epochs": 20,
            "classifier_batch_size": 64,
            "learning_rate": 0.03,
            "base_temperature": 0.5,
        },
    ),
    # chaht01/Co2L, README and run.sh, Split CIFAR-10; views as the method's Departs says. A step of
    # the classifier is a batch of the task, there 256 images: twice the passes are as many steps.
    "paper": MethodPreset(
        stream=StreamConfig(
            data="cifar10",
            batch_size=512,
            base_epochs=500,
            epochs=100,
            class_order="label",
            crop_padding=4,
            flip=True,
            views="standard",
            view_flip=True,
        ),
        net=NetConfig(net="resnet18", width=64),
        arguments={"classifier_epochs": 200, "classifier_decays": (120, 150, 180)},
    ),
}

PRESETS: dict[str, dict[str, MethodPreset]] = {
    "ocs": _OCS,
    "co2l": _CO2L,
}
"""Method -> name -> preset."""
