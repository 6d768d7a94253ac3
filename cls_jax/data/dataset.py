"""A data set: two splits of labelled examples, and the names of its classes."""

from typing import NamedTuple

import numpy as np


class Split(NamedTuple):
    """A split: x uint8[n, h, w, c] (or float32[n, d]) and y int32[n].

    ``x`` is in memory, or a read-only ``np.memmap`` of what was decoded once (see ``cache.py``).
    """

    x: np.ndarray
    y: np.ndarray


class Dataset(NamedTuple):
    """A labelled data set.

    Attributes:
      name: as the first printed line tells it, e.g. "cifar10".
      train, test: its two splits.
      label_names: one a class; its length is the number of classes.
    """

    name: str
    train: Split
    test: Split
    label_names: tuple[str, ...]

    @property
    def num_classes(self) -> int:
        """How many classes the label space has."""
        return len(self.label_names)
