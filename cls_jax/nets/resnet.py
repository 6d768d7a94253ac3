"""The ResNet-18 for small images: a 3x3 stem and no max-pool."""

from collections.abc import Sequence
from functools import partial

import flax.linen as nn

from cls_jax.core.types import Array
from cls_jax.nets.base import Net
from cls_jax.nets.blocks import Stage
from cls_jax.nets.layers import BatchNorm, Conv, Dense, keeping_dtype, masked_channels
from cls_jax.nets.linen import apply_linen, check_net, net_of_module


class _ResNet18(nn.Module):
    num_classes: int
    width: int
    dtype: str
    unbiased_running: bool

    @nn.compact
    def __call__(
        self,
        x: Array,
        *,
        train: bool,
        valid: Array | None = None,
        features: bool = False,
        masks: Sequence[Array] = (),
    ) -> Array:
        kind, keep = (self.dtype, self.unbiased_running), keeping_dtype(self.dtype)
        x = Conv(self.width, dtype=self.dtype, name="conv1")(x)
        norm = BatchNorm(self.unbiased_running, self.dtype, name="bn1")
        x = nn.relu(norm(x, train=train, valid=valid))
        for stage in range(4):
            layer = Stage(self.width * 2**stage, min(stage, 1) + 1, *kind, name=f"layer{stage + 1}")
            x = layer(x, train=train, valid=valid)
            x = masked_channels(x, masks[stage]) if masks else x
        pooled = x.astype(keep).mean((1, 2))
        if features:
            return pooled
        return Dense(self.num_classes, dtype=str(keep), name="linear")(pooled)


def resnet18(
    num_classes: int,
    width: int = 64,
    dtype: str = "float32",
    unbiased_running: bool = True,
) -> Net:
    """The ResNet-18 of the CIFAR and TinyImageNet experiments; outputs are float32 logits.

    Conv-BN-ReLU stem, four stages of two BasicBlocks (``width`` x 1, 2, 4, 8; strides 1, 2, 2, 2),
    mean over the remaining map, Dense.

    Args:
      num_classes: size of the output.
      width: channels of the first stage; 64 in the papers.
      dtype: compute dtype, "float32" or "bfloat16" ("float64" for parity, under x64); parameters,
        statistics and logits are float32.
      unbiased_running: the running variance is the unbiased one, as in PyTorch; False: Flax's.

    Returns:
      Net; ``apply(vars, x float32[b, h, w, c], train=…, valid=bool[b]) -> (float32[b, num_classes],
      stats)``; its features are float32[b, 8 * width].

    Raises:
      InputError: a size is below 1, or the dtype is unknown.

    Source: CLS-ER, NeurAI-Lab/CLS-ER backbone/ResNet18.py (from aimagelab/mammoth); 11,173,962
      parameters for 10 classes.
    """
    check_net(num_classes, dtype, width)
    module = _ResNet18(num_classes, width, dtype, unbiased_running)
    stages = tuple((f"layer{stage + 1}", width * 2**stage) for stage in range(4))
    net = net_of_module(module, "linear")
    return net._replace(stages=stages, masked=partial(apply_linen, module))
