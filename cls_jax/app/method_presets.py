"""Where the flags of one method start from: a quick preset, its paper's, cells of the tables.

"quick" is ours and needs no download: scikit-learn's digits, seconds to minutes on two CPU cores.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from cls_jax.app.method_flags import with_memory
from cls_jax.methods.optimizer import OptimizerConfig
from cls_jax.nets.config import NetConfig
from cls_jax.published.presets import TABLES, cells
from cls_jax.streams.config import StreamConfig


@dataclass(frozen=True, kw_only=True)
class MethodPreset:
    """One preset of one method.

    Attributes:
      stream: what it learns.
      net: with what.
      arguments: of the method, where they are not its defaults.
      optimizer: with what it learns, if its paper leaves that open.
      run: how it is run, where that is not the usual.
    """

    stream: StreamConfig = StreamConfig()
    net: NetConfig = NetConfig()
    arguments: Mapping[str, Any] = field(default_factory=dict)
    optimizer: OptimizerConfig = OptimizerConfig()
    run: Mapping[str, Any] = field(default_factory=dict)


def method_presets(method: str) -> dict[str, MethodPreset]:
    """Name -> preset, the quick one first, then the paper's own, then its cells of the tables.

    Args:
      method: of METHODS, one's own too.
    """
    own = _OWN.get(method)
    if own is None:
        own = {"quick": replace(_PLAIN, arguments=_memory(method))}
    return {**own, **cells_of(method, TABLES)}


def cells_of(method: str, tables: Iterable[str]) -> dict[str, MethodPreset]:
    """The method's cells of published tables, e.g. "s_mnist_500".

    Args:
      method: of METHODS.
      tables: of ``published.presets.TABLES``.
    """
    found = [cell for t in tables if method in TABLES[t][1] for cell in cells(t, [method])]
    return {
        f"{cell.table}_{cell.memory_size}".removesuffix("_0"): MethodPreset(
            stream=cell.stream, net=cell.net, arguments=cell.arguments
        )
        for cell in found
    }


def _memory(method: str) -> dict[str, int]:
    return {"memory_size": 200} if method in with_memory() else {}


_PLAIN = MethodPreset(
    stream=StreamConfig(epochs=3, normalisation="none", image_size=8), net=NetConfig(net="mlp")
)
_PERMUTED = StreamConfig(scenario="permuted", normalisation="none")

# --- DualNet and CLS-ER ---------------------------------------------------------------------------

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
_ESMER = {"quick": replace(_PLAIN, arguments={"memory_size": 200, "stable_decay": 0.95})}
_OCS = {
    "quick": replace(
        _PLAIN,
        stream=replace(_PLAIN.stream, batch_size=50, epochs=10),
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
_CLSER = {
    "quick": replace(
        _PLAIN, arguments={"memory_size": 200, "stable_decay": 0.95, "plastic_decay": 0.9}
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

# --- masks, growth, residues ----------------------------------------------------------------------

_MASKS = {"batch_size": 128, "drop_last": True, "normalisation": "mnist"}
_TEN = StreamConfig(image_size=8, scenario="permuted", tasks=10, epochs=36, **_MASKS)
_MNIST = replace(_TEN, data="mnist", image_size=None, tasks=250, epochs=2)
_HIDDEN = NetConfig(net="mlp", hidden=(128, 128))
_WIDE = {"num_outputs": 200, "inference": "binary", "probe_size": 128}
_SUPSUP = {
    "quick": MethodPreset(stream=_TEN, net=_HIDDEN, arguments={"learning_rate": 1e-3}),
    "paper": MethodPreset(
        stream=_MNIST, net=NetConfig(net="mlp", hidden=(300, 100)), run={"score": "end"}
    ),
    "rotated": MethodPreset(
        stream=replace(_MNIST, scenario="rotated", tasks=36),
        net=NetConfig(net="mlp", hidden=(1024, 1024)),
        arguments=_WIDE,
        run={"score": "end"},
    ),
    "cifar100": MethodPreset(
        stream=StreamConfig(
            data="cifar100",
            tasks=20,
            batch_size=128,
            epochs=250,
            crop_padding=4,
            flip=True,
            normalisation="cifar10",
        ),
        net=NetConfig(net="resnet18", width=20),
        arguments={
            "rule": "edge_popup",
            "num_outputs": 5,
            "classes_per_task": 5,
            "optimizer": "adam",
            "transfer": True,
            "cosine_steps": 5000,
            "learning_rate": 1e-3,
            "weight_decay": 1e-4,
        },
    ),
}
_NOTICED = {"num_masks": 20, "num_compared": 2, "decide_every": 99, "probe_size": 128}
_NOTICED |= {"learning_rate": 1e-3, "new_bound": 2.2, "known_rate": 0.9}
_HOPSUPSUP = {
    "quick": MethodPreset(
        stream=StreamConfig(epochs=5, batch_size=32, class_order="label", image_size=8),
        net=NetConfig(net="mlp", hidden=(512, 512)),
        arguments={
            "recovery_steps": 120,
            "recovery_learning_rate": 200.0,
            "energy_weight": 7.5e-3,
        },
    ),
    "paper": MethodPreset(
        stream=StreamConfig(
            data="mnist", batch_size=128, class_order="label", normalisation="mnist"
        ),
        net=NetConfig(net="mlp", hidden=(2048, 2048)),
    ),
}
_DEN = {
    "quick": MethodPreset(
        stream=replace(_PERMUTED, image_size=8, batch_size=128, epochs=87),
        net=NetConfig(net="mlp", hidden=(64, 32)),
        arguments={
            "head_epochs": 9,
            "learning_rate": 2e-3,
            "annealing_rate": 1.0,
            "l1_weight": 5e-5,
            "head_l1_weight": 5e-4,
        },
    ),
    "paper": MethodPreset(
        stream=replace(_PERMUTED, data="mnist", tasks=10, batch_size=256, epochs=20),
        net=NetConfig(net="mlp", hidden=(312, 128)),
    ),
}
_PLAIN_100 = StreamConfig(normalisation="none", batch_size=100)
_DIHEDRAL = replace(_PLAIN_100, scenario="dihedral", image_size=8, epochs=54)
_SPLIT_100 = replace(_PLAIN_100, data="cifar100", tasks=10, class_order="label", epochs=20)
_APD = {
    "quick": MethodPreset(
        stream=_DIHEDRAL,
        net=NetConfig(net="mlp", hidden=(256, 128)),
        arguments={"sparsity_weight": 2e-3, "residue_scale": 0.0},
    ),
    "paper": MethodPreset(
        stream=_SPLIT_100,
        net=NetConfig(net="lenet"),
        arguments={"annealing_steps": 50, "residue_scale": 1.0},
    ),
}
_L2 = {name: replace(preset, arguments={}) for name, preset in _APD.items()}

# --- a transformer that grows ---------------------------------------------------------------------

_TEN_TASKS = StreamConfig(tasks=10, normalisation="cifar100", crop_padding=4, flip=True)
_DIGITS = {"memory_size": 50, "replay_size": 16, "num_blocks": 2, "head_size": 8}
_DIGITS |= {"warmup_epochs": 0, "cosine_epochs": 33, "learning_rate": 2e-3}
_DIGITS |= {"finetune_epochs": 50, "finetune_batch_size": 32, "finetune_learning_rate": 1e-4}
# A quarter of the width, as many heads, a tenth of the passes at faster rates: ours.
_TINY = {"replay_size": 64, "head_size": 8, "cosine_epochs": 50, "finetune_batch_size": 128}
_TINY |= {"learning_rate": 1e-3, "finetune_learning_rate": 1e-4}
_TINY_STREAM = {"data": "tiny_imagenet100x32", "batch_size": 128, "epochs": 50}
_DYTOX = {
    "quick": MethodPreset(
        stream=StreamConfig(image_size=8, batch_size=32, epochs=33),
        net=NetConfig(width=32),
        arguments=_DIGITS,
    ),
    "tiny100": MethodPreset(
        stream=replace(_TEN_TASKS, normalisation="tinyimagenet", **_TINY_STREAM),
        net=NetConfig(width=96),
        arguments=_TINY,
    ),
    "paper": MethodPreset(
        stream=replace(_TEN_TASKS, data="cifar100", batch_size=256, epochs=500),
        net=NetConfig(width=384),
    ),
}

# --- functions kept at a few points ---------------------------------------------------------------

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

# --- an extractor a task --------------------------------------------------------------------------

_DER_EXPANDABLE = {
    # The sizes of the card of the method; its images have one channel, here three that are equal.
    "quick": MethodPreset(
        stream=StreamConfig(image_size=8, batch_size=64, epochs=25, normalisation="none"),
        net=NetConfig(net="mlp", hidden=(64, 32)),
        arguments={
            "memory_size": 50,
            "replay_size": 50,
            "warmup_epochs": 0,
            "decays": (16, 19),
            "balanced_epochs": 20,
            "balanced_batch_size": 64,
        },
    ),
    # configs/1.yaml of cifar100/b0; its class orders are those of PODNet.
    "paper": MethodPreset(
        stream=StreamConfig(
            data="cifar100",
            tasks=10,
            batch_size=128,
            epochs=170,
            normalisation="cifar100",
            crop_padding=4,
            flip=True,
        ),
        net=NetConfig(net="resnet18", width=64),
    ),
}

_OWN: dict[str, dict[str, MethodPreset]] = {
    "dualnet": _DUALNET,
    "clser": _CLSER,
    "esmer": _ESMER,
    "ocs": _OCS,
    "supsup": _SUPSUP,
    "supsup_nns": {"quick": MethodPreset(stream=_TEN, net=_HIDDEN, arguments=_NOTICED)},
    "hopsupsup": _HOPSUPSUP,
    "dytox": _DYTOX,
    "den": _DEN,
    "apd": _APD,
    "der_expandable": _DER_EXPANDABLE,
    "l2_transfer": _L2,
    "frcl": _FRCL,
    **dict.fromkeys(("spb", "spb_i", "spb_m"), _SPB),
    "ucir": _UCIR,
}
