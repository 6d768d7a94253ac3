"""MNIST-360: pairs of digits that turn while they are shown; no task ever begins or ends.

The classes come as the pairs (0, 1), (1, 2), ..., (8, 0), three rounds of them. Each class is cut
into six chunks, one for each of its six visits, and turns once around over the whole stream.
"""

from typing import NamedTuple

import jax
import numpy as np

from cls_jax.core.checks import whole, yes_no
from cls_jax.core.errors import InputError
from cls_jax.core.keys import ScheduleKey
from cls_jax.core.types import Array
from cls_jax.data.checked import checked
from cls_jax.data.dataset import Dataset, Split
from cls_jax.streams.indexing import check_batch, epochs_of, random_bits
from cls_jax.streams.rotation import check_square, rotate, rotation
from cls_jax.streams.stream import Rows, Schedule, Stream, schedule_of

_CLASSES, _ROUNDS = 9, 3
_LABELS = 10  # outputs of the published networks
_CHUNKS = 2 * _ROUNDS  # of each class: it is in two pairs a round


def mnist360(
    source: Dataset, *, batch_size: int = 16, epochs: int = 1, replacement: bool = True
) -> Stream:
    """The first nine classes as one stream of pairs, each image turned a little further.

    A batch is shared between the two classes in proportion to what their chunks still hold; when
    either chunk is used up the next pair comes. Image number s of class j, counted over its whole
    stream of n_j examples, is turned by 60 (j - 1) + 360 s / n_j degrees, counter-clockwise.

    Args:
      source: square images of at least nine classes; those of further classes are left out.
      batch_size: stream examples a step; a pair's last batch may be smaller and is padded.
      epochs: passes over the stream; 1 in the papers.
      replacement: draw each image from its whole chunk, as the official code does; otherwise no
        image is served twice in a pass. Both serve equally many.

    Returns:
      A stream of one task and nine classes. The label space has the tenth class too, if the source
      has it: no label says so, but the published networks have an output for it. ``contexts`` are
      rotations, int32[K, 6]: the identity, then one for each example of a pass. The test images are
      rotated already, in ``source``: image s of the n of its class by 360 s / n degrees, so they
      are tested under the identity.

    Raises:
      InputError: for fewer than nine classes, images that are not square, a class too small to be
        cut into six chunks, a batch larger than every pair of chunks, or data that is not sound.

    Source: Buzzega et al. 2020 (DER), section 4.3; aimagelab/mammoth, datasets/mnist_360.py.
    Departs: every test image counts once; the official test stream opens its loader anew for each
      batch, so that some images are tested several times (with the present loaders only those of
      each class's first batch). The draws come from the stream's own key.
    """
    source, replacement = checked(source), yes_no("replacement", replacement)
    batch_size, epochs = whole("batch_size", batch_size, 1), whole("epochs", epochs, 1)
    side = check_square(source)
    nine = _nine_classes(source)
    counts = np.bincount(nine.train.y, minlength=_CLASSES)
    plan = _serve(_chunk_sizes(nine.name, counts), batch_size)
    served = plan.chunk >= 0
    chunk_of_class = np.maximum(plan.chunk, 0) // _CHUNKS
    degrees = 60 * (chunk_of_class - 1) + plan.turn * (360 / counts[chunk_of_class])
    contexts = rotation(np.append(0.0, degrees[served]), side)  # the first turns nothing
    context = np.where(served, np.cumsum(served).reshape(served.shape), 0).astype(np.int32)
    default_epochs = epochs

    # Examples in the order of their chunks; a chunk is a stretch of its class in the data's order.
    number = _rank(nine.train.y)
    chunk_of_example = nine.train.y * _CHUNKS + number // (counts // _CHUNKS + 1)[nine.train.y]
    sizes = np.bincount(chunk_of_example, minlength=_CLASSES * _CHUNKS)
    starts = np.cumsum(sizes) - sizes

    def one_pass(key: Array) -> np.ndarray:
        """int32[num_steps, b]"""
        if replacement:
            order = np.argsort(chunk_of_example, kind="stable")
            place = jax.random.randint(key, plan.chunk.shape, 0, sizes[plan.chunk])
        else:
            noise = random_bits(key, number.shape)
            order, place = np.lexsort((noise, chunk_of_example)), plan.place
        return np.where(served, order[starts[plan.chunk] + np.asarray(place)], -1).astype(np.int32)

    def schedule(key: Array, *, epochs: int | None = None, shuffle: int = 0) -> Schedule:
        passes = default_epochs if epochs is None else epochs
        key_draw = jax.random.fold_in(jax.random.fold_in(key, ScheduleKey.DRAW), shuffle)
        index = np.concatenate(
            [one_pass(jax.random.fold_in(key_draw, number)) for number in range(passes)]
        )
        return schedule_of(
            Rows(
                index=index,
                task=np.zeros(len(index), np.int32),
                epoch=epochs_of([len(plan.chunk)], [passes]),
                labelled=np.ones(index.shape, bool),
                context=np.tile(context, (passes, 1)),
            ),
            task_classes=np.arange(nine.num_classes)[None] < _CLASSES,
            test_index=np.arange(nine.test.y.size, dtype=np.int32)[None],
            contexts=contexts,
            test_context=np.zeros(1, np.int32),
        )

    return Stream(
        name=f"{source.name}-360, one stream of 9 turning classes",
        source=_turned_tests(nine, side),
        num_tasks=1,
        batch_size=batch_size,
        schedule=schedule,
        describe={
            "scenario": "general",
            "stream": "mnist360",
            "tasks": 1,
            "batch_size": batch_size,
            "epochs": epochs,
            "replacement": replacement,
        },
        transform=rotate,
    )


class _Plan(NamedTuple):
    """What is served where, int[num_steps, b] each: the same for every key.

    ``chunk``: number of class times six plus number of chunk, -1 for padding; ``place``: how many
    images this chunk gave before; ``turn``: how many its class gave before.
    """

    chunk: np.ndarray
    place: np.ndarray
    turn: np.ndarray


def _serve(sizes: np.ndarray, batch_size: int) -> _Plan:
    """``sizes`` int[9, 6]: examples of each chunk."""
    pairs = sizes[:, 0] + np.roll(sizes[:, 0], -1)
    check_batch(batch_size, pairs, pairs, False, "a pair of chunks")
    turn, visits = np.zeros(_CLASSES, int), np.zeros(_CLASSES, int)
    steps: list[np.ndarray] = []
    for pair in [(j, (j + 1) % _CLASSES) for j in range(_CLASSES)] * _ROUNDS:
        now = [_CHUNKS - 1 - visits[j] for j in pair]  # the last chunk comes first
        left = [int(sizes[j, k]) for j, k in zip(pair, now, strict=True)]
        while min(left) > 0:
            first = min(round(left[0] / sum(left) * batch_size), left[0])
            step = np.full((3, batch_size), -1)
            begin = 0
            for i, take in enumerate((first, min(batch_size - first, left[1]))):
                j, k = pair[i], now[i]
                here, offset = slice(begin, begin + take), np.arange(take)
                step[0, here] = j * _CHUNKS + k
                step[1, here] = sizes[j, k] - left[i] + offset
                step[2, here] = turn[j] + offset
                turn[j] += take
                left[i] -= take
                begin += take
            steps.append(step)
        visits[list(pair)] += 1
    return _Plan(*np.stack(steps, axis=1))


def _chunk_sizes(name: str, counts: np.ndarray) -> np.ndarray:
    """int[9, 6]; all chunks of a class are equal but the last, which is smaller."""
    full = counts // _CHUNKS + 1
    last = counts - (_CHUNKS - 1) * full
    if last.min() < 1:
        label = int(last.argmin())
        raise InputError(
            f"{name} has {counts[label]} training examples of class {label}, which cannot be cut "
            "into six chunks; use a data set with at least 36 of each class"
        )
    return np.column_stack([np.tile(full[:, None], _CHUNKS - 1), last])


def _nine_classes(source: Dataset) -> Dataset:
    if source.num_classes < _CLASSES:
        raise InputError(
            f"{source.name} has {source.num_classes} classes but MNIST-360 needs nine; use mnist, "
            "digits or another data set with at least nine"
        )
    train, test = (Split(x[y < _CLASSES], y[y < _CLASSES]) for x, y in (source.train, source.test))
    return Dataset(source.name, train, test, source.label_names[:_LABELS])


def _rank(labels: np.ndarray) -> np.ndarray:
    """How many examples of its class stand before each."""
    order = np.argsort(labels, kind="stable")
    counts = np.bincount(labels)
    rank = np.empty(labels.size, int)
    rank[order] = np.arange(labels.size) - np.repeat(np.cumsum(counts) - counts, counts)
    return rank


def _turned_tests(source: Dataset, side: int) -> Dataset:
    x, y = source.test
    matrices = rotation(_rank(y) * (360 / np.bincount(y)[y]), side)
    turned = jax.lax.map(lambda p: rotate(p[0][None], p[1])[0], (x, matrices), batch_size=256)
    return source._replace(test=Split(np.asarray(turned), y))
