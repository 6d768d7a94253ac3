"""A preset of a method, and the one that methods share which have none of their own."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from cls_jax.methods.optimizer import OptimizerConfig
from cls_jax.nets.config import NetConfig
from cls_jax.streams.config import StreamConfig


@dataclass(frozen=True, kw_only=True)
class MethodPreset:
    """One preset of one method.

    Attributes:
      stream: what it learns.
      net: with what.
      arguments: of the method, where they are not its defaults.
      optimizer: with what it learns, if its paper leaves that open.
      run: how it is run, where that is not the usual.
    """

    stream: StreamConfig = StreamConfig()
    net: NetConfig = NetConfig()
    arguments: Mapping[str, Any] = field(default_factory=dict)
    optimizer: OptimizerConfig = OptimizerConfig()
    run: Mapping[str, Any] = field(default_factory=dict)


PLAIN = MethodPreset(
    stream=StreamConfig(epochs=3, normalisation="none", image_size=8), net=NetConfig(net="mlp")
)
"""Digits in three passes, a perceptron."""
