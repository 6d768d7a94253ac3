"""What must hold on eight devices; test_devices.py runs this file in a process that has them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cls_jax.core.errors import InputError, Stopped
from cls_jax.core.sharding import DATA, data_mesh, spread, whole
from cls_jax.nets.resnet import resnet18
from cls_jax.streams.class_il import class_il
from cls_jax.streams.domain_il import permuted
from cls_jax.training.plan import Plan
from cls_jax.training.runner import run, sweep
from cls_jax.training.runtime.checkpoint import Checkpoints, Interval, fingerprint
from cls_jax.training.runtime.preemption import StopFlag
from tests.conftest import CLASSES, TASKS, small_method, small_source
from tests.support.methods import exchanged
from tests.training.runtime.test_checkpoint import After, assert_same
from tests.training.test_runner import flat_method, uneven_source

FLOATS = {"rtol": 2e-3, "atol": 2e-4}


@pytest.fixture(scope="module")
def flat():
    return class_il(uneven_source(), tasks=TASKS, batch_size=8, epochs=2)


@pytest.fixture(scope="module")
def pictures():
    return class_il(small_source(), tasks=TASKS, batch_size=8)


def test_there_are_eight():
    assert jax.device_count() == 8


def assert_close(one, other):
    """Integers and bytes to the bit, floats to rounding."""

    def compare(path, a, b):
        a, b = np.asarray(a), np.asarray(b)
        name = jax.tree_util.keystr(path)
        if np.issubdtype(a.dtype, np.floating):
            np.testing.assert_allclose(a, b, err_msg=name, **FLOATS)
        else:
            np.testing.assert_array_equal(a, b, err_msg=name)

    jax.tree_util.tree_map_with_path(compare, one, other)


@pytest.mark.parametrize(("name", "devices"), [("clser", 8), ("derpp", 2), ("ewc_online", 4)])
def test_a_batch_over_devices_is_the_batch_on_one(flat, name, devices):
    method = flat_method(name)
    one = run(method, flat, seeds=(3,), plan=Plan(chunk=7))
    many = run(method, flat, seeds=(3,), plan=Plan(chunk=7, devices=devices))
    assert_close(many.states, one.states)
    np.testing.assert_allclose(many.matrix, one.matrix, atol=0.2)
    assert many.details["devices"] == devices


@pytest.mark.parametrize("train", [True, False])
def test_batch_statistics_are_those_of_the_whole_batch(pictures, train):
    """A ResNet's: the statistics of a share alone would differ by far more than rounding."""
    net = resnet18(CLASSES, 4)
    x = jnp.asarray(pictures.source.train.x[:16], jnp.float32) / 255
    valid = jnp.arange(16) < 13
    vars = net.init(jax.random.key(0), x)
    forward = lambda x: net.apply(vars, x, train=train, valid=valid)  # noqa: E731
    one, mesh = jax.jit(forward)(x), data_mesh(4)
    with jax.set_mesh(mesh):
        many = jax.jit(forward, out_shardings=whole(mesh))(x)
    assert_close(many, one)
    share = jax.jit(lambda x: net.apply(vars, x, train=True, valid=valid[:4])[1])(x[:4])
    if train:
        with pytest.raises(AssertionError):
            assert_close(share, one[1])


def test_dualnet_over_devices_is_dualnet_on_one(pictures):
    method = small_method("dualnet")
    plans = [Plan(chunk=4), Plan(chunk=4, devices=4)]
    one, many = (run(method, pictures, seeds=(1,), plan=plan) for plan in plans)
    assert_close(many.states, one.states)


def test_the_work_is_really_split(flat):
    """The program that runs on the mesh holds a quarter of the batch a device, not all of it."""
    mesh = data_mesh(4)
    shapes = []

    def f(x):
        x = spread(x)
        jax.debug.inspect_array_sharding(
            x, callback=lambda s: shapes.append(s.shard_shape(x.shape))
        )
        return x * 2

    with jax.set_mesh(mesh):
        out = jax.jit(f, out_shardings=whole(mesh))(np.ones((8, 3), np.float32))
    assert shapes == [(2, 3)]
    assert out.is_fully_replicated
    assert DATA in mesh.axis_names
    np.testing.assert_array_equal(spread(jnp.ones((8, 3))), 1)  # and nothing without a mesh


@pytest.mark.parametrize(("name", "seeds"), [("clser", range(10)), ("gdumb", range(3))])
def test_a_seed_a_device_is_the_single_run_bit_for_bit(flat, name, seeds):
    changes = {"cutmix": False} if name == "gdumb" else {}
    method = flat_method(name, learning_rate=0.02, **changes)
    plans = [Plan(chunk=7, over_seeds=over) for over in ("sequential", "devices")]
    one, many = (run(method, flat, seeds=seeds, plan=plan) for plan in plans)
    assert_same([many], [one])
    assert many.details["devices"] == min(8, len(seeds))


def test_every_device_has_the_permutations_of_its_seed():
    stream = permuted(small_source(), tasks=2, batch_size=8)
    method = small_method("er")
    plans = [Plan(chunk=7, over_seeds=over) for over in ("sequential", "devices")]
    one, many = (run(method, stream, seeds=(0, 1), plan=plan) for plan in plans)
    assert_same([many], [one])
    split = run(method, stream, seeds=(1,), plan=Plan(chunk=7, devices=4))
    assert_close(split.states[0], one.states[1])


def test_dualnet_seeds_on_devices_are_the_single_runs(pictures):
    """To rounding: XLA may choose other layouts for convolutions there. Memory to the bit."""
    method = small_method("dualnet")
    plans = [Plan(chunk=4, over_seeds=over) for over in ("sequential", "devices")]
    one, many = (run(method, pictures, seeds=(0, 1), plan=plan) for plan in plans)
    assert_close(many.states, one.states)


def test_a_sweep_fills_the_devices_in_rounds(flat):
    method = flat_method("er")
    hypers = [{"learning_rate": rate} for rate in (0.003, 0.01, 0.02)]
    how = {"method": method, "stream": flat, "hypers": hypers, "seeds": (0, 1, 2)}
    one = sweep(**how, plan=Plan(over_seeds="sequential"))
    assert_same(sweep(**how, plan=Plan(over_seeds="devices", devices=4)), one)


def lives(folder, plans, number, **how):
    """A run that is stopped after ``number`` offers and goes on under the next plan."""
    for plan in [*plans, *plans]:
        try:
            return sweep(**how, plan=plan, keep=After(folder, number))
        except Stopped:
            continue
    keep = Checkpoints(folder, "it", every=Interval(), last=2, wish=StopFlag())
    return sweep(**how, plan=plans[-1], keep=keep)


def test_seeds_move_from_eight_devices_to_one_and_back(tmp_path, flat):
    method = flat_method("clser", learning_rate=0.02)
    how = {"method": method, "stream": flat, "hypers": [{}], "seeds": tuple(range(8))}
    plans = [
        Plan(chunk=5, over_seeds="devices"),
        Plan(chunk=5, over_seeds="sequential"),
        Plan(chunk=5, over_seeds="devices", devices=3),
    ]
    found = lives(tmp_path, plans, 6, **how)
    assert_same(found, sweep(**how, plan=Plan(over_seeds="sequential")))


def test_a_split_batch_moves_from_eight_devices_to_one_and_back(tmp_path, flat):
    method = flat_method("clser")
    how = {"method": method, "stream": flat, "hypers": [{}], "seeds": (2,)}
    plans = [Plan(chunk=5, devices=devices) for devices in (8, 1, 4)]
    (found,) = lives(tmp_path, plans, 5, **how)
    (whole,) = sweep(**how)
    assert_close(found.states, whole.states)


def test_a_saved_mesh_run_has_the_fingerprint_of_its_bytes(flat):
    method = flat_method("sgd")
    state = run(method, flat, plan=Plan(devices=8)).states[0]
    assert len(state.model.vars.params["fc1"]["kernel"].sharding.device_set) == 8
    assert fingerprint(state) == fingerprint(
        jax.tree.map(lambda x: jnp.asarray(np.asarray(x)), state)
    )


def test_one_trace_for_all_tasks_on_a_mesh(flat):
    method = flat_method("er")
    traces = 0

    def step(*given):
        nonlocal traces
        traces += 1
        return method.phases[0].step(*given)

    counted = exchanged(method, step=step)
    run(counted, flat, plan=Plan(chunk=5, devices=4))
    assert traces <= 2  # the shape of the metrics is asked once


@pytest.mark.parametrize(
    ("plan", "seeds", "message"),
    [
        (Plan(devices=9), (0,), "devices is 9, but JAX sees 8"),
        (Plan(devices=3), (0,), "devices is 3, over which batches of 8 cannot be split"),
        (Plan(devices=0), (0,), "devices must be at least 1 device"),
        (Plan(devices=2, over_seeds="vmap"), (0, 1), "over_seeds is 'vmap' and devices 2"),
        (Plan(devices=9, over_seeds="devices"), (0, 1), "devices is 9, but JAX sees 8"),
    ],
)
def test_impossible_devices_are_named(flat, plan, seeds, message):
    method = flat_method("sgd")
    with pytest.raises(InputError, match=message):
        run(method, flat, seeds=seeds, plan=plan)


@pytest.mark.parametrize("over_seeds", ["sequential", "devices"])
def test_examples_from_the_host_are_the_same(flat, over_seeds):
    method = flat_method("clser", learning_rate=0.02)
    plans = [Plan(chunk=5, over_seeds=over_seeds, data=data) for data in ("device", "host")]
    one, other = (run(method, flat, seeds=(0, 1), plan=plan) for plan in plans)
    assert_same([one], [other])
