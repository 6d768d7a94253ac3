"""SPB on the digits, 5 classes + 5 x 1: which of its parts does what, by the card's margins."""

from functools import cache

import numpy as np
import pytest

from cls_jax.app.build import StreamConfig, make_learner, make_stream
from cls_jax.app.published.spb_variants import VARIANTS
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
    base_epochs=40,
    epochs=30,
)
QUICK = {"base_decays": (24,), "decays": (18,), "learning_rate": 0.01, "initial_scale": 10.0}


@cache
def measured(variant):
    """Column -> mean over two seeds; the quick preset of experiments/spb_cifar.py."""
    stream, net = make_stream(DIGITS), NetConfig(net="small", width=16)
    method = make_learner("spb", {**QUICK, **VARIANTS[variant]}, stream, DIGITS, net).method
    result = run(method, stream, seeds=(0, 1))
    columns, _ = columns_of([result])
    return {name: value(result, 0).mean() for name, (_, value) in columns.items()}


def test_what_holds_old_classes_is_the_reciprocal_weight():
    """Without it old classes are lost and the newest is known; with it both are in balance."""
    spb, without, tuned = measured("spb"), measured("no_raw"), measured("finetune")
    assert spb["average"] > without["average"] + 0.2, (spb, without)
    assert without["average"] + 0.2 > tuned["average"] + 0.2, (without, tuned)
    assert spb["old classes"] > without["old classes"] + 0.3
    assert spb["new classes"] < without["new classes"]
    assert np.ptp([one["phase 1"] for one in (spb, without, tuned)]) == 0  # the same start


def test_a_classifier_for_each_rotation_is_worth_more():
    spb, rotated = measured("spb"), measured("spb_m")
    assert rotated["average"] > spb["average"] + 0.1, (spb, rotated)
    assert rotated["last"] > spb["last"] + 0.1
