"""Contexts are numbered, not repeated: the batches stay what they were, and little is held."""

import hashlib
from functools import cache
from types import SimpleNamespace

import jax
import numpy as np
import pytest

from cls_jax.data.load import load
from cls_jax.methods.base import Needs, Phase, hidden_task
from cls_jax.streams.blurry import blurry
from cls_jax.streams.class_il import class_il
from cls_jax.streams.domain_il import dihedral, permuted, rotated
from cls_jax.streams.gcil import gcil
from cls_jax.streams.mnist360 import mnist360
from cls_jax.streams.stream import pooled
from cls_jax.streams.task_order import in_order
from cls_jax.training.batches import live_rows, slice_rows, stack_rows
from cls_jax.training.events import Progress
from cls_jax.training.parallel import DATA, Parallelism
from cls_jax.training.prefetch import make_loader, with_contexts
from cls_jax.training.runner import Plan, run
from cls_jax.training.steps import gather
from tests.conftest import small_method, small_source

SMALL, DIGITS = small_source(), load("digits", size=8)
HALF = class_il(SMALL, tasks=3, batch_size=4, epochs=2, label_fraction=0.5)
SYMMETRIES = dihedral(SMALL, tasks=4, batch_size=8, epochs=2)
STREAMS = {
    "class_il": (HALF, "df4d82bfaec585cf"),
    "class_il, pooled": (pooled(HALF), "9b7a7c4c652e6446"),
    "blurry": (
        blurry(SMALL, tasks=3, batch_size=4, epochs=2, blur=0.3),
        "10b16e750cf5cddf",
    ),
    "gcil": (
        gcil(SMALL, tasks=2, batch_size=4, epochs=2, samples_per_phase=30, max_classes=3),
        "e219f895fe1afd1b",
    ),
    "permuted": (permuted(SMALL, tasks=3, batch_size=8, epochs=2), "4e7a443823dcd5d9"),
    "permuted, drop_last": (
        permuted(SMALL, tasks=3, batch_size=8, epochs=2, drop_last=True),
        "08518b2b5026cc40",
    ),
    "permuted, shuffled": (
        in_order(permuted(SMALL, tasks=3, batch_size=8, epochs=2), "shuffled"),
        "fef82d448d5b49c5",
    ),
    "rotated": (rotated(SMALL, tasks=3, batch_size=8, epochs=2), "f022d815fa1c87bb"),
    "dihedral": (SYMMETRIES, "fb1c290d283f0e6b"),
    "dihedral, in order": (in_order(SYMMETRIES, (2, 0, 3, 1)), "a23cbd2c3b52eabf"),
    "mnist360": (mnist360(DIGITS, batch_size=8, epochs=2), "2bcb40d073846a79"),
    "mnist360, pooled": (pooled(mnist360(DIGITS, batch_size=8, epochs=2)), "34bb69ae6052b5c2"),
}
"""Small streams, and the digest of all that they show, taken when each step had its context."""

METHOD = SimpleNamespace(needs=Needs(unlabelled=True))
STEPS = Phase("main", step=None)


@cache
def compiled(transform, trials):
    """The images of one row, as a chunk of steps gathers them."""
    stream, task = SimpleNamespace(transform=transform), hidden_task(1)

    def look(data, row):
        return gather(stream, METHOD, data, row, task).x

    return Parallelism(trials).compile(look, (DATA, 0))


def shown(stream, parallelism, schedules, task, *, on_host=False):
    """The images of every row of a task, one batch a row, as the compiled program sees them."""
    rows = [live_rows(each, task, STEPS, unlabelled=True) for each in schedules]
    rows = stack_rows(rows) if parallelism.stacked else rows[0]
    loader = make_loader(stream.source.train, parallelism, len(schedules), on_host=on_host)
    loader = with_contexts(loader, parallelism.put_contexts([s.contexts for s in schedules]))
    look = compiled(stream.transform, parallelism.trials)
    for start in range(rows.active.shape[-1]):
        part = slice_rows(rows, start, 1, trials=parallelism.stacked)
        data, index = loader.fetch(part.index)
        part = part.replace(index=index)
        row = jax.tree.map(lambda leaf: leaf[:, 0] if parallelism.stacked else leaf[0], part)
        yield np.asarray(look(data, row))


def repeated(stream, schedule, task):
    """The same by NumPy, each step or example with its own context."""
    rows, see = schedule.rows(task), jax.jit(stream.transform)
    contexts = schedule.contexts[rows.context]
    for index, context in zip(rows.index, contexts, strict=True):
        yield np.asarray(see(stream.source.train.x[index], context))


@pytest.mark.parametrize("name", STREAMS)
def test_everything_shown_is_what_it_was(name):
    stream, expected = STREAMS[name]
    schedule = stream.schedule(jax.random.key(3), epochs=3, shuffle=1)
    rows, digest = schedule.rows(), hashlib.sha256()
    tables = rows.index, rows.task, rows.epoch, rows.labelled
    for table in (*tables, schedule.task_classes, schedule.test_index):
        digest.update(np.ascontiguousarray(table).tobytes())
    for task in range(stream.num_tasks):
        images = shown(stream, Parallelism(), [schedule], task)
        for index in schedule.rows(task).index:
            empty = not (index >= 0).any()  # a row that no program sees
            digest.update(stream.source.train.x[index] if empty else next(images))
        assert next(images, None) is None
    for context, index in zip(_test_contexts(schedule), schedule.test_index, strict=True):
        x = stream.source.test.x[index]
        x = x if stream.transform is None else stream.transform(x, context)
        digest.update(np.ascontiguousarray(x))
    assert digest.hexdigest()[:16] == expected


def _test_contexts(schedule):
    if schedule.test_context is None:
        return [None] * len(schedule.test_index)
    return schedule.contexts[schedule.test_context]


@pytest.mark.parametrize("on_host", [False, True])
@pytest.mark.parametrize("trials", ["one", "vmap"])
@pytest.mark.parametrize("name", ["permuted", "rotated", "dihedral, in order", "mnist360"])
def test_every_seed_sees_through_its_own_contexts(name, trials, on_host):
    """Bitwise what the contexts repeated for every step show, from the device and the host."""
    stream, _ = STREAMS[name]
    schedules = [stream.schedule(jax.random.key(seed)) for seed in (0, 1)]
    schedules = schedules if trials == "vmap" else schedules[1:]
    for task in range(stream.num_tasks):
        seen = list(shown(stream, Parallelism(trials), schedules, task, on_host=on_host))
        for trial, schedule in enumerate(schedules):
            mine = [batch[trial] if trials == "vmap" else batch for batch in seen]
            np.testing.assert_array_equal(mine, list(repeated(stream, schedule, task)))


def test_a_run_makes_the_rows_of_a_task_when_it_begins():
    stream, made, found = STREAMS["permuted"][0], [], []

    def schedule(key, **given):
        table = stream.schedule(key, **given)

        def make_rows(task):
            made.append(task)
            return table.rows(task)

        return table.replace(make_rows=make_rows)

    def observe(event):
        if isinstance(event, Progress):
            found.append((event.task, tuple(made)))

    method = small_method("sgd")
    spied = stream._replace(schedule=schedule)
    run(method, spied, plan=Plan(chunk=5), observe=observe)
    assert set(found) == {(0, (0,)), (1, (0, 1)), (2, (0, 1, 2))}


def test_a_schedule_of_more_passes_holds_no_more():
    held = [
        sum(leaf.nbytes for leaf in jax.tree.leaves(stream.schedule(jax.random.key(0))))
        for stream in (permuted(SMALL, tasks=3, batch_size=8, epochs=n) for n in (1, 500))
    ]
    assert held[0] == held[1] < 66 * 4 * 3 * 2
