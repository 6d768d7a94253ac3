"""The flags that choose a network; needs no JAX."""

from dataclasses import dataclass
from typing import Literal

from cls_jax.core.errors import InputError
from cls_jax.core.own import NETS

KNOWN = ("resnet18", "resnet32", "lenet", "vit", "small", "mlp")


def check_names(net: str) -> None:
    """Raises InputError if a network of the library and one of the user's own are called so."""
    if net in KNOWN and net in NETS:
        raise InputError(f"the library has a network {net}; give yours another name")


def check_known(net: str) -> None:
    """Raises InputError unless there is one network of this name."""
    check_names(net)
    if net not in KNOWN and net not in NETS:
        raise InputError(
            f"net is {net!r}; use one of {', '.join((*KNOWN, *NETS))}, or --import the file that "
            "registers it"
        )


@dataclass(frozen=True, kw_only=True)
class NetConfig:
    """Which network.

    Attributes:
      net: "resnet18", "resnet32", "lenet" (APD's) or "vit" (a small transformer) for images, "mlp"
        for small or flat inputs; DualNet always has its own two networks; "small" (two
        convolutions) is for cosine classifiers such as SPB's; or a net of your own, by its name in
        a file of --import.
      width: channels of the first stage; in the papers 64 of a ResNet-18 and 16 of a ResNet-32. Of
        vit the numbers of a token.
      hidden: units of each hidden layer of an mlp; HopSupSup always has its own perceptron, with
        these.
      dtype: compute dtype of convolutions and hidden layers; parameters, statistics, optimizer
        states, logits and losses are float32.
    """

    net: str = "resnet18"
    width: int = 64
    hidden: tuple[int, ...] = (100, 100)
    dtype: Literal["float32", "bfloat16"] = "float32"


def check_sizes(config: NetConfig) -> None:
    """Raises InputError for sizes of a network of one's own, which its own function fixes."""
    if config.net in KNOWN:
        return
    for name in ("width", "hidden", "dtype"):
        if getattr(config, name) != getattr(NetConfig, name):
            raise InputError(
                f"{name} is {getattr(config, name)}, but the network {config.net} is not the "
                f"library's and has no such argument; leave {name} out"
            )
