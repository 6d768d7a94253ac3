"""The ResNet-32 for CIFAR: three stages of five blocks, with a classifier or without."""

import flax.linen as nn

from cls_jax.core.types import Array
from cls_jax.nets.base import Net
from cls_jax.nets.blocks import BasicBlock
from cls_jax.nets.extractor import Extractor, Features, extractor_of_module
from cls_jax.nets.layers import BatchNorm, Conv, Dense, kaiming_kernel, keeping_dtype
from cls_jax.nets.linen import check_net, net_of_module

BLOCKS = 5


class _Trunk(nn.Module):
    width: int
    dtype: str
    last_relu: bool

    @nn.compact
    def __call__(self, x: Array, *, train: bool, valid: Array | None = None) -> Features:
        kind = {"dtype": self.dtype, "kernel_init": kaiming_kernel}
        x = Conv(self.width, name="conv1", **kind)(x)
        x = nn.relu(BatchNorm(dtype=self.dtype, name="bn1")(x, train=train, valid=valid))
        for stage in range(3):
            for block in range(BLOCKS):
                last = (stage, block) == (2, BLOCKS - 1)
                layer = BasicBlock(
                    self.width * 2**stage,
                    2 if stage and not block else 1,
                    last_relu=self.last_relu or not last,
                    name=f"layer{stage + 1}_block{block}",
                    **kind,
                )
                x = layer(x, train=train, valid=valid)
        return Features(x.astype(keeping_dtype(self.dtype)).mean((1, 2)), x)


class _Classifier(nn.Module):
    num_classes: int
    width: int
    dtype: str

    @nn.compact
    def __call__(
        self, x: Array, *, train: bool, valid: Array | None = None, features: bool = False
    ) -> Array:
        trunk = _Trunk(self.width, self.dtype, True, name="trunk")
        pooled = trunk(x, train=train, valid=valid).features
        if features:
            return pooled
        return Dense(self.num_classes, dtype=str(keeping_dtype(self.dtype)), name="linear")(pooled)


def resnet32(num_classes: int, width: int = 16, dtype: str = "float32") -> Net:
    """The ResNet-32 of the CIFAR-100 tables of iCaRL and UCIR; outputs are float32 logits.

    Conv-BN-ReLU stem, three stages of five BasicBlocks (``width`` x 1, 2, 4; strides 1, 2, 2), mean
    over the remaining map, Dense. Kernels are Kaiming-normal (fan out).

    Args:
      num_classes: size of the output.
      width: channels of the first stage; 16 in the papers.
      dtype: compute dtype, "float32" or "bfloat16"; parameters, statistics, logits are float32.

    Raises:
      InputError: a size is below 1, or the dtype is unknown.

    Source: He et al. 2016, section 4.2; hshustc/CVPR19_Incremental_Learning,
      cifar100-class-incremental/resnet_cifar.py: 1x1 convolution and BatchNorm as shortcut.
    """
    check_net(num_classes, dtype, width)
    module = _Classifier(num_classes, width, dtype)
    return net_of_module(module, "linear")


def resnet32_extractor(width: int = 16, dtype: str = "float32") -> Extractor:
    """The same without its classifier and without the ReLU of its last block.

    Args:
      width: channels of the first stage; features are float32[b, 4 * width].
      dtype: compute dtype.

    Raises:
      InputError: a size is below 1, or the dtype is unknown.

    Source: Hou et al. 2019, section 3.1; hshustc/CVPR19_Incremental_Learning,
      cifar100-class-incremental/modified_resnet_cifar.py.
    """
    check_net(1, dtype, width)
    module = _Trunk(width, dtype, last_relu=False)
    return extractor_of_module(module)
