"""How each row of the table of methods is built; loaded with JAX as the first method is built."""

from collections.abc import Callable
from typing import Any

from cls_jax.core.checks import check_range
from cls_jax.core.errors import InputError
from cls_jax.methods import Setting
from cls_jax.methods.architecture import (
    apd,
    den,
    den_config,
    hopsupsup,
    hopsupsup_config,
    supsup,
    supsup_config,
)
from cls_jax.methods.architecture.supermasks import signed_constant
from cls_jax.methods.base import Method
from cls_jax.methods.baselines import gdumb, joint, sgd
from cls_jax.methods.cls import clser, dualnet, dualnet_config, mean_er
from cls_jax.methods.prototypes import icarl, spb, spb_config, ucir, ucir_config
from cls_jax.methods.regularization import ewc_online, l2_transfer, lwf, si
from cls_jax.methods.replay import agem, der, er, er_ace, replay_config
from cls_jax.nets.bnnet import bnnet
from cls_jax.nets.registry import make_dualnet, make_extractor, make_net


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


def _agem(config: replay_config.AgemConfig, s: Setting) -> Method:
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


def _hopsupsup(config: hopsupsup_config.HopSupSupConfig, s: Setting) -> Method:
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


BUILDERS: dict[str, Callable[[Any, Setting], Method]] = {
    "sgd": _no_config(sgd.sgd),
    "joint": _no_config(joint.joint),
    "er": _one_net(er.er),
    "clser": _one_net(clser.clser),
    "mean_er": _one_net(mean_er.mean_er),
    "der": _one_net(der.der),
    "derpp": _one_net(der.derpp),
    "er_ace": _one_net(er_ace.er_ace),
    "agem": _agem,
    "lwf": _no_config(lwf.lwf),
    "ewc_online": _no_config(ewc_online.ewc_online),
    "si": _no_config(si.si),
    "l2_transfer": _all_sizes(l2_transfer.l2_transfer),
    "den": _den,
    "apd": _all_sizes(apd.apd),
    "gdumb": _all_classes(gdumb.gdumb),
    "icarl": _all_classes(icarl.icarl),
    "spb": _spb("spb"),
    "spb_i": _spb("spb_i"),
    "spb_m": _spb("spb_m"),
    "ucir": _ucir,
    "supsup": _supsup,
    "dualnet": _dualnet,
    "hopsupsup": _hopsupsup,
}
"""Row of METHODS -> (config, setting) -> the method; the numbers of both are Python's own."""
