"""Runs kept on disk by orbax: saved between chunks, atomically; restored to the bit, or not at all.

A folder holds one sub-folder for each group of trials that were computed together, and in it the
last few checkpoints (saves.py says what is in one). Trials are found again one by one, each where
it had come furthest, so a run may go on with its seeds grouped in another way or on other devices.
"""

import contextlib
import hashlib
import logging
import os
import shutil
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from cls_jax.core.errors import InputError, SaveFailed, Stopped
from cls_jax.core.paths import check_no_links
from cls_jax.core.types import PyTree
from cls_jax.training.runtime.distributed import all_max, is_primary
from cls_jax.training.runtime.preemption import StopFlag
from cls_jax.training.runtime.save_interval import Interval, interval
from cls_jax.training.runtime.saves import (
    GROUP,
    fingerprint,
    line,
    literal,
    read,
    read_trials,
    shapes_of,
    words_on,
)
from cls_jax.training.segments import Cost, Position, Restored

__all__ = ["Checkpoints", "Interval", "check_saves", "fingerprint", "interval"]


class Checkpoints:
    """The Checkpointer of one method's trials; a class, for a save goes on while the run does."""

    def __init__(
        self,
        folder: Path,
        title: str,
        *,
        every: Interval,
        last: int,
        wish: StopFlag,
        again: bool = False,
    ) -> None:
        """Keeps runs in ``folder``.

        Args:
          folder: of this method alone.
          title: of the method, for messages.
          every: how often a run is saved; it is always saved at its end, and when it must stop.
          last: how many checkpoints of a group stay.
          wish: whether the process has been asked to stop.
          again: an earlier process began this, so it is told if nothing of it was saved.
        """
        self.folder, self.title, self.again = folder, title, again
        self.every, self.last, self.wish = every, last, wish
        self._open: tuple[str, Any] | None = None
        logging.getLogger("absl").setLevel(logging.CRITICAL)  # orbax logs what it also raises
        # Orbax takes half a second to load: meanwhile the first step is compiled.
        threading.Thread(target=import_module, args=("orbax.checkpoint",), daemon=True).start()
        self._saved_at, self._saved_step = time.monotonic(), 0

    # --- back ---------------------------------------------------------------------------------

    def restore(self, names: Sequence[str], like: PyTree) -> tuple[dict[str, Restored], Cost]:
        """Each trial that is kept, where it had come furthest, and what all has cost.

        Raises:
          InputError: a trial was saved, and none of its saves can be read.
        """
        found = read_trials(self.folder, like)
        reasons = {name: why for name in names if (why := found.why_lost(name)) is not None}
        if reasons:
            name, why = next(iter(reasons.items()))
            more = f" and {len(reasons) - 1} more" if len(reasons) > 1 else ""
            raise InputError(
                f"{self.folder} has saves of {name}{more}, but none can be read ({why}); bring the "
                "files back from a copy and run the same command again; only --restart begins "
                "anew, and moves what is there aside"
            )
        kept = {name: one for name, one in found.kept.items() if name in names}
        if (kept or self.again) and is_primary():
            print(self._told_of(kept, len(names)), file=sys.stderr)
        return kept, found.spent

    def _told_of(self, kept: dict[str, Restored], num_trials: int) -> str:
        """What will go on, in a line."""
        if not kept:
            return f"{self.title} begins anew: {self.folder} has no save of it"
        over = sum(one.place.over for one in kept.values())
        if over == num_trials:
            return f"{self.title} is finished in {self.folder}; --restart begins anew"
        going = {
            f"{name} in task {one.place.task + 1} after step {_steps(one.run)}"
            for name, one in kept.items()
            if not one.place.over
        }
        parts = [f"{over} of {num_trials} finished"] * bool(over) + sorted(going)[:3]
        more = f" and {len(going) - 3} more" if len(going) > 3 else ""
        new = f"; {n} of {num_trials} begin anew" if (n := num_trials - len(kept)) else ""
        return f"{self.title} goes on from {self.folder}: {', '.join(parts)}{more}{new}"

    # --- forth --------------------------------------------------------------------------------

    def due(self, run: PyTree, place: Position) -> bool:
        """Whether ``maybe_save`` would save now."""
        return any(self._asked(run, place))

    def maybe_save(
        self,
        names: Sequence[str],
        run: PyTree,
        place: Position,
        meter: Cost,
        *,
        now: bool = False,
    ) -> None:
        """Saves if it is time, the run is over, or the process must stop; then it raises Stopped.

        Args:
          names, run, place, meter: of a group.
          now: saves in any case, and waits until all is on disk.

        Raises:
          SaveFailed: this checkpoint, or the one before, could not be written.
          Stopped: the process was asked to stop, and all is saved.
        """
        due, stop = self._asked(run, place)
        with self._as_save_failed(place):
            if self._open is not None:
                self._open[1].check_for_errors()
            if due or stop or now:
                self._save(names, run, place, meter)
            if stop or place.over or now:
                self.close()
        if stop and not place.over:
            raise Stopped(self.wish.signal, _steps(run))

    def _asked(self, run: PyTree, place: Position) -> tuple[bool, bool]:
        """Whether it is time to save, and whether the process must stop."""
        due, stop = all_max([self._due(run, place.over), float(self.wish.signal is not None)])
        return bool(due), bool(stop)

    def _due(self, run: PyTree, over: bool) -> bool:
        if over or (self.every.seconds is None and self.every.steps is None):
            return over
        if self.every.seconds is not None:
            return time.monotonic() - self._saved_at >= self.every.seconds
        assert self.every.steps is not None
        return _steps(run) - self._saved_step >= self.every.steps

    def _save(self, names: Sequence[str], run: PyTree, place: Position, meter: Cost) -> None:
        import orbax.checkpoint as ocp

        self.folder.mkdir(parents=True, exist_ok=True)
        needed = 2**20 + 5 * sum(leaf.nbytes for leaf in jax.tree.leaves(run.state)) // 4
        if is_primary() and (free := shutil.disk_usage(self.folder).free) < needed:
            raise OSError(f"{needed / 2**20:.1f} MiB are needed and {free / 2**20:.1f} are free")
        group = self.folder / "+".join(_short(names))
        manager = self._manager(group.name)
        kept = jax.tree.map(jnp.copy, run)  # the run's own buffers will be donated
        number = (manager.latest_step() or 0) + 1
        about = words_on(group, number, names, run, place, meter)
        both = ocp.args.Composite(run=ocp.args.StandardSave(kept), about=ocp.args.JsonSave(about))
        manager.save(number, args=both, force=True)
        if number == 1:
            manager.wait_until_finished()
            self._read_back(group, number, kept)
        self._saved_at = time.monotonic()
        self._saved_step = 0 if place.over else _steps(run)  # the next group begins anew

    def _read_back(self, group: Path, number: int, run: PyTree) -> None:
        """Raises OSError, and takes the save away, unless it comes back as it was."""
        try:
            read(group, number, lambda size: shapes_of(run))
        except Exception as error:
            shutil.rmtree(group / str(number), ignore_errors=True)
            raise OSError(f"what was written cannot be read back: {line(error)}") from error

    def _manager(self, name: str) -> Any:
        import orbax.checkpoint as ocp

        if self._open is not None and self._open[0] != name:
            self.close()
        if self._open is None:
            options = ocp.CheckpointManagerOptions(max_to_keep=self.last)
            self._open = name, ocp.CheckpointManager(literal(self.folder / name), options=options)
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
    def _as_save_failed(self, place: Position) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # whatever orbax and tensorstore raise on a full or broken disk
            for torn in self.folder.glob("*/*.orbax-checkpoint-tmp*"):
                shutil.rmtree(torn, ignore_errors=True)
            raise SaveFailed(
                f"{self.folder}: the run could not be saved in task {place.task + 1} "
                f"({line(error)}); what was saved before is kept: free some space or mend the "
                "disk, and run the same command again"
            ) from error


def check_saves(folder: Path) -> None:
    """Raises InputError if no runs could be kept in ``folder``; looks only, and writes nothing.

    Args:
      folder: of one method's trials, ``WORKDIR/checkpoints/NAME``, there or not yet there.
    """
    for path in (folder.parent, folder):
        _check_folder(path)
    check_no_links(folder.parent, folder.name)
    if folder.exists():
        check_no_links(folder, *sorted(os.listdir(folder)))
        for path in folder.iterdir():
            if GROUP.fullmatch(path.name):
                _check_folder(path)
    if os.path.lexists(recipe := folder / "recipe.json") and not recipe.is_file():
        raise InputError(f"{recipe} is not a file; move it away, or give another --workdir")


def _check_folder(path: Path) -> None:
    if not os.path.lexists(path):
        return
    if not path.is_dir():
        raise InputError(
            f"{path} is not a folder, and runs are saved there; move it away, or give another "
            "--workdir"
        )
    if not os.access(path, os.R_OK | os.W_OK | os.X_OK):
        raise InputError(
            f"{path} cannot be read and written, and runs are saved there; change its "
            "permissions, or give another --workdir"
        )


def _steps(run: PyTree) -> int:
    """Updates that the group's furthest trial has made."""
    return int(np.max(np.asarray(run.step)))


def _short(names: Sequence[str]) -> Sequence[str]:
    """The names of a group; if many, the first, the last and a digest of all."""
    if len(names) < 3:
        return names
    digest = hashlib.blake2b("+".join(names).encode(), digest_size=4).hexdigest()
    return names[0], f"{len(names) - 2}_more", names[-1], digest
