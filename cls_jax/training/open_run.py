"""A run whose batches come one by one, from somebody who alone knows what comes next.

The programs, the keys and the order of boundaries and phases are those of ``loop.py``: the same
batches give the same bits.
"""

from collections import deque
from itertools import takewhile
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from cls_jax.core.types import PyTree
from cls_jax.training.batches import BatchTable, told_task
from cls_jax.training.loop import collect, cross_boundary
from cls_jax.training.parallel import Examples
from cls_jax.training.programs import Programs
from cls_jax.training.run import Run, copied
from cls_jax.training.segments import START, Position, Restored, Segment, remaining_segments

AHEAD = 64
"""So many steps the device may be behind before the next one waits, and looks whether the metrics
of the oldest were finite."""


class _Made(NamedTuple):
    """A step that was made: its ChunkMetrics on the device, its row, and the task."""

    found: PyTree
    row: BatchTable
    task: int


class OpenRun:
    """Where the run is, and how it moves on; a class, for each step continues the one before.

    Attributes:
      run: its Run; the buffers are given up with the next step.
      place: everything before it is done.
      classes: bool[num_tasks, num_classes], of the tasks so far; never changed in place.
      updates: steps made, those on memory alone included.
    """

    def __init__(
        self, programs: Programs, seed: int, kept: Restored | None, classes: np.ndarray
    ) -> None:
        """Begins, or goes on.

        Args:
          programs: for one trial.
          seed: of the run.
          kept: what was saved of it.
          classes: see there.
        """
        self.programs, self.seed, self.classes = programs, seed, classes
        if kept is None:
            hyper = {name: jnp.float32(value) for name, value in programs.method.hyper.items()}
            self.place, run = START, programs.start(hyper, np.uint32(seed))
        else:
            self.place, run = kept.place, programs.parallelism.stack([kept.run])
        self.run: Run = copied(run)
        self.updates = int(run.step)
        self._tell(max(self.place.task, 0))
        self._made: deque[_Made] = deque()
        self._seen: _Made | None = None

    # --- where it is ------------------------------------------------------------------------------

    @property
    def learning(self) -> bool:
        """Whether a task has begun and not ended."""
        return self.place.task >= 0 and self.place.stage < self.tail

    @property
    def tail(self) -> int:
        """The stage of a task's end."""
        return 2 * len(self.programs.method.phases) + 1

    @property
    def phase(self) -> int:
        """Number of the phase that the next batch goes to."""
        return (self.place.stage - 2) // 2

    @property
    def to_come(self) -> list[int]:
        """Numbers of the phases of this task, or of the next one, that are still to get batches.

        Those on memory alone are passed by themselves.
        """
        phases = self.programs.method.phases
        now = self.phase if self.learning else -1
        return [n for n, one in enumerate(phases) if one.num_steps is None and n > now]

    @property
    def batches(self) -> int:
        """Batches that were learned from: the steps that were not on memory alone."""
        of_memory = 0
        for number, phase in enumerate(self.programs.method.phases):
            passed = max(self.place.task, 0) + (self.place.stage > 2 + 2 * number)
            of_memory += (phase.num_steps or 0) * passed
        return self.updates - of_memory

    def where(self) -> str:
        """Where it is, and what may come next, for a message."""
        name, phases, task = self.programs.method.name, self.programs.method.phases, self.place.task
        if not self.learning:
            at = "before its first task" if task < 0 else f"after the end of task {task}"
            return f"and {name} is {at}; call begin_task"
        at = f"and {name} is in phase {phases[self.phase].name!r} of task {task}; call"
        if not self.to_come:
            return f"{at} end_task, or begin_task for the next"
        return f"{at} begin_phase({phases[self.to_come[0]].name!r}) and give it the task again"

    # --- how it moves on --------------------------------------------------------------------------

    def way_to(self, target: Position) -> list[Segment]:
        """The boundaries, and the steps on memory alone, between here and ``target``."""
        method, num_tasks = self.programs.method, len(self.classes)
        sizes = [[(phase.num_steps or 0,)] * num_tasks for phase in method.phases]
        every = remaining_segments(method, sizes, 1, self.place, "end")
        return list(takewhile(lambda one: one.done <= target, every))

    def go(self, target: Position, handed: tuple[Examples, BatchTable] | None) -> None:
        """Crosses everything on the way.

        Args:
          target: where to.
          handed: every example of the target's task, and the rows that number them, where the
            method asks for them.
        """

        def given(segment: Segment) -> tuple[Examples, BatchTable]:
            assert handed is not None
            assert segment.task == target.task
            return handed

        for segment in self.way_to(target):
            self._tell(segment.task)
            if segment.kind == "steps":
                self._advance(segment.phase, *self._nothing(), segment.task)
            else:
                self.run = cross_boundary(self.programs, self.run, segment, self._known, given)
        self._tell(target.task)
        self.place = target

    def learn(self, examples: Examples, row: BatchTable) -> None:
        """One step of the present phase.

        Args:
          examples: a batch.
          row: of one row, that numbers them.
        """
        self._advance(self.phase, examples, row, self.place.task)
        self.place = self.place._replace(row=self.place.row + 1)

    def _advance(self, phase: int, examples: Examples, row: BatchTable, task: int) -> None:
        self.run, found = self.programs.advance[phase](self.run, examples, row, self._known, 1)
        self.updates += 1
        self._made.append(_Made(found, row, task))
        self.look(AHEAD)

    def _tell(self, task: int) -> None:
        """What a method that is told learns about the task."""
        self._known = jax.tree.map(jnp.array, told_task(self.classes, task, trials=False))

    def _nothing(self) -> tuple[Examples, BatchTable]:
        """A batch of padding."""
        stream = self.programs.stream
        size, of = stream.batch_size, stream.source.train.x
        x = np.zeros((size, *of.shape[1:]), of.dtype)
        row = BatchTable(
            index=np.full((1, size), -1, np.int32),
            labelled=np.zeros((1, size), bool),
            active=np.ones(1, bool),
            epoch=np.zeros(1, np.int32),
            context=None,
        )
        return Examples(jnp.asarray(x), jnp.zeros(size, jnp.int32)), row

    # --- what came of it --------------------------------------------------------------------------

    def look(self, behind: int) -> None:
        """Waits until the device is at most so many steps behind.

        Raises:
          Diverged: a step had a metric that is not finite.
        """
        while len(self._made) > behind:
            before, self._seen = self._seen, self._made.popleft()
            if int(self._seen.found.bad_step) >= 0:
                self._collected(self._seen, {} if before is None else self._collected(before, {}))

    def metrics(self) -> dict[str, float]:
        """Of the last step, by name; {} before the first. Waits for the device.

        Raises:
          Diverged: a step had a metric that is not finite.
        """
        self.look(0)
        return {} if self._seen is None else self._collected(self._seen, {})

    def _collected(self, made: _Made, before: dict[str, float]) -> dict[str, float]:
        found = jax.device_get(made.found)
        return collect(found, made.row, (self.seed,), made.task, before)[0]
