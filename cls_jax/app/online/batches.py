"""What a user hands over to an online learner: checked on the host, then padded to one shape."""

from typing import Any

import numpy as np

from cls_jax.core.checks import as_trained_on, short_repr
from cls_jax.core.errors import InputError
from cls_jax.data.dataset import Split
from cls_jax.methods.base import Method
from cls_jax.streams.stream import Stream
from cls_jax.training.batches import BatchTable
from cls_jax.training.parallel import Examples


def checked_examples(x: Any, y: Any, method: Method, stream: Stream, classes: np.ndarray) -> Split:
    """Examples as the method takes them, in arrays that nobody else writes to.

    Args:
      x, y: arrays of NumPy, JAX, PyTorch or TensorFlow, or lists: raw examples and their labels; -1
        is an example without one.
      method: that learns them.
      stream: that is open.
      classes: bool[num_classes], of the task.

    Raises:
      InputError: for examples of another shape, kind or range, or labels that are none, or that a
        method which is told its classes was not told.
    """
    of = stream.source.train.x
    x = as_trained_on(x, of.shape[1:], of.dtype.name, method.name)
    y = _labels(y, len(x))
    low, high = int(y.min()), int(y.max())
    if high >= stream.num_classes or low < -1:
        raise InputError(
            f"y has the label {high if low >= -1 else low}; the open stream has room for the "
            f"labels 0 to {stream.num_classes - 1}"
        )
    if low < 0 and not method.needs.unlabelled:
        raise InputError(
            f"y has -1, an example without a label, from which {method.name} does not learn; leave "
            "such examples out"
        )
    if method.needs.told_task and not classes[y[y >= 0]].all():
        other = y[y >= 0][~classes[y[y >= 0]]][0]
        raise InputError(
            f"y has the label {other}, and {method.name} was told that this task has the classes "
            f"{np.flatnonzero(classes).tolist()}; begin a task that has it, or leave such examples "
            "out"
        )
    return Split(x, y.astype(np.int32))


def checked_data(
    data: Any, method: Method, stream: Stream, classes: np.ndarray
) -> tuple[Examples, BatchTable]:
    """Every example of a task, and the rows that number them.

    Tasks that fill another number of batches are another program: padding to one size would change
    the rounding of sums over all examples.

    Args:
      data: (x, y), of any length.
      method, stream, classes: as for ``checked_examples``.

    Raises:
      InputError: as ``checked_examples``, or it is no pair.
    """
    try:
        x, y = data
    except (TypeError, ValueError):
        raise InputError(
            f"data is {short_repr(data)}; give (x, y), every example of the task and its label"
        ) from None
    given = checked_examples(x, y, method, stream, classes)
    return as_rows(given, -(-len(given.y) // stream.batch_size), stream.batch_size)


def _labels(y: Any, num_examples: int) -> np.ndarray:
    """Integers [n], as many as there are examples, at least one."""
    try:
        array = np.asarray(y)
    except (ValueError, TypeError):
        raise InputError(f"y is {short_repr(y)}; give integers [n], a label an example") from None
    if not num_examples:
        raise InputError("x has no example; give at least one")
    if array.ndim != 1 or array.dtype.kind not in "iu":
        raise InputError(
            f"y is {array.dtype}{[*array.shape]}; give integers [n], the number of the class"
        )
    if len(array) != num_examples:
        raise InputError(
            f"x has {num_examples} examples and y has {len(array)} labels; they must be as many"
        )
    return array


def as_rows(
    given: Split, num_rows: int, batch_size: int, epoch: int = 0
) -> tuple[Examples, BatchTable]:
    """The examples in so many rows of a batch each, and the table that numbers them.

    Args:
      given: at most ``num_rows * batch_size`` examples.
      num_rows, batch_size: padding makes up for what there is too little of.
      epoch: the pass over the task that they belong to.
    """
    n, size = len(given.y), num_rows * batch_size
    if n < size:
        padded = Split(*(np.zeros((size, *leaf.shape[1:]), leaf.dtype) for leaf in given))
        padded.x[:n], padded.y[:n] = given
        given = padded
    index = np.arange(size, dtype=np.int32)
    table = BatchTable(
        index=np.where(index < n, index, -1).reshape(num_rows, batch_size),
        labelled=(given.y >= 0).reshape(num_rows, batch_size),
        active=np.ones(num_rows, bool),
        epoch=np.full(num_rows, epoch, np.int32),
        context=None,
    )
    # NumPy's until a program takes them, which is faster than to put them there first.
    return Examples(*given), table  # pyright: ignore[reportArgumentType]
