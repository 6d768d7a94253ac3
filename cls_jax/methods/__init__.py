"""The methods, by name. A new one is a file in its family's folder and a row of this table.

``METHODS["er"]`` is its factory, ``er(problem, *, memory_size=500, ...) -> Method``. The table
loads no JAX, and ``signature("er")`` needs none either; the first factory asked for does.
"""

from collections.abc import Iterator, Mapping
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from cls_jax.core.errors import InputError
from cls_jax.methods.signatures import Signature, read_signatures

if TYPE_CHECKING:
    from cls_jax.methods.base import Factory

_MODULES = {
    "sgd": "baselines.sgd",
    "joint": "baselines.sgd",
    "er": "replay.er",
    "clser": "cls.clser",
    "clser_masked": "cls.clser_masked",
    "mean_er": "cls.mean_er",
    "esmer": "cls.esmer",
    "group_ema": "cls.group_ema",
    "der": "replay.der",
    "derpp": "replay.der",
    "er_ace": "replay.er_ace",
    "er_mir": "replay.er_mir",
    "ocs": "replay.ocs",
    "co2l": "replay.co2l",
    "agem": "replay.agem",
    "lwf": "regularization.lwf",
    "ewc_online": "regularization.ewc_online",
    "si": "regularization.si",
    "frcl": "regularization.frcl",
    "l2_transfer": "regularization.l2_transfer",
    "den": "architecture.den",
    "apd": "architecture.apd",
    "der_expandable": "architecture.der_expandable",
    "dytox": "architecture.dytox",
    "rpsnet": "architecture.rpsnet",
    "gdumb": "baselines.gdumb",
    "icarl": "prototypes.icarl",
    "spb": "prototypes.spb",
    "spb_i": "prototypes.spb",
    "spb_m": "prototypes.spb",
    "ucir": "prototypes.ucir",
    "supsup": "architecture.supsup",
    "supsup_nns": "architecture.supsup_nns",
    "dualnet": "cls.dualnet",
    "hopsupsup": "architecture.hopsupsup",
}
"""Name -> where it stands in this folder."""


class _Methods(Mapping):
    """Name -> factory: the library's, imported when asked for, then the users' own."""

    def __init__(self) -> None:
        self.own: dict[str, Factory] = {}

    def __getitem__(self, name: str) -> "Factory":
        if name in self.own:
            return self.own[name]
        return getattr(import_module(f"cls_jax.methods.{_MODULES[name]}"), name)

    def __contains__(self, name: object) -> bool:
        return name in _MODULES or name in self.own

    def __iter__(self) -> Iterator[str]:
        return iter((*_MODULES, *self.own))

    def __len__(self) -> int:
        return len(_MODULES) + len(self.own)


METHODS = _Methods()


def signature(name: str) -> Signature:
    """What the factory of this name can be given; loads no JAX for the library's own."""
    if name in METHODS.own:
        return METHODS.own[name].signature
    path = Path(__file__).parent / (_MODULES[name].replace(".", "/") + ".py")
    return read_signatures(path)[name]


def register(factory: "Factory") -> None:
    """Adds a user's own method to the table; the same name again replaces it.

    Raises:
      InputError: the library has a method of that name.
    """
    if factory.name in _MODULES:
        raise InputError(f"the library has a method {factory.name}; give yours another name")
    METHODS.own[factory.name] = factory
