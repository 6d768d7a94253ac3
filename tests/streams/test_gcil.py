"""GCIL: what each phase draws, that nothing comes twice, and the nested test sets."""

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cls_jax.core.errors import InputError
from cls_jax.streams.gcil import gcil
from cls_jax.streams.stream import pooled
from tests.conftest import small_source
from tests.streams.test_class_il import source_of
from tests.support.schedules import check_runs, check_schedules, examples_of, rows_of


@settings(max_examples=15)
@given(
    counts=st.lists(st.integers(8, 40), min_size=5, max_size=5),
    seed=st.integers(0, 2**32 - 1),
    epochs=st.integers(1, 3),
    drop_last=st.booleans(),
    distribution=st.sampled_from(["uniform", "longtail"]),
    max_classes=st.sampled_from([1, 2, 3, 50]),
)
def test_phases_are_disjoint_and_epochs_repeat_them(
    counts, seed, epochs, drop_last, distribution, max_classes
):
    source, samples = source_of(counts), sum(counts) // 3
    stream = gcil(
        source,
        tasks=3,
        batch_size=4,
        samples_per_phase=samples,
        max_classes=max_classes if samples > 20 else min(max_classes, 3),
        distribution=distribution,
        epochs=epochs,
        drop_last=drop_last,
    )
    table = stream.schedule(jax.random.key(seed))
    rows = samples // 4 if drop_last else -(-samples // 4)
    met, used = np.zeros(5, bool), set()
    for task in range(3):
        parts = np.split(rows_of(table, task), epochs)
        for part in parts:
            assert len(part) == rows
            numbers = part[part >= 0]
            assert len(set(numbers)) == numbers.size <= samples
        mine = set(examples_of(table, task))
        assert not mine & used  # no image in two phases
        if not drop_last:
            for part in parts:
                assert set(part[part >= 0]) == mine  # each exactly once an epoch
            classes = np.isin(np.arange(5), source.train.y[sorted(mine)])
            np.testing.assert_array_equal(classes, table.task_classes[task])
        assert 1 <= table.task_classes[task].sum() <= min(max_classes, 5)
        used |= mine
        met |= table.task_classes[task]
        tests = table.test_index[task]
        assert set(tests[tests >= 0]) == set(np.flatnonzero(met[source.test.y]))


def test_a_class_gives_what_it_has_left():
    """One class a phase of 30 draws but 12 examples: each phase takes a whole class."""
    source = source_of([12] * 10)
    stream = gcil(source, tasks=4, batch_size=4, samples_per_phase=30, max_classes=1)
    table = stream.schedule(jax.random.key(0))
    np.testing.assert_array_equal(table.task_classes.sum(1), 1)
    assert table.task_classes.sum(0).max() == 1  # an empty class is not drawn again
    for task in range(4):
        assert examples_of(table, task).size == 12


def test_a_phase_too_small_for_a_batch_is_passed_over():
    """Classes of 11 examples, one a phase, batches of 12 with drop_last: nothing can be learned."""
    stream = gcil(small_source(), tasks=3, batch_size=12, samples_per_phase=20, max_classes=1)
    table = stream.schedule(jax.random.key(0))
    assert (table.rows().index == -1).all()
    assert np.isfinite(check_runs(stream)).any()


def phases_of(distribution, keys=100):
    """(how many classes each phase has, how many examples of each class it has), over many keys."""
    source = source_of([400] * 20)
    stream = gcil(
        source,
        tasks=4,
        batch_size=10,
        samples_per_phase=400,
        max_classes=10,
        distribution=distribution,
    )
    numbers, counts = [], []
    for key in range(keys):
        table = stream.schedule(jax.random.key(key))
        numbers.append(table.task_classes.sum(1))
        # before the first phase nothing has run out
        counts.append(np.bincount(source.train.y[examples_of(table, 0)], minlength=20))
    return np.concatenate(numbers), np.stack(counts)


def test_number_and_choice_of_classes_are_uniform():
    """400 phases of 1 to 10 classes; within 5 standard deviations."""
    numbers, counts = phases_of("uniform")
    often = np.bincount(numbers, minlength=11)[1:]
    assert often.sum() == 400
    assert (abs(often - 40) < 5 * np.sqrt(400 * 0.1 * 0.9)).all()
    chosen = (counts > 0).sum(0)  # of 100 first phases, 5.5 of 20 classes each
    assert (abs(chosen - 27.5) < 5 * np.sqrt(100 * 0.275 * 0.725)).all()


@pytest.mark.parametrize("distribution", ["uniform", "longtail"])
def test_draws_have_the_weights_of_their_classes(distribution):
    """Examples of each class against 400 w_c / sum of w over the phase: within 5 deviations."""
    weights = (0.984 if distribution == "longtail" else 1.0) ** np.arange(20)
    _, counts = phases_of(distribution)
    expected = np.where(counts > 0, weights, 0)
    share = expected / expected.sum(1, keepdims=True)
    spread = np.sqrt(400 * (share * (1 - share)).sum(0))
    assert (abs(counts.sum(0) - 400 * share.sum(0)) < 5 * spread + 1e-9).all()
    if distribution == "longtail":  # the test would notice equal weights
        equal = (counts > 0) / (counts > 0).sum(1, keepdims=True)
        assert (abs(counts.sum(0) - 400 * equal.sum(0)) > 5 * spread).any()


def test_the_weights_of_a_hundred_classes():
    """Heaviest over lightest is 0.984^-99 = 4.94, seen over phases that hold all classes."""
    source = source_of([50] * 100)
    table = gcil(
        source,
        tasks=2,
        batch_size=10,
        samples_per_phase=2400,
        max_classes=100,
        distribution="longtail",
    )
    ratios = []
    for key in range(60):
        first = examples_of(table.schedule(jax.random.key(key)), 0)
        counts = np.bincount(source.train.y[first], minlength=100)
        if (counts > 0).all() or (counts > 0).sum() > 90:
            ratios.append((counts[:10].sum(), counts[90:].sum()))
    heavy, light = np.sum(ratios, axis=0)
    assert len(ratios) >= 2
    assert 0.984**-90 * 0.8 < heavy / light < 0.984**-90 * 1.25


def test_the_key_alone_decides():
    stream = gcil(source_of([30] * 6), tasks=3, batch_size=4, samples_per_phase=40, max_classes=6)
    check_schedules(stream)
    longer = gcil(source_of([30] * 6), tasks=4, batch_size=4, samples_per_phase=40, max_classes=6)
    one, two = (s.schedule(jax.random.key(0)) for s in (stream, longer))
    np.testing.assert_array_equal(two.rows().index[: len(one.rows().index)], one.rows().index)
    np.testing.assert_array_equal(two.task_classes[:3], one.task_classes)
    assert stream.describe["scenario"] == "gcil"


def test_it_runs_and_the_last_row_is_over_nested_sets():
    stream = gcil(small_source(), tasks=3, batch_size=4, samples_per_phase=20, epochs=2)
    matrix = check_runs(stream)
    assert np.isfinite(matrix[:, -1]).all()
    pool = pooled(stream).schedule(jax.random.key(0))
    table = stream.schedule(jax.random.key(0))
    assert (pool.rows().task == 2).all()
    np.testing.assert_array_equal(
        np.sort(pool.rows().index.ravel()), np.sort(table.rows().index.ravel())
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"tasks": 0}, "tasks is 0; give a value at least 1"),
        ({"epochs": 0}, "epochs is 0; give a value at least 1"),
        ({"batch_size": 0}, "batch_size is 0; give a value at least 1"),
        ({"max_classes": 0}, "max_classes is 0; give a value at least 1"),
        ({"samples_per_phase": 0}, "samples_per_phase is 0; give a value at least 1"),
        (
            {"batch_size": 41},
            "batch_size=41 is larger than a phase of 40 examples, of which drop_last",
        ),
        ({"tasks": 5}, r"tasks=5 of samples_per_phase=40 ask for more than the 180 .*at most 36"),
        ({"samples_per_phase": 8}, "8 would seldom reach every one of 6 classes; use more samples"),
        ({"distribution": "normal"}, "distribution must be 'uniform' or 'longtail', got 'normal'"),
    ],
)
def test_bad_settings_are_named(change, message):
    with pytest.raises(InputError, match=message):
        gcil(
            source_of([30] * 6), **{"tasks": 2, "batch_size": 4, "samples_per_phase": 40, **change}
        )
