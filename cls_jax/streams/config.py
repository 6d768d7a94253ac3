"""The flags that fix a stream; needs no JAX."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from cls_jax.core.choices import Kind, Normalisation, TaskOrder


@dataclass(frozen=True, kw_only=True)
class InputConfig:
    """How raw examples become inputs.

    Attributes:
      normalisation: of the supervised inputs.
      crop_padding: random crops of training images padded by so many pixels; none if not given.
      flip: mirror training images at random.
      views: self-supervised views as in the official code (kornia050), or the usual ones.
      view_padding: random crops of views padded by so many pixels.
      view_flip: mirror views at random; not for digits.
    """

    normalisation: Normalisation = "half"
    crop_padding: int | None = None
    flip: bool = False
    views: Kind = "kornia050"
    view_padding: int = 4
    view_flip: bool = False


@dataclass(frozen=True, kw_only=True)
class StreamConfig(InputConfig):
    """What is seen when, and how images become inputs.

    Attributes:
      data: digits (bundled), npz:FILE, folder:DIR, a name that a file of --import registers, or a
        tfds data set: cifar10, cifar100, mnist, fashion_mnist, svhn_cropped, ...
      data_dir: where tfds data sets lie; TFDS_DATA_DIR or ~/tensorflow_datasets if not given.
      image_size: resize images once to this many pixels square; if not given 32 for digits and
        folder:DIR, else as stored.
      scrambled: read the colour planes as pixels, as APD's released code does.
      scenario: class_il (also scored as task-IL); permuted, rotated or dihedral (domain-IL: all
        classes in every task, other pixels); mnist360 (one stream of turning pairs of digits); gcil
        (random classes come back in random proportions); blurry (class_il with mixed boundaries).
      tasks: number of tasks, the classes divided evenly; or the number of classes of each task.
      batch_size: stream examples a step.
      epochs: passes over each task; 1 is the online protocol.
      base_epochs: passes over the first task, if other than over the rest. Of class_il only.
      base_classes: of the first task, the other classes divided evenly among the other tasks: 50
        and tasks 6 are 50 + 5 x 10. Of class_il only.
      class_order: shuffled by the seed, by label, or 1993: the fixed order of UCIR's tables.
      task_order: the tasks as given, shuffled by the seed, or numbers: 2 0 1 begins with task 2. Of
        class_il and domain-IL only.
      only_tasks: learn these tasks alone, by their numbers from 0; all if not given.
      validation_fraction: share of each class of the training set that is held out and scored in
        place of the test set, which is not looked at, in [0, 1); 0 scores on the test set.
      validation_seed: which examples are held out, whatever the seeds of the runs.
      drop_last: drop a task's incomplete last batch instead of padding it.
      label_fraction: probability that a batch keeps its labels, in (0, 1]; below 1 methods that
        can learn from unlabelled batches do so, if not told otherwise. Of class_il only.
      label_noise: probability that a training label is drawn anew from the classes of its task, its
        own among them, in [0, 1]; test labels stay. Of class_il and domain-IL only.
      imbalance: how many times as many training examples are kept of the class with label 0 as of
        the last one, falling exponentially between them, >= 1. Of class_il and domain-IL only.
      blur: share of each class that is spread over the other tasks, in [0, 1). Of blurry only.
      groups: task t is of group t mod groups, and tasks of a group look alike; if not given all
        are independent. Of permuted and rotated only.
      group_spread: how far the tasks of a group lie apart, in [0, 1]: the share of the pixels that
        are permuted anew, or of the angles up to the next group. Of permuted and rotated only.
      distribution: of the classes of a task. Of gcil only.
      samples_per_phase: examples of a task. Of gcil only.
      replacement: whether an image may come twice, as in the official code. Of mnist360 only.
      max_classes: classes of the label space, so that a later run (--continue) finds room for new
        ones; those of the data if not given.
      max_tasks: tasks in all, those of later runs included, for methods whose state grows with
        them; those of the stream if not given.
      first_class: the label that the data's class 0 has; 0 if not given, and with --continue the
        next free one. Give 0 there where the classes are those that were learned before.
    """

    data: str = "digits"
    data_dir: str | None = None
    image_size: int | None = None
    scrambled: bool = False
    scenario: Literal[
        "class_il", "permuted", "rotated", "dihedral", "mnist360", "gcil", "blurry"
    ] = "class_il"
    tasks: int | tuple[int, ...] = 5
    batch_size: int = 10
    epochs: int = 1
    base_epochs: int | None = None
    base_classes: int | None = None
    class_order: Literal["shuffled", "label", "1993"] = "shuffled"
    task_order: TaskOrder = "given"
    only_tasks: tuple[int, ...] = ()
    validation_fraction: float = 0.0
    validation_seed: int = 0
    drop_last: bool = False
    label_fraction: float = 1.0
    label_noise: float = 0.0
    imbalance: float = 1.0
    blur: float = 0.1
    groups: int | None = None
    group_spread: float = 0.5
    distribution: Literal["uniform", "longtail"] = "uniform"
    samples_per_phase: int = 1000
    replacement: bool = True
    max_classes: int | None = None
    max_tasks: int | None = None
    first_class: int | None = None

    def __post_init__(self) -> None:
        """Paths become absolute, so that they are right from every directory."""
        object.__setattr__(self, "data", _absolute_data(self.data))
        if self.data_dir:
            object.__setattr__(self, "data_dir", _absolute(self.data_dir))


def _absolute(path: str) -> str:
    return os.fspath(Path(os.path.expanduser(path)).absolute())


def _absolute_data(data: str) -> str:
    """``data`` with the whole path of a file or folder in it."""
    kind, _, path = data.partition(":") if isinstance(data, str) else ("", "", "")
    return f"{kind}:{_absolute(path)}" if kind in ("npz", "folder") and path else data
