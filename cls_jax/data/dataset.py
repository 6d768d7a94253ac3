"""A data set: two splits of labelled examples, and the names of its classes."""

from collections.abc import Sequence
from typing import Any, NamedTuple

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

    @classmethod
    def from_arrays(
        cls,
        x: Any,
        y: Any,
        x_test: Any = None,
        y_test: Any = None,
        *,
        test_fraction: float | None = None,
        seed: int = 0,
        name: str = "arrays",
        label_names: Sequence[str] | None = None,
    ) -> "Dataset":
        """A data set of arrays of NumPy or JAX, or lists.

        Args:
          x: raw images of whole numbers 0..255, [n, h, w, c] or [n, h, w], or vectors of floats
            [n, d], e.g. features of a trained network.
          y: whole numbers 0..C-1, [n] or [n, 1].
          x_test, y_test: the same of the test examples.
          test_fraction: in place of them: so much of every class is held out, drawn by ``seed``.
          seed: of that draw.
          name: as tables and records tell it.
          label_names: one a class; "0", "1", ... if not given.

        Returns:
          x uint8[n, h, w, c] or float32[n, d], y int32[n].

        Raises:
          InputError: naming the array that does not fit; or not one of test examples and
            ``test_fraction``.

        Example:
          >>> x, y = np.zeros((20, 3)), np.arange(20) % 2
          >>> data = Dataset.from_arrays(x, y, test_fraction=0.2)
          >>> len(data.train.y), np.bincount(data.test.y).tolist()
          (16, [2, 2])
        """
        from cls_jax.data.arrays import from_arrays

        test = {"test_fraction": test_fraction, "seed": seed}
        return from_arrays(x, y, x_test, y_test, name=name, label_names=label_names, **test)

    @classmethod
    def from_huggingface(
        cls,
        train: Any,
        test: Any = None,
        *,
        image: str = "image",
        label: str = "label",
        size: int | None = None,
        test_fraction: float | None = None,
        seed: int = 0,
        name: str | None = None,
    ) -> "Dataset":
        """A data set of Hugging Face's ``datasets``, read once into memory.

        Args:
          train, test: two of its splits, e.g. ``load_dataset(..., split="train")``, not streamed.
          image: column of pictures, or of vectors of floats.
          label: column of classes, whole numbers or a ClassLabel, whose names are taken.
          size: pixels; pictures are resized to size x size. As they are if not given.
          test_fraction, seed: in place of ``test``, as for ``from_arrays``.
          name: as tables and records tell it; what ``datasets`` calls it if not given.

        Raises:
          InputError: it is none, or an example of it does not fit.
        """
        from cls_jax.data.rows import from_huggingface

        how = {"size": size, "test_fraction": test_fraction, "seed": seed, "name": name}
        return from_huggingface(train, test, image=image, label=label, **how)

    @classmethod
    def from_torch(
        cls,
        train: Any,
        test: Any = None,
        *,
        size: int | None = None,
        test_fraction: float | None = None,
        seed: int = 0,
        name: str | None = None,
    ) -> "Dataset":
        """A map-style data set of PyTorch or torchvision, read once into memory.

        Args:
          train, test: data sets with ``len()`` and ``[i]`` that give pairs of picture and label: of
            Pillow or uint8[h, w, c], so without transforms, or vectors of floats. The names of the
            classes are ``train.classes``, where it has them.
          size: pixels; pictures are resized to size x size. As they are if not given.
          test_fraction, seed: in place of ``test``, as for ``from_arrays``.
          name: as tables and records tell it; the name of its class if not given.

        Raises:
          InputError: it is none, or an example of it does not fit.
        """
        from cls_jax.data.rows import from_torch

        how = {"size": size, "test_fraction": test_fraction, "seed": seed, "name": name}
        return from_torch(train, test, **how)
