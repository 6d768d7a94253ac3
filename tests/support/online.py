"""The batches of a known stream, given to an online learner one by one."""

import numpy as np

import cls_jax as cls
from cls_jax.training.batches import task_rows
from cls_jax.training.group import schedules_of


def opened(stream):
    """The open stream of the same sizes."""
    return cls.open_stream(
        stream.source.train.x.shape[1:],
        stream.num_classes,
        num_tasks=stream.num_tasks,
        batch_size=stream.batch_size,
    )


def calls(method, stream, seed=0):
    """What a user would call, in order, so that the learner sees what a run of that seed does.

    Yields:
      (name of the learner's method, its arguments, its keywords).
    """
    schedules, train = schedules_of(method, stream, seed), stream.source.train
    for task, flags in enumerate(schedules[0].task_classes):
        rows = [task_rows(method, schedules, n, task) for n in range(len(method.phases))]
        index = rows[0].index[rows[0].index >= 0]
        once = index[np.sort(np.unique(index, return_index=True)[1])]
        data = train.x[once], train.y[once]
        yield "begin_task", (np.flatnonzero(flags), data), {}
        for number, phase in enumerate(method.phases):
            if phase.num_steps is not None:
                continue
            if number:
                yield "begin_phase", (phase.name, data), {}
            mine = rows[number]
            for index, labelled, epoch in zip(mine.index, mine.labelled, mine.epoch, strict=True):
                some = index[index >= 0]
                y = np.where(labelled[index >= 0], train.y[some], -1)
                yield "observe", (train.x[some], y), {"epoch": int(epoch)}
        yield "end_task", (data,), {}


def feed(learner, given):
    """Makes the calls; gives the learner."""
    for name, arguments, keywords in given:
        getattr(learner, name)(*arguments, **keywords)
    return learner
