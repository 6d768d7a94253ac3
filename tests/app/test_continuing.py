"""``train(start=...)``: what goes on from what; all that cannot is one sentence, before compute."""

import shutil

import numpy as np
import pytest

import cls_jax as cls
from cls_jax.core.errors import InputError
from cls_jax.training.runtime.saves import fingerprint
from tests.conftest import small_source
from tests.support.ask import ask

SEEDS = (0, 2)


def part(low, high):
    """Some of the six digits, as a data set of its own: labels from 0."""
    source = small_source()
    mine = [(s.y >= low) & (s.y < high) for s in source[1:3]]
    pairs = zip(source[1:3], mine, strict=True)
    train, test = (cls.Split(s.x[m], s.y[m] - low) for s, m in pairs)
    return cls.Dataset(f"{low}-{high - 1}", train, test, source.label_names[low:high])


def tasks_of(low, high, tasks=1, **how):
    return cls.class_il(part(low, high), tasks=tasks, batch_size=8, **how)


FIRST = cls.reserve(tasks_of(0, 4, 2), max_classes=6)
SECOND = tasks_of(4, 6)


def sgd(stream=FIRST, **arguments):
    return cls.sgd(cls.problem(stream, net="mlp", hidden=(8,)), **arguments)


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    """Where a first run is saved."""
    return tmp_path_factory.mktemp("runs") / "first"


@pytest.fixture(scope="module")
def first(workdir):
    return cls.train(sgd(), FIRST, seeds=SEEDS, workdir=workdir)


def test_new_classes_get_the_next_labels(first):
    then = cls.train(sgd(), SECOND, start=first)
    (run,) = then.runs
    assert run.seeds == SEEDS
    assert run.matrix.shape == (2, 1, 2, 4, 3)
    for trained in run.trained:
        assert np.flatnonzero(trained.task_classes[2]).tolist() == [4, 5]
    # All tasks are tested, the first run's too; its own rows stand.
    assert np.isfinite(run.matrix[..., 3, :]).all()
    np.testing.assert_array_equal(run.matrix[..., 2, :2], first.runs[0].matrix[..., 2, :])
    assert run.details["stream"]["first_class"] == 4


def test_from_disk_it_is_the_same(first, workdir, tmp_path, capfd):
    """The same bits; tested are the tasks whose stream is given."""
    here = cls.train(sgd(), SECOND, start=first)
    model, moved = cls.load(workdir), tmp_path / "moved"
    shutil.copytree(workdir, moved)
    there = cls.train(model.method, SECOND, start=moved, earlier=FIRST, workdir=tmp_path / "then")
    np.testing.assert_array_equal(there.runs[0].matrix, here.runs[0].matrix)
    untested = cls.train(model.method, SECOND, start=[model], sweep={"learning_rate": [0.03]})
    said = capfd.readouterr().err
    assert "not tested: their stream was made in Python; give it: train(..., earlier=" in said
    assert np.isnan(untested.runs[0].matrix[0, 0, 0, 3, :2]).all()
    words = " ".join(untested.table().split())
    assert "the first 2 tasks, learned before, are not tested" in words
    assert [len(one.task_classes) for one in untested.runs[0].trained] == [3]

    again = cls.load(tmp_path / "then", seed=2)
    assert (again.first_task, again.num_tasks, again.over) == (2, 3, True)
    assert again.task_classes.sum(1).tolist() == [2, 2, 2]
    assert fingerprint(again.run.state) == fingerprint(here.states[0][1])
    words = _config(tmp_path / "then")["config"]["continues"]
    assert words["workdir"] == str(moved)
    assert words["num_tasks"] == 2
    assert words["fingerprints"]["seed 0"] == fingerprint(first.runs[0].trained[0].run)
    row = cls.evaluate(again, cls.reserve(SECOND, max_classes=6, first_class=4))
    assert np.isnan(row[0, 0, :2]).all()
    np.testing.assert_array_equal(row[..., 2], here.runs[0].matrix[1][..., 3, 2])
    # Further still, with classes that were learned before.
    old = cls.reserve(tasks_of(0, 2), first_class=0)
    earlier = [FIRST, SECOND]
    third = cls.train(model.method, old, start=tmp_path / "then", earlier=earlier)
    assert np.isfinite(third.runs[0].matrix[..., 4, :]).all()
    assert third.runs[0].trained[0].task_classes[3].tolist() == [True, True] + 4 * [False]


def _config(workdir):
    from cls_jax.core.files import read_json

    return read_json(workdir / "config.json")


def refused(why, method, stream, **how):
    with pytest.raises(InputError, match=why):
        cls.train(method, stream, **how)


def test_what_does_not_fit_is_refused(first, workdir):
    more = {"hidden": (9,)}
    other = cls.sgd(cls.problem(FIRST, net="mlp", **more))
    er = cls.er(cls.problem(FIRST, net="mlp", hidden=(8,)), memory_size=8, replay_size=4)
    joint = cls.joint(cls.problem(FIRST, net="mlp", hidden=(8,)))
    narrow = sgd(tasks_of(0, 4, 2))
    refused("method is er, but sgd is what learned before", er, SECOND, start=first)
    refused("first holds no run of er to go on from; it holds sgd", er, SECOND, start=workdir)
    refused("joint learns all tasks at once", joint, SECOND, start=first)
    refused("sgd has another network, optimizer or other inputs", other, SECOND, start=first)
    refused("made for 4 classes, but for 6 where it goes on", narrow, SECOND, start=first)
    refused("seeds has 1, but .* has the seeds 0, 2", sgd(), SECOND, start=first, seeds=(0, 1))
    refused("3-5 has 3 classes, .* has 6, of which 4 are taken", sgd(), tasks_of(3, 6), start=first)
    wide = cls.reserve(SECOND, max_classes=7)
    refused("max_classes is 7, but 6 where it goes on from", sgd(), wide, start=first)
    rooms = cls.reserve(SECOND, max_tasks=4, first_class=4)
    refused("max_tasks is 4, but 2 where it goes on from", sgd(), rooms, start=first)
    flat = part(4, 6)
    flat = flat._replace(
        train=flat.train._replace(x=flat.train.x[:, :4]),
        test=flat.test._replace(x=flat.test.x[:, :4]),
    )
    flat = cls.class_il(flat, tasks=1, batch_size=8)
    refused(r"examples uint8\[4, 8, 3\], but those .* uint8\[8, 8, 3\]", sgd(), flat, start=first)
    refused("start is 3; give a workdir", sgd(), SECOND, start=3)
    refused("start is \\[\\]; give a workdir", sgd(), SECOND, start=[])
    refused("there is no such folder", sgd(), SECOND, start=workdir / "none")
    refused("give start, or leave it out", sgd(), SECOND, earlier=FIRST)
    refused("earlier is empty", sgd(), SECOND, start=first, earlier=[])
    swapped = cls.reserve(cls.class_il(part(0, 4), tasks=(1, 3), batch_size=8), max_classes=6)
    refused("whose tasks have other classes", sgd(), SECOND, start=first, earlier=swapped)
    sweep = cls.Result(first.runs * 2, first.values * 2)
    refused("start is a sweep of 2 values", sgd(), SECOND, start=sweep)


def test_another_argument_and_a_state_without_room():
    def agem(size):
        problem = cls.problem(FIRST, net="mlp", hidden=(8,))
        return cls.agem(problem, memory_size=size, replay_size=4)

    first = cls.train(agem(8), FIRST)
    refused("memory_size is 12, but 8 where it goes on from", agem(12), SECOND, start=first)
    why = "agem keeps room for 2 tasks, and these make 3; begin the first run with a larger max_ta"
    refused(why, agem(8), SECOND, start=first)
    assert cls.problem(cls.reserve(FIRST, max_tasks=4)).num_tasks == 4


def test_a_run_that_is_not_finished(first, workdir, tmp_path):
    model = cls.load(workdir)
    half = model._replace(place=model.place._replace(task=1, stage=2))
    refused("sgd seed 0 is not finished, it is in task 2", sgd(), SECOND, start=half)
    old = model._replace(task_classes=None)
    refused("does not say which classes its tasks had", sgd(), SECOND, start=old)
    two = [model, model._replace(name="sgd learning_rate=1")]
    refused("start holds 2 methods .sgd, sgd learning_rate=1", sgd(), SECOND, start=two)


RUN, SMALL = "cls-jax run sgd", ("--image-size", "8", "--epochs", "1")


@pytest.fixture(scope="module")
def by_flags(tmp_path_factory):
    """A run of the command line, of two of five tasks."""
    place = tmp_path_factory.mktemp("flags") / "first"
    done = ask(RUN, *SMALL, "--only-tasks", "0", "1", "--workdir", str(place))
    assert done.code == 0, done.err
    return place


def test_flags_start_where_it_goes_on_from(by_flags, tmp_path):
    from cls_jax.app.earlier_flags import preset_of

    earlier = preset_of("sgd", ["--continue", str(by_flags)])
    assert (earlier.stream.image_size, earlier.stream.epochs) == (8, 1)
    assert (earlier.stream.only_tasks, earlier.run["seeds"]) == ((), (0,))
    assert preset_of("sgd", ["--workdir", str(by_flags)]) is None


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (("--hidden", "7"), "another network, optimizer or other inputs"),
        (("--normalisation", "half"), "another network, optimizer or other inputs"),
        (("--seeds", "1"), "seeds has 1, but what it goes on from has the seeds 0"),
        (("--max-classes", "12"), "max_classes is 12, but 10 where it goes on from"),
        (("--image-size", "16"), "uint8[16, 16, 3], but those that were learned before"),
    ],
)
def test_flags_that_do_not_fit(by_flags, words, why):
    given = "--continue", str(by_flags), "--first-class", "0", "--only-tasks", "2", *words
    done = ask(RUN, *given)
    assert (done.code, done.err.count("\n")) == (2, 1)
    assert why in done.err


def test_labels_that_are_taken_and_folders_that_are_not_there(by_flags, tmp_path):
    done = ask(RUN, "--continue", str(by_flags), "--only-tasks", "2")
    assert "digits has 10 classes, but the label space has 10, of which" in done.err
    done = ask(RUN, "--continue", str(tmp_path / "none"))
    assert (done.code, done.err.count("\n")) == (2, 1)
    assert "there is no such folder" in done.err
    done = ask("cls-jax run er", "--continue", str(by_flags))
    assert f"workdir {by_flags} holds no run of er to go on from" in done.err
    assert not (tmp_path / "none").exists()
