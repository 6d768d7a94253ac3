"""cls_jax: continual learning with complementary learning systems, as pure functions of pytrees."""

from typing import TYPE_CHECKING, Any

from cls_jax.core.version import __version__ as __version__

if TYPE_CHECKING:
    from cls_jax.app.restore import Trained, load

__all__ = ["Trained", "load"]


def __getattr__(name: str) -> Any:
    """``load`` and ``Trained``, which load JAX only when they are asked for."""
    if name in __all__:
        from cls_jax.app import restore as trained

        return getattr(trained, name)
    raise AttributeError(f"module 'cls_jax' has no attribute {name!r}")
