"""Scripts of one method's parts: which learners their variants are, before any of them learns."""

import pytest

from tests.support.ask import ask


@pytest.fixture
def learners(monkeypatch):
    """(script, arguments) -> label -> recipe of each learner that would be run."""

    def built(script: str, *arguments: str):
        found = []
        monkeypatch.setattr("cls_jax.app.main.execute", lambda every, *_: found.extend(every))
        monkeypatch.setattr("cls_jax.app.main.report", lambda *_: None)
        code, _, err = ask(script, *arguments)
        assert code == 0, err
        return {one.method.name: one.recipe for one in found}

    return built


def test_a_wide_variant_has_the_units_of_all_tasks_together(learners):
    names = "der_expandable", "one extractor", "one wide extractor"
    recipes = learners("der_expandable_cifar.py", "--tasks", "2", "--variants", *names)
    hidden = [recipes[name]["net"]["hidden"] for name in names]
    assert [list(sizes) for sizes in hidden] == [[64, 32], [64, 32], [128, 64]]
    grows = [recipes[name]["arguments"]["grow"] for name in names]
    assert grows == [True, False, False]


def test_a_variant_takes_every_flag_but_its_own(learners):
    recipes = learners("rpsnet_cifar.py", "--num-modules", "3", "--memory-size", "60")
    taken = {
        n: (r["arguments"]["num_modules"], r["arguments"]["memory_size"])
        for n, r in recipes.items()
    }
    assert taken == {"one module": (1, 60), "one path": (3, 60), "rpsnet": (3, 60)}


def test_controls_are_what_their_names_say(learners):
    names = "untrained", "untrained on all data", "cross-entropy"
    recipes = learners("co2l_cifar.py", "--variants", *names)
    untrained, on_all, twin = (recipes[name]["arguments"] for name in names)
    assert untrained["learning_rate"] == on_all["learning_rate"] == 0 < twin["learning_rate"]
    assert untrained["reference_size"] == 0 < 1435 < on_all["reference_size"]
    assert twin["objective"] == "cross_entropy"
    usual = learners("dytox_cifar.py")
    assert [one["arguments"]["memory_size"] for one in usual.values()] == [0, 50, 50]
    assert [one["arguments"]["mixup"] for one in usual.values()] == [False, False, True]
