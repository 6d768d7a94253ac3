"""A data set built in Python passes one door, in every scenario: right, converted or refused."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cls_jax.app.build import StreamConfig, make_learner, make_stream
from cls_jax.core.checks import check_hyper, check_seeds
from cls_jax.core.errors import InputError
from cls_jax.data.checked import checked
from cls_jax.data.dataset import Dataset, Split
from cls_jax.data.load import load
from cls_jax.data.scramble import scrambled
from cls_jax.methods import METHODS, signature
from cls_jax.nets.registry import NetConfig, networks
from cls_jax.streams.blurry import blurry
from cls_jax.streams.class_il import class_il
from cls_jax.streams.domain_il import dihedral, permuted, rotated
from cls_jax.streams.gcil import gcil
from cls_jax.streams.mnist360 import mnist360
from cls_jax.streams.stream import pooled
from cls_jax.streams.task_order import in_order
from cls_jax.training.runner import Plan, check_run, run, sweep
from tests.conftest import SMALL, small_method, small_problem
from tests.support.schedules import assert_same

CLASSES = 9
Y = np.repeat(np.arange(CLASSES, dtype=np.int32), 40)
X = np.random.default_rng(0).integers(0, 256, (Y.size, 4, 4, 3), np.uint8)
NAMES = tuple("abcdefghi")

SCENARIOS = {
    "class_il": lambda s, whole=int: class_il(
        s, tasks=whole(3), batch_size=whole(8), epochs=whole(2), base_epochs=whole(1)
    ),
    "unequal": lambda s, whole=int: class_il(
        s, tasks=np.array([2, 3, 4]) if whole is not int else (2, 3, 4), batch_size=whole(8)
    ),
    "base": lambda s, whole=int: class_il(
        s, tasks=whole(3), base_classes=whole(5), batch_size=whole(8), class_order="label"
    ),
    "blurry": lambda s, whole=int: blurry(s, tasks=whole(3), batch_size=whole(8), epochs=whole(2)),
    "permuted": lambda s, whole=int: permuted(s, tasks=whole(2), batch_size=whole(8)),
    "rotated": lambda s, whole=int: rotated(s, tasks=whole(2), batch_size=whole(8)),
    "dihedral": lambda s, whole=int: dihedral(s, tasks=whole(2), batch_size=whole(8)),
    "gcil": lambda s, whole=int: gcil(
        s,
        tasks=whole(2),
        batch_size=whole(8),
        samples_per_phase=whole(60),
        max_classes=whole(3),
        epochs=whole(1),
    ),
    "mnist360": lambda s, whole=int: mnist360(s, batch_size=whole(8), epochs=whole(2)),
    "pooled": lambda s, whole=int: pooled(class_il(s, tasks=whole(3), batch_size=whole(8))),
    "in_order": lambda s, whole=int: in_order(
        class_il(s, tasks=whole(3), batch_size=whole(8)),
        jnp.array([2, 0, 1]) if whole is not int else (2, 0, 1),
    ),
    "scrambled": lambda s, whole=int: class_il(scrambled(s), tasks=whole(3), batch_size=whole(8)),
}


def mine(x=X, y=Y, tx=X, ty=Y, names=NAMES):
    return Dataset("mine", Split(x, y), Split(tx, ty), names)


def vectors(x=None, tx=None, **changes):
    flat = (X.reshape(Y.size, -1) / 255).astype(np.float32)
    return mine(x=flat if x is None else x, tx=flat if tx is None else tx, **changes)


with_nan = (X.reshape(Y.size, -1) / 255).astype(np.float32)
with_nan[3, 2] = np.nan

WRONG = {
    "y longer": (mine(y=np.r_[Y, Y[:5]]), r"mine: train.x has 360 examples but train.y has 365 la"),
    "x longer": (mine(y=Y[:-5]), r"train.x has 360 examples but train.y has 355 labels"),
    "test y longer": (mine(ty=np.r_[Y, 0]), r"test.x has 360 examples but test.y has 361 labels"),
    "label -1": (mine(y=np.where(Y == 8, -1, Y)), r"train.y has label -1; labels must be 0..C-1"),
    "y float": (mine(y=Y.astype(float)), r"mine: train.y is float64\[360\]; labels must be integ"),
    "y bool": (mine(ty=Y > 3), r"test.y is bool\[360\]; labels must be integers"),
    "y one-hot": (mine(y=np.eye(9, dtype=int)[Y]), r"train.y is int64\[360, 9\]; labels must be"),
    "y text": (mine(y=Y.astype(str)), r"train.y is <U11\[360\]; labels must be integers"),
    "y too large": (mine(y=Y.astype(np.int64) + 2**40), r"train.y has label \d+; labels must be"),
    "few names": (mine(names=NAMES[:8]), r"train.y has label 8, but label_names has 8 names"),
    "many names": (mine(names=(*NAMES, "j")), r"train split of mine has no example of class 9 \(j"),
    "a gap": (mine(ty=np.where(Y == 4, 3, Y)), r"the test split of mine has no example of class 4"),
    "names a text": (mine(names="abcdefghi"), r"mine: label_names is 'abcdefghi'; give a text for"),
    "names numbers": (mine(names=range(9)), r"label_names is range\(0, 9\); give a text for each"),
    "no names": (mine(names=()), r"label_names is \(\); give a text for each class"),
    "sizes": (mine(tx=X[:, :3, :3]), r"train.x holds uint8\[4, 4, 3\] and test.x uint8\[3, 3, 3\]"),
    "channels": (mine(tx=X[..., :1]), r"train.x holds uint8\[4, 4, 3\] and test.x uint8\[4, 4, 1"),
    "kinds": (
        mine(tx=np.float32(X.reshape(360, -1))),
        r"train.x holds uint8\[4, 4, 3\] and test.x float32\[48\] an example; both splits must hol",
    ),
    "pixels in [0, 1]": (
        mine(x=X / 255.0),
        r"train.x is float64\[360, 4, 4, 3\]; it must be images uint8.*pixels in \[0, 1\] are np.u",
    ),
    "normalised": (mine(x=X / 127.5 - 1), r"here they are -1.0..1.0"),
    "16 bit": (mine(x=X.astype(np.uint16) * 256), r"train.x is uint16.*here they are 0..65280"),
    "halves": (mine(x=X.astype(float) / 2), r"train.x is float64.*here they are not whole numbers"),
    "pixels NaN": (mine(x=np.where(X == 3, np.nan, X)), r"train.x is float64.*here they are nan"),
    "pixels bool": (mine(x=X > 99), r"train.x is bool\[360, 4, 4, 3\]; it must be images uint8"),
    "complex": (mine(x=X * 1j), r"train.x is complex128\[360, 4, 4, 3\]; it must be images uint8"),
    "five axes": (mine(x=X[None]), r"train.x is uint8\[1, 360, 4, 4, 3\]; it must be images uint8"),
    "flat bytes": (mine(x=X.reshape(360, -1)), r"train.x is uint8\[360, 48\]; it must be images"),
    "flat ints": (
        vectors(x=X.reshape(360, -1).astype(int)),
        r"train.x is int64\[360, 48\]; it must",
    ),
    "NaN": (vectors(x=with_nan), r"train.x holds 1 values that are NaN or beyond float32"),
    "infinite": (
        vectors(tx=np.full((360, 48), 1e39)),
        r"test.x holds 17280 values that are NaN or b",
    ),
    "ragged": (
        mine(x=[[1, 2], [3]]),
        r"train.x is \[\[1, 2\], \[3\]\], which NumPy cannot read as",
    ),
    "objects": (mine(x=np.array([{}] * 360)), r"train.x holds Python objects; give a plain array"),
    "None": (mine(x=None), r"train.x holds Python objects; give a plain array of numbers"),
    "a mask": (
        mine(x=np.ma.masked_equal(X, 3)),
        r"train.x is a masked array, and a mask is not lo",
    ),
    "nothing": (
        mine(x=X[:0], y=Y[:0]),
        r"train.x is empty, uint8\[0, 4, 4, 3\]; give at least one",
    ),
    "no pixels": (mine(x=X[:, :0]), r"train.x is uint8\[360, 0, 4, 3\], examples of 0 numbers; gi"),
    "no features": (
        vectors(x=np.zeros((360, 0))),
        r"train.x is float64\[360, 0\], examples of 0 nu",
    ),
    "a key": (
        mine(x=jax.random.key(0)),
        r"train.x is .*key.*, which NumPy cannot read as an array",
    ),
    "no split": (
        Dataset("mine", None, Split(X, Y), NAMES),
        r"mine: train is None; give Split",
    ),
    "three parts": (
        Dataset("mine", (X, Y, Y), (X, Y), NAMES),
        r"mine: train is .*; give Split\(x",
    ),
    "no name": (
        Dataset(7, Split(X, Y), Split(X, Y), NAMES),
        r"the name of a source is 7; give",
    ),
    "a dict": (
        {"x": X},
        r"source is \{'x': array.*; give a Dataset, from load\(\) or built by hand",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_is_wrong_is_named(case):
    source, sentence = WRONG[case]
    with pytest.raises(InputError, match=sentence):
        checked(source)


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_every_scenario_has_the_door(scenario):
    """Two that were silent: JAX clamps an index beyond the images, and divides uint8 alone."""
    for case in ("y longer", "sizes", "pixels in [0, 1]", "few names", "many names", "y float"):
        with pytest.raises(InputError, match=WRONG[case][1]):
            SCENARIOS[scenario](WRONG[case][0])


SAME = {
    "int32": {"x": X.astype(np.int32), "tx": X.astype(np.int64)},
    "float64 whole": {"x": X.astype(float), "tx": X},
    "float16 whole": {"x": X.astype(np.float16), "tx": X.astype(np.float32)},
    "big-endian": {"x": X.astype(">i4"), "y": Y.astype(">i8")},
    "Fortran order": {"x": np.asfortranarray(X)},
    "JAX": {"x": jnp.asarray(X), "y": jnp.asarray(Y), "tx": jnp.asarray(X, jnp.int32)},
    "lists": {"x": X.tolist(), "y": Y.tolist(), "ty": tuple(Y), "names": list(NAMES)},
    "columns": {"y": Y[:, None], "ty": Y[:, None].astype(np.uint8)},
    "names an array": {"names": np.array(NAMES)},
}


@pytest.mark.parametrize("case", SAME)
def test_what_is_exact_is_converted(case):
    found = checked(mine(**SAME[case]))
    for split in (found.train, found.test):
        np.testing.assert_array_equal(split.x, X)
        np.testing.assert_array_equal(split.y, Y)
        assert (split.x.dtype, split.y.dtype) == (np.uint8, np.int32)
        assert split.x.dtype.isnative
    assert found.label_names == NAMES
    assert json.loads(json.dumps(found.label_names)) == list(NAMES)


def test_what_is_right_is_left_alone(tmp_path):
    """The same object, a map on disk too, which is not read."""
    assert checked(source := mine()) is source
    np.save(tmp_path / "x.npy", X)
    kept = mine(x=np.load(tmp_path / "x.npy", mmap_mode="r"))
    assert checked(kept) is kept
    for flat in (vectors(), load("digits", size=np.int64(8))):
        assert checked(flat) is flat
    grey = checked(mine(x=X[..., 0], tx=X[..., 0]))
    assert grey.train.x.shape == (360, 4, 4, 1)
    plain = checked(Dataset("mine", (X, Y), (X, Y), NAMES))
    assert isinstance(plain.test, Split)


@pytest.mark.parametrize("whole", [np.int64, np.uint8, np.array, jnp.int32])
@pytest.mark.parametrize("scenario", SCENARIOS)
def test_integers_of_numpy_and_jax_are_integers(scenario, whole):
    """The same tables, and a record that JSON can write."""
    make = SCENARIOS[scenario]
    plain, other = make(mine()), make(mine(), whole)
    key = jax.random.key(3)
    assert_same(plain.schedule(key), other.schedule(key))
    assert json.dumps(plain.describe) == json.dumps(other.describe)
    assert (plain.name, plain.num_tasks) == (other.name, other.num_tasks)
    assert type(other.batch_size) is type(other.num_tasks) is int


def test_numbers_and_answers_of_numpy():
    settings = {"label_fraction": np.float32(0.5), "drop_last": np.True_}
    stream = class_il(mine(), tasks=range(2, 5), batch_size=8, **settings)
    assert json.dumps(stream.describe)
    assert json.dumps(blurry(mine(), tasks=3, batch_size=8, blur=np.array(0.25)).describe)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"tasks": 3.0}, r"tasks is 3.0; give a whole number"),
        ({"tasks": True}, r"tasks is True; give a whole number"),
        ({"tasks": "33"}, r"tasks is '33'; give a sequence of whole numbers"),
        ({"tasks": (4.5, 4.5)}, r"tasks\[0\] is 4.5; give a whole number"),
        ({"tasks": np.ones((3, 3), int)}, r"tasks is array\(.*; give a sequence of whole numbers"),
        ({"tasks": {4, 5}}, r"tasks is \{4, 5\}; give a sequence of whole numbers"),
        ({"tasks": None}, r"tasks is None; give a whole number"),
        ({"batch_size": 8.0}, r"batch_size is 8.0; give a whole number"),
        ({"batch_size": np.array([8])}, r"batch_size is array\(\[8\]\); give a whole number"),
        ({"batch_size": 10**30}, r"batch_size=10+ is larger than a task of 120 examples; use at m"),
        ({"epochs": "2"}, r"epochs is '2'; give a whole number"),
        ({"base_epochs": 1.5}, r"base_epochs is 1.5; give a whole number"),
        ({"base_classes": "5"}, r"base_classes is '5'; give a whole number"),
        ({"label_fraction": "0.5"}, r"label_fraction is '0.5'; give a number"),
        ({"label_fraction": None}, r"label_fraction is None; give a number"),
        ({"drop_last": "no"}, r"drop_last is 'no'; give True or False"),
        ({"class_order": None}, r"class_order must be 'shuffled' or 'label' or '1993', got None"),
        (
            {"class_order": np.arange(9)},
            r"class_order must be 'shuffled' or 'label' or '1993', got",
        ),
    ],
)
def test_what_is_no_number_is_named(changes, sentence):
    with pytest.raises(InputError, match=sentence):
        class_il(mine(), **{"tasks": 3, "batch_size": 8, **changes})


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"seeds": 0}, r"seeds is 0; give a sequence of whole numbers"),
        ({"seeds": "01"}, r"seeds is '01'; give a sequence of whole numbers"),
        ({"seeds": (0.0,)}, r"seeds\[0\] is 0.0; give a whole number"),
        ({"seeds": np.zeros((2, 2), int)}, r"seeds is array.*; give a sequence of whole numbers"),
        ({"seeds": np.array([1, 1])}, r"seeds holds 1 more than once"),
        ({"seeds": np.array([])}, r"seeds is empty"),
        ({"plan": {"chunk": 3}}, r"plan is \{'chunk': 3\}; give a Plan"),
        ({"plan": Plan(chunk=2.5)}, r"chunk is 2.5; give a whole number"),
        ({"plan": Plan(devices="1")}, r"devices is '1'; give a whole number"),
        ({"plan": Plan(mode=["loop"])}, r"mode must be one of .*, got \['loop'\]"),
    ],
)
def test_what_no_run_can_use_is_named(stream, changes, sentence):
    method = small_method("sgd")
    with pytest.raises(InputError, match=sentence):
        run(method, stream, **changes)


def test_a_stream_put_together_by_hand_has_the_door_too(stream, source):
    method = small_method("sgd")
    longer = np.r_[source.train.y, 0].astype(np.int32)
    spoiled = stream._replace(source=source._replace(train=Split(source.train.x, longer)))
    with pytest.raises(InputError, match=r"train.x has 66 examples but train.y has 67 labels"):
        run(method, spoiled)
    as_list = source._replace(train=Split(source.train.x, source.train.y.tolist()))
    with pytest.raises(InputError, match=r"holds a source that no scenario has converted"):
        run(method, stream._replace(source=as_list))


@pytest.mark.parametrize("seeds", [np.arange(2), [0, np.uint8(1)], range(2), jnp.arange(2)])
def test_seeds_of_any_sequence(seeds):
    found = check_seeds(seeds)
    assert found == (0, 1)
    assert all(type(seed) is int for seed in found)


def test_numbers_of_a_plan_become_pythons(stream):
    method = small_method("sgd")
    plan = check_run(method, stream, np.arange(2), Plan(np.int64(5), devices=np.array(1)))
    assert (plan.chunk, plan.devices) == (5, 1)
    assert type(plan.chunk) is type(plan.devices) is int


@pytest.mark.parametrize(
    "rate", [np.float32(0.1), np.float64(0.1), np.array(0.1), jnp.float32(0.1)]
)
def test_rates_of_numpy_and_jax_are_rates(rate):
    check_hyper({"learning_rate": rate})
    check_hyper({"learning_rate": jnp.bfloat16(0.1)})


@pytest.mark.parametrize(
    ("hyper", "sentence"),
    [
        ({"learning_rate": "0.1"}, r"learning_rate is '0.1'; give a number"),
        ({"learning_rate": True}, r"learning_rate is True; give a number"),
        ({"learning_rate": 1j}, r"learning_rate is 1j; give a number"),
        (
            {"learning_rate": 1e39},
            r"learning_rate is 1e\+39, which is inf in float32; give a n",
        ),
        (
            {"learning_rate": 1e-50},
            r"learning_rate is 1e-50, which is 0 in float32; give a nu",
        ),
        (
            {"learning_rate": np.array([0.1, 0.2])},
            r"learning_rate is array\(\[0.1, 0.2\]\); give a number",
        ),
        (
            {"plastic_decay": 1 - 1e-12},
            r"plastic_decay is 0.999999999999, which is 1 in float32",
        ),
        ({"learning_rate": object()}, r"learning_rate is <object object.*; give a number"),
    ],
)
def test_rates_that_are_none_are_named(hyper, sentence):
    with pytest.raises(InputError, match=sentence):
        check_hyper(hyper)


def test_a_sweep_takes_mappings_of_known_hyper_parameters(stream):
    method = small_method("sgd")
    with pytest.raises(InputError, match=r"hypers is \{'learning_rate.*; give a sequence of map"):
        sweep(method, stream, {"learning_rate": 0.1})
    with pytest.raises(InputError, match=r"hypers holds 0.1; the method's are learning_rate"):
        sweep(method, stream, [0.1])


def test_a_size_of_numpy_is_a_size_and_one_beyond_memory_is_refused(monkeypatch):
    np.testing.assert_array_equal(
        load("digits", size=np.int16(8)).train.x, load("digits", size=8).train.x
    )
    monkeypatch.setattr("cls_jax.core.host_memory.memory_bytes", lambda: 2**30)
    with pytest.raises(
        InputError, match=r"size=4096, to which the 1797 scans .* needs 673.9 GiB of m"
    ):
        load("digits", size=4096)
    with pytest.raises(InputError, match=r"data_dir is 5; give the path of a folder, or None"):
        load("cifar10", 5)


@pytest.mark.parametrize("name", METHODS)
def test_arguments_of_every_method_may_be_numpys(name):
    """A number that is none is named before anything is built."""
    usual = {k: one.default for k, one in signature(name).arguments.items()}
    given = {**usual, **SMALL.get(name, {})}
    numpys = {int: np.int64, float: np.float64, bool: np.bool_, tuple: list}
    converted = {k: numpys[type(v)](v) for k, v in given.items() if type(v) in numpys}
    one, other = small_method(name, **given), small_method(name, **{**given, **converted})
    words = [json.dumps([m.fixed, m.hyper]) for m in (one, other)]
    assert words[0] == words[1]
    for field, value in given.items():
        for kind, wrong in ((int, 2.5), (int, "20"), (float, "0.5"), (bool, "no"), (tuple, (0.5,))):
            if type(value) is kind:
                with pytest.raises(InputError, match=rf"{field}(\[0\])? is .*; give (a|True)"):
                    small_method(name, **{**given, field: wrong})


def test_a_memory_of_numpys_size_learns_the_same(stream):
    results = []
    for whole in (int, np.int64):
        method = small_method("er", memory_size=whole(24), replay_size=whole(6))
        results.append(run(method, stream))
    np.testing.assert_array_equal(results[0].matrix, results[1].matrix)


def test_a_recipe_of_numpys_numbers_is_written_as_pythons():
    config = StreamConfig(image_size=np.int64(8), tasks=np.array([4, 6]), batch_size=np.int32(50))
    net = NetConfig(net="mlp", hidden=np.array([8]))
    own = {"memory_size": np.int64(24), "replay_size": 6}
    recipe = make_learner("er", own, make_stream(config), config, net).recipe
    assert json.loads(json.dumps(recipe))["stream"]["tasks"] == [4, 6]
    assert json.loads(json.dumps(recipe))["net"]["hidden"] == [8]


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"num_classes": 6.0}, r"num_classes is 6.0; give a whole number"),
        ({"num_tasks": 0}, r"num_tasks is 0; give a value at least 1"),
    ],
)
def test_a_problem_that_is_none_is_named(change, sentence):
    with pytest.raises(InputError, match=sentence):
        METHODS["er"](small_problem()._replace(**change))
    with pytest.raises(InputError, match=r"hidden\[0\] is 8.5; give a whole number"):
        networks(NetConfig(net="mlp", hidden=(8.5,)))


def test_arguments_that_are_none_are_named():
    with pytest.raises(InputError, match=r"er has no argument 'memory'; it has memory_size"):
        small_method("er", memory=24)
    with pytest.raises(InputError, match=r"head is 'round'; use one of cosine, linear"):
        small_method("er_ace", head="round")
