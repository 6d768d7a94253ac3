"""Data sets from arrays in memory: converted, held out by the seed, or refused in a sentence."""

import numpy as np
import pytest

import cls_jax as cls
from cls_jax.core.errors import InputError
from cls_jax.data.hold_out import hold_out

RNG = np.random.default_rng(0)
Y = np.r_[np.zeros(30, int), np.ones(10, int), np.full(3, 2)]
X = RNG.normal(size=(len(Y), 4))
from_arrays = cls.Dataset.from_arrays


def test_both_splits_may_be_given():
    pictures = RNG.integers(0, 256, (len(Y), 5, 5))
    data = from_arrays(pictures, Y.tolist(), pictures[::2], Y[::2, None], label_names=list("abc"))
    assert data.name == "arrays"
    assert data.label_names == ("a", "b", "c")
    assert data.train.x.shape == (43, 5, 5, 1)
    assert data.train.x.dtype == np.uint8
    np.testing.assert_array_equal(data.test.x[..., 0], pictures[::2])
    np.testing.assert_array_equal(data.test.y, Y[::2])
    assert data.test.y.dtype == np.int32


def test_a_fraction_of_every_class_is_held_out_and_nothing_is_lost():
    data = from_arrays(X, Y, test_fraction=0.2, seed=3, name="mine")
    assert data.name == "mine"
    assert data.train.x.dtype == np.float32
    assert np.bincount(data.test.y).tolist() == [6, 2, 1]
    assert np.bincount(data.train.y).tolist() == [24, 8, 2]
    rows = np.r_[np.c_[data.train.x, data.train.y], np.c_[data.test.x, data.test.y]]
    expected = np.c_[np.float32(X), Y]
    np.testing.assert_array_equal(rows[np.lexsort(rows.T)], expected[np.lexsort(expected.T)])


def test_the_seed_fixes_what_is_held_out():
    parts = [from_arrays(X, Y, test_fraction=0.3, seed=seed).test.x for seed in (0, 0, 1)]
    np.testing.assert_array_equal(parts[0], parts[1])
    assert (parts[0] != parts[2]).any()
    most = from_arrays(X, Y, test_fraction=0.8).train.y
    assert np.bincount(most).tolist() == [6, 2, 1]
    same = hold_out(from_arrays(X, Y, X, Y), 0.3, 1)  # one rule for whatever is held out
    np.testing.assert_array_equal(same.test.x, parts[2])


with_nan = X.copy()
with_nan[2, 1] = np.nan
WRONG = {
    "neither": ({}, "arrays has neither test examples nor test_fraction; give one of them"),
    "both": ({"x_test": X, "y_test": Y, "test_fraction": 0.1}, "has both test examples and test_f"),
    "half": ({"x_test": X}, "x_test is given and y_test is not; give both, or test_fraction"),
    "other half": ({"y_test": Y}, "y_test is given and x_test is not"),
    "zero": ({"test_fraction": 0}, "test_fraction is 0.0; give a value above 0 and below 1"),
    "one": ({"test_fraction": 1}, "test_fraction is 1.0; give a value above 0 and below 1"),
    "text": ({"test_fraction": "a"}, "test_fraction is 'a'; give a number"),
    "nan": ({"test_fraction": float("nan")}, "test_fraction is nan; give a finite number"),
    "seed": ({"test_fraction": 0.1, "seed": -1}, "seed is -1"),
    "lone": (
        {"y": np.r_[Y[:-1], 3], "test_fraction": 0.1},
        "leaves no training example of class 3, that has 1; give a",
    ),
    "gap": ({"y": Y * 2, "test_fraction": 0.1}, r"no example of class 1 \(1\); every class"),
    "much": ({"test_fraction": 0.99}, "leaves no training example of class 0, that has 30"),
    "far": ({"y": Y + 2_000_000_000, "test_fraction": 0.1}, "label 2000000002 and 43 examples"),
    "names": (
        {"test_fraction": 0.1, "label_names": ["a"]},
        "has label 2, but label_names has 1 na",
    ),
    "values": (
        {"x": with_nan, "test_fraction": 0.1},
        "x holds 1 values that are NaN or beyond flo",
    ),
    "rank": (
        {"x": X[..., None, None, None], "test_fraction": 0.1},
        r"x is float64\[43, 4, 1, 1, 1\]",
    ),
    "labels": ({"y": Y + 0.5, "test_fraction": 0.1}, "labels must be integers"),
    "length": ({"y": Y[1:], "test_fraction": 0.1}, "x has 43 examples but y has 42 labels"),
    "shapes": ({"x_test": X[:, 1:], "y_test": Y}, "both splits must hold the same"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_does_not_fit_is_told(name):
    how, why = WRONG[name]
    with pytest.raises(InputError, match=why):
        from_arrays(**{"x": X, "y": Y, **how})


def test_a_data_set_of_the_library_keeps_its_name(monkeypatch):
    from cls_jax.core.own import DATASETS

    for name in ("digits", "mnist"):
        monkeypatch.setitem(DATASETS, name, lambda: None)
        with pytest.raises(InputError, match=f"the library has a data set {name}; give yours ano"):
            cls.load_data(name)
