"""cls_jax: continual learning with complementary learning systems, as pure functions of pytrees.

    import cls_jax as cls

    stream = cls.class_il(cls.load_data("digits"), tasks=5, batch_size=10)
    problem = cls.problem(stream, net="mlp")
    method = cls.clser(problem, memory_size=200, replay_size=10)
    print(cls.train(method, stream, seeds=range(3)).table())

Nothing heavy is imported before it is used.
"""

from importlib import import_module
from typing import Any

from cls_jax.core.version import __version__ as __version__
from cls_jax.methods import METHODS

_NAMES = {
    "app.api": ("problem", "train", "Result"),
    "app.restore": ("load", "SavedRun"),
    "core.errors": ("InputError",),
    "core.own": ("net", "dataset", "import_file"),
    "core.types": ("Batch", "Task", "Variables", "Trainable"),
    "data.dataset": ("Dataset", "Split"),
    "methods": ("METHODS",),
    "methods.base": ("method", "Algorithm", "Method", "Needs", "Phase"),
    "methods.problem": ("Problem",),
    "streams.blurry": ("blurry",),
    "streams.class_il": ("class_il",),
    "streams.domain_il": ("dihedral", "permuted", "rotated"),
    "streams.gcil": ("gcil",),
    "streams.mnist360": ("mnist360",),
    "training.group": ("task_classes",),
    "training.plan": ("Plan",),
}
"""Module -> what of it is public under its own name."""

_WHERE = {name: (module, name) for module, names in _NAMES.items() for name in names} | {
    "load_data": ("data.load", "load"),
    "evaluate": ("app.saved_scores", "score"),
}
_MODULES = {
    **{name: f"core.{name}" for name in ("augment", "losses", "memory", "metrics", "sync")},
    "nets": "nets",
    "presets": "published.presets",
}
"""Submodules by the names that users know them by."""

__all__ = sorted((*_WHERE, *_MODULES, *METHODS))  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    """A public name, imported as it is asked for."""
    if name in METHODS:
        return METHODS[name]
    if name in _MODULES:
        return import_module(f"cls_jax.{_MODULES[name]}")
    if name in _WHERE:
        module, own = _WHERE[name]
        return getattr(import_module(f"cls_jax.{module}"), own)
    raise AttributeError(f"module 'cls_jax' has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
