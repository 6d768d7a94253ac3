"""The examples of each chunk on their way to the program: from the device, or from the host.

Both loaders give the program the same rows by the same table of integers. On the device the whole
training split lies there and a row is gathered inside the compiled chunk. On the host a chunk's
examples are gathered first, by a thread that works one chunk ahead, and the table is renumbered.
"""

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np

from cls_jax.core.types import PyTree
from cls_jax.data.dataset import Split
from cls_jax.training.batches import BatchTable
from cls_jax.training.parallel import Examples, Parallelism


class Loader(NamedTuple):
    """How a split's examples reach the program.

    Attributes:
      fetch: int32 index of examples -> examples on the device, and the index that numbers them.
      ahead: worth doing while the device computes.
    """

    fetch: Callable[[np.ndarray], tuple[Examples, np.ndarray]]
    ahead: bool


CHUNK_BYTES = 256 * 2**20
"""At most so many bytes of examples are gathered on the host for one chunk."""

DEVICE_BYTES = 4 * 2**30
"""A data set larger than this stays on the host, unless the plan says otherwise."""


def num_bytes(data: Split) -> int:
    """Of the examples' pixels."""
    return int(np.prod(data.x.shape, dtype=np.int64)) * data.x.dtype.itemsize


def make_loader(data: Split, parallelism: Parallelism, num_trials: int, *, on_host: bool) -> Loader:
    """The loader of one split.

    Args:
      data: the split, on the host (a memory map will do).
      parallelism: of the trials that read it.
      num_trials: how many they are.
      on_host: see the module's docstring.
    """
    if not on_host:
        shared = parallelism.put_data(data, num_trials)
        return Loader(lambda index: (shared, index), ahead=False)

    def fetch(index: np.ndarray) -> tuple[Examples, np.ndarray]:
        chosen, index = renumbered(data, index)
        return parallelism.put_data(chosen, num_trials), index

    return Loader(fetch, ahead=True)


def with_contexts(loader: Loader, contexts: PyTree) -> Loader:
    """``loader``, whose examples come with ``contexts`` as ``Parallelism.put_contexts`` put them.

    The examples lie on the device once for all groups of trials, the contexts once a group.
    """

    def fetch(index: np.ndarray) -> tuple[Examples, np.ndarray]:
        data, index = loader.fetch(index)
        return data._replace(contexts=contexts), index

    return loader._replace(fetch=fetch)


def prefetch(loader: Loader, parts: Iterable[BatchTable]) -> Iterator[tuple[Examples, BatchTable]]:
    """Each part with its examples, gathered one part ahead of its use."""

    def one(part: BatchTable) -> tuple[Examples, BatchTable]:
        data, index = loader.fetch(part.index)
        return data, part.replace(index=index)

    if not loader.ahead:
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


def renumbered(data: Split, index: np.ndarray) -> tuple[Split, np.ndarray]:
    """The examples of ``index`` alone, and ``index`` numbering them.

    Args:
      data: a split on the host.
      index: int32[...], -1 is padding.

    Returns:
      Examples of ``index.size + 1`` rows, the last being the split's last, which padding reads on
      both loaders; and int32 like ``index``.
    """
    flat = index.reshape(-1)
    rows = np.append(np.where(flat < 0, len(data.y) - 1, flat), len(data.y) - 1)
    numbers = np.arange(flat.size, dtype=np.int32).reshape(index.shape)
    return Split(data.x[rows], data.y[rows]), np.where(index < 0, -1, numbers)
