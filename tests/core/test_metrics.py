"""Metrics against the card's numbers, hand-worked matrices and plain loops."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from cls_jax.core import metrics
from cls_jax.core.errors import InputError

NAN = np.nan

# Card dualnet.md 13.10, turned: rows are the task just trained.
CARD = np.array([[0.9, NAN, NAN], [0.7, 0.6, NAN], [0.8, 0.65, 0.5]])

# The best of task 0 (.9) lies between its diagonal (.6) and the end (.4).
BETWEEN = np.array(
    [
        [0.6, 0.1, NAN, NAN],
        [0.9, 0.8, 0.2, NAN],
        [0.5, 0.7, 1.0, 0.3],
        [0.4, 0.9, 0.6, 0.7],
    ]
)
INITIAL = np.array([0.25, 0.3, 0.1, 0.1])

matrices = st.integers(1, 6).flatmap(
    lambda t: hnp.arrays(np.float64, (2, t, t), elements=st.floats(0, 1, width=32))
)


def test_card_oracle():
    assert metrics.average_accuracy(CARD) == pytest.approx(0.65)
    assert metrics.learning_accuracy(CARD) == pytest.approx(2 / 3)
    assert metrics.forgetting_clipped(CARD) == pytest.approx(0.05)
    assert metrics.forgetting(CARD) == pytest.approx(0.025)
    assert metrics.backward_transfer(CARD) == pytest.approx(-0.025)


def test_what_mammoth_calls_forgetting_is_not_ours_but_the_clipped_one():
    """Its rule (utils/metrics.py): best of all rows, zeros where not scored, minus the last row."""
    for a in (CARD, np.array([[0.5, NAN], [0.8, 0.4]])):
        whole = np.nan_to_num(a)
        mammoth = (whole.max(0) - whole[-1])[:-1].mean()
        assert metrics.forgetting_clipped(a) == pytest.approx(mammoth)
        assert metrics.forgetting(a) < mammoth - 0.01
    assert "mammoth" in metrics.forgetting.__doc__


def test_hand_worked_matrix_with_the_best_between():
    a = BETWEEN
    assert metrics.average_accuracy(a) == pytest.approx((0.4 + 0.9 + 0.6 + 0.7) / 4)
    assert metrics.learning_accuracy(a) == pytest.approx((0.6 + 0.8 + 1.0 + 0.7) / 4)
    assert metrics.forgetting(a) == pytest.approx((0.5 - 0.1 + 0.4) / 3)  # .8 - .9 counts
    assert metrics.forgetting_clipped(a) == pytest.approx((0.5 + 0.0 + 0.4) / 3)  # and here not
    assert metrics.backward_transfer(a) == pytest.approx((-0.2 + 0.1 - 0.4) / 3)
    assert metrics.forward_transfer(a, INITIAL) == pytest.approx((-0.2 + 0.1 + 0.2) / 3)
    curve = [0.6, 0.85, 2.2 / 3, 0.65]
    np.testing.assert_allclose(metrics.accuracy_by_task(a), curve)
    assert metrics.average_incremental_accuracy(a) == pytest.approx(np.mean(curve))


def test_scores_takes_the_matrix_of_a_result():
    matrix = np.concatenate([INITIAL[None], BETWEEN])
    every = metrics.scores(np.stack([matrix, matrix]))
    assert set(every) == {
        "average_accuracy",
        "average_incremental_accuracy",
        "forgetting",
        "forgetting_clipped",
        "backward_transfer",
        "forward_transfer",
        "learning_accuracy",
    }
    for name, values in every.items():
        initial = (INITIAL,) if name == "forward_transfer" else ()
        np.testing.assert_allclose(values, [getattr(metrics, name)(BETWEEN, *initial)] * 2)


@given(matrices)
def test_equals_plain_loops(a):
    t = a.shape[-1]
    for trial in range(2):
        m = a[trial]
        expected = {
            "average_accuracy": sum(m[t - 1, j] for j in range(t)) / t,
            "learning_accuracy": sum(m[j, j] for j in range(t)) / t,
            "forgetting": _mean(
                [max(m[i, j] for i in range(j, t - 1)) - m[t - 1, j] for j in range(t - 1)]
            ),
            "forgetting_clipped": _mean(
                [max(m[i, j] for i in range(j, t)) - m[t - 1, j] for j in range(t - 1)]
            ),
            "backward_transfer": _mean([m[t - 1, j] - m[j, j] for j in range(t - 1)]),
        }
        for name, value in expected.items():
            got = getattr(metrics, name)(a)
            assert got.shape == (2,)
            assert got[trial] == pytest.approx(value, abs=1e-12), name
        curve = [sum(m[i, : i + 1]) / (i + 1) for i in range(t)]
        np.testing.assert_allclose(metrics.accuracy_by_task(a)[trial], curve, atol=1e-12)


@given(matrices)
def test_order_of_the_forgettings(a):
    assert (metrics.forgetting_clipped(a) >= 0).all()
    assert (metrics.forgetting_clipped(a) >= metrics.forgetting(a) - 1e-12).all()
    assert (metrics.forgetting(a) >= -metrics.backward_transfer(a) - 1e-12).all()


@given(st.integers(1, 6), st.floats(0, 1))
def test_a_constant_matrix_forgets_and_transfers_nothing(t, value):
    every = metrics.scores(np.full((t + 1, t), value))
    for name, score in every.items():
        is_level = "accuracy" in name
        assert score == pytest.approx(value if is_level else 0.0, abs=1e-12), name


@given(matrices)
def test_what_lies_above_the_superdiagonal_does_not_matter(a):
    t = a.shape[-1]
    matrix = np.concatenate([a[:, :1], a], axis=1)
    holes = matrix.copy()
    holes[:, 1:][:, np.triu(np.ones((t, t), bool), 2)] = NAN
    for name, values in metrics.scores(matrix).items():
        np.testing.assert_array_equal(metrics.scores(holes)[name], values, err_msg=name)


def test_joint_training_has_only_a_final_accuracy():
    matrix = np.full((4, 3), NAN)
    matrix[3] = [0.5, 0.6, 0.7]
    every = metrics.scores(matrix)
    assert every.pop("average_accuracy") == pytest.approx(0.6)
    assert all(np.isnan(value) for value in every.values())


def test_one_task_has_nothing_to_forget():
    every = metrics.scores(np.array([[0.1], [0.8]]))
    assert {name for name, value in every.items() if value == 0.8} == {
        "average_accuracy",
        "average_incremental_accuracy",
        "learning_accuracy",
    }
    assert sum(value == 0 for value in every.values()) == 4


def test_summarise_is_the_sample_standard_deviation():
    summary = metrics.summarise([1.0, 2.0, 4.0])
    assert summary.mean == pytest.approx(7 / 3)
    assert summary.std == pytest.approx(np.sqrt(((4 / 3) ** 2 + (1 / 3) ** 2 + (5 / 3) ** 2) / 2))
    assert summary.standard_error == pytest.approx(summary.std / np.sqrt(3))
    assert summary.n == 3


def test_one_run_has_no_spread():
    summary = metrics.summarise([0.5])
    assert summary.mean == 0.5
    assert summary.n == 1
    assert np.isnan([summary.std, summary.standard_error]).all()


@pytest.mark.parametrize("shape", [(3,), (4, 3), (0, 0)])
def test_refuses_what_is_no_accuracy_matrix(shape):
    with pytest.raises(InputError, match=r"\[\.\.\., T, T\]"):
        metrics.forgetting(np.zeros(shape))


def test_refusals_name_the_argument():
    with pytest.raises(InputError, match="initial"):
        metrics.forward_transfer(BETWEEN, INITIAL[:2])
    with pytest.raises(InputError, match=r"T \+ 1, T"):
        metrics.scores(BETWEEN)
    with pytest.raises(InputError, match="n >= 1"):
        metrics.summarise([])


def _mean(values):
    return sum(values) / len(values) if values else 0.0


def test_accuracy_by_phase_weighs_tasks_by_their_test_images():
    a = [[0.9, np.nan, np.nan], [0.6, 0.8, np.nan], [0.5, 0.2, 1.0]]
    n = [50, 10, 20]
    found = metrics.accuracy_by_phase(np.array(a), n)
    np.testing.assert_allclose(found, [0.9, 38 / 60, 47 / 80])
    old, new = metrics.old_and_new(np.array(a), n)
    np.testing.assert_allclose([old, new], [27 / 60, 1.0])


def test_accuracy_by_phase_takes_each_seeds_own_counts():
    a = np.array([[[1.0, np.nan], [0.5, 0.0]]] * 2)
    found = metrics.accuracy_by_phase(a, [[1, 1], [3, 1]])
    np.testing.assert_allclose(found, [[1.0, 0.25], [1.0, 0.375]])
    with pytest.raises(InputError, match=r"test_examples must be \[..., 2\]"):
        metrics.accuracy_by_phase(a, [1, 2, 3])


def test_order_disparity_of_the_card():
    """apd card, oracle 6: two tasks in three orders."""
    found = metrics.order_disparity([[0.80, 0.60], [0.70, 0.62], [0.75, 0.64]])
    np.testing.assert_allclose(found.of_task, [0.10, 0.04])
    np.testing.assert_allclose([found.average, found.largest], [0.07, 0.10])
    seeds = metrics.order_disparity(np.array([[[0.5, 0.5], [0.5, 0.9]], [[0.1, 0.2], [0.3, 0.2]]]))
    np.testing.assert_allclose(seeds.average, [0.2, 0.1])
    with pytest.raises(InputError, match="at least two orders"):
        metrics.order_disparity([[0.8, 0.6]])


def test_what_is_told_by_place_is_told_by_task():
    """Learned in the order 2, 0, 1: the first value is task 2's."""
    np.testing.assert_array_equal(metrics.by_given_task([7, 8, 9], [2, 0, 1]), [8, 9, 7])
    values, orders = np.array([[7, 8, 9], [1, 2, 3]]), np.array([[2, 0, 1], [1, 2, 0]])
    np.testing.assert_array_equal(metrics.by_given_task(values, orders), [[8, 9, 7], [3, 1, 2]])
    np.testing.assert_array_equal(metrics.by_given_task(values, orders[0]), [[8, 9, 7], [2, 3, 1]])


def test_first_tasks_that_are_not_tested_do_not_count():
    """A run that goes on without the test examples of two tasks: scored as if it had the others."""
    whole = np.random.default_rng(0).random((2, 6, 5))
    part = whole.copy()
    part[:, 3:, :2] = np.nan
    assert (metrics.num_untested(whole), metrics.num_untested(part)) == (0, 2)
    rest = metrics.scores(whole[:, 2:, 2:])
    for name, values in metrics.scores(part).items():
        np.testing.assert_array_equal(values, rest[name])
    assert metrics.num_untested(np.full((1, 3, 2), np.nan)) == 0
