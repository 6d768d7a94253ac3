"""The examples of each chunk on their way to the program: from the device, or from the host.

Both roads give the program the same rows by the same table of integers. On the device the whole
training split lies there and a row is gathered inside the compiled chunk. On the host a chunk's
examples are gathered first, by a thread that works one chunk ahead, and the table is renumbered.
"""

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np

from cls_jax.data.dataset import Examples
from cls_jax.train.batches import Rows
from cls_jax.train.parallel import Placement


class Road(NamedTuple):
    """How a split's examples reach the program.

    Attributes:
      look: int32 index of examples -> examples on the device, and the index that numbers them.
      ahead: worth doing while the device computes.
    """

    look: Callable[[np.ndarray], tuple[Examples, np.ndarray]]
    ahead: bool


CHUNK_BYTES = 256 * 2**20
"""At most so many bytes of examples are gathered on the host for one chunk."""

DEVICE_BYTES = 4 * 2**30
"""A data set larger than this stays on the host, unless the plan says otherwise."""


def num_bytes(data: Examples) -> int:
    """Of the examples' pixels."""
    return int(np.prod(data.x.shape, dtype=np.int64)) * data.x.dtype.itemsize


def make_road(data: Examples, placement: Placement, num_lanes: int, *, on_host: bool) -> Road:
    """The road of one split.

    Args:
      data: the split, on the host (a memory map will do).
      placement: of the lanes that read it.
      num_lanes: how many they are.
      on_host: see the module's docstring.
    """
    if not on_host:
        shared = placement.share(data, num_lanes)
        return Road(lambda index: (shared, index), ahead=False)

    def look(index: np.ndarray) -> tuple[Examples, np.ndarray]:
        chosen, index = renumbered(data, index)
        return placement.share(chosen, num_lanes), index

    return Road(look, ahead=True)


def feed(road: Road, parts: Iterable[Rows]) -> Iterator[tuple[Examples, Rows]]:
    """Each part with its examples, gathered one part ahead of its use."""

    def one(part: Rows) -> tuple[Examples, Rows]:
        data, index = road.look(part.index)
        return data, part.replace(index=index)

    if not road.ahead:
        yield from map(one, parts)
        return
    with ThreadPoolExecutor(1) as pool:
        coming = None
        for part in parts:
            ready, coming = coming, pool.submit(one, part)
            if ready is not None:
                yield ready.result()
        if coming is not None:
            yield coming.result()


def renumbered(data: Examples, index: np.ndarray) -> tuple[Examples, np.ndarray]:
    """The examples of ``index`` alone, and ``index`` numbering them.

    Args:
      data: a split on the host.
      index: int32[...], -1 is padding.

    Returns:
      Examples of ``index.size + 1`` rows, the last being the split's last, which padding reads on
      both roads; and int32 like ``index``.
    """
    flat = index.reshape(-1)
    rows = np.append(np.where(flat < 0, len(data.y) - 1, flat), len(data.y) - 1)
    numbers = np.arange(flat.size, dtype=np.int32).reshape(index.shape)
    return Examples(data.x[rows], data.y[rows]), np.where(index < 0, -1, numbers)
