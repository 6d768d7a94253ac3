"""What a method finds in a test batch: the images of one task, and no others."""

import jax.numpy as jnp
import numpy as np
import pytest

from cls_jax import evaluate
from cls_jax.methods.base import Method, Phase
from cls_jax.runner import Plan, run
from cls_jax.streams.class_il import class_il
from cls_jax.streams.stream import Examples, Source


def test_padding_is_filled_from_the_front():
    index = np.array([[[3, 5, 8, -1], [7, -1, -1, -1], [1, 2, 4, 6]]], np.int32)
    filled, valid = evaluate.refilled(index, 6)
    np.testing.assert_array_equal(
        filled, [[[3, 5, 8, 3, 5, 8], [7, 7, 7, 7, 7, 7], [1, 2, 4, 6, 1, 2]]]
    )
    np.testing.assert_array_equal(valid, np.arange(6) < np.array([[[3], [1], [4]]]))
    assert filled.dtype == np.int32


@pytest.mark.parametrize("data", ["device", "host"])
def test_a_padded_batch_holds_its_own_task_alone(monkeypatch, data):
    """Every row answers with the largest label of its batch; the data set's last label is 3.

    Tasks of six test images in batches of four: two rows of the second batch are padding.
    """
    y = np.array([0, 1] * 3 + [2, 3] * 3, np.int32)
    examples = Examples(np.broadcast_to(y[:, None], (12, 2)).astype(np.float32), y)
    source = Source("labels", examples, examples, tuple("0123"))
    stream = class_il(source, tasks=2, batch_size=2, class_order="label")

    def predict(state, x, task):
        return jnp.broadcast_to(-jnp.abs(jnp.arange(4.0) - x.max()), (len(x), 4))

    def step(key, state, batch):
        return state, {"loss": jnp.float32(0)}

    method = Method(
        "largest", lambda key, example, hyper: {"a": jnp.zeros(1)}, (Phase("train", step),), predict
    )
    monkeypatch.setattr(evaluate, "EVAL_BATCH", 4)
    result = run(method, stream, {}, plan=Plan(data=data))
    np.testing.assert_allclose(result.matrix[0, 0, 0, -1], [0.5, 0.5])
