"""Observers of a run: a live line on the terminal, TensorBoard files, several at once."""

import importlib.util
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from rich import progress as rich_progress
from rich.console import Console
from rich.table import Column
from rich.text import Text

from cls_jax.errors import InputError
from cls_jax.events import SCENARIOS, Evaluated, Observer, Progress, Started

MAX_METRICS = 3
"""How many of a step's metrics fit on the live line."""

MAX_TASKS = 20
"""Up to so many tasks the line after a task has an accuracy for each."""


def fan_out(*observers: Observer) -> Observer:
    """One observer that tells all of these, in order."""

    def observe(event: Started | Progress | Evaluated) -> None:
        for observer in observers:
            observer(event)

    return observe


@contextmanager
def console(*, stream_line: bool = True, to: Console | None = None) -> Iterator[Observer]:
    """An observer that shows the run on stderr; leaving the context takes the bars away.

    Everywhere: the headline, and a line of accuracies in percent after each task. On a terminal
    also one bar for the run and, when seeds run one after another, one for all of them.

    Args:
      stream_line: print the headline; off for the second and later methods on one stream.
      to: where to; stderr if None.
    """
    to = Console(stderr=True, highlight=False) if to is None else to
    view = _Console(to, stream_line)
    try:
        yield view.observe
    finally:
        view.close()


def check_tensorboard() -> None:
    """Raises InputError where tensorboardX is not installed."""
    if importlib.util.find_spec("tensorboardX") is None:
        raise InputError(
            "tensorboard needs tensorboardX, which is not installed; "
            'pip install "tensorboardX>=2.6" or drop the flag'
        )


@contextmanager
def tensorboard(workdir: str | Path | None) -> Iterator[Observer]:
    """An observer that writes TensorBoard files under ``workdir``/tensorboard; None writes nothing.

    Losses are tagged "seed0/train/loss" by update, accuracies "seed0/class-IL/task_1" by task.
    Leaving the context writes what is pending; a killed process loses at most ten seconds.

    Raises:
      InputError: tensorboardX is not installed.
    """
    if workdir is None:
        yield fan_out()
        return
    check_tensorboard()
    from tensorboardX import SummaryWriter

    writer = SummaryWriter(str(Path(workdir) / "tensorboard"), flush_secs=10)

    names = SCENARIOS

    def observe(event: Started | Progress | Evaluated) -> None:
        nonlocal names
        if isinstance(event, Started):
            names = event.scenarios
        elif isinstance(event, Progress):
            for name, value in event.metrics.items():
                tag = f"{seeds_text(event.seeds).replace(' ', '')}/{event.phase}/{name}"
                writer.add_scalar(tag, value, event.step)
        elif isinstance(event, Evaluated):
            rows = event.matrix[:, 0, :, event.task + 1, :]  # [lanes, 2, T]
            for seed, of_seed in zip(event.seeds, rows, strict=True):
                for scenario, row in zip(names, of_seed, strict=False):
                    for j in np.flatnonzero(np.isfinite(row)):
                        tag = f"seed{seed}/{scenario}/task_{j + 1}"
                        writer.add_scalar(tag, row[j], event.task + 1)

    with writer:
        yield observe


def seeds_text(seeds: Sequence[int]) -> str:
    """ "seed 3", "seeds 0-4" or "seeds 0,2,7"; each once, however many lanes have it."""
    seeds = tuple(dict.fromkeys(seeds))
    if len(seeds) == 1:
        return f"seed {seeds[0]}"
    if seeds == tuple(range(seeds[0], seeds[0] + len(seeds))):
        return f"seeds {seeds[0]}-{seeds[-1]}"
    return "seeds " + ",".join(map(str, seeds))


def task_line(event: Evaluated, started: Started) -> str:
    """Accuracy on the tasks seen so far in percent: their mean, then (one by one).

    The method's own answer, mean over the event's seeds. Of many tasks the worst and the best.
    """
    num_tasks = started.num_tasks
    rows = 100 * event.matrix[:, 0, :, event.task + 1, : event.task + 1].mean(0)  # [2, task + 1]
    where = f"task {event.task + 1:>{len(str(num_tasks))}}/{num_tasks}"
    parts = [started.method, seeds_text(event.seeds), where]
    for scenario, row in zip(started.scenarios, rows, strict=False):
        each = " ".join(f"{value:.1f}" for value in row)
        if len(row) > MAX_TASKS:
            low, high = row.argmin(), row.argmax()
            each = f"task {low + 1}: {row[low]:.1f} to task {high + 1}: {row[high]:.1f}"
        parts.append(f"{scenario} {row.mean():5.1f} ({each})")
    return "  ".join(parts)


def metrics_text(metrics: Mapping[str, float]) -> str:
    """The first few metrics, the total loss before all others, in columns that keep their width."""
    names = sorted(metrics, key=lambda name: name != "loss")[:MAX_METRICS]
    return " ".join(f"{name} {metrics[name]:<9.4g}" for name in names).rstrip()


def clock(seconds: float) -> str:
    """ "0:42", "12:05" or "3:04:05"."""
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02}:{second:02}" if hours else f"{minute}:{second:02}"


class Pace:
    """Updates made and time left, from the events alone (no clock, so it can be tested).

    The first chunk compiles, so its seconds are left out; evaluations count.
    """

    def __init__(self, seeds: Sequence[int], num_steps: int) -> None:
        self._steps = dict.fromkeys(seeds, (0, num_steps))  # seed -> updates made, and in all
        self._first: int | None = None  # updates made when the first chunk had ended
        self._seconds = 0.0  # since then

    @property
    def done(self) -> int:
        """Updates made, all seeds together."""
        return sum(done for done, _ in self._steps.values())

    @property
    def total(self) -> int:
        """Updates to make, all seeds together."""
        return sum(total for _, total in self._steps.values())

    @property
    def finished(self) -> int:
        """How many seeds have made all their updates."""
        return sum(done >= total for done, total in self._steps.values())

    @property
    def seconds_left(self) -> float | None:
        """Until every seed is trained; None before the second chunk."""
        if self._first is None or self.done == self._first:
            return None
        return self._seconds / (self.done - self._first) * (self.total - self.done)

    def add(self, event: Progress | Evaluated) -> None:
        """Takes one event into account."""
        if self._first is not None:
            self._seconds += event.seconds
        if isinstance(event, Progress):
            self._steps.update(dict.fromkeys(event.seeds, (event.step, event.num_steps)))
            if self._first is None:
                self._first = self.done


class _Console:
    """What ``console`` shows; a class because bars have a life."""

    def __init__(self, to: Console, stream_line: bool) -> None:
        self.to, self.stream_line = to, stream_line
        self.bars: rich_progress.Progress | None = None

    def observe(self, event: Started | Progress | Evaluated) -> None:
        if isinstance(event, Started):
            self.start(event)
            return
        self.pace.add(event)
        if isinstance(event, Progress):
            self.move(event)
        elif event.task >= 0:
            line = task_line(event, self.started)
            self.to.print(Text(line), soft_wrap=True)

    def start(self, event: Started) -> None:
        self.close()
        self.started, self.pace = event, Pace(event.seeds, event.num_steps)
        if self.stream_line:
            self.to.print(Text(event.headline, style="bold"), soft_wrap=True)
        if self.to.is_terminal:
            self.bars = rich_progress.Progress(
                rich_progress.TextColumn("{task.description}", markup=False),
                rich_progress.BarColumn(bar_width=12),
                rich_progress.TextColumn("{task.fields[text]}", markup=False),
                _WhatFits(Column(no_wrap=False)),
                console=self.to,
                refresh_per_second=4,
                transient=True,
            )
            self.bars.start()
            self.run_bar = self.bars.add_task(
                event.method, total=event.num_steps, text="compiling", rest=""
            )
            self.all_bar = None

    def move(self, event: Progress) -> None:
        if self.bars is None:
            return
        started, left = self.started, self.pace.seconds_left
        left_text = "" if left is None else f"  {clock(left)} left"
        width = len(str(event.num_steps))
        rate = event.examples / event.seconds if event.seconds > 0 else 0.0
        text = f"{event.step:>{width}}/{event.num_steps} {rate:>6,.0f} ex/s"
        one_by_one = len(event.seeds) < len(started.seeds)
        self.bars.update(
            self.run_bar,
            description=f"task {event.task + 1}/{started.num_tasks} {event.phase}",
            completed=event.step,
            total=event.num_steps,
            text=text if one_by_one else text + left_text,
            rest=metrics_text(event.metrics),
        )
        if one_by_one:
            if self.all_bar is None:
                self.all_bar = self.bars.add_task("", text="", rest="")
            finished = f"{self.pace.finished}/{len(started.seeds)} seeds done"
            self.bars.update(
                self.all_bar,
                description=seeds_text(event.seeds),
                completed=self.pace.done,
                total=self.pace.total,
                text=finished + left_text,
            )

    def close(self) -> None:
        if self.bars is not None:
            self.bars.stop()
            self.bars = None


class _WhatFits(rich_progress.ProgressColumn):
    """The column that a narrow terminal cuts short."""

    def render(self, task: rich_progress.Task) -> Text:
        return Text(task.fields["rest"], no_wrap=True, overflow="ellipsis")
