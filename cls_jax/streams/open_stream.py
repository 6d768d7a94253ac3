"""A stream that nobody knows beforehand: sizes alone; its batches come from the user."""

import math
from collections.abc import Sequence
from functools import lru_cache

import numpy as np

from cls_jax.core.checks import short_repr, whole, wholes
from cls_jax.core.errors import InputError
from cls_jax.core.host_memory import check_bytes
from cls_jax.core.types import Array
from cls_jax.data.dataset import Dataset, Split
from cls_jax.streams.stream import Schedule, Stream

SCENARIO = "open"


def open_stream(
    shape: Sequence[int], num_classes: int, *, num_tasks: int = 1, batch_size: int = 10
) -> Stream:
    """The sizes of a stream whose batches come from the user; see ``online``.

    Args:
      shape: of one raw example: (height, width, channels) of uint8 pixels, or (d,) of float32s.
      num_classes: how many classes there is room for; labels are 0 to ``num_classes - 1``.
      num_tasks: how many tasks there is room for; 1 where none are announced.
      batch_size: most examples of one batch.

    Raises:
      InputError: for sizes that there are not.

    Example:
      >>> import cls_jax as cls
      >>> stream = cls.open_stream((8, 8, 1), num_classes=10, batch_size=32)
      >>> method = cls.er(cls.problem(stream, net="mlp"), memory_size=100)
    """
    sizes = wholes("shape", shape)
    if len(sizes) not in (1, 3) or min(sizes) < 1:
        raise InputError(
            f"shape is {short_repr(shape)}; give that of one example: (height, width, channels) "
            "for images, (d,) for vectors"
        )
    numbers = {"num_classes": num_classes, "num_tasks": num_tasks, "batch_size": batch_size}
    numbers = {name: whole(name, value, 1, 2**31 - 1) for name, value in numbers.items()}
    width = 1 if len(sizes) == 3 else 4
    needed = width * numbers["batch_size"] * math.prod(sizes)
    check_bytes(f"batch_size {numbers['batch_size']}", needed, "give a smaller batch_size")
    return _open_stream(sizes, **numbers)


@lru_cache  # equal sizes share compiled programs
def _open_stream(
    shape: tuple[int, ...], num_classes: int, num_tasks: int, batch_size: int
) -> Stream:
    def schedule(key: Array, *, epochs: int | None = None, shuffle: int = 0) -> Schedule:
        raise InputError(_OPEN)

    x = np.zeros((0, *shape), np.uint8 if len(shape) == 3 else np.float32)
    none = Split(x, np.zeros(0, np.int32))
    names = tuple(map(str, range(num_classes)))
    return Stream(
        name=f"open stream, {num_classes} classes",
        source=Dataset("open stream", none, none, names),
        num_tasks=num_tasks,
        batch_size=batch_size,
        schedule=schedule,
        describe={"scenario": SCENARIO},
    )


def is_open(stream: Stream) -> bool:
    """Whether its batches come from the user."""
    return stream.describe.get("scenario") == SCENARIO


def check_not_open(stream: Stream) -> None:
    """Raises InputError if the batches of ``stream`` come from the user."""
    if isinstance(stream, Stream) and is_open(stream):
        raise InputError(_OPEN)


_OPEN = "stream is open: its batches come from you; give them to cls.online(method, stream)"
