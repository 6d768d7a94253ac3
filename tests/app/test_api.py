"""What ``cls.train`` refuses, and sweeps of a method that no factory made."""

import jax
import numpy as np
import pytest

import cls_jax as cls
from cls_jax.app.build import Learner
from cls_jax.app.main import advice_of
from cls_jax.core.errors import InputError
from cls_jax.methods.base import make_method
from cls_jax.streams.class_il import class_il
from tests.conftest import TASKS, small_method


@pytest.mark.parametrize(
    ("sweep", "why"),
    [
        ([0.1], r"sweep is \[0.1\]; give a mapping"),
        ({"rate": [0.1]}, "names 'rate'; the hyper-parameters of er are learning_rate"),
        ({"memory_size": [10]}, "for what fixes its program make a method of each value"),
        ({"learning_rate": 0.1}, "learning_rate has the value 0.1; give a list of numbers"),
        ({"learning_rate": "0.1"}, "learning_rate has the value '0.1'; give a list of numbers"),
        ({"learning_rate": []}, "give each once, at least one"),
        ({"learning_rate": [1, 1.0]}, "none that equals another"),
        ({"learning_rate": [None]}, "give numbers"),
    ],
)
def test_a_sweep_that_is_none_is_refused(stream, sweep, why):
    with pytest.raises(InputError, match=why):
        cls.train(small_method("er"), stream, sweep=sweep)


def by_hand():
    """sgd, but of no factory."""
    made = small_method("sgd")
    return make_method("mine", made.at, made.hyper)


def test_a_method_of_no_factory_is_swept(stream):
    found = cls.train(by_hand(), stream, sweep={"learning_rate": [0.0, 0.1]})
    first = jax.tree.map(np.asarray, found.states[0][0].model.vars.params)
    second = jax.tree.map(np.asarray, found.states[1][0].model.vars.params)
    assert [one.method for one in found.runs] == [
        "mine learning_rate=0.0",
        "mine learning_rate=0.1",
    ]
    assert any((a != b).any() for a, b in zip(*map(jax.tree.leaves, (first, second)), strict=True))


def test_a_method_of_no_factory_is_not_saved(stream, tmp_path):
    with pytest.raises(InputError, match=r"mine is of no factory .* leave workdir out"):
        cls.train(by_hand(), stream, workdir=tmp_path / "runs")
    assert not (tmp_path / "runs").exists()


def test_what_a_method_says_of_a_short_stream_is_a_warning(stream):
    """CLS-ER's copies stay near their first weights; the values of a sweep are told apart."""
    method = small_method("clser")
    with pytest.warns(UserWarning, match=r"stable_decay=0.999: .*the stable copy") as told:
        cls.train(method, stream, sweep={"stable_decay": [0.0, 0.999]})
    at_zero = [str(one.message) for one in told if "stable_decay=0.0:" in str(one.message)]
    assert not any("the stable copy" in text for text in at_zero)


@pytest.mark.parametrize(("epochs", "warned"), [(1, True), (2, False)])
def test_a_method_hears_how_often_its_tasks_are_passed(source, epochs, warned):
    """ESMER's warm-up of one pass leaves nothing of one."""
    method = small_method("esmer", warmup_epochs=1)
    learner = Learner(method, class_il(source, tasks=TASKS, batch_size=4, epochs=epochs), {})
    found = advice_of([learner], [{"": method.hyper}], [0])
    assert any("nothing will be stored" in text for text in found) == warned


@pytest.mark.parametrize("observe", ["csv", [print, "csv"], 3])
def test_what_is_no_logger_is_refused(stream, observe):
    with pytest.raises(InputError, match=r"observe is .*; give a logger, or several, e\.g\."):
        cls.train(small_method("sgd"), stream, observe=observe)
