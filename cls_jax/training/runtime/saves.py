"""What one save holds, and how it is read again: to the byte, or not at all.

A save is a group's Run and a few words on it: whose it is, where it was, what it had cost. A digest
covers the words, and a fingerprint among them covers the Run, so whatever has changed is found.
"""

import contextlib
import functools
import gc
import glob
import hashlib
import io
import json
import logging
import os
import re
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from cls_jax.core.types import PyTree
from cls_jax.training.runtime.distributed import is_primary
from cls_jax.training.segments import Cost, Position, Restored

GROUP = re.compile(r"(value\d+_)?seed-?\d+(\+[\w+-]+)?")
"""The names of groups' folders; whatever else lies beside them is not ours."""


class Words(NamedTuple):
    """What is said of a save.

    Attributes:
      method, group, number: the folders that it lies in, so that none is taken for another.
      trials: names of the trials of the Run.
      stacked: whether the Run has a leading axis of trials.
      place, meter: see segments.py.
      fingerprint: of the Run.
    """

    method: str
    group: str
    number: int
    trials: list[str]
    stacked: bool
    place: list[int]
    meter: list[float]
    fingerprint: str


def words_on(
    group: Path, number: int, trials: Sequence[str], run: PyTree, place: Position, meter: Cost
) -> dict[str, Any]:
    """The words on a save, with the digest of them all; JSON-ready.

    Args:
      group: folder of the group, in that of its method.
      number: of the save.
      trials: their names.
      run: the group's Run.
      place: how far it is.
      meter: what it has cost.
    """
    whose = group.parent.name, group.name, number, list(trials), bool(run.step.ndim)
    words = Words(*whose, list(place), list(meter), fingerprint(run))._asdict()
    return {**words, "digest": _digest(words)}


def _digest(words: Mapping[str, Any]) -> str:
    """32 hex digits over names, types and values of all words."""
    plain = json.dumps(words, sort_keys=True)
    return hashlib.blake2b(plain.encode(), digest_size=16).hexdigest()


def _understood(group: Path, number: int, found: Any) -> Words:
    """The words that were ``found`` on a save.

    Raises:
      ValueError: they are not those that were written there.
    """
    if not isinstance(found, dict) or "digest" not in found:
        raise ValueError("its words have no digest: an earlier version of cls_jax saved it")
    digest, words = found["digest"], {k: v for k, v in found.items() if k != "digest"}
    if digest != _digest(words) or words.keys() != {*Words._fields}:
        raise ValueError("its words have changed")
    whose, here = Words(**words), (group.parent.name, group.name, number)
    if whose[:3] != here:
        raise ValueError(f"it is save {'/'.join(map(str, whose[:3]))}, put here by someone else")
    return whose


def shapes_of(tree: PyTree, size: tuple[int, ...] = ()) -> PyTree:
    """Shapes, dtypes and shardings of a tree's leaves, with axes of ``size`` before the others."""

    def of(leaf: Any) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct((*size, *leaf.shape), leaf.dtype, sharding=leaf.sharding)

    return jax.tree.map(of, tree)


def saves_of(group: Path) -> list[int]:
    """Numbers of the saves that are finished, the newest first."""
    names = [path.name for path in group.iterdir() if path.is_dir()]
    return sorted((int(n) for n in names if re.fullmatch(r"0|[1-9]\d{0,17}", n)), reverse=True)


def groups_in(folder: Path) -> list[Path]:
    """The folders of groups in the ``folder`` of a method."""
    if not folder.is_dir():
        return []
    return sorted(p for p in folder.iterdir() if GROUP.fullmatch(p.name) and p.is_dir())


class Found(NamedTuple):
    """What ``read_trials`` finds.

    Attributes:
      kept: each trial that can be read, where it had come furthest.
      spent: what all has cost.
      lost: group that has saves, none of which can be read -> why.
    """

    kept: dict[str, Restored]
    spent: Cost
    lost: dict[str, str]

    def why_lost(self, trial: str) -> str | None:
        """Why no save of ``trial`` can be read; None if there is none, or one that can."""
        if trial in self.kept:
            return None
        for group, why in self.lost.items():
            parts = group.split("+")  # many names are shortened: then it may be any trial's
            if trial in parts or len(parts) > 2:
                return why
        return None


def read_trials(folder: Path, like: PyTree) -> Found:
    """Every trial that is kept in ``folder``.

    Args:
      folder: of one method.
      like: one trial's Run, as shapes, dtypes and shardings.
    """
    kept: dict[str, Restored] = {}
    spent, lost = Cost(), {}
    for group in groups_in(folder):
        found = _newest_whole(group, like)
        if isinstance(found, str):
            lost[group.name] = found
        elif found is not None:
            words, trials = found
            place, spent = Position(*words.place), Cost._make(map(max, spent, words.meter))
            for name, run in zip(words.trials, trials, strict=True):
                if name not in kept or kept[name].place < place:
                    kept[name] = Restored(place, run)
    return Found(kept, spent, lost)


def _newest_whole(group: Path, like: PyTree) -> tuple[Words, list[PyTree]] | str | None:
    """The newest whole save of a group, trial by trial; why there is none; None: no save."""
    try:
        numbers = saves_of(group)
    except OSError as error:
        return line(error)
    why = None
    for number in numbers:
        try:
            words, run = read(group, number, lambda size: shapes_of(like, size))
        except Exception as error:  # a torn file shows itself in many ways
            why = line(error)
            then = "the one before is taken" if number > numbers[-1] else "there is none before it"
            if is_primary():
                text = f"warning: checkpoint {group.name}/{number} cannot be read ({why}); {then}"
                print(text, file=sys.stderr)
            continue
        if not words.stacked:
            return words, [run]
        several = range(len(words.trials))
        return words, [jax.tree.map(lambda leaf, i=i: leaf[i], run) for i in several]
    return why


def read(
    group: Path, number: int, shaped: Callable[[tuple[int, ...]], PyTree]
) -> tuple[Words, PyTree]:
    """One save: what is said of it, and its Run.

    Args:
      group: its folder.
      number: of the save.
      shaped: () or (trials,) -> the Run as shapes, dtypes and shardings, with such a leading axis.

    Raises:
      ValueError: it is not what was saved.
      Exception: whatever orbax and tensorstore raise for what they cannot read.
    """
    import orbax.checkpoint as ocp

    where = literal(group) / str(number)
    with _muted(), ocp.Checkpointer(ocp.CompositeCheckpointHandler()) as reader:
        words = ocp.args.Composite(about=ocp.args.JsonRestore())
        about = _understood(group, number, reader.restore(where, args=words)["about"])
        target = shaped((len(about.trials),) if about.stacked else ())
        arrays = ocp.args.Composite(run=ocp.args.StandardRestore(target))
        run = reader.restore(where, args=arrays)["run"]
        if fingerprint(run) != about.fingerprint:
            raise ValueError("its bytes have changed")
    return about, run


@contextlib.contextmanager
def _muted() -> Iterator[None]:
    """Inside, orbax says what is wrong once: it raises, and the reads that it gave up are quiet."""
    logger = logging.getLogger("asyncio")
    before = logger.level
    logger.setLevel(logging.CRITICAL + 1)
    try:
        with contextlib.redirect_stderr(io.StringIO()):
            try:
                yield
            except Exception as error:
                error.__traceback__ = None  # it holds what was given up
                time.sleep(0.1)
                gc.collect()
                raise
    finally:
        logger.setLevel(before)


def literal(folder: Path) -> Any:
    """The path of ``folder`` as orbax takes it: every character stands for itself.

    Orbax looks for files of a save with the folder's whole path as a pattern, in which [..], * and
    ? have a meaning; and it takes /gs, /s3, /az and /hf for stores in the cloud.
    """
    return _literal_path()(folder.absolute())


@functools.cache
def _literal_path() -> type:
    from etils import epath  # orbax's own paths; as late as orbax

    class Literal(type(epath.Path())):
        _uri_scheme = None

        def glob(self: Any, pattern: str) -> Iterator[Any]:
            for path in glob.glob(os.path.join(glob.escape(os.fspath(self)), pattern)):
                yield self._new(path)

    return Literal


def line(error: Exception) -> str:
    """An error of someone else's on one short line."""
    if "No space left" in str(error):
        return "no space is left on the disk"
    short = re.split(r" See full TensorStore| \[tensorstore_spec", " ".join(str(error).split()))[0]
    return short[:160] or type(error).__name__


def fingerprint(tree: PyTree) -> str:
    """32 hex digits (blake2b) over structure, shapes, dtypes and every byte of a tree of arrays.

    Arrays that lie whole on several devices or processes count once.
    """
    digest = hashlib.blake2b(digest_size=16)
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            leaf = jax.random.key_data(leaf)
        if leaf.is_fully_replicated:
            leaf = leaf.addressable_data(0)
        array = np.ascontiguousarray(np.asarray(leaf))
        digest.update(f"{jax.tree_util.keystr(path)}{array.dtype.str}{leaf.shape}".encode())
        digest.update(array.reshape(-1).view(np.uint8).data)
    return digest.hexdigest()
