"""Runs kept on disk by orbax: saved between chunks, atomically; restored to the bit, or not at all.

A folder holds one sub-folder for each group of lanes that were computed together, and in it the
last few checkpoints: the group's Run and a few words on it (whose, where, a fingerprint of every
byte). Lanes are found again one by one, each where it had come furthest, so a run may go on with
its seeds grouped in another way or on other devices.
"""

import contextlib
import hashlib
import logging
import re
import shutil
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from cls_jax.itinerary import Kept, Meter, Place
from cls_jax.processes import SaveFailed, agree, is_first
from cls_jax.stopping import Stopped, Wish
from cls_jax.types import InputError, PyTree


class Interval(NamedTuple):
    """How often to save; both None is never."""

    seconds: float | None = None
    steps: int | None = None


_UNITS = {"s": 1, "m": 60, "h": 3600}


def interval(text: str) -> Interval:
    """What ``--save-every`` says: "90s", "5m", "1h", "200steps" or "never".

    Raises:
      InputError: anything else.
    """
    if text == "never":
        return Interval()
    if found := re.fullmatch(r"(\d+(?:\.\d+)?) ?([smh])", text):
        return Interval(seconds=float(found[1]) * _UNITS[found[2]])
    if (found := re.fullmatch(r"(\d+) ?steps?", text)) and int(found[1]):
        return Interval(steps=int(found[1]))
    raise InputError(f"save_every is {text!r}; give e.g. 60s, 5m, 1h, 200steps or never")


class Checkpoints:
    """The Keeper of one method's lanes; a class because a save goes on while the run does."""

    def __init__(self, folder: Path, title: str, *, every: Interval, last: int, wish: Wish) -> None:
        """Keeps runs in ``folder``.

        Args:
          folder: of this method alone.
          title: of the method, for messages.
          every: how often a run is saved; it is always saved at its end, and when it must stop.
          last: how many checkpoints of a group stay.
          wish: whether the process has been asked to stop.
        """
        self.folder, self.title = folder, title
        self.every, self.last, self.wish = every, last, wish
        self._open: tuple[str, Any] | None = None
        logging.getLogger("absl").setLevel(logging.CRITICAL)  # orbax logs what it also raises
        # Orbax takes half a second to load: meanwhile the first step is compiled.
        threading.Thread(target=import_module, args=("orbax.checkpoint",), daemon=True).start()
        self._saved_at, self._saved_step = time.monotonic(), 0

    # --- back ---------------------------------------------------------------------------------

    def restore(self, names: Sequence[str], like: PyTree) -> tuple[dict[str, Kept], Meter]:
        """Each lane that is kept, where it had come furthest, and what all has cost."""
        kept, spent = read_lanes(self.folder, like)
        kept = {name: one for name, one in kept.items() if name in names}
        if kept and is_first():
            print(self._told_of(kept, len(names)), file=sys.stderr)
        return kept, spent

    def _told_of(self, kept: dict[str, Kept], num_lanes: int) -> str:
        """What will go on, in a line."""
        over = sum(one.place.over for one in kept.values())
        if over == num_lanes:
            return f"{self.title} is finished in {self.folder}; --restart begins anew"
        going = {
            f"{name} in task {one.place.task + 1} after step {_steps(one.run)}"
            for name, one in kept.items()
            if not one.place.over
        }
        parts = [f"{over} of {num_lanes} finished"] * bool(over) + sorted(going)[:3]
        more = f" and {len(going) - 3} more" if len(going) > 3 else ""
        return f"{self.title} goes on from {self.folder}: {', '.join(parts)}{more}"

    # --- forth --------------------------------------------------------------------------------

    def offer(self, names: Sequence[str], run: PyTree, place: Place, meter: Meter) -> None:
        """Saves if it is time, the run is over, or the process must stop; then it raises Stopped.

        Raises:
          SaveFailed: this checkpoint, or the one before, could not be written.
          Stopped: the process was asked to stop, and all is saved.
        """
        due, stop = agree([self._due(run, place.over), float(self.wish.asked is not None)])
        with self._told(place):
            if self._open is not None:
                self._open[1].check_for_errors()
            if due or stop:
                self._save(names, run, place, meter)
            if stop or place.over:
                self.close()
        if stop and not place.over:
            raise Stopped(self.wish.asked, _steps(run))

    def _due(self, run: PyTree, over: bool) -> bool:
        if over or (self.every.seconds is None and self.every.steps is None):
            return over
        if self.every.seconds is not None:
            return time.monotonic() - self._saved_at >= self.every.seconds
        return _steps(run) - self._saved_step >= self.every.steps

    def _save(self, names: Sequence[str], run: PyTree, place: Place, meter: Meter) -> None:
        import orbax.checkpoint as ocp

        self.folder.mkdir(parents=True, exist_ok=True)
        needed = 2**20 + 5 * sum(leaf.nbytes for leaf in jax.tree.leaves(run.state)) // 4
        if is_first() and (free := shutil.disk_usage(self.folder).free) < needed:
            raise OSError(f"{needed / 2**20:.1f} MiB are needed and {free / 2**20:.1f} are free")
        manager = self._manager("+".join(_short(names)))
        about = {
            "lanes": list(names),
            "stacked": bool(run.step.ndim),
            "place": list(place),
            "meter": list(meter),
            "fingerprint": fingerprint(run),
        }
        kept = jax.tree.map(jnp.copy, run)  # the run's own buffers will be donated
        number = (manager.latest_step() or 0) + 1
        both = ocp.args.Composite(run=ocp.args.StandardSave(kept), about=ocp.args.JsonSave(about))
        manager.save(number, args=both, force=True)
        self._saved_at = time.monotonic()
        self._saved_step = 0 if place.over else _steps(run)  # the next group begins anew

    def _manager(self, name: str) -> Any:
        import orbax.checkpoint as ocp

        if self._open is not None and self._open[0] != name:
            self.close()
        if self._open is None:
            options = ocp.CheckpointManagerOptions(max_to_keep=self.last)
            self._open = name, ocp.CheckpointManager(self.folder.absolute() / name, options=options)
        return self._open[1]

    def close(self) -> None:
        """Waits until everything is on disk."""
        if self._open is not None:
            manager, self._open = self._open[1], None
            try:
                manager.wait_until_finished()
            finally:
                with contextlib.suppress(Exception):
                    manager.close()

    @contextlib.contextmanager
    def _told(self, place: Place) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # whatever orbax and tensorstore raise on a full or broken disk
            for torn in self.folder.glob("*/*.orbax-checkpoint-tmp*"):
                shutil.rmtree(torn, ignore_errors=True)
            raise SaveFailed(
                f"{self.folder}: the run could not be saved in task {place.task + 1} "
                f"({_line(error)}); what was saved before is kept: free some space or mend the "
                "disk, and run the same command again"
            ) from error


def read_lanes(folder: Path, like: PyTree) -> tuple[dict[str, Kept], Meter]:
    """Every lane that is kept in ``folder``, where it had come furthest, and what all has cost.

    Args:
      folder: of one method.
      like: one lane's Run, as shapes, dtypes and shardings.
    """
    kept: dict[str, Kept] = {}
    spent = Meter()
    for group in sorted(path for path in folder.glob("*") if path.is_dir()):
        if (found := _newest_whole(group, like)) is not None:
            about, lanes = found
            place, spent = Place(*about["place"]), Meter(*map(max, spent, about["meter"]))
            for name, run in zip(about["lanes"], lanes, strict=True):
                if name not in kept or kept[name].place < place:
                    kept[name] = Kept(place, run)
    return kept, spent


def _newest_whole(group: Path, like: PyTree) -> tuple[dict[str, Any], list[PyTree]] | None:
    """The newest checkpoint of a group that can be read and has its fingerprint, lane by lane."""
    import orbax.checkpoint as ocp

    with ocp.CheckpointManager(group.absolute()) as manager:
        for number in sorted(manager.all_steps(), reverse=True):
            try:
                words = ocp.args.Composite(about=ocp.args.JsonRestore())
                about = manager.restore(number, args=words)["about"]
                size = (len(about["lanes"]),) if about["stacked"] else ()
                target = jax.tree.map(partial(_abstract, size), like)
                arrays = ocp.args.Composite(run=ocp.args.StandardRestore(target))
                run = manager.restore(number, args=arrays)["run"]
                if fingerprint(run) != about["fingerprint"]:
                    raise ValueError("its bytes have changed")
            except Exception as error:  # a torn file shows itself in many ways
                if is_first():
                    print(
                        f"warning: checkpoint {group.name}/{number} cannot be read "
                        f"({_line(error)}); the one before is taken",
                        file=sys.stderr,
                    )
                continue
            if not about["stacked"]:
                return about, [run]
            return about, [jax.tree.map(lambda leaf, i=i: leaf[i], run) for i in range(*size)]
    return None


def _abstract(size: tuple[int, ...], leaf: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
    """``leaf`` of one lane, of so many."""
    return jax.ShapeDtypeStruct((*size, *leaf.shape), leaf.dtype, sharding=leaf.sharding)


def _line(error: Exception) -> str:
    """An error of someone else's on one short line."""
    if "No space left" in str(error):
        return "no space is left on the disk"
    return " ".join(str(error).split())[:160] or type(error).__name__


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


def _steps(run: PyTree) -> int:
    """Updates that the group's furthest lane has made."""
    return int(np.max(np.asarray(run.step)))


def _short(names: Sequence[str]) -> Sequence[str]:
    """The names of a group; if many, the first, the last and a digest of all."""
    if len(names) < 3:
        return names
    digest = hashlib.blake2b("+".join(names).encode(), digest_size=4).hexdigest()
    return names[0], f"{len(names) - 2}_more", names[-1], digest
