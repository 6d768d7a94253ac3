"""UCIR on the digits, 5 classes + 5 x 1: what its exemplars are worth."""

import pytest

from cls_jax.app.build import StreamConfig, make_learner, make_stream
from cls_jax.nets.registry import NetConfig
from cls_jax.report.columns import columns_of
from cls_jax.training.runner import run

pytestmark = pytest.mark.slow

DIGITS = StreamConfig(
    image_size=8,
    tasks=6,
    base_classes=5,
    class_order="label",
    batch_size=64,
    base_epochs=10,
    epochs=8,
)
QUICK = {"decays": (5,), "learning_rate": 0.03, "initial_scale": 10.0}


def measured(exemplars):
    """Column -> mean over two seeds."""
    stream, net = make_stream(DIGITS), NetConfig(net="small", width=16)
    arguments = {**QUICK, "exemplars_per_class": exemplars}
    method = make_learner("ucir", arguments, stream, DIGITS, net).method
    result = run(method, stream, seeds=(0, 1))
    columns, _ = columns_of([result])
    return {name: value(result, 0).mean() for name, (_, value) in columns.items()}


def test_exemplars_keep_past_classes():
    """Seeds 0-4: average .851 to .922 with 20 of each class, .419 to .560 without; last .784
    to .834 and .218 to .314."""
    kept, none = measured(20), measured(0)
    assert kept["average"] > none["average"] + 0.2, (kept, none)
    assert kept["last"] > none["last"] + 0.35, (kept, none)
    assert kept["old classes"] > none["old classes"] + 0.3, (kept, none)
    assert abs(kept["phase 1"] - none["phase 1"]) < 0.03, "the same start, to rounding"
