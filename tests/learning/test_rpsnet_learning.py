"""RPS-Net on the digits, 5 tasks of 2 classes: what a choice among random paths gives."""

import numpy as np
import pytest

from cls_jax.app.build import make_learner, make_stream
from cls_jax.app.method_presets import method_presets
from cls_jax.training.runner import run

pytestmark = pytest.mark.slow

QUICK = method_presets("rpsnet")["quick"]


def last(**changes):
    """Accuracy on all tasks after the last one, in percent, of each of five seeds."""
    stream, arguments = make_stream(QUICK.stream), {**QUICK.arguments, **changes}
    method = make_learner("rpsnet", arguments, stream, QUICK.stream, QUICK.net).method
    result = run(method, stream, seeds=range(5))
    return 100 * np.asarray(result.matrix)[:, 0, 0, -1].mean(axis=-1)
