"""From the settings of a command line to each scenario."""

import json

import numpy as np
import pytest

from cls_jax.app.build import StreamConfig, make_stream
from cls_jax.core.errors import InputError
from cls_jax.streams.stream import headline

DIGITS = {"data": "digits", "image_size": 8}
CHOICES = {
    "class_il": ({"tasks": (4, 6), "class_order": "label", "label_fraction": 0.5}, "class_il", 2),
    "permuted": ({"tasks": 3, "drop_last": True}, "domain_il", 3),
    "rotated": ({"tasks": (4,)}, "domain_il", 4),
    "dihedral": ({"tasks": 3, "task_order": (2, 0, 1)}, "domain_il", 3),
    "mnist360": ({"replacement": False, "batch_size": 16}, "general", 1),
    "gcil": ({"samples_per_phase": 200, "distribution": "longtail"}, "gcil", 5),
    "blurry": ({"tasks": (4, 6), "blur": 0.25, "class_order": "label"}, "blurry", 2),
}


@pytest.mark.parametrize("name", CHOICES)
def test_each_scenario_is_made_as_asked_and_says_so(name):
    changes, kind, num_tasks = CHOICES[name]
    config = StreamConfig(scenario=name, epochs=2, **DIGITS, **changes)
    stream = make_stream(config)
    assert stream.num_tasks == num_tasks
    assert stream.describe["scenario"] == kind
    found = json.loads(json.dumps(stream.describe))
    asked = {"epochs": 2, "batch_size": config.batch_size, **changes, "tasks": found["tasks"]}
    asked = json.loads(json.dumps(asked))
    assert asked.items() <= found.items()  # what was asked for stands in the record
    tasks = np.ravel(found["tasks"])
    assert (len(tasks) if len(tasks) > 1 else tasks[0]) == num_tasks
    assert headline(stream).startswith("digits")


def test_the_default_is_class_il():
    stream = make_stream(StreamConfig(**DIGITS))
    assert stream.describe["scenario"] == "class_il"
    assert headline(stream).startswith("digits, 5 tasks x 2 classes (10 in all); 1435 training")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"scenario": "any"},
            r"scenario is 'any'; use one of class_il, permuted, rotated, dih",
        ),
        (
            {"scenario": "permuted", "label_fraction": 0.5},
            r"label_fraction is 0.5, but the scenario permuted has no such setting; leave it out",
        ),
        ({"scenario": "gcil", "class_order": "label"}, "class_order is label, but the scenario g"),
        ({"blur": 0.3}, "blur is 0.3, but the scenario class_il has no such setting"),
        ({"task_order": (0, 1, 2)}, r"task_order is \(0, 1, 2\); name each of the tasks 0 to 4"),
        (
            {"scenario": "gcil", "task_order": "shuffled"},
            "task_order is shuffled, but the s",
        ),
        ({"scenario": "mnist360", "drop_last": True}, "drop_last is True, but the scenario mnist3"),
        ({"scenario": "mnist360", "tasks": 3}, "tasks is 3, but the scenario mnist360 has no such"),
        (
            {"scenario": "rotated", "tasks": (5, 5)},
            r"tasks is \(5, 5\), but the scenario rotated does not split the classes; give one",
        ),
        ({"scenario": "gcil"}, r"samples_per_phase=1000 ask for more than the 1435 .*at most 287"),
    ],
)
def test_settings_that_would_be_ignored_are_refused(changes, message):
    with pytest.raises(InputError, match=message):
        make_stream(StreamConfig(**DIGITS, **changes))
