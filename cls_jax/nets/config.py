"""The flags that choose a network; needs no JAX."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class NetConfig:
    """Which network.

    Attributes:
      net: "resnet18", "resnet32" or "lenet" (APD's) for images, "mlp" for small or flat inputs;
        DualNet always has its own two networks; "small" (two convolutions) is for cosine
        classifiers such as SPB's.
      width: channels of the first stage; in the papers 64 of a ResNet-18 and 16 of a ResNet-32.
      hidden: units of each hidden layer of an mlp; HopSupSup always has its own perceptron, with
        these.
      dtype: compute dtype of convolutions and hidden layers; parameters, statistics, optimizer
        states, logits and losses are float32.
    """

    net: Literal["resnet18", "resnet32", "lenet", "small", "mlp"] = "resnet18"
    width: int = 64
    hidden: tuple[int, ...] = (100, 100)
    dtype: Literal["float32", "bfloat16"] = "float32"
