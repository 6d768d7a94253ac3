"""Presets of the methods in methods/prototypes."""

from dataclasses import replace
from typing import Any

from cls_jax.app.presets.base import MethodPreset
from cls_jax.nets.config import NetConfig
from cls_jax.streams.config import StreamConfig

# --- a cosine classifier, phase after phase -------------------------------------------------------

_PHASES: dict[str, Any] = {
    "image_size": 8,
    "base_classes": 5,
    "base_epochs": 40,
    "epochs": 30,
    "view_padding": 1,
}
_PHASES_100: dict[str, Any] = {
    "base_classes": 50,
    "base_epochs": 160,
    "epochs": 50,
    "normalisation": "cifar100",
}
_PHASES_100 |= {"crop_padding": 4, "flip": True, "view_flip": True}
_SPB = {
    "quick": MethodPreset(
        stream=StreamConfig(
            tasks=6, batch_size=64, class_order="label", views="standard", **_PHASES
        ),
        net=NetConfig(net="small", width=16),
        arguments={
            "base_decays": (24,),
            "decays": (18,),
            "learning_rate": 0.01,
            "initial_scale": 10.0,
        },
    ),
    "paper": MethodPreset(
        stream=StreamConfig(
            data="cifar100", tasks=6, batch_size=128, class_order="1993", **_PHASES_100
        ),
        net=NetConfig(net="resnet32", width=16),
    ),
}
# UCIR passes over each phase as often as over the first.
_UCIR = {
    name: replace(
        preset,
        stream=replace(preset.stream, epochs=preset.stream.base_epochs, base_epochs=None),
        arguments=arguments,
    )
    for (name, preset), arguments in zip(
        _SPB.items(),
        ({"decays": (24,), "learning_rate": 0.03, "initial_scale": 10.0}, {}),
        strict=True,
    )
}

PRESETS: dict[str, dict[str, MethodPreset]] = {
    **dict.fromkeys(("spb", "spb_i", "spb_m"), _SPB),
    "ucir": _UCIR,
}
"""Method -> name -> preset."""
