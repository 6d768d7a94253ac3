"""What a method finds in a test batch: the images of one task, and no others."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cls_jax.data.dataset import Dataset, Split
from cls_jax.methods.base import WHOLE, Needs, hidden_task
from cls_jax.streams.class_il import class_il
from cls_jax.training import evaluate
from cls_jax.training.runner import Plan, run
from tests.conftest import TASKS, small_method, small_source
from tests.support.methods import exchanged, method_of


def test_padding_is_filled_from_the_front():
    index = np.array([[[3, 5, 8, -1], [7, -1, -1, -1], [1, 2, 4, 6]]], np.int32)
    filled, valid = evaluate.refilled(index, 6)
    np.testing.assert_array_equal(
        filled, [[[3, 5, 8, 3, 5, 8], [7, 7, 7, 7, 7, 7], [1, 2, 4, 6, 1, 2]]]
    )
    np.testing.assert_array_equal(valid, np.arange(6) < np.array([[[3], [1], [4]]]))
    assert filled.dtype == np.int32


@pytest.mark.parametrize("data", ["device", "host"])
@pytest.mark.parametrize("group", [None, 4])
def test_a_padded_batch_holds_its_own_task_alone(monkeypatch, data, group):
    """Every row answers with the largest label of its batch; the data set's last label is 3.

    Tasks of six test images in batches or groups of four: two rows of the second batch are padding.
    """
    y = np.array([0, 1] * 3 + [2, 3] * 3, np.int32)
    examples = Split(np.broadcast_to(y[:, None], (12, 2)).astype(np.float32), y)
    source = Dataset("labels", examples, examples, tuple("0123"))
    stream = class_il(source, tasks=2, batch_size=2, class_order="label")

    def predict(state, x, task):
        return jnp.broadcast_to(-jnp.abs(jnp.arange(4.0) - x.max()), (len(x), 4))

    def step(key, state, batch):
        return state, {"loss": jnp.float32(0)}

    method = method_of(
        "largest",
        init=lambda key, example: {"a": jnp.zeros(1)},
        step=step,
        predict=predict,
        needs=Needs(test_group=group),
    )
    monkeypatch.setattr(evaluate, "EVAL_BATCH", 4)
    monkeypatch.setattr(evaluate, "GROUPS", 1)
    result = run(method, stream, plan=Plan(data=data))
    np.testing.assert_allclose(result.matrix[0, 0, 0, -1], [0.5, 0.5])


def test_places_belong_to_the_pixels():
    """A permutation; another file order gives every example the same place; neighbours part."""
    x = np.arange(400, dtype=np.uint8).reshape(200, 2, 1, 1)
    x[:, 1] = np.arange(200)[:, None, None] % 7
    place, other = evaluate.content_places(x), np.random.default_rng(0).permutation(200)
    np.testing.assert_array_equal(np.sort(place), np.arange(200))
    np.testing.assert_array_equal(evaluate.content_places(x[other]), place[other])
    assert abs(np.corrcoef(place, np.arange(200))[0, 1]) < 0.2
    floats = evaluate.content_places(np.asfortranarray(np.linspace(0, 1, 12).reshape(6, 2)))
    np.testing.assert_array_equal(np.sort(floats), np.arange(6))


def test_rows_are_put_in_order_and_padding_stays_last():
    index = np.array([[[3, 0, 2, -1], [1, -1, -1, -1]]], np.int32)
    found = evaluate.in_order(index, np.array([3, 2, 0, 1]))
    np.testing.assert_array_equal(found, [[[2, 3, 0, -1], [1, -1, -1, -1]]])
    assert found.dtype == np.int32


@pytest.mark.parametrize("convolutional", [False, True])
@pytest.mark.parametrize("n", [2, 3, 7, 9])
def test_groups_are_answered_by_themselves(n, convolutional):
    """Groups of three and the rest: each row is answered by the sum of its group."""

    def predict(state, x, task):
        assert len(x) <= 3
        return jnp.broadcast_to(x.sum(), (len(x), 1)) + state + task.index

    x = np.arange(n, dtype=np.float32)[:, None]
    found = evaluate.answers(predict, 3, convolutional, jnp.float32(0.5), x, hidden_task(1))
    sums = [x[row // 3 * 3 : row // 3 * 3 + 3].sum() for row in range(n)]
    np.testing.assert_array_equal(found[:, 0], np.array(sums) - 0.5)


def test_so_many_are_answered_by_one_program():
    """40 groups side by side; with convolutions a batch as of any method, or one large group."""
    assert evaluate.batch_size(None, False) == evaluate.EVAL_BATCH
    assert evaluate.batch_size(128, False) == 40 * 128
    assert evaluate.batch_size(128, True) == evaluate.EVAL_BATCH
    assert evaluate.batch_size(WHOLE, True) == WHOLE
    assert evaluate.batch_size(WHOLE, False) >= WHOLE


GROUPED = {"hopsupsup": {"recovery_steps": 6, "recovery_batch_size": 4}}
"""Methods that find out the task of a group of test images, and what makes them fast."""


@pytest.mark.parametrize(
    "name",
    ["hopsupsup", *(pytest.param(n, marks=pytest.mark.more) for n in ("supsup", "supsup_nns"))],
)
def test_the_order_of_the_test_file_decides_nothing(name):
    """Labels sorted, in turn, and shuffled: the same accuracies, to the last bit.

    Accuracies of a few images are coarse, so what was asked and answered is compared as well.
    """
    method = small_method(name, **GROUPED.get(name, {}))
    assert method.needs.test_group is not None
    source, found = small_source(), []
    y = source.test.y
    shuffled = np.random.default_rng(0).permutation(len(y))
    for order in (np.argsort(y, kind="stable"), np.argsort(np.arange(len(y)) % 6), shuffled):
        test = Split(source.test.x[order], y[order])
        stream = class_il(source._replace(test=test), tasks=TASKS, batch_size=4)
        asked = []

        def predict(state, x, task, asked=asked):
            logits = method.predict(state, x, task)
            jax.debug.callback(lambda *each: asked.append(each), x, logits, ordered=True)
            return logits

        plan = Plan(score="end")
        result = run(exchanged(method, predict=predict), stream, plan=plan)
        jax.effects_barrier()
        found.append((result.matrix, asked))
    for matrix, asked in found[1:]:
        np.testing.assert_array_equal(matrix, found[0][0])
        jax.tree.map(np.testing.assert_array_equal, asked, found[0][1])
    assert found[0][1]
