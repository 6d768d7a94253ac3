"""From a few words on the command line to a network."""

from collections.abc import Callable
from functools import lru_cache, partial
from typing import Any, NamedTuple

from cls_jax.core.checks import plain
from cls_jax.core.errors import InputError
from cls_jax.core.own import NETS
from cls_jax.nets.base import Net
from cls_jax.nets.config import KNOWN, check_names
from cls_jax.nets.config import NetConfig as NetConfig
from cls_jax.nets.dualnet import DualNets, dualnet
from cls_jax.nets.extractor import Extractor, flat_extractor, small_extractor
from cls_jax.nets.lenet import lenet
from cls_jax.nets.mlp import mlp
from cls_jax.nets.own import as_net, extractor_of, maker_of, own_name
from cls_jax.nets.resnet import resnet18
from cls_jax.nets.resnet32 import resnet32, resnet32_extractor
from cls_jax.nets.vit import vit, vit_extractor


class Networks(NamedTuple):
    """One choice of network, in every form that a method may ask for.

    Attributes:
      net: number of outputs -> the network of a one-network method.
      extractor: the same up to its features, for a cosine classifier.
      dualnets: (number of classes, predictor=...) -> DualNet's slow and fast network.
      kind: "mlp", "resnet18", ...
      hidden: units of each hidden layer of a perceptron, for methods that bring their own.
      dtype: compute dtype.
      width: numbers of a token, for a method that brings its own transformer.
    """

    net: Callable[[int], Net]
    extractor: Callable[[], Extractor]
    dualnets: Callable[..., DualNets]
    kind: str
    hidden: tuple[int, ...]
    dtype: str
    width: int = NetConfig.width


def networks(config: NetConfig) -> Networks:
    """The choice that a config's words make; equal words give the same object.

    Raises:
      InputError: for a number that is none, or a network of one's own with a name of the library's.
    """
    check_names(config.net)
    return _networks(plain(config), NETS.get(config.net))


def networks_of(net: Any, num_outputs: int) -> Networks:
    """The choice of a network of one's own.

    Args:
      net: a module of flax.linen or nnx, a Net, or a function from the number of outputs to one of
        them.
      num_outputs: of a network that is given as it is.

    Raises:
      InputError: it is none, or has the name of another one.
    """
    name = own_name(net)
    if name in (*KNOWN, *NETS) and NETS.get(name) is not net:
        raise InputError(f"net {name} has the name of another network; give it one of its own")
    return _networks(NetConfig(net=name), maker_of(net, num_outputs))


@lru_cache
def _networks(config: NetConfig, own: Callable[[int], Any] | None) -> Networks:
    net = partial(make_net, config) if own is None else partial(_own_net, own, config.net)
    extractor = partial(make_extractor, config)
    return Networks(
        net,
        extractor if own is None else partial(_own_extractor, own, config.net),
        partial(make_dualnet, config),
        config.net,
        config.hidden,
        config.dtype,
        config.width,
    )


def _own_net(make: Callable[[int], Any], name: str, num_outputs: int) -> Net:
    return as_net(make(num_outputs), name)


def _own_extractor(make: Callable[[int], Any], name: str) -> Extractor:
    num_outputs = getattr(make, "num_outputs", 1)  # of a layer that is left out
    return extractor_of(_own_net(make, name, num_outputs))


def make_net(config: NetConfig, num_classes: int) -> Net:
    """The network of a one-network method.

    Raises:
      InputError: for an unknown net, or numbers that it cannot have.
    """
    if config.net == "resnet18":
        return resnet18(num_classes, config.width, dtype=config.dtype)
    if config.net == "resnet32":
        return resnet32(num_classes, config.width, dtype=config.dtype)
    if config.net == "lenet":
        return lenet(num_classes, dtype=config.dtype)
    if config.net == "vit":
        return vit(num_classes, config.width, dtype=config.dtype)
    if config.net != "mlp":
        raise InputError(
            f"net is {config.net!r}; use 'resnet18', 'resnet32', 'lenet', 'vit' or 'mlp', or "
            "import the file that registers it under this name (@cls_jax.net)"
        )
    return mlp(num_classes, config.hidden, dtype=config.dtype)


def make_extractor(config: NetConfig) -> Extractor:
    """The network of a method with a cosine classifier, up to its features.

    Raises:
      InputError: for a net that has no such form, or numbers that it cannot have.
    """
    if config.net == "resnet32":
        return resnet32_extractor(config.width, config.dtype)
    if config.net == "small":
        return small_extractor(config.width, config.dtype)
    if config.net == "vit":
        return vit_extractor(config.width, config.dtype)
    if config.net != "mlp":
        raise InputError(
            f"net is {config.net!r}; cosine classifiers stand on 'resnet32', 'vit', 'small' or "
            "'mlp'"
        )
    return flat_extractor(config.hidden, config.dtype)


def make_dualnet(config: NetConfig, num_classes: int, *, predictor: bool = False) -> DualNets:
    """DualNet's slow and fast network.

    Raises:
      InputError: for an mlp, since DualNet works on feature maps.
    """
    if config.net != "resnet18":
        raise InputError(f"net is {config.net!r}; dualnet works on feature maps, use 'resnet18'")
    return dualnet(num_classes, config.width, predictor=predictor, dtype=config.dtype)
