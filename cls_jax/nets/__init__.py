"""Networks: pure functions over explicit variables, one architecture a file."""

from cls_jax.nets.bnnet import bnnet
from cls_jax.nets.dualnet import DualNets, Embedding, dualnet
from cls_jax.nets.mlp import mlp
from cls_jax.nets.net import ApplyFn, InitVarsFn, Net
from cls_jax.nets.resnet import resnet18

__all__ = [
    "ApplyFn",
    "DualNets",
    "Embedding",
    "InitVarsFn",
    "Net",
    "bnnet",
    "dualnet",
    "mlp",
    "resnet18",
]
