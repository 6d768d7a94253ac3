"""Twenty steps or so of every method on a fixed stream, against numbers kept in tests/golden.

Floats differ a little between JAX versions and machines, so they agree to 1e-3; what is stored in
memory is integers and agrees exactly. A change that is meant: ``python -m tests.laws.test_golden``
writes the numbers anew, and the diff says what moved.
"""

import json
from pathlib import Path

import jax
import numpy as np
import pytest

from cls_jax.methods import METHODS
from cls_jax.streams.class_il import class_il
from cls_jax.training.events import Progress
from cls_jax.training.runner import Plan, run
from tests.conftest import TASKS, small_method, small_source

FOLDER = Path(__file__).resolve().parents[1] / "golden"
VARIANTS = {
    "dualnet_tf": ("dualnet", {"task_aware": False}),
    "supsup_gg": ("supsup", {"rule": "edge_popup", "optimizer": "adam", "transfer": True}),
}
"""Further programs of a row of the table."""

TREES = ("model", "scores", "slow", "fast", "working", "plastic", "stable")
TREES += ("extractor", "classifier", "candidates", "copies")
"""What the networks of a state are called."""

LEARNERS = {**{name: (name, {}) for name in METHODS}, **VARIANTS}


def measure(learner: str) -> dict[str, object]:
    """The loss of every step, sums over the final parameters, and the labels in memory."""
    name, changes = LEARNERS[learner]
    method = small_method(name, **changes)
    stream = class_il(small_source(per_class=13), tasks=TASKS, batch_size=4)
    events = []
    result = run(method, stream, plan=Plan(chunk=1), observe=events.append)
    progress = [event for event in events if isinstance(event, Progress)]
    losses = [round(event.metrics["loss"], 6) for event in progress]
    state = result.states[0]
    trees = [getattr(state, tree, None) for tree in TREES]
    leaves = jax.tree.leaves([tree.vars.params for tree in trees if hasattr(tree, "vars")])
    params = np.concatenate([np.ravel(leaf).astype(np.float64) for leaf in leaves])
    found = {"loss": losses, "sum": round(params.sum(), 6)}
    found["sum_of_squares"] = round(np.square(params).sum(), 6)
    if hasattr(state, "memory"):
        found["memory"] = np.asarray(state.memory.slots["y"]).tolist()
    return found


def path(learner: str) -> Path:
    """Where the numbers of a learner are kept."""
    return FOLDER / f"{learner}.json"


QUICK = {"sgd", "derpp", "ewc_online", "supsup"}
"""Methods of four shapes: plain, with a memory, with a second phase, with masks."""


def later(learner: str) -> pytest.MarkDecorator:
    """In which part it is tested; masks of the highest scores turn on rounding, so not quickly."""
    return pytest.mark.slow if learner == "supsup_gg" else pytest.mark.more


@pytest.mark.parametrize(
    "learner",
    [one if one in QUICK else pytest.param(one, marks=later(one)) for one in LEARNERS],
)
def test_training_is_what_it_was(learner):
    kept, found = json.loads(path(learner).read_text()), measure(learner)
    assert found.keys() == kept.keys()
    assert len(found["loss"]) == len(kept["loss"]) >= 20
    assert found.get("memory") == kept.get("memory")
    for name in ("loss", "sum_of_squares"):
        np.testing.assert_allclose(found[name], kept[name], rtol=1e-3, err_msg=name)
    # Positive and negative weights cancel in the sum: its scale is that of the weights.
    scale = kept["sum_of_squares"] ** 0.5
    np.testing.assert_allclose(found["sum"], kept["sum"], rtol=1e-3, atol=1e-3 * scale)


def test_every_file_belongs_to_a_learner():
    assert {file.stem for file in FOLDER.glob("*.json")} == set(LEARNERS)


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    for each in LEARNERS:
        lines = [
            f"{json.dumps(name)}: {json.dumps(value)}" for name, value in measure(each).items()
        ]
        path(each).write_text("{\n" + ",\n".join(lines) + "\n}\n")
        print(path(each))
