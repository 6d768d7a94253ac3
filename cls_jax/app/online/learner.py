"""What is fed batch by batch: a run that its user moves on."""

from collections.abc import Iterable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from cls_jax.app.online.batches import as_rows, checked_data, checked_examples
from cls_jax.app.online.tasks import begins_with, class_flags, read_tasks, write_tasks
from cls_jax.app.restore import SavedRun
from cls_jax.core.checks import whole
from cls_jax.core.errors import InputError, Stopped
from cls_jax.core.types import Task
from cls_jax.training.open_run import OpenRun
from cls_jax.training.programs import Programs
from cls_jax.training.run import Run
from cls_jax.training.segments import Checkpointer, Cost, Position, asks_data, trial_name


class OnlineLearner:
    """What ``online`` gives; in a ``with`` statement it is closed at the end.

    A class, for its user moves it on."""

    def __init__(
        self,
        programs: Programs,
        seed: int,
        keep: Checkpointer,
        workdir: Path | None,
        held: ExitStack,
    ) -> None:
        """A new learner, or the one that ``keep`` kept.

        Args:
          programs: of its method and its open stream.
          seed: of the run.
          keep: saves it.
          workdir: where, if anywhere.
          held: is let go when the learner is closed.
        """
        self._method, self._stream, self._workdir = programs.method, programs.stream, workdir
        self._keep, self._held, self._closed = keep, held, False
        self._name = trial_name(seed, 0, 1)
        classes = np.zeros((programs.stream.num_tasks, programs.stream.num_classes), bool)
        kept = keep.restore([self._name], programs.abstract())[0].get(self._name)
        begun = 0 if kept is None else kept.place.task + 1
        if begun and workdir is not None and self._method.needs.told_task:
            classes[:begun] = read_tasks(workdir, begun, self._stream.num_classes)
        self._run = OpenRun(programs, seed, kept, classes)

    # --- where it is ------------------------------------------------------------------------------

    @property
    def step(self) -> int:
        """Batches that it has learned from; a process that goes on skips so many."""
        return self._run.batches

    @property
    def task(self) -> int:
        """Number of the task that was begun last, from 0; -1: none."""
        return self._run.place.task

    @property
    def phase(self) -> str | None:
        """Name of the phase that batches go to; None: no task has begun, or it has ended."""
        return self._method.phases[self._run.phase].name if self._run.learning else None

    @property
    def metrics(self) -> dict[str, float]:
        """Of the last batch, by name, "loss" among them; {} before the first of this process.

        To ask for them waits for the device.

        Raises:
          Diverged: a step had a metric that is not finite.
        """
        return self._run.metrics()

    # --- tasks ------------------------------------------------------------------------------------

    def begin_task(self, classes: Iterable[int] | None = None, data: Any = None) -> None:
        """The batches from here on are of the next task; the one before ends, if it has not.

        Args:
          classes: numbers of its classes, for a method that is told them.
          data: (x, y), every example of the task, for a method that looks at them as it begins.

        Raises:
          InputError: there is no room for a task, a phase of the one before is still to come, or
            the method needs what was not given.
        """
        number, room = self.task + 1, self._stream.num_tasks
        if number >= room:
            raise InputError(
                f"task {number} is one too many: the open stream has room for {room}, from 0; give "
                "a larger num_tasks to open_stream"
            )
        if classes is None and self._method.needs.told_task:
            raise InputError(
                f"{self._method.name} is told the classes of each task; call "
                "begin_task(classes=[...]) before its first batch"
            )
        self._check_ending("begin_task")
        every = self._run.classes.copy()
        if classes is not None:
            every[number] = class_flags(classes, self._stream.num_classes)
        first = next(n for n, phase in enumerate(self._method.phases) if phase.num_steps is None)
        self._go("begin_task", Position(number, 2 + 2 * first, 0), data, every)

    def begin_phase(self, name: str, data: Any = None) -> None:
        """The batches from here on go to the next phase of the task, which it gets anew.

        Args:
          name: of the phase.
          data: (x, y), every example of the task, for a method that looks at them there.

        Raises:
          InputError: another phase comes next, or the method needs what was not given.
        """
        coming = self._run.to_come if self._run.learning else []
        if not coming or self._method.phases[coming[0]].name != name:
            raise InputError(f"begin_phase got {name!r}, {self._run.where()}")
        self._go("begin_phase", Position(self.task, 2 + 2 * coming[0], 0), data, self._run.classes)

    def end_task(self, data: Any = None) -> None:
        """The task is over; ``begin_task`` of the next does this too, where no data are needed.

        Args:
          data: (x, y), every example of the task, for a method that looks at them as it ends.

        Raises:
          InputError: no task has begun, a phase of it is still to come, or the method needs what
            was not given.
        """
        if not self._run.learning:
            raise InputError(f"end_task was called, {self._run.where()}")
        self._check_ending("end_task")
        self._go("end_task", Position(self.task, self._run.tail, 1), data, self._run.classes)

    def _check_ending(self, what: str) -> None:
        if self._run.learning and self._run.to_come:
            raise InputError(f"{what} was called, {self._run.where()}")

    def _go(self, call: str, target: Position, data: Any, classes: np.ndarray) -> None:
        """Crosses the boundaries on the way to ``target``, once all that they need is there.

        Args:
          call: what the user called.
          target: where to.
          data: of the target's task.
          classes: bool[num_tasks, num_classes], of the tasks up to that.
        """
        self._check_open()
        way = [one for one in self._run.way_to(target) if one.kind != "steps"]
        asking = [one.task for one in way if asks_data(self._method, one)]
        if asking and (data is None or asking[0] != target.task):
            call = call if asking[0] == target.task else "end_task"
            raise InputError(
                f"{self._method.name} looks at every example of task {asking[0]} there; call "
                f"{call}(..., data=(x, y))"
            )
        handed = None
        if asking:
            handed = checked_data(data, self._method, self._stream, classes[target.task])
        if self._workdir is not None and self._method.needs.told_task and target.task > self.task:
            write_tasks(self._workdir, classes[: target.task + 1])
        self._run.classes = classes
        self._run.go(target, handed)

    # --- batches ----------------------------------------------------------------------------------

    def observe(self, x: Any, y: Any, task: Any = None, *, epoch: int = 0) -> None:
        """Learns from a batch: one step of the method, whatever the number of examples.

        It does not wait for the device, which may be a few batches behind.

        Args:
          x: raw examples, 1 to ``batch_size`` of the stream's shape: integers 0 to 255 for images,
            finite floats for vectors; an array that NumPy can read.
          y: integers [n], the number of the class of each; -1: not known.
          task: number of the batch's task, or one an example, all equal; one more than that of the
            batch before begins a task. None: tasks are announced, or there is none.
          epoch: the pass over the task, from 0, which the schedules of some methods follow.

        Raises:
          InputError: for a batch that cannot be learned from; nothing is learned.
          Diverged: an earlier step had a metric that is not finite.
          SaveFailed: the learner could not be saved.
          Stopped: after SIGTERM or Ctrl-C, once it is saved in its workdir and closed.
        """
        method, stream, run = self._method, self._stream, self._run
        self._check_open()
        epoch = whole("epoch", epoch, 0, 2**31 - 1)
        begins = begins_with(task, run)
        if begins and method.needs.told_task:
            self.begin_task()  # which says what it needs
        given = checked_examples(x, y, method, stream, run.classes[self.task])
        if len(given.y) > stream.batch_size:
            raise InputError(
                f"x has {len(given.y)} examples, and a batch of the open stream at most "
                f"{stream.batch_size}; split it, or give a larger batch_size to open_stream"
            )
        if begins:
            self.begin_task()
        given, row = as_rows(given, 1, stream.batch_size, epoch)
        run.learn(given, row)
        self._save_if_due()

    # --- answers ----------------------------------------------------------------------------------

    def predict(self, x: Any, task: Task | None = None) -> np.ndarray:
        """float32[n, num_classes] logits of the method's answer now, as ``SavedRun.predict``.

        Args:
          x: raw examples, any number of them.
          task: for a method that uses the task at test; it is not told if not given.

        Raises:
          InputError: for examples of another shape, kind or range, or a task that is not there.
          Diverged: a step had a metric that is not finite.
        """
        self._run.look(0)
        return self._as_saved(self._run.run).predict(x, task)

    def snapshot(self) -> SavedRun:
        """The learner as it is now, as ``load`` would give it; later batches leave it alone."""
        self._run.look(0)
        return self._as_saved(jax.tree.map(jnp.copy, self._run.run))

    def _as_saved(self, run: Run) -> SavedRun:
        of = self._stream.source.train.x
        return SavedRun(
            name=self._method.name,
            seed=self._run.seed,
            method=self._method,
            run=run,
            place=self._run.place,
            stream=None,
            shape=of.shape[1:],
            num_classes=self._stream.num_classes,
            dtype="uint8" if of.dtype == np.uint8 else "float32",
            label_names=self._stream.source.label_names,
        )

    # --- saving -----------------------------------------------------------------------------------

    def save(self) -> None:
        """Saves now, where there is a workdir, and waits until all is on disk.

        Raises:
          Diverged: a step had a metric that is not finite; what was saved before is kept.
          SaveFailed: it could not be written; what was saved before is kept.
        """
        self._check_open()
        self._save_if_due(now=True)

    def close(self) -> None:
        """Saves, and lets the workdir go; from here on it answers, and learns no more.

        Raises:
          Diverged, SaveFailed: as ``save``.
        """
        if not self._closed:
            try:
                self._save_if_due(now=True)
            finally:
                self._let_go()

    def __enter__(self) -> "OnlineLearner":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """After an error nothing is saved anew: what was saved before is whole."""
        if kind is None:
            self.close()
        self._let_go()

    def _let_go(self) -> None:
        self._closed = True
        self._held.close()

    def _check_open(self) -> None:
        if self._closed:
            raise InputError("the learner is closed; call online again, to go on from its save")

    def _save_if_due(self, *, now: bool = False) -> None:
        run, place = self._run.run, self._run.place
        if now or self._keep.due(run, place):
            self._run.look(0)
            try:
                self._keep.maybe_save([self._name], run, place, Cost(), now=now)
            except Stopped:  # all is saved
                self._let_go()
                raise
