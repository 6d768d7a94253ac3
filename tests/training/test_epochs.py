"""Which pass over its task a row belongs to, and rates that follow it, whatever is left out."""

from functools import partial

import jax
import numpy as np
import pytest

from cls_jax.data.load import load
from cls_jax.methods.prototypes import spb, ucir
from cls_jax.streams.blurry import blurry
from cls_jax.streams.class_il import class_il
from cls_jax.streams.domain_il import permuted
from cls_jax.streams.gcil import gcil
from cls_jax.streams.mnist360 import mnist360
from cls_jax.streams.stream import pooled
from cls_jax.streams.task_order import in_order
from cls_jax.training.group import schedule_key
from cls_jax.training.runner import Plan, run
from tests.conftest import TASKS, small_method, small_source

UNEVEN = partial(class_il, tasks=(1, 3, 2), batch_size=4, class_order="label", epochs=4)
"""Tasks of 11, 33 and 22 examples."""

STREAMS = {
    "class_il": UNEVEN,
    "drop_last": partial(UNEVEN, drop_last=True),
    "label_fraction": partial(UNEVEN, label_fraction=0.5),
    "base_epochs": partial(UNEVEN, base_epochs=2),
    "in_order": lambda source: in_order(UNEVEN(source), (2, 0, 1)),
    "blurry": partial(blurry, tasks=TASKS, batch_size=4, epochs=3, drop_last=True),
    "permuted": partial(permuted, tasks=2, batch_size=4, epochs=3),
    "gcil": partial(gcil, tasks=2, batch_size=4, epochs=3, samples_per_phase=30, max_classes=3),
    "mnist360": lambda source: mnist360(load("digits", size=8), batch_size=8, epochs=2),
}


@pytest.mark.parametrize("name", STREAMS)
def test_each_pass_holds_every_example_at_most_once_and_all_are_equally_long(name):
    stream = STREAMS[name](small_source())
    schedule = stream.schedule(schedule_key(0))
    table = schedule.rows()
    assert table.epoch.dtype == np.int32
    assert table.epoch.shape == table.task.shape
    for task in range(stream.num_tasks):
        mine = schedule.rows(task)
        epoch, index = mine.epoch, mine.index
        assert (np.diff(epoch) >= 0).all()
        rows = np.bincount(epoch)
        assert len(rows) == {0: 2}.get(task, 4) if name == "base_epochs" else len(rows) > 1
        assert (rows == rows[0]).all()
        served = [index[epoch == e][index[epoch == e] >= 0] for e in range(len(rows))]
        assert len({each.size for each in served}) == 1
        if name != "mnist360":  # which draws from each chunk with replacement
            assert all(np.unique(each).size == each.size for each in served)


def test_a_pooled_row_is_of_the_pass_of_its_first_example():
    stream = UNEVEN(small_source())
    table = pooled(stream).schedule(schedule_key(0)).rows()
    flat = table.index.ravel()
    rank, met = np.full(flat.shape, -1), {}
    for place, number in enumerate(flat):
        if number >= 0:
            rank[place] = met[number] = met.get(number, -1) + 1
    first = rank.reshape(table.index.shape)[:, 0]
    np.testing.assert_array_equal(table.epoch[first >= 0], first[first >= 0])


@pytest.mark.parametrize("name", ["spb", pytest.param("ucir", marks=pytest.mark.more)])
@pytest.mark.parametrize("kind", [{"drop_last": True}, {"label_fraction": 0.5}, {}])
def test_rates_fall_at_the_streams_own_milestones(name, kind, monkeypatch):
    """Every rate of a run: with rows left out a pass is shorter than examples / batch."""
    module, seen = {"spb": spb, "ucir": ucir}[name], []
    true_decay, milestones = module.step_decay, (1, 3)

    def spied(epoch, falls):
        rate = true_decay(epoch, falls)
        if falls == milestones:
            jax.debug.callback(lambda value: seen.append(float(value)), rate, ordered=True)
        return rate

    monkeypatch.setattr(module, "step_decay", spied)
    decays = {"decays": milestones, **({"base_decays": (2,)} if name == "spb" else {})}
    method = small_method(name, **decays)
    stream = UNEVEN(small_source(), **kind)
    run(method, stream, plan=Plan(mode="loop", chunk=100, score="end"))
    jax.effects_barrier()

    at_birth = [1.0] if name == "spb" else []
    expected, table = list(at_birth), stream.schedule(schedule_key(0))
    for task, size in enumerate((11, 33, 22)):
        rows = size // 4 if kind.get("drop_last") else -(-size // 4)
        active = table.rows(task).labelled.all(axis=1)
        assert active.size == 4 * rows
        expected += at_birth  # its optimizers begin anew
        passes = np.flatnonzero(active) // rows
        expected += [0.1 ** sum(number >= m for m in milestones) for number in passes]
    np.testing.assert_allclose(seen, expected, rtol=1e-6)
