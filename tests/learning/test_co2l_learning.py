"""Co2L on the digits, 5 tasks of 2 classes: what the teacher keeps, and what exemplars cost.

The card's section 11 also has the contrastive encoder above one of cross-entropy on the same views.
Not so here, so it is not asserted: fitted on all data, 64 features that were not trained at all do
as well as either.
"""

import numpy as np
import pytest

from cls_jax.app.build import make_learner, make_stream
from cls_jax.app.method_presets import method_presets
from cls_jax.training.events import Progress
from cls_jax.training.runner import Plan, run

pytestmark = pytest.mark.slow

QUICK = method_presets("co2l")["quick"]
BRIEF = {"classifier_epochs": 20, "classifier_decays": (12, 15, 18)}


def trained(*, watched=None, **changes):
    """A run of seed 0; what it tells every 20 steps goes into the list ``watched``."""
    stream, arguments = make_stream(QUICK.stream), {**QUICK.arguments, **BRIEF, **changes}
    method = make_learner("co2l", arguments, stream, QUICK.stream, QUICK.net).method
    if watched is None:
        return run(method, stream)
    return run(method, stream, plan=Plan(chunk=20), observe=watched.append)


def distillation(**changes):
    """float[4, 2]: its means over the first and the last four passes of each later task."""
    events = []
    trained(watched=events, classifier_epochs=1, classifier_decays=(), **changes)
    mine = [e for e in events if isinstance(e, Progress) and e.phase == "contrast" and e.task > 0]
    found = [[e.metrics["distillation"] for e in mine if e.task == task] for task in range(1, 5)]
    return np.array([[values[0], values[-1]] for values in found])


def test_distillation_falls_within_a_task_and_stays_low_where_it_is_learned():
    kept, free = distillation(), distillation(distillation_weight=0.0)
    assert (kept[:, 1] < kept[:, 0]).all(), kept
    assert (kept[:, 1] < free[:, 1]).all(), (kept, free)


def test_the_classifier_is_what_exemplars_limit():
    """Percent of all classes, fitted on 50 exemplars and the last task, or on all data: 72 and 89.

    The card has 69 and 88.5.
    """
    few, every = (
        100 * np.asarray(trained(reference_size=size).matrix)[0, 0, 0, -1].mean()
        for size in (0, 1435)
    )
    assert 60 < few < every - 5, (few, every)
