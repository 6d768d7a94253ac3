"""Examples from the host: the same rows as from the device, a chunk ahead, never too many bytes."""

import threading

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cls_jax.data.dataset import Split
from cls_jax.streams.class_il import class_il
from cls_jax.training import prefetch as feeds
from cls_jax.training.batches import BatchTable
from cls_jax.training.parallel import Parallelism
from cls_jax.training.plan import Plan, check_run
from cls_jax.training.prefetch import Loader, make_loader, num_bytes, prefetch, renumbered
from cls_jax.training.runner import run
from cls_jax.training.runtime.checkpoint import fingerprint
from tests.conftest import TASKS, small_method
from tests.training.runtime.test_checkpoint import assert_same
from tests.training.test_runner import flat_method, uneven_source

DATA = Split(np.arange(60, dtype=np.uint8).reshape(10, 6), np.arange(10, dtype=np.int32))


@given(st.lists(st.integers(-1, 9), min_size=1, max_size=12))
def test_renumbered_rows_read_what_the_whole_split_reads(numbers):
    index = np.array(numbers, np.int32)[None]
    chosen, own = renumbered(DATA, index)
    assert len(chosen.y) == index.size + 1
    assert own.shape == index.shape
    np.testing.assert_array_equal(own < 0, index < 0)
    np.testing.assert_array_equal(chosen.x[own], DATA.x[index])  # padding reads the last on both
    np.testing.assert_array_equal(chosen.y[own], DATA.y[index])


@pytest.mark.parametrize(
    ("name", "over_seeds"),
    [
        ("clser", "vmap"),
        ("gdumb", "sequential"),
        *(
            pytest.param(*case, marks=pytest.mark.more)
            for case in (
                *(("clser", "sequential"), ("gdumb", "vmap")),
                *(("icarl", "sequential"), ("icarl", "vmap")),
            )
        ),
    ],
)
def test_both_loaders_give_the_same_run(name, over_seeds):
    stream = class_il(uneven_source(), tasks=TASKS, batch_size=4, epochs=2)
    method = flat_method(name, **({"cutmix": False} if name == "gdumb" else {}))
    plans = [Plan(chunk=5, over_seeds=over_seeds, data=data) for data in ("device", "host")]
    one, other = (run(method, stream, seeds=(0, 1), plan=plan) for plan in plans)
    assert one.details["data"] == "device"
    assert other.details["data"] == "host"
    assert_same([one], [other])


def test_pictures_come_from_the_host_too(stream):
    method = small_method("er")
    plans = [Plan(chunk=2, data=data) for data in ("device", "host")]
    assert_same(*([run(method, stream, plan=plan)] for plan in plans))


def test_a_part_is_gathered_while_the_one_before_is_used():
    asked, used = [], []
    second = threading.Event()

    def fetch(index):
        asked.append(int(index[0, 0]))
        if len(asked) == 2:
            second.set()
        return DATA, index

    parts = [BatchTable(np.full((1, 1), i), None, None, None, ()) for i in range(4)]
    for _, part in prefetch(Loader(fetch, ahead=True), iter(parts)):
        used.append(int(part.index[0, 0]))
        assert second.wait(5), "nothing is gathered ahead"
    assert used == asked == [0, 1, 2, 3]


def test_large_data_stay_on_the_host_and_their_chunks_are_short(monkeypatch):
    stream = class_il(uneven_source(), tasks=TASKS, batch_size=4)
    method = flat_method("sgd")

    def plan(**given):
        return check_run(method, stream, (0,), Plan(**given))

    assert num_bytes(stream.source.train) == 54 * 12 * 4
    assert plan().data == "device"
    assert plan(data="host").data == "host"
    monkeypatch.setattr("cls_jax.training.plan.DEVICE_BYTES", 54 * 12 * 4 - 1)
    monkeypatch.setattr("cls_jax.training.plan.CHUNK_BYTES", 3 * 4 * 12 * 4)
    assert plan()[:1] == (3,)
    assert plan().data == "host"
    assert plan(data="device").data == "device"
    assert plan(data="device").chunk == 500


def test_a_memory_map_will_do(tmp_path):
    source = uneven_source()
    np.save(tmp_path / "x.npy", source.train.x)
    mapped = source._replace(
        train=Split(np.load(tmp_path / "x.npy", mmap_mode="r"), source.train.y)
    )
    method = flat_method("sgd")
    runs = [
        run(method, class_il(one, tasks=TASKS, batch_size=4), plan=Plan(data=data))
        for one, data in ((source, "device"), (mapped, "device"), (mapped, "host"))
    ]
    assert len({fingerprint(one.states[0]) for one in runs}) == 1
    loader = make_loader(mapped.train, Parallelism(), 1, on_host=True)
    assert loader.ahead
    assert feeds.CHUNK_BYTES < feeds.DEVICE_BYTES
