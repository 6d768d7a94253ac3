"""The methods. A new one is a file in this folder and a row in this table.

``METHODS[name]`` tells which Config and Hyper a method takes and how it is built, so that command
lines, comparisons and tests reach every method the same way.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

from cls_jax.augment import Augment
from cls_jax.methods import dualnet, dualnet_config, er, joint, sgd
from cls_jax.methods.base import Method
from cls_jax.nets.choose import NetConfig, make_dualnet, make_net


class Setting(NamedTuple):
    """What a method has to fit: the net's config, the augmentation, the sizes of the stream."""

    net: NetConfig
    augment: Augment
    num_classes: int
    num_tasks: int


@dataclass(frozen=True)
class NoConfig:
    """The Config of a method without choices."""


class Row(NamedTuple):
    """config and hyper: classes, usable without arguments; build: (config, setting) -> Method."""

    config: type
    hyper: type
    build: Callable[[Any, Setting], Method]


def _sgd(config: NoConfig, s: Setting) -> Method:
    return sgd.sgd(make_net(s.net, s.num_classes), augment=s.augment)


def _joint(config: NoConfig, s: Setting) -> Method:
    return joint.joint(make_net(s.net, s.num_classes), augment=s.augment)


def _er(config: er.ErConfig, s: Setting) -> Method:
    return er.er(config, make_net(s.net, s.num_classes), augment=s.augment)


def _dualnet(config: dualnet_config.DualNetConfig, s: Setting) -> Method:
    nets = make_dualnet(
        s.net, s.num_classes, predictor=config.objective in dualnet_config.NEEDS_PREDICTOR
    )
    sizes = {"num_classes": s.num_classes, "num_tasks": s.num_tasks}
    return dualnet.dualnet(config, nets, augment=s.augment, **sizes)


METHODS: dict[str, Row] = {
    "sgd": Row(NoConfig, sgd.SgdHyper, _sgd),
    "joint": Row(NoConfig, sgd.SgdHyper, _joint),
    "er": Row(er.ErConfig, er.ErHyper, _er),
    "dualnet": Row(dualnet_config.DualNetConfig, dualnet_config.DualNetHyper, _dualnet),
}
