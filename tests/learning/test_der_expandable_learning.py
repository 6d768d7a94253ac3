"""DER (expandable) on the digits, 5 tasks of 2 classes: what growth and its auxiliary head give."""

from dataclasses import replace

import numpy as np
import pytest

from cls_jax.app.build import make_learner, make_stream
from cls_jax.app.method_presets import method_presets
from cls_jax.training.runner import run

pytestmark = pytest.mark.slow

QUICK = method_presets("der_expandable")["quick"]


def last(*, wider=1, **changes):
    """Accuracy on all tasks after the last one, in percent, of each of five seeds."""
    net = replace(QUICK.net, hidden=tuple(wider * size for size in QUICK.net.hidden))
    stream, arguments = make_stream(QUICK.stream), {**QUICK.arguments, **changes}
    method = make_learner("der_expandable", arguments, stream, QUICK.stream, net).method
    result = run(method, stream, seeds=range(5))
    return 100 * np.asarray(result.matrix)[:, 0, 0, -1].mean(axis=-1)


def test_growth_and_the_auxiliary_head_are_worth_points():
    """Percent, mean of seeds 0-4: 89.8; without the auxiliary head 78.5; one extractor five times
    as wide 79.7. The card has 84.1, 65.4 and 63.7."""
    whole, alone = last(), last(auxiliary_weight=0.0)
    wide = last(grow=False, auxiliary_weight=0.0, wider=5)
    assert whole.mean() > alone.mean() + 5, (whole, alone)
    assert whole.mean() > wide.mean() + 5, (whole, wide)
