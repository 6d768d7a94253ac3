"""ESMER where a quarter of the labels is wrong: digits, 5 tasks of two, ten seeds.

The card's section 11 says what may be asserted of it beside Mean-ER with added means, which is
ESMER that nothing surprises: a memory with fewer wrong labels, and more accuracy.
"""

import numpy as np
import pytest

import cls_jax as cls

pytestmark = pytest.mark.slow


def test_wrong_labels_are_kept_out_of_memory_and_more_is_learned():
    digits = cls.load_data("digits", size=8)
    stream = cls.class_il(digits, tasks=5, batch_size=10, epochs=10, label_noise=0.5)
    problem = cls.problem(stream, net="mlp", normalisation="none")
    sizes = {"memory_size": 50, "replay_size": 10, "mean_warmup": "updates"}
    rates = {"learning_rate": 0.1, "consistency_weight": 2.0, "stable_rate": 1.0}
    method, margins = cls.esmer(problem, **sizes, **rates), {"loss_margin": [1.2, 1e9]}
    result = cls.train(method, stream, seeds=range(10), sweep=margins)
    true = {x.tobytes(): y for x, y in zip(digits.train.x, digits.train.y, strict=True)}

    def wrong(slots):
        kept = zip(np.asarray(slots["x"]), np.asarray(slots["y"]), strict=True)
        return np.mean([true[x.tobytes()] != y for x, y in kept])

    share, kept = (np.mean([wrong(s.memory.slots) for s in states]) for states in result.states)
    assert 0.2 < kept < 0.3  # a half is drawn anew, of two classes
    assert share < 0.75 * kept
    accuracy, plain = result.accuracy("class_il")
    assert (accuracy - plain).mean() > 0.02
