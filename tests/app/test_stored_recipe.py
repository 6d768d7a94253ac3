"""recipe.json of a stranger: all of it fits, or one sentence says what does not."""

import json
from dataclasses import asdict

import pytest

from cls_jax.app.stored_recipe import Kinds, read_recipe, write_recipe
from cls_jax.core.errors import InputError
from cls_jax.methods import METHODS, signature
from cls_jax.methods.optimizer import OptimizerConfig
from cls_jax.nets.registry import NetConfig
from cls_jax.streams.config import InputConfig, StreamConfig


def kinds(method):
    """Of the arguments of a method."""
    known = signature(method).arguments if method in METHODS else None
    return known and {name: one.kind for name, one in known.items()}


def defaults(method):
    """Its arguments if none is given."""
    return {name: one.default for name, one in signature(method).arguments.items()}


KINDS = Kinds(kinds, NetConfig, OptimizerConfig, InputConfig, StreamConfig)


def words(method="er", **changes):
    """What a run writes."""
    return {
        "method": method,
        "arguments": defaults(method),
        "net": asdict(NetConfig()),
        "optimizer": asdict(OptimizerConfig()),
        "inputs": asdict(InputConfig()),
        "stream": asdict(StreamConfig(tasks=(4, 3, 3))),
        "batch_size": 10,
        "shape": (8, 8, 3),
        "dtype": "uint8",
        "num_classes": 10,
        "num_tasks": 3,
        "name": method,
        "sweep": [""],
        "seeds": (0, 1),
        **changes,
    }


@pytest.mark.parametrize("method", METHODS)
def test_what_is_written_is_read(method, tmp_path):
    write_recipe(tmp_path, words(method))
    recipe = read_recipe(tmp_path / "recipe.json", KINDS)
    assert recipe.arguments == defaults(method)
    assert StreamConfig(**recipe.stream) == StreamConfig(tasks=(4, 3, 3))
    assert NetConfig(**recipe.net) == NetConfig()
    assert (recipe.shape, recipe.seeds, recipe.sweep) == ((8, 8, 3), (0, 1), ("",))
    assert (recipe.max_tasks, recipe.first_task, recipe.task_classes) == (3, 0, None)


def test_what_came_later_is_read_where_it_is(tmp_path):
    """Of tasks that were learned before; and flags that are younger than the recipe."""
    classes = [[[0, 1], [], [9]], [[2], [3], [4, 5]]]
    given = words(max_tasks=5, first_task=1, task_classes=classes)
    later = "max_classes", "max_tasks", "first_class", "only_tasks", "label_noise", "imbalance"
    for name in later:
        del given["stream"][name]
    write_recipe(tmp_path, given)
    recipe = read_recipe(tmp_path / "recipe.json", KINDS)
    assert (recipe.max_tasks, recipe.first_task) == (5, 1)
    assert recipe.task_classes == (((0, 1), (), (9,)), ((2,), (3,), (4, 5)))
    assert StreamConfig(**recipe.stream) == StreamConfig(tasks=(4, 3, 3))


def test_names_of_classes_are_kept_or_are_their_numbers(tmp_path):
    for given, expected in (
        (tuple("abcdefghij"), tuple("abcdefghij")),
        (None, tuple("0123456789")),
    ):
        write_recipe(tmp_path, words(**({} if given is None else {"label_names": given})))
        assert read_recipe(tmp_path / "recipe.json", KINDS).label_names == expected


def test_a_recipe_from_before_optimizers_could_be_chosen_is_of_plain_sgd(tmp_path):
    write_recipe(tmp_path, {name: word for name, word in words().items() if name != "optimizer"})
    recipe = read_recipe(tmp_path / "recipe.json", KINDS)
    assert OptimizerConfig(**recipe.optimizer) == OptimizerConfig()


def put(*path, value):
    """A change of one field, by its path."""

    def change(recipe):
        *front, last = path
        for name in front:
            recipe = recipe[name]
        recipe[last] = value

    return change


RATE, SIZE = ("arguments", "learning_rate"), ("arguments", "memory_size")
DAMAGE = {
    "no version": (lambda r: r.pop("version"), "its version is None, not 2"),
    "a later version": (put("version", value=3), "its version is 3, later than 2"),
    "version true": (put("version", value=True), "its version is True"),
    "a later field": (put("ema", value=1), "it has a field 'ema', which is not known"),
    "a later flag": (put("stream", "ema", value=1), "stream has a field 'ema'"),
    "no room": (put("max_tasks", value=0), "max_tasks is 0"),
    "a past without a rest": (put("first_task", value=3), "first_task is 3"),
    "classes of one seed": (
        put("task_classes", value=[[[0], [1], [2]]]),
        "task_classes is not that of every seed and task",
    ),
    "a class that is none": (
        put("task_classes", value=2 * [[[0], [1], [10]]]),
        "task_classes holds 10, of 10 classes",
    ),
    "unlabelled by number": (put("unlabelled", value=1), "unlabelled is 1, not"),
    "no seeds": (lambda r: r.pop("seeds"), "it has no seeds"),
    "no rate": (lambda r: r["arguments"].pop("learning_rate"), "arguments has no learning_rate"),
    "another method": (put("method", value="../er"), "method is '../er', which is none"),
    "a method that is a list": (put("method", value=[1]), "method is"),
    "a rate that is text": (put(*RATE, value="1"), "arguments.learning_rate is '1'"),
    "a rate that is not": (put(*RATE, value=None), "learning_rate is None"),
    "text as size": (put(*SIZE, value="9"), "arguments.memory_size is '9', not"),
    "half a size": (put(*SIZE, value=1.5), "arguments.memory_size is 1.5"),
    "a huge size": (put(*SIZE, value=10**12), "memory_size is 1000000000000"),
    "a flag": (put("stream", "flip", value=1), "stream.flip is 1, not"),
    "no scenario": (put("stream", "scenario", value="x"), "stream.scenario is 'x', not class_il "),
    "net": (put("net", value=[]), r"net is \[\], no JSON object"),
    "a schedule": (put("optimizer", "schedule", value="x"), "optimizer.schedule is 'x', not"),
    "a huge image": (put("shape", value=[10**5, 10**5, 3]), "shape is"),
    "no image": (put("shape", value=[8, 8]), r"shape is \[8, 8\]"),
    "an empty image": (put("shape", value=[0, 8, 3]), "shape is"),
    "objects": (put("dtype", value="object"), "dtype is 'object'"),
    "no batch": (put("batch_size", value=0), "batch_size is 0"),
    "no inputs": (lambda r: r["inputs"].pop("flip"), "inputs has no flip"),
    "too few names": (put("label_names", value=["a"]), "label_names holds 1 for 10 classes"),
    "names that are numbers": (put("label_names", value=[*range(10)]), "label_names is"),
    "no classes": (put("num_classes", value=0), "num_classes is 0"),
    "a seed twice": (put("seeds", value=[1, 1]), "seeds holds 2 values"),
    "a seed below 0": (put("seeds", value=[-1]), "seeds holds -1"),
    "no values": (put("sweep", value=[]), "sweep holds 0 values"),
    "a terminal's escape": (put("name", value="a\x1b]0;x"), "name is"),
    "no name": (put("name", value=""), "name is ''"),
    "a long name": (put("name", value="x" * 300), "name is"),
}


@pytest.mark.parametrize("case", DAMAGE)
def test_whatever_does_not_fit_is_one_sentence(case, tmp_path):
    write_recipe(tmp_path, words())
    path = tmp_path / "recipe.json"
    recipe = json.loads(path.read_text())
    change, expected = DAMAGE[case]
    change(recipe)
    path.write_text(json.dumps(recipe))
    with pytest.raises(InputError, match=expected) as caught:
        read_recipe(path, KINDS)
    assert str(caught.value).startswith(f"{path} is no recipe that this cls_jax can use (")
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 800


@pytest.mark.parametrize("text", ["", "[]", "NaN", "[" * 100_000, '{"a":' * 100_000, "\xff"])
def test_what_is_no_recipe_at_all(text, tmp_path):
    (tmp_path / "recipe.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(InputError, match="is no recipe that this cls_jax can use"):
        read_recipe(tmp_path / "recipe.json", KINDS)
