"""The methods. A new one is a file in this folder, a row in this table and one in builders.py.

``METHODS[name]`` tells which Config and Hyper a method takes and how it is built, so that command
lines, comparisons and tests reach every method the same way. The table loads no JAX, so neither
does the help of a script; the first method that is built does.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from cls_jax.core.checks import plain, shown, whole
from cls_jax.core.errors import InputError
from cls_jax.methods.architecture.apd_config import ApdConfig, ApdHyper
from cls_jax.methods.architecture.den_config import DenConfig, DenHyper
from cls_jax.methods.architecture.hopsupsup_config import HopSupSupConfig, HopSupSupHyper
from cls_jax.methods.architecture.supsup_config import SupSupConfig, SupSupHyper
from cls_jax.methods.cls.clser_config import ClsErConfig, ClsErHyper, MeanErHyper
from cls_jax.methods.cls.dualnet_config import DualNetConfig, DualNetHyper
from cls_jax.methods.prototypes.spb_config import SpbConfig, SpbHyper, SpbIConfig, SpbMConfig
from cls_jax.methods.prototypes.ucir_config import UcirConfig, UcirHyper
from cls_jax.methods.regularization.memoryless_config import (
    EwcOnlineHyper,
    L2TransferConfig,
    L2TransferHyper,
    LwfHyper,
    SgdHyper,
    SiHyper,
)
from cls_jax.methods.replay.replay_config import (
    AgemConfig,
    AgemHyper,
    DerConfig,
    DerHyper,
    DerppHyper,
    ErAceConfig,
    ErAceHyper,
    ErConfig,
    ErHyper,
    GdumbConfig,
    GdumbHyper,
    IcarlConfig,
    IcarlHyper,
)
from cls_jax.nets.config import NetConfig

if TYPE_CHECKING:
    from cls_jax.core.augment import Augment
    from cls_jax.methods.base import Method


class Setting(NamedTuple):
    """What a method has to fit: the net's config, the augmentation, the sizes of the stream.

    ``shape`` is that of one raw example, where it is known.
    """

    net: NetConfig
    augment: "Augment"
    num_classes: int
    num_tasks: int
    shape: tuple[int, ...] | None = None


@dataclass(frozen=True)
class NoConfig:
    """The Config of a method without choices."""


class Row(NamedTuple):
    """config and hyper: classes, usable without arguments; build: (config, setting) -> Method."""

    config: type
    hyper: type
    build: Callable[[Any, Setting], "Method"]


def _row(name: str, config: type, hyper: type) -> Row:
    """The row, whose ``build`` takes NumPy's numbers and refuses what is none."""

    def build(given: Any, s: Setting) -> "Method":
        if not isinstance(given, config):
            raise InputError(f"config is {shown(given)}; give a {config.__name__}")
        from cls_jax.methods.builders import BUILDERS

        sizes = {size: whole(size, getattr(s, size), 1) for size in ("num_classes", "num_tasks")}
        return BUILDERS[name](plain(given), s._replace(net=plain(s.net), **sizes))

    return Row(config, hyper, build)


_KINDS = {
    "sgd": (NoConfig, SgdHyper),
    "joint": (NoConfig, SgdHyper),
    "er": (ErConfig, ErHyper),
    "clser": (ClsErConfig, ClsErHyper),
    "mean_er": (ClsErConfig, MeanErHyper),
    "der": (DerConfig, DerHyper),
    "derpp": (DerConfig, DerppHyper),
    "er_ace": (ErAceConfig, ErAceHyper),
    "agem": (AgemConfig, AgemHyper),
    "lwf": (NoConfig, LwfHyper),
    "ewc_online": (NoConfig, EwcOnlineHyper),
    "si": (NoConfig, SiHyper),
    "l2_transfer": (L2TransferConfig, L2TransferHyper),
    "den": (DenConfig, DenHyper),
    "apd": (ApdConfig, ApdHyper),
    "gdumb": (GdumbConfig, GdumbHyper),
    "icarl": (IcarlConfig, IcarlHyper),
    "spb": (SpbConfig, SpbHyper),
    "spb_i": (SpbIConfig, SpbHyper),
    "spb_m": (SpbMConfig, SpbHyper),
    "ucir": (UcirConfig, UcirHyper),
    "supsup": (SupSupConfig, SupSupHyper),
    "dualnet": (DualNetConfig, DualNetHyper),
    "hopsupsup": (HopSupSupConfig, HopSupSupHyper),
}

METHODS: dict[str, Row] = {name: _row(name, *kinds) for name, kinds in _KINDS.items()}
