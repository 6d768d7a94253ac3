"""The methods. A new one is a file in this folder and a row in this table.

``METHODS[name]`` tells which Config and Hyper a method takes and how it is built, so that command
lines, comparisons and tests reach every method the same way.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

from cls_jax.augment import Augment
from cls_jax.checks import check_range, plain, shown, whole
from cls_jax.methods import (
    agem,
    apd,
    apd_config,
    clser,
    den,
    den_config,
    der,
    dualnet,
    dualnet_config,
    er,
    er_ace,
    ewc_online,
    gdumb,
    hopsupsup,
    icarl,
    joint,
    l2_transfer,
    lwf,
    mean_er,
    sgd,
    si,
    spb,
    spb_config,
    supsup,
    supsup_config,
    ucir,
    ucir_config,
)
from cls_jax.methods.base import Method
from cls_jax.methods.supermasks import signed_constant
from cls_jax.nets.bnnet import bnnet
from cls_jax.nets.choose import NetConfig, make_dualnet, make_extractor, make_net
from cls_jax.types import InputError


class Setting(NamedTuple):
    """What a method has to fit: the net's config, the augmentation, the sizes of the stream.

    ``shape`` is that of one raw example, where it is known.
    """

    net: NetConfig
    augment: Augment
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
    build: Callable[[Any, Setting], Method]


def _one_net(factory: Callable[..., Method]) -> Callable[[Any, Setting], Method]:
    """``build`` for ``factory(config, net, *, augment) -> Method``."""

    def build(config: Any, s: Setting) -> Method:
        return factory(config, make_net(s.net, s.num_classes), augment=s.augment)

    return build


def _no_config(factory: Callable[..., Method]) -> Callable[[Any, Setting], Method]:
    """``build`` for ``factory(net, *, augment) -> Method``."""
    return _one_net(lambda config, net, augment: factory(net, augment=augment))


def _all_classes(factory: Callable[..., Method]) -> Callable[[Any, Setting], Method]:
    """``build`` for ``factory(config, net, *, augment, num_classes) -> Method``."""

    def build(config: Any, s: Setting) -> Method:
        net = make_net(s.net, s.num_classes)
        return factory(config, net, augment=s.augment, num_classes=s.num_classes)

    return build


def _agem(config: agem.AgemConfig, s: Setting) -> Method:
    net = make_net(s.net, s.num_classes)
    return agem.agem(config, net, augment=s.augment, num_tasks=s.num_tasks)


def _all_sizes(factory: Callable[..., Method]) -> Callable[[Any, Setting], Method]:
    """``build`` for ``factory(config, net, *, augment, num_classes, num_tasks) -> Method``."""

    def build(config: Any, s: Setting) -> Method:
        sizes = {"num_classes": s.num_classes, "num_tasks": s.num_tasks}
        return factory(config, make_net(s.net, s.num_classes), augment=s.augment, **sizes)

    return build


def _den(config: den_config.DenConfig, s: Setting) -> Method:
    if s.net.net != "mlp":
        raise InputError(f"net is {s.net.net!r} and den grows a perceptron; use 'mlp'")
    sizes = {"num_classes": s.num_classes, "num_tasks": s.num_tasks, "dtype": s.net.dtype}
    return den.den(config, s.net.hidden, augment=s.augment, **sizes)


def _dualnet(config: dualnet_config.DualNetConfig, s: Setting) -> Method:
    nets = make_dualnet(
        s.net, s.num_classes, predictor=config.objective in dualnet_config.NEEDS_PREDICTOR
    )
    sizes = {"num_classes": s.num_classes, "num_tasks": s.num_tasks}
    return dualnet.dualnet(config, nets, augment=s.augment, **sizes)


def _supsup(config: supsup_config.SupSupConfig, s: Setting) -> Method:
    sizes = {"num_classes": s.num_classes, "num_tasks": s.num_tasks}
    check_range("num_outputs", config.num_outputs, 1)
    net = make_net(s.net, config.num_outputs)
    return supsup.supsup(config, net, augment=s.augment, **sizes)


def _hopsupsup(config: hopsupsup.HopSupSupConfig, s: Setting) -> Method:
    net = bnnet(s.num_classes, s.net.hidden, signed_constant, dtype=s.net.dtype)
    return hopsupsup.hopsupsup(config, net, augment=s.augment)


def _spb(name: str) -> Callable[[spb_config.SpbConfig, Setting], Method]:
    def build(config: spb_config.SpbConfig, s: Setting) -> Method:
        if s.shape is not None:
            spb_config.check_square(config, s.shape)
        extractor, sizes = make_extractor(s.net), {"num_classes": s.num_classes, "name": name}
        return spb.spb(config, extractor, augment=s.augment, **sizes)

    return build


def _ucir(config: ucir_config.UcirConfig, s: Setting) -> Method:
    extractor = make_extractor(s.net)
    return ucir.ucir(config, extractor, augment=s.augment, num_classes=s.num_classes)


def _checked(row: Row) -> Row:
    """The row, whose ``build`` takes NumPy's numbers and refuses what is none."""

    def build(config: Any, s: Setting) -> Method:
        if not isinstance(config, row.config):
            raise InputError(f"config is {shown(config)}; give a {row.config.__name__}")
        sizes = {name: whole(name, getattr(s, name), 1) for name in ("num_classes", "num_tasks")}
        return row.build(plain(config), s._replace(net=plain(s.net), **sizes))

    return row._replace(build=build)


_ROWS = {
    "sgd": Row(NoConfig, sgd.SgdHyper, _no_config(sgd.sgd)),
    "joint": Row(NoConfig, sgd.SgdHyper, _no_config(joint.joint)),
    "er": Row(er.ErConfig, er.ErHyper, _one_net(er.er)),
    "clser": Row(clser.ClsErConfig, clser.ClsErHyper, _one_net(clser.clser)),
    "mean_er": Row(clser.ClsErConfig, mean_er.MeanErHyper, _one_net(mean_er.mean_er)),
    "der": Row(der.DerConfig, der.DerHyper, _one_net(der.der)),
    "derpp": Row(der.DerConfig, der.DerppHyper, _one_net(der.derpp)),
    "er_ace": Row(er_ace.ErAceConfig, er_ace.ErAceHyper, _one_net(er_ace.er_ace)),
    "agem": Row(agem.AgemConfig, agem.AgemHyper, _agem),
    "lwf": Row(NoConfig, lwf.LwfHyper, _no_config(lwf.lwf)),
    "ewc_online": Row(NoConfig, ewc_online.EwcOnlineHyper, _no_config(ewc_online.ewc_online)),
    "si": Row(NoConfig, si.SiHyper, _no_config(si.si)),
    "l2_transfer": Row(
        l2_transfer.L2TransferConfig,
        l2_transfer.L2TransferHyper,
        _all_sizes(l2_transfer.l2_transfer),
    ),
    "den": Row(den_config.DenConfig, den_config.DenHyper, _den),
    "apd": Row(apd_config.ApdConfig, apd_config.ApdHyper, _all_sizes(apd.apd)),
    "gdumb": Row(gdumb.GdumbConfig, gdumb.GdumbHyper, _all_classes(gdumb.gdumb)),
    "icarl": Row(icarl.IcarlConfig, icarl.IcarlHyper, _all_classes(icarl.icarl)),
    "spb": Row(spb_config.SpbConfig, spb_config.SpbHyper, _spb("spb")),
    "spb_i": Row(spb_config.SpbIConfig, spb_config.SpbHyper, _spb("spb_i")),
    "spb_m": Row(spb_config.SpbMConfig, spb_config.SpbHyper, _spb("spb_m")),
    "ucir": Row(ucir_config.UcirConfig, ucir_config.UcirHyper, _ucir),
    "supsup": Row(supsup_config.SupSupConfig, supsup_config.SupSupHyper, _supsup),
    "dualnet": Row(dualnet_config.DualNetConfig, dualnet_config.DualNetHyper, _dualnet),
    "hopsupsup": Row(hopsupsup.HopSupSupConfig, hopsupsup.HopSupSupHyper, _hopsupsup),
}

METHODS: dict[str, Row] = {name: _checked(row) for name, row in _ROWS.items()}
