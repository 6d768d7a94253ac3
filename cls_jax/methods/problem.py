"""What a method has to learn: networks to choose from, augmentation, and the stream's sizes."""

from typing import Any, NamedTuple

from cls_jax.core.augment import Augment
from cls_jax.methods.optimizer import Optimizer
from cls_jax.nets.base import Net
from cls_jax.nets.dualnet import DualNets
from cls_jax.nets.extractor import Extractor
from cls_jax.nets.registry import Networks


class Problem(NamedTuple):
    """What a factory is given; two that were made of equal words are equal.

    Attributes:
      networks: what the user chose, in every form that a method may ask for.
      augment: raw examples to inputs, for training and for answers.
      num_classes: of the stream's label space.
      num_tasks: of the stream.
      shape: of one raw example, where it is known.
      optimizer: learning rate, which may be traced -> the optax optimizer of methods whose paper
        leaves it open.
      unlabelled: whether the stream has examples without labels.
      words: the InputConfig and the NetConfig it was made of, where it was made of words.
    """

    networks: Networks
    augment: Augment
    num_classes: int
    num_tasks: int
    shape: tuple[int, ...] | None = None
    optimizer: Optimizer = Optimizer()
    unlabelled: bool = False
    words: tuple[Any, Any] | None = None

    def net(self, num_outputs: int | None = None) -> Net:
        """The network with so many outputs; with one a class if not given."""
        return self.networks.net(self.num_classes if num_outputs is None else num_outputs)

    def extractor(self) -> Extractor:
        """The network up to its features, for a cosine classifier."""
        return self.networks.extractor()

    def dualnets(self, *, predictor: bool = False) -> DualNets:
        """DualNet's slow and fast network."""
        return self.networks.dualnets(self.num_classes, predictor=predictor)
