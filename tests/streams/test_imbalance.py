"""A long tail: how many stay is fixed, which ones is the seed's, and nothing else changes."""

import jax
import numpy as np
import pytest

from cls_jax.app.build import make_stream
from cls_jax.core.errors import InputError
from cls_jax.streams.class_il import class_il
from cls_jax.streams.config import StreamConfig
from cls_jax.streams.domain_il import permuted
from cls_jax.streams.imbalance import kept_counts
from tests.conftest import small_source
from tests.streams.test_class_il import source_of
from tests.support.schedules import check_schedules


def test_as_many_stay_as_the_formula_says():
    """Long-tailed CIFAR-10 with a factor of 10 and of 100 (Cui et al. 2019)."""
    ten, hundred = (kept_counts(np.full(10, 5000), factor).tolist() for factor in (10, 100))
    assert ten == [5000, 3871, 2997, 2320, 1796, 1391, 1077, 834, 645, 500]
    assert hundred == [5000, 2997, 1796, 1077, 645, 387, 232, 139, 83, 50]
    assert kept_counts(np.array([9, 9, 9, 2]), 1000).tolist() == [9, 1, 1, 1]
    assert kept_counts(np.array([7]), 10).tolist() == [7]


@pytest.mark.parametrize("scenario", ["class_il", "permuted"])
def test_a_task_holds_what_stays(scenario):
    make = {"class_il": class_il, "permuted": permuted}[scenario]
    source = source_of([40, 40, 40, 40])
    stream = make(source, tasks=2, batch_size=8, epochs=2, imbalance=8)
    assert stream.name.endswith(", imbalance 8: 75 examples are kept")
    kept, seen = [40, 20, 10, 5], []
    for seed in range(3):
        table = stream.schedule(jax.random.key(seed))
        for task in range(2):
            both = np.split(table.rows(task).index, 2)
            one, other = (np.sort(index[index >= 0]) for index in both)
            np.testing.assert_array_equal(one, other)  # the same in every pass
            counts = np.bincount(source.train.y[one], minlength=4)
            np.testing.assert_array_equal(counts, kept * table.task_classes[task])
        seen.append(np.unique(table.rows().index))
        assert len(seen[-1]) == 1 + 75
    assert not np.array_equal(seen[0], seen[1])
    test = source_of([40] * 4).test.y.size
    assert (table.test_index >= 0).sum() == (2 * test if scenario == "permuted" else test)


def test_shapes_depend_on_no_key():
    for make in (class_il, permuted):
        check_schedules(make(small_source(), tasks=3, batch_size=4, imbalance=4, label_noise=0.3))


def test_one_is_the_stream_itself():
    given, same = (
        class_il(small_source(), tasks=3, batch_size=4, **kind).schedule(jax.random.key(1))
        for kind in ({}, {"imbalance": 1})
    )
    np.testing.assert_array_equal(given.rows().index, same.rows().index)


def test_flags_make_both_and_scenarios_without_them_say_so():
    flags = {"label_noise": 0.5, "imbalance": 10.0, "image_size": 8}
    for scenario in ("class_il", "permuted", "rotated", "dihedral"):
        described = make_stream(StreamConfig(scenario=scenario, **flags)).describe
        assert (described["label_noise"], described["imbalance"]) == (0.5, 10)
    for name in ("label_noise", "imbalance"):
        with pytest.raises(InputError, match=f"{name} is .*, but the scenario blurry has no such"):
            make_stream(StreamConfig(scenario="blurry", **{name: flags[name]}))


@pytest.mark.parametrize("value", [0.5, float("inf"), float("nan"), "10"])
def test_a_factor_that_is_none_is_named(value):
    with pytest.raises(InputError, match="imbalance is "):
        class_il(small_source(), tasks=3, batch_size=4, imbalance=value)
