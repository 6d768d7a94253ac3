"""Shares of test images whose task is found, against counts by hand; the words for an inference."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cls_jax.app.task_inference import (
    Inference,
    make_identification,
    parse_inferences,
    report_inference,
)
from cls_jax.core.errors import InputError
from cls_jax.data.dataset import Dataset, Split
from cls_jax.streams.class_il import class_il
from cls_jax.training.evaluate import content_places
from cls_jax.training.runner import Plan, run
from tests.conftest import TASKS, small_method, small_source

SIZES = 5, 3, 4  # test images of the three classes, one a task


def counting_stream():
    """Test images are numbered by their one pixel; task t has class t."""
    y = np.repeat(np.arange(3), SIZES).astype(np.int32)
    x = np.arange(y.size, dtype=np.uint8).reshape(-1, 1, 1, 1)
    whole = Split(x, y)
    return class_il(
        Dataset("count", whole, whole, ("a", "b", "c")), tasks=3, batch_size=3, class_order="label"
    )


@pytest.mark.parametrize(("probe", "group"), [(1, 1), (1, 2), (2, 2), (1, 4), (3, 4)])
def test_shares_by_hand(probe, group):
    """The task is the sum of a group's first images modulo 3; labels of even images are right."""
    stream = counting_stream()

    def predict(state, x, task):
        number = x[:, 0, 0, 0].astype(int)
        own = jnp.argmax(task.classes)
        return jax.nn.one_hot(jnp.where(number % 2 == 0, own, (own + 1) % 3), 3)

    def identify(state, x, valid):
        return jnp.where(valid, x[:, 0, 0, 0].astype(jnp.int32), 0).sum() % 3

    inference = Inference("one_shot", "H", probe, group)
    schedule = stream.schedule(jax.random.key(0))
    found = make_identification(predict, identify, stream, inference)((), schedule)
    start = 0
    for task, size in enumerate(SIZES):
        numbers = np.arange(start, start + size)
        numbers = numbers[np.argsort(content_places(numbers.astype(np.uint8)[:, None, None, None]))]
        start += size
        right = numbers % 2 == 0
        own = np.concatenate(
            [
                np.full(len(part), part[:probe].sum() % 3 == task)
                for part in np.split(numbers, range(group, size, group))
            ]
        )
        np.testing.assert_allclose(found.task[task], own.mean(), atol=1e-6)
        np.testing.assert_allclose(found.label[task], right.mean(), atol=1e-6)
        np.testing.assert_allclose(found.both[task], (own & right).mean(), atol=1e-6)


def test_inferences_by_their_words():
    words = ("one_shot:G:1:128", "binary:H:128:128")
    found = [Inference("one_shot", "G", 1, 128), Inference("binary", "H", 128, 128)]
    assert parse_inferences(words) == dict(zip(words, found, strict=True))


@pytest.mark.parametrize(
    "words", ["one_shot", "twice:H:1:1", "binary:J:1:1", "binary:H:2:1", "binary:H:a:1"]
)
def test_words_for_no_inference_are_refused(words):
    with pytest.raises(InputError, match=r"one_shot\|binary:H\|G:PROBE:GROUP"):
        parse_inferences([words])


@pytest.mark.more
def test_the_report_asks_the_method_for_its_network(tmp_path, capsys):
    """An inference as the method's own finds what evaluate has found; the table and the file."""
    stream = class_il(small_source(), tasks=TASKS, batch_size=4)
    method = small_method("supsup", learning_rate=0.01)
    result = run(method, stream, plan=Plan(score="end"))
    report_inference(
        method, stream, [result], ("one_shot:H:1:128", "one_shot:G:2:3"), str(tmp_path)
    )
    found = json.loads((tmp_path / "identification.json").read_text())
    assert [one["inference"] for one in found] == ["one_shot:H:1:128", "one_shot:G:2:3"]
    np.testing.assert_allclose(found[0]["label"], result.matrix[0, 0, 1, -1], atol=1e-6)
    np.testing.assert_allclose(found[0]["both"], result.matrix[0, 0, 0, -1], atol=1e-6)
    assert "Which task is it?" in capsys.readouterr().out
