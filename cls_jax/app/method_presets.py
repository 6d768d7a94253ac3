"""Where the flags of one method start from: a quick preset, its paper's, cells of the tables.

"quick" is ours and needs no download: scikit-learn's digits, seconds to minutes on two CPU cores.
"""

from collections.abc import Iterable
from dataclasses import replace

from cls_jax.app.method_flags import with_memory
from cls_jax.app.presets import architecture, cls, prototypes, regularization, replay
from cls_jax.app.presets.base import PLAIN, MethodPreset
from cls_jax.app.published.presets import TABLES, cells


def method_presets(method: str) -> dict[str, MethodPreset]:
    """Name -> preset, the quick one first, then the paper's own, then its cells of the tables.

    Args:
      method: of METHODS, one's own too.
    """
    own = _OWN.get(method)
    if own is None:
        own = {"quick": replace(PLAIN, arguments=_memory(method))}
    return {**own, **cells_of(method, TABLES)}


def cells_of(method: str, tables: Iterable[str]) -> dict[str, MethodPreset]:
    """The method's cells of published tables, e.g. "s_mnist_500".

    Args:
      method: of METHODS.
      tables: of ``app.published.presets.TABLES``.
    """
    found = [cell for t in tables if method in TABLES[t][1] for cell in cells(t, [method])]
    return {
        f"{cell.table}_{cell.memory_size}".removesuffix("_0"): MethodPreset(
            stream=cell.stream, net=cell.net, arguments=cell.arguments
        )
        for cell in found
        if cell.method == method
    }


def _memory(method: str) -> dict[str, int]:
    return {"memory_size": 200} if method in with_memory() else {}


_OWN = {
    name: presets
    for family in (cls, replay, regularization, architecture, prototypes)
    for name, presets in family.PRESETS.items()
}
