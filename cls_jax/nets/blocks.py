"""The residual blocks that the ResNets are made of."""

from collections.abc import Callable

import flax.linen as nn

from cls_jax.core.types import Array
from cls_jax.nets.layers import BatchNorm, Conv, torch_kernel


class BasicBlock(nn.Module):
    """float[b, h', w', features]: two 3x3 convolutions and a shortcut, ReLU after the sum.

    Attributes:
      features: output channels.
      stride: of the first convolution; the shortcut is the identity where shapes allow.
      dtype: compute dtype.
      unbiased_running: see BatchNorm.
      kernel_init: initialiser of the convolutions.
      last_relu: False leaves out the ReLU after the sum.

    Source: aimagelab/mammoth, backbone/ResNet18.py, BasicBlock.
    """

    features: int
    stride: int = 1
    dtype: str = "float32"
    unbiased_running: bool = True
    kernel_init: Callable[..., Array] = torch_kernel
    last_relu: bool = True

    @nn.compact
    def __call__(self, x: Array, *, train: bool, valid: Array | None = None) -> Array:
        """Two convolutions and the shortcut; ``train`` and ``valid`` as in BatchNorm."""

        def norm(name: str, y: Array) -> Array:
            layer = BatchNorm(self.unbiased_running, self.dtype, name=name)
            return layer(y, train=train, valid=valid)

        def conv(name: str, y: Array, kernel: int = 3, stride: int = 1) -> Array:
            kind = {"dtype": self.dtype, "kernel_init": self.kernel_init, "name": name}
            return Conv(self.features, kernel, stride, **kind)(y)

        y = nn.relu(norm("bn1", conv("conv1", x, stride=self.stride)))
        y = norm("bn2", conv("conv2", y))
        if self.stride != 1 or x.shape[-1] != self.features:
            x = norm("shortcut_bn", conv("shortcut_conv", x, kernel=1, stride=self.stride))
        return nn.relu(y + x) if self.last_relu else y + x


class Stage(nn.Module):
    """Two BasicBlocks, the first with ``stride``: one ``layer`` of a ResNet-18."""

    features: int
    stride: int = 1
    dtype: str = "float32"
    unbiased_running: bool = True

    @nn.compact
    def __call__(self, x: Array, *, train: bool, valid: Array | None = None) -> Array:
        """Both blocks in turn; ``train`` and ``valid`` as in BatchNorm."""
        for number, stride in enumerate((self.stride, 1)):
            block = BasicBlock(
                self.features, stride, self.dtype, self.unbiased_running, name=f"block{number}"
            )
            x = block(x, train=train, valid=valid)
        return x
