"""Presets of the methods in methods/regularization."""

from dataclasses import replace

from cls_jax.app.presets.architecture import APD
from cls_jax.app.presets.base import MethodPreset
from cls_jax.nets.config import NetConfig
from cls_jax.streams.config import StreamConfig

_L2 = {name: replace(preset, arguments={}) for name, preset in APD.items()}

# AndreevP/FRCL standardises each image by itself; here all by one mean and standard deviation.
_POINTS = {"data": "mnist", "batch_size": 64, "normalisation": "mnist"}
_FRCL = {
    "quick": MethodPreset(
        stream=StreamConfig(
            image_size=8, class_order="label", epochs=30, batch_size=64, normalisation="none"
        ),
        net=NetConfig(net="mlp", hidden=(32, 32)),
        arguments={"points_per_task": 10, "classes_per_task": 2, "learning_rate": 2e-3},
    ),
    "paper": MethodPreset(
        stream=StreamConfig(class_order="label", epochs=4, **_POINTS),
        net=NetConfig(net="mlp", hidden=(256, 256)),
        arguments={"classes_per_task": 2},
    ),
    "permuted": MethodPreset(
        stream=StreamConfig(scenario="permuted", tasks=10, epochs=8, **_POINTS),
        net=NetConfig(net="mlp", hidden=(100, 100)),
        arguments={"points_per_task": 200, "criterion": "random"},
    ),
}

PRESETS: dict[str, dict[str, MethodPreset]] = {
    "frcl": _FRCL,
    "l2_transfer": _L2,
}
"""Method -> name -> preset."""
