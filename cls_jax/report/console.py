"""A logger that shows a run on the terminal: a line a task, live bars between."""

from collections.abc import Mapping, Sequence

import numpy as np
from rich import progress as rich_progress
from rich.console import Console
from rich.table import Column
from rich.text import Text

from cls_jax.report.tables import visible
from cls_jax.training.events import Ended, Evaluated, Event, Logger, Progress, Started

MAX_METRICS = 3
"""How many of a step's metrics fit on the live line."""

MAX_TASKS = 20
"""Up to so many tasks the line after a task has an accuracy for each."""


def console(*, stream_line: bool = True, to: Console | None = None) -> Logger:
    """A logger that shows the run on stderr.

    Everywhere: the headline, and a line of accuracies in percent after each task. On a terminal
    also one bar for the run and, when seeds run one after another, one for all of them.

    Args:
      stream_line: print the headline; off for the second and later methods on one stream.
      to: where to; stderr if None.
    """
    to = Console(stderr=True, highlight=False) if to is None else to
    return _Console(to, stream_line).observe


def seeds_text(seeds: Sequence[int]) -> str:
    """ "seed 3", "seeds 0-4" or "seeds 0,2,7"; each once, however many trials have it."""
    seeds = tuple(dict.fromkeys(seeds))
    if len(seeds) == 1:
        return f"seed {seeds[0]}"
    if seeds == tuple(range(seeds[0], seeds[0] + len(seeds))):
        return f"seeds {seeds[0]}-{seeds[-1]}"
    return "seeds " + ",".join(map(str, seeds))


def task_line(event: Evaluated, started: Started) -> str:
    """Accuracy on the tasks seen so far in percent: their mean, then (one by one; "-": not tested).

    The method's own answer, mean over the event's seeds, and over the values of a sweep, which it
    says; the score it is made for comes first. Of many tasks the worst and the best.
    """
    num_tasks = started.num_tasks
    rows = 100 * event.matrix[:, 0, :, event.task + 1, : event.task + 1].mean(0)  # [2, task + 1]
    where = f"task {event.task + 1:>{len(str(num_tasks))}}/{num_tasks}"
    parts = [visible(started.method), seeds_text(event.seeds), where]
    if (num_values := len({*event.values})) > 1:
        parts.insert(1, f"mean of {num_values} values")
    scores = sorted(enumerate(started.scenarios), key=lambda score: score[0] != started.leads)
    for place, scenario in scores:
        row = rows[place]
        each = " ".join(f"{value:.1f}" if np.isfinite(value) else "-" for value in row)
        if len(row) > MAX_TASKS:
            low, high = np.nanargmin(row), np.nanargmax(row)
            each = f"task {low + 1}: {row[low]:.1f} to task {high + 1}: {row[high]:.1f}"
        parts.append(f"{scenario} {np.nanmean(row):5.1f} ({each})")
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
        self._steps: dict[int, tuple[int, int]] = dict.fromkeys(seeds, (0, num_steps))
        """Seed -> updates made, and in all."""
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

    def observe(self, event: Event) -> None:
        if isinstance(event, Started):
            self.start(event)
            return
        if isinstance(event, Ended):
            self.close()
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
            self.to.print(Text(visible(event.headline), style="bold"), soft_wrap=True)
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
                visible(event.method), total=event.num_steps, text="compiling", rest=""
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
